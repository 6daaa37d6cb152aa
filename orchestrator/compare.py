"""Runs and published rows, side by side: a ratio only between like and like, and every difference named.

Like is: the same case, stage and scale, batch (LBS, MPE, GAS, GBS), precision and dtype of computing,
recomputation, both the full model or the same proxy, the same clock. Devices may differ, that is what is
compared; so may the parallel strategy, which is said. A rehearsal's figures are never compared.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.messages import Language, say
from orchestrator.parse.visible import visible
from orchestrator.published import findings_of, lint
from orchestrator.published.markup import plain
from orchestrator.published.storing import Shelf, known_devices
from orchestrator.published.words import flops_multiplier, folded, nominal_parameters
from orchestrator.report.columns import MEASURED, NO_NUMBER, NOT_APPLICABLE
from orchestrator.report.escape import markdown
from orchestrator.report.numbers import GIB, gib, per_cent, significant
from orchestrator.results import RunFolder, read_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.published import Column, Document, Finding, KnownDevice, Row
    from orchestrator.workspace import Workspace

SCHEMA = "nx8.compare/1"
PUBLISHED = "published:"
SPEED, MFU = "tokens_per_second_per_device", "mfu"
#: Column → the metric of result.json that fills it.
METRICS = {
    SPEED: SPEED,
    "loss": "loss",
    "mem": "memory_used_bytes",
    "acc_mmmu": "acc_mmmu",
    MFU: "mfu_published",
}
RATIOS = (SPEED, MFU)
#: What must be known of both sides, and what counts only where both say it: published tables leave it out.
REQUIRED = ("case", "scale", "LBS", "MPE", "GAS", "GBS", "precision")
WHERE_SAID = ("compute dtype", "recompute")
#: May differ between like and like, and is said.
REMARKED = ("parallel",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One metric of one side: a value, or why there is none; `doubt` why it takes part in no ratio.

    Units as in result.json: tokens/s, nats/token, bytes (`capacity` too), fractions.
    """

    value: float | None = None
    capacity: float | None = None
    reason: str | None = None
    doubt: str | None = None
    #: Not applicable or not measured by choice.
    by_choice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One row of the comparison. `facts` by the names of REQUIRED, WHERE_SAID, REMARKED; null: not said.

    `recompute` of a run is the setting itself; of a published row yes or no, for tables say no more.
    """

    published: bool
    name: str
    row: str
    device: str
    stage: str | None
    facts: dict[str, str | None]
    figures: dict[str, Figure]
    fix_hp: str
    proxy: str | None = None
    rehearsal: bool = False
    flops_per_token: float | None = None
    #: N of the FLOPs rule: a proxy's own, else nominal.
    parameters: float | None = None
    peak: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A message of the catalogue with its values: `column` is column names with blanks between, an empty
    value is what a side does not say.
    """

    key: str
    values: dict[str, str]

    def text(self, language: Language) -> str:
        values = {key: value or say("compare.unsaid", language) for key, value in self.values.items()}
        if "column" in values:
            names = (say(f"column.{name}", language) for name in values["column"].split())
            values["column"] = say("list", language).join(names)
        return say(self.key, language, **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A side beside the first: `ratios` by metric where there is one, `differences` why there is none."""

    side: Side
    differences: tuple[Note, ...]
    ratios: dict[str, float | None]
    doubts: tuple[Note, ...] = ()
    remarks: tuple[Note, ...] = ()


def sides_of(names: Sequence[str], workspace: Workspace) -> tuple[Side, ...]:
    """What each name means, every cell or row of it. Raises ConfigError with the problems of all of them:
    E705, E707, E822 for what is not there, E824 for fewer than two rows, E825 for a result of other shape.
    """
    sides: list[Side] = []
    problems: list[Problem] = []
    for name in names:
        try:
            sides += _named(name, workspace)
        except ConfigError as error:
            problems += error.problems
    if not problems and len(sides) < 2:
        problems.append(
            Problem(
                code="E824",
                message=f"{len(sides)} row is nothing to compare",
                help="nx8 compare latest published:NAME/1    (nx8 list runs, nx8 published list)",
            )
        )
    if problems:
        raise ConfigError(problems)
    return tuple(sides)


def _named(name: str, workspace: Workspace) -> list[Side]:
    if not name.startswith(PUBLISHED):
        folder = RunFolder.find(workspace.runs, name)
        return sides_of_run(folder.run_id, read_result(folder))
    document_name, slash, row = name.removeprefix(PUBLISHED).partition("/")
    document = Shelf.of(workspace).read(document_name)
    sides = sides_of_published(document_name, document, known_devices(workspace))
    if slash:
        sides = [side for side in sides if side.row == row]
    if not sides:
        count = len(document.rows)
        raise ConfigError(
            Problem(
                code="E824",
                message=f"{document_name} has no row {row[:40]!a}: it has {count}",
                help=f"published:{document_name}/1 is its first",
            )
        )
    return sides


def sides_of_published(name: str, document: Document, known: tuple[KnownDevice, ...]) -> list[Side]:
    """Every row of a published document, with what is wrong with it by today's peaks."""
    found = lint(document, known=known)
    rows = enumerate(document.rows, start=1)
    return [_of_row(name, number, document, one, found) for number, one in rows]


def same_case(one: str | None, other: str | None) -> bool:
    """Whether two names are of one case: published documents write them in their own ways."""
    return _key(one or "") == _key(other or "")


def sides_of_run(run_id: str, result: Mapping[str, Any]) -> list[Side]:
    """Every cell of a result. Raises ConfigError (E825) for one of other shape."""
    try:
        json.dumps(result, allow_nan=False)
        return [_of_cell(run_id, cell) for cell in result["cells"]]
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        message = f"the result of {run_id} cannot be compared: {type(error).__name__}: {error}"
        raise ConfigError(
            Problem(code="E825", message=visible(message), help=f"nx8 parse {run_id}   makes it again")
        ) from error


def _of_cell(run_id: str, cell: Mapping[str, Any]) -> Side:
    batch, precision = cell["batch"], cell["precision"]
    proxy = cell["proxy"]
    return Side(
        published=False,
        name=run_id,
        row=str(cell["cell_id"]),
        device=str(cell["device_display"]),
        stage=None if cell["stage"] is None else str(cell["stage"]),
        facts={
            "case": str(cell["case"]),
            "scale": f"{cell['num_nodes']}x{cell['devices_per_node']}",
            "LBS": str(batch["micro_batch_size"]),
            "MPE": str(batch["sequence_length"]),
            "GAS": str(batch["gradient_accumulation_steps"]),
            "GBS": str(batch["global_batch_size"]),
            "precision": str(precision["label"]),
            "compute dtype": str(precision["compute_dtype"]),
            "recompute": str(cell["recompute"]),
            "parallel": str(cell["parallel"]["label"]),
        },
        figures={column: _measured(cell, column) for column in METRICS},
        fix_hp=str(cell["fix_hp"] or NOT_APPLICABLE),
        proxy=None if proxy is None else str(proxy["of"]),
        rehearsal=cell.get("rehearsal") is not None,
        flops_per_token=float(cell["flops"]["multiplier"] * cell["flops"]["parameters"]),
        parameters=float(cell["flops"]["parameters"]),
        peak=None if cell["peak"]["tflops"] is None else f"{cell['peak']['tflops']:g}",
    )


def _measured(cell: Mapping[str, Any], column: str) -> Figure:
    """An unproven cell takes part without numbers."""
    metric = cell["metrics"].get(METRICS[column])
    if column not in cell["columns"] or metric is None:
        return Figure(by_choice=True)
    if cell["verdict"] != MEASURED:
        reason = cell["reasons"][0] if cell["reasons"] else ""
        return Figure(reason=f"{cell['verdict']}: {reason}" if reason else str(cell["verdict"]))
    if metric["value"] is None:
        return Figure(reason=str(metric["reason"] or ""))
    capacity = cell["metrics"]["memory_capacity_bytes"]["value"] if column == "mem" else None
    return Figure(value=float(metric["value"]), capacity=None if capacity is None else float(capacity))


def _of_row(name: str, number: int, document: Document, row: Row, found: Sequence[Finding]) -> Side:
    dtype = row.precision if row.precision in ("bf16", "fp16") else None
    parameters = nominal_parameters(document.case or "")
    fix_hp = row.cell("fix_hp")
    return Side(
        published=True,
        name=f"{PUBLISHED}{name}",
        row=str(number),
        device=row.device or document.device or "unknown",
        stage=row.stage,
        facts={
            "case": document.case,
            "scale": row.scale,
            "LBS": _text(row.micro_batch_size),
            "MPE": _text(row.sequence_length),
            "GAS": _text(row.gradient_accumulation_steps),
            "GBS": _text(row.global_batch_size),
            "precision": row.precision,
            "compute dtype": dtype,
            "recompute": None if row.recompute is None else "yes" if row.recompute else "no",
            "parallel": row.parallel,
        },
        figures={column: _published(row, column, found) for column in COLUMNS},
        fix_hp=NOT_APPLICABLE if fix_hp is None else plain(fix_hp.raw) or NOT_APPLICABLE,
        flops_per_token=None
        if parameters is None
        else flops_multiplier(document.case or "", row.stage) * parameters,
        parameters=parameters,
    )


COLUMNS: tuple[Column, ...] = ("tokens_per_second_per_device", "loss", "mem", "acc_mmmu", "mfu")


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _published(row: Row, column: Column, found: Sequence[Finding]) -> Figure:
    """A cell that was found wrong shows what was read from it, and takes part in no ratio."""
    cell = row.cell(column)
    if cell is None:
        return Figure(by_choice=True)
    wrong = findings_of(row, found, column)
    doubt = "; ".join(f"{one.code}: {one.message}" for one in wrong) or None
    if cell.value is None:
        return Figure(
            reason=doubt or f"published as {folded(plain(cell.raw)) or 'nothing'}",
            by_choice=cell.state == "placeholder" and doubt is None,
        )
    if any(one.code in ("SWAPPED", "MISPLACED") for one in wrong):
        return Figure(reason=doubt)
    scale = GIB if column == "mem" else 1
    capacity = None if cell.capacity is None else cell.capacity * scale
    return Figure(value=cell.value * scale, capacity=capacity, doubt=doubt)


def compared(sides: Sequence[Side]) -> tuple[Compared, ...]:
    """Every side beside the first. Pure."""
    first = sides[0]
    return (
        Compared(side=first, differences=(), ratios=dict.fromkeys(RATIOS)),
        *(_beside(first, side, number) for number, side in enumerate(sides[1:], start=2)),
    )


def _beside(first: Side, side: Side, number: int) -> Compared:
    differences = tuple(_differences(first, side))
    ratios: dict[str, float | None] = dict.fromkeys(RATIOS)
    doubts: list[Note] = []
    if not differences:
        for column in RATIOS:
            why = list(_doubts(first, side, column, number))
            one, other = first.figures[column], side.figures[column]
            if (
                not why
                and one.value
                and other.value is not None
                and one.doubt is None
                and other.doubt is None
            ):
                ratio = other.value / one.value
                ratios[column] = ratio if math.isfinite(ratio) else None
            doubts += why
    return Compared(
        side=side,
        differences=differences,
        ratios=ratios,
        doubts=tuple(doubts),
        remarks=tuple(_remarks(first, side, number)),
    )


def _differences(first: Side, side: Side) -> Iterator[Note]:
    """All that makes two sides unlike."""
    if first.rehearsal or side.rehearsal:
        yield Note(key="compare.rehearsal", values={})
    yield from _unlike("proxy", first.proxy or "no", side.proxy or "no")
    if first.proxy == side.proxy and None not in (first.parameters, side.parameters):
        yield from _unlike("N", f"{first.parameters:g}", f"{side.parameters:g}")
    yield from _unlike("stage", first.stage or "none", side.stage or "none")
    for name in REQUIRED:
        one, other = first.facts[name], side.facts[name]
        silent = [said for said, value in (("1", one), ("2", other)) if value is None]
        if silent:
            who = "each" if len(silent) == 2 else "first" if silent == ["1"] else "other"
            yield Note(key="compare.not_said", values={"name": name, "side": who})
        elif name == "case":
            yield from _unlike(name, one, other, same=same_case(one, other))
        else:
            yield from _unlike(name, one, other)
    for name in WHERE_SAID:
        one, other = _where_said(name, first, side)
        if one is not None and other is not None:
            yield from _unlike(name, one, other)
    if _other_clock(first) != _other_clock(side):
        yield Note(key="compare.clock", values={})


def _where_said(name: str, first: Side, side: Side) -> tuple[str | None, str | None]:
    """What both say, in words that can be held against each other: beside a published row, recomputation of
    a run is yes or no too.
    """
    said = first.facts[name], side.facts[name]
    if name != "recompute" or not (first.published or side.published):
        return said
    one, other = ({"none": "no", "selective": "yes", "full": "yes"}.get(word or "", word) for word in said)
    return one, other


def _unlike(name: str, one: str | None, other: str | None, *, same: bool | None = None) -> Iterator[Note]:
    if not (one == other if same is None else same):
        yield Note(key="compare.differs", values={"name": name, "one": str(one), "other": str(other)})


def _key(case: str) -> str:
    return re.sub(r"[^a-z0-9]", "", case.lower())


def _other_clock(side: Side) -> bool:
    """Published LLaVA figures are of the whole process and of padded lengths."""
    return side.published and "llava" in (side.facts["case"] or "")


def _doubts(first: Side, side: Side, column: str, number: int) -> Iterator[Note]:
    """Why a ratio of this metric would say nothing, though the rows are alike."""
    if column != MFU or first.figures[MFU].value is None or side.figures[MFU].value is None:
        return
    if first.flops_per_token != side.flops_per_token:
        both = " ≠ ".join(
            "?" if one is None else f"{one:g}" for one in (side.flops_per_token, first.flops_per_token)
        )
        yield _doubt(number, column, f"FLOPs per token {both}")
    if first.device == side.device and None not in (first.peak, side.peak) and first.peak != side.peak:
        yield _doubt(number, column, f"peak {side.peak} ≠ {first.peak} TFLOPS")


def _doubt(number: int, column: str, reason: str) -> Note:
    return Note(key="compare.doubtful", values={"number": str(number), "column": column, "reason": reason})


def _remarks(first: Side, side: Side, number: int) -> Iterator[Note]:
    for name in (*REMARKED, *WHERE_SAID):
        one, other = _where_said(name, first, side)
        if name in WHERE_SAID and (one is None) == (other is None):
            continue
        if one != other:
            values = {"number": str(number), "name": name, "other": other or "", "one": one or ""}
            yield Note(key="compare.remark", values=values)
    both = first.figures["acc_mmmu"].value is not None and side.figures["acc_mmmu"].value is not None
    if both and first.published != side.published:
        yield Note(key="compare.decoding", values={})


def notes_of(table: Sequence[Compared], language: Language) -> tuple[str, ...]:
    """Every note in the order of the rows, each once."""
    found: dict[str, None] = {}
    for number, one in enumerate(table, start=1):
        for note in _missing(one.side, number):
            found[note.text(language)] = None
        if one.differences:
            what = say("semicolon", language).join(_said(note, language, number) for note in one.differences)
            found[say("compare.not_ranked", language, number=number, what=what)] = None
        for note in (*one.doubts, *one.remarks):
            found[note.text(language)] = None
    return tuple(found)


def _said(note: Note, language: Language, number: int) -> str:
    """A difference; the side that is silent gets its row's number."""
    who = note.values.get("side")
    if who is None:
        return note.text(language)
    rows = {"first": (1,), "other": (number,), "each": (1, number)}[who]
    named = say("list", language).join(say("compare.row", language, number=row) for row in rows)
    return replace(note, values={**note.values, "side": named}).text(language)


def _missing(side: Side, number: int) -> Iterator[Note]:
    """A side without a number, or with one that is in doubt, says why, once for each reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for column, figure in side.figures.items():
        if figure.value is None and not figure.by_choice:
            by_reason.setdefault(("compare.no_number", figure.reason or ""), []).append(column)
        elif figure.doubt is not None:
            by_reason.setdefault(("compare.doubtful", figure.doubt), []).append(column)
    for (key, reason), columns in by_reason.items():
        yield Note(key=key, values={"number": str(number), "column": " ".join(columns), "reason": reason})


_BEFORE = ("compare.column.number", "compare.column.source", "compare.column.config")
_AFTER = ("compare.column.speed_ratio", "compare.column.mfu_ratio")


def cells_of(table: Sequence[Compared], language: Language) -> tuple[list[str], list[list[str]]]:
    """The headings and the rows below them, as plain text."""
    columns = [column for column in METRICS if _shown(column, table)]
    headings = [
        *(say(key, language) for key in _BEFORE),
        *(say(f"column.{name}", language) for name in ("precision", "parallel", "fix_hp")),
        say("compare.column.batch", language),
        *(say(f"column.{name}", language) for name in columns),
        *(say(key, language) for key in _AFTER),
    ]
    return headings, [_row(number, one, columns) for number, one in enumerate(table, start=1)]


def markdown_text(table: Sequence[Compared], language: Language = "zh") -> str:
    """The table, and under it why each ratio that is not there is not there."""
    headings, rows = cells_of(table, language)
    lines = [f"# {say('compare.title', language)}", "", _line(headings), "|" + " --- |" * len(headings)]
    lines += [_line(row) for row in rows]
    lines += ["", say("compare.reference", language), ""]
    lines += [f"- {markdown(note)}" for note in notes_of(table, language)]
    return "\n".join(lines).rstrip() + "\n"


def _shown(column: str, table: Sequence[Compared]) -> bool:
    """Accuracy only where somebody has it."""
    return column != "acc_mmmu" or any(one.side.figures[column].value is not None for one in table)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"


def _row(number: int, one: Compared, columns: Sequence[str]) -> list[str]:
    side, facts = one.side, one.side.facts
    known = {name: facts[name] or "?" for name in ("LBS", "GAS", "GBS", "MPE", "scale")}
    config = f"{side.device} {known['scale']}" + "".join(
        f"（{mark}）"
        for mark in (side.stage, side.proxy and "proxy", "rehearsal" if side.rehearsal else None)
        if mark
    )
    return [
        str(number),
        f"{side.name}/{side.row}",
        config,
        facts["precision"] or NOT_APPLICABLE,
        facts["parallel"] or NOT_APPLICABLE,
        side.fix_hp,
        f"{known['LBS']} × {known['GAS']} → {known['GBS']}, {known['MPE']}",
        *(_figure_text(column, side.figures[column]) for column in columns),
        *(_ratio_text(one.ratios[column], first=number == 1) for column in RATIOS),
    ]


def _figure_text(column: str, figure: Figure) -> str:
    if figure.value is None:
        return NOT_APPLICABLE if figure.by_choice else NO_NUMBER
    if column == "mem":
        return f"{gib(figure.value)}/{NO_NUMBER if figure.capacity is None else gib(figure.capacity)}"
    return per_cent(figure.value) if column in ("acc_mmmu", MFU) else significant(figure.value)


def _ratio_text(ratio: float | None, *, first: bool) -> str:
    if first:
        return NOT_APPLICABLE
    return NO_NUMBER if ratio is None else f"{ratio:.3f}"


def json_text(table: Sequence[Compared], language: Language = "zh") -> str:
    """One object: rows with every digit, ratios to the first, differences and notes in words."""
    document = {
        "schema": SCHEMA,
        "language": language,
        "rows": [_json_row(number, one, language) for number, one in enumerate(table, start=1)],
        "notes": [visible(note, limit=2000) for note in notes_of(table, language)],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_row(number: int, one: Compared, language: Language) -> dict[str, Any]:
    side = one.side
    return {
        "number": number,
        "source": "published" if side.published else "run",
        "name": visible(side.name),
        "row": visible(side.row),
        "device": visible(side.device),
        "stage": None if side.stage is None else visible(side.stage),
        "proxy": side.proxy is not None,
        "rehearsal": side.rehearsal,
        "facts": {name: None if value is None else visible(value) for name, value in side.facts.items()},
        "figures": {
            column: {
                "value": figure.value,
                "capacity": figure.capacity,
                "reason": _visible(figure.reason),
                "doubt": _visible(figure.doubt),
            }
            for column, figure in side.figures.items()
        },
        "like_first": not one.differences,
        "differences": [visible(_said(note, language, number), limit=2000) for note in one.differences],
        "ratios": one.ratios,
    }


def _visible(text: str | None) -> str | None:
    return None if text is None else visible(text, limit=2000)


WRITERS = {"md": markdown_text, "json": json_text}


def document(names: Sequence[str], workspace: Workspace, form: str, language: Language) -> str:
    """The comparison as `md` or `json`. Raises as `sides_of`."""
    return WRITERS[form](compared(sides_of(names, workspace)), language)
