"""The columns of the published tables, by name: what each shows of one cell, and the note it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.messages import Language, nodes_text, reason_text, say, translated
from orchestrator.report.numbers import gib, per_cent, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Not applicable, or not measured by choice.
NOT_APPLICABLE = "/"
#: Not proven or not known; always with a note that says why.
NO_NUMBER = "–"
MEASURED = "MEASURED"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """`notes` are numbers of the report's notes, from 1."""

    text: str
    notes: tuple[int, ...] = ()


class Notes:
    """The notes under the table, each once, numbered in the order in which they were first needed."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers) + 1)


def table_cell(name: str, cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    """What `cell` shows in the column `name`; a column that its case does not have is not applicable."""
    if name not in cell["columns"] and name != "config":
        return TableCell(text=NOT_APPLICABLE)
    return COLUMNS[name](cell, notes, language)


def short_name(cell: Mapping[str, Any]) -> str:
    """硬件设备简称: the device by the name that its vendor's file lists it under, A800; as the vendor writes
    it where only the capitals differ, CPU.
    """
    device, display = str(cell["device"]), str(cell["device_display"])
    return display if device.lower() == display.lower() else device


def config_text(cell: Mapping[str, Any], language: Language) -> str:
    """The row's name without its notes."""
    return _config(cell, Notes(), language).text


def _config(cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    """Published wording: A800单机8卡（1x8）（pretrain）. A proxy is named as one in every row."""
    num_nodes, per_node = cell["num_nodes"], cell["devices_per_node"]
    text = say(
        "config",
        language,
        device=short_name(cell),
        nodes=nodes_text(num_nodes, language),
        s="" if num_nodes == 1 else "s",
        devices=num_nodes * per_node,
        per_node=per_node,
        scale=f"{num_nodes}x{per_node}",
    )
    if cell["stage"] is not None:
        text += say("config.stage", language, stage=cell["stage"])
    marks = []
    if cell["proxy"] is not None:
        proxy = cell["proxy"]
        text += say("config.proxy", language)
        marks.append(
            notes.number(say("note.proxy", language, of=proxy["of"], why=translated(proxy["why"], language)))
        )
    if cell.get("rehearsal") is not None:
        text += say("config.rehearsal", language)
        what = translated(cell["rehearsal"], language)
        marks.append(notes.number(say("note.rehearsal", language, what=what)))
    if cell.get("degraded"):
        slow = "; ".join(straggler_text(one, language) for one in cell["degraded"])
        marks.append(notes.number(say("note.degraded", language, slow=slow)))
    return TableCell(text=text, notes=tuple(marks))


def straggler_text(one: Mapping[str, Any], language: Language) -> str:
    """One straggler in words."""
    key = "degraded.node" if one["rank"] is None else "degraded.rank"
    return say(key, language, node=one["node"], rank=one["rank"], factor=f"{one['factor']:.2f}")


def _precision(cell: Mapping[str, Any], _notes: Notes, _language: Language) -> TableCell:
    return TableCell(text=cell["precision"]["label"])


def _parallel(cell: Mapping[str, Any], _notes: Notes, _language: Language) -> TableCell:
    return TableCell(text=cell["parallel"]["label"])


def _fix_hp(cell: Mapping[str, Any], _notes: Notes, _language: Language) -> TableCell:
    return TableCell(text=cell["fix_hp"] or NOT_APPLICABLE)


def _speed(cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    name = "tokens_per_second_per_device"
    value = cell["metrics"][name]["value"]
    return _no_number(cell, name, name, notes, language) or TableCell(text=significant(value))


def _loss(cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    value = cell["metrics"]["loss"]["value"]
    return _no_number(cell, "loss", "loss", notes, language) or TableCell(text=significant(value))


def _mem(cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    """Used / capacity in GiB. On a CPU this is the ranks' memory of the node's, and marked so."""
    used, capacity = "memory_used_bytes", "memory_capacity_bytes"
    missing = _no_number(cell, used, "mem", notes, language)
    if missing:
        return missing
    text, marks = gib(cell["metrics"][used]["value"]), []
    if cell["metrics"][used]["details"].get("basis") == "summed peak RSS":
        marks.append(notes.number(say("note.mem_cpu", language)))
    unknown = _no_number(cell, capacity, "mem", notes, language)
    if unknown:
        return TableCell(text=f"{text}/{NO_NUMBER}", notes=(*marks, *unknown.notes))
    return TableCell(text=f"{text}/{gib(cell['metrics'][capacity]['value'])}", notes=tuple(marks))


def _acc_mmmu(cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    """Only a case that answers questions has this metric; for the others it is not applicable."""
    if "acc_mmmu" not in cell["metrics"]:
        return TableCell(text=NOT_APPLICABLE)
    value = cell["metrics"]["acc_mmmu"]["value"]
    return _no_number(cell, "acc_mmmu", "acc_mmmu", notes, language) or TableCell(
        text=per_cent(value, digits=1)
    )


def _mfu(cell: Mapping[str, Any], notes: Notes, language: Language) -> TableCell:
    """The published rule fills the column; its note has formula, N, peak and source, and PaLM's figure
    beside.
    """
    missing = _no_number(cell, "mfu_published", "mfu", notes, language)
    if missing:
        return replace(missing, notes=(*missing.notes, *_ceiling(cell, notes, language)))
    palm, peak, flops = cell["metrics"]["mfu_palm"], cell["peak"], cell["flops"]
    note = say(
        "note.mfu",
        language,
        speed=significant(cell["metrics"]["tokens_per_second_per_device"]["value"]),
        multiplier=flops["multiplier"],
        parameters=significant(flops["parameters"], digits=4, whole_from=None),
        peak=f"{peak['tflops']:g}",
        dtype=peak["dtype"],
        source=peak["source"] or say("unknown", language),
        palm=f"{NO_NUMBER} ({translated(palm['reason'], language)})"
        if palm["value"] is None
        else per_cent(palm["value"]),
    )
    return TableCell(
        text=per_cent(cell["metrics"]["mfu_published"]["value"]),
        notes=(notes.number(note), *_ceiling(cell, notes, language)),
    )


def _ceiling(cell: Mapping[str, Any], notes: Notes, language: Language) -> tuple[int, ...]:
    """The share of what the devices were measured to do that day, where it is known."""
    metric = cell["metrics"].get("mfu_ceiling")
    if metric is None or metric["value"] is None:
        return ()
    details = metric["details"]
    note = say(
        "note.mfu_ceiling",
        language,
        share=per_cent(metric["value"]),
        tflops=significant(details["ceiling_tflops"], digits=4, whole_from=None),
        dtype=details["ceiling_dtype"],
        at=details["ceiling_at_utc"],
    )
    return (notes.number(note),)


def _no_number(
    cell: Mapping[str, Any], metric: str, column: str, notes: Notes, language: Language
) -> TableCell | None:
    """`–` and why, for a cell that is not proven or a metric without a value; None when there is a number."""
    if cell["verdict"] != MEASURED:
        reason = reason_text(cell["reasons"][0], language) if cell["reasons"] else say("unknown", language)
        text = say("note.unproven", language, verdict=cell["verdict"], reason=reason)
    elif cell["metrics"][metric]["value"] is None:
        heading = say(f"column.{column}", language)
        reason = translated(cell["metrics"][metric]["reason"], language)
        text = say("note.no_value", language, column=heading, reason=reason)
    else:
        return None
    return TableCell(text=NO_NUMBER, notes=(notes.number(text),))


#: Our names of the columns (as in case.yaml) in the published order.
COLUMNS: dict[str, Callable[[Mapping[str, Any], Notes, Language], TableCell]] = {
    "config": _config,
    "precision": _precision,
    "parallel": _parallel,
    "fix_hp": _fix_hp,
    "tokens_per_second_per_device": _speed,
    "loss": _loss,
    "mem": _mem,
    "acc_mmmu": _acc_mmmu,
    "mfu": _mfu,
}
