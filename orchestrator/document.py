"""What a case's published document says, in which parts and words: the `document:` block of case.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from annotated_types import MinLen

from orchestrator.text import Line

#: Parts of 环境配置, by our own names; messages has the published heading of each.
Part = Literal["hardware", "software", "parallel", "optimisations"]
SoftwareRow = Literal["os", "kernel", "driver", "firmware", "docker", "image", "framework", "dependencies"]
#: Rows of 通用指标.
GeneralRow = Literal[
    "task",
    "model",
    "dataset",
    "precision",
    "parallel",
    "fix_hp",
    "device",
    "mem",
    "mfu",
    "tokens_per_second_per_device",
    "loss",
    "acc_mmmu",
]
#: Items of 输入批尺寸.
BatchItem = Literal["micro_batch_size", "sequence_length", "gradient_accumulation_steps", "global_batch_size"]
#: What 优化策略 tells from a run's own settings.
Technique = Literal["recompute", "sdpa", "flash_attention_2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The same words in the two languages of a report."""

    zh: Line
    en: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """并行策略. `detail` null: the ZeRO stages and the data-parallel size that ran."""

    technique: Text
    implementer: Line
    detail: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChange:
    """What one device's published document says in other words; a key that is not set stays the case's."""

    title: Text | None = None
    model: Line | None = None
    task: Text | None = None
    dataset: Text | None = None
    parts: tuple[Part, ...] | None = None
    software: tuple[SoftwareRow, ...] | None = None
    framework: dict[Line, Line] | None = None
    dependencies: dict[Line, Line] | None = None
    parallelism: Parallelism | None = None
    optimisations: tuple[Text, ...] | None = None
    technique_names: dict[Technique, Line] | None = None
    rows: tuple[GeneralRow, ...] | None = None
    bold: tuple[GeneralRow, ...] | None = None
    remarks: dict[GeneralRow, Text] | None = None
    batch_remarks: dict[BatchItem, Text] | None = None
    preface: Text | None = None
    name_device: bool | None = None
    name_vendor: bool | None = None
    repeat_optimisations: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a case's published document says beside what a run found out itself.

    `title` null: vendor and device; `model` null: the table's display name. `framework` and `dependencies`:
    name of a version as ranks, images and nodes report it → the word it is shown with. `remarks` are 特殊说明
    where they differ from the usual ones. `name_device`: A800硬件环境; `name_vendor`: 硬件设备简称 has the
    vendor before the device. `repeat_optimisations`: 优化策略 stands in 运行情况 once more.
    """

    task: Text
    dataset: Text
    rows: Annotated[tuple[GeneralRow, ...], MinLen(1)]
    parts: tuple[Part, ...] = ("hardware", "software", "parallel", "optimisations")
    software: tuple[SoftwareRow, ...] = ("os", "kernel", "driver", "docker", "framework")
    framework: dict[Line, Line] = field(default_factory=lambda: {"torch": "torch"})
    dependencies: dict[Line, Line] = field(default_factory=dict)
    parallelism: Parallelism | None = None
    optimisations: tuple[Text, ...] = ()
    technique_names: dict[Technique, Line] = field(default_factory=dict)
    bold: tuple[GeneralRow, ...] = ("tokens_per_second_per_device",)
    remarks: dict[GeneralRow, Text] = field(default_factory=dict)
    batch_remarks: dict[BatchItem, Text] = field(default_factory=dict)
    preface: Text | None = None
    title: Text | None = None
    model: Line | None = None
    name_device: bool = False
    name_vendor: bool = False
    repeat_optimisations: bool = False

    def changed(self, change: DocumentChange | None) -> Document:
        """This document in the words of one device."""
        if change is None:
            return self
        given = {one.name: getattr(change, one.name) for one in fields(change)}
        return replace(self, **{key: value for key, value in given.items() if value is not None})
