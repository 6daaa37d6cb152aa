"""cases/<case>/configs/ → DeviceConfig: what one device may change of a case, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.cases import (
    BATCH_KEYS,
    Attention,
    Engine,
    Parallel,
    PositiveInt,
    Precision,
    Recompute,
    StageName,
    TunableKey,
)
from orchestrator.document import DocumentChange
from orchestrator.text import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChange:
    """What a device changes in one stage alone."""

    sequence_length: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None

    def changes(self) -> dict[str, int | str | bool]:
        return {key: value for key in BATCH_KEYS if (value := getattr(self, key)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """cases/<case>/configs/<device>x<nodes>x<devices>.yaml: the deviations of one device, each with its
    reason in `why`. Several of one device and scale have a name behind it, `…-<name>.yaml`, and are a row of
    the table each.
    """

    schema: Literal[1]
    sequence_length: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None
    precision: Precision | None = None
    recompute: Recompute | None = None
    attention: Attention | None = None
    overlap_comm: bool | None = None
    loss_scale_window: PositiveInt | None = None
    parallel: Parallel | None = None
    engine: Engine | None = None
    stages: dict[StageName, StageChange] = field(default_factory=dict)
    why: dict[TunableKey, Line] = field(default_factory=dict)
    document: DocumentChange | None = None

    def changes(self, stage: str | None = None) -> dict[str, Any]:
        """The keys that are set, with their values; those of `stage` win over what is said for all."""
        keys = (
            *BATCH_KEYS,
            *("precision", "recompute", "attention", "overlap_comm", "loss_scale_window"),
            *("parallel", "engine"),
        )
        listed = {key: value for key in keys if (value := getattr(self, key)) is not None}
        own = [change for name, change in self.stages.items() if name == stage]
        return {**listed, **(own[0].changes() if own else {})}

    def changed_keys(self) -> tuple[str, ...]:
        """Every key that is set for all stages or for one."""
        names: tuple[str | None, ...] = (None, *self.stages)
        return tuple(dict.fromkeys(key for name in names for key in self.changes(name)))

    def __post_init__(self) -> None:
        silent = [key for key in self.changed_keys() if key not in self.why]
        if silent:
            raise ValueError(f"{', '.join(silent)}: changed without a reason in `why`")
        idle = [key for key in self.why if key not in self.changed_keys()]
        if idle:
            raise ValueError(f"why.{', why.'.join(idle)}: a reason for a key that is not set")
