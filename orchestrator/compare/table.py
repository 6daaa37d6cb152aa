"""The comparison in words: a table with its notes, as Markdown or JSON. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.compare.likeness import RATIOS, Compared, Note
from orchestrator.compare.sides import METRICS, MFU, Figure, Side
from orchestrator.messages import Language, say
from orchestrator.parse.visible import visible
from orchestrator.report.columns import NO_NUMBER, NOT_APPLICABLE
from orchestrator.report.escape import markdown
from orchestrator.report.numbers import gib, per_cent, significant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


SCHEMA = "nx8.compare/1"
_BEFORE = ("compare.column.number", "compare.column.source", "compare.column.config")
_AFTER = ("compare.column.speed_ratio", "compare.column.mfu_ratio")


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
