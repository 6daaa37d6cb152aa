"""Report → Markdown: the published table with its notes, then every cell with its proofs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from orchestrator.messages import Language, say
from orchestrator.report.columns import MEASURED
from orchestrator.report.escape import fenced, markdown
from orchestrator.report.model import Report, Section, build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.report.columns import TableCell


def report_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """The whole report. Raises ConfigError (E801) for a result that is not one."""
    report = build(result, language)
    blocks = [
        f"# {markdown(report.title)}",
        f"## {say('section.table', language)}",
        _table_with_notes(report),
        f"## {say('section.run', language)}",
        _facts(report.facts),
        *(_section(section, language) for section in report.sections),
    ]
    return "\n\n".join(blocks) + "\n"


def table_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """The table and its notes alone, without a newline at its end. Raises ConfigError (E801)."""
    return _table_with_notes(build(result, language))


def _table_with_notes(report: Report) -> str:
    rows = [[_marked(row.texts[name]) for name in report.columns] for row in report.rows]
    table = _table([report.headings[name] for name in report.columns], rows)
    notes = "\n".join(f"[^{number}]: {markdown(text)}" for number, text in enumerate(report.notes, start=1))
    return f"{table}\n\n{notes}" if notes else table


def _marked(cell: TableCell) -> str:
    return markdown(cell.text) + "".join(f"[^{number}]" for number in cell.notes)


def _section(section: Section, language: Language) -> str:
    mark = f"**{section.verdict}**"
    blocks = [
        f"## {markdown(section.cell_id)}: {mark}"
        if language == "en"
        else f"## {markdown(section.cell_id)}：{mark}",
        markdown(section.heading),
    ]
    if section.verdict != MEASURED:
        blocks.append(f"### {say('section.reasons', language)}")
        blocks.append("\n".join(f"- {markdown(reason)}" for reason in section.reasons))
    if section.traceback is not None:
        blocks.append(f"### {say('section.traceback', language, rank=section.cause_rank)}")
        blocks.append(fenced(section.traceback))
    # A heading between them: two lists in a row would read as one.
    blocks.append(f"### {say('section.facts', language)}")
    blocks.append(_facts(section.facts))
    held = sum(held for _, held, _ in section.proofs)
    blocks.append(f"### {say('section.proofs', language)} ({held}/{len(section.proofs)})")
    blocks.append(_proofs(section.proofs, language))
    return "\n\n".join(blocks)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {label}: {markdown(text)}" for label, text in facts)


def _proofs(proofs: Sequence[tuple[str, bool, str]], language: Language) -> str:
    yes, no = say("proof.yes", language), f"**{say('proof.no', language)}**"
    return _table(
        [say(f"proof.{key}", language) for key in ("name", "held", "detail")],
        [[markdown(name), yes if held else no, markdown(detail)] for name, held, detail in proofs],
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Padded to the width on a terminal, where a Chinese character takes two cells, so that the source reads
    as a table.
    """
    columns = list(zip(headings, *rows, strict=True))
    # A long detail at the end of a line needs no padding, and gets none.
    widths = [max(3, *(_width(text) for text in column)) for column in columns[:-1]] + [3]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(_padded(text, width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - _width(text))


def _width(text: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)
