"""Report → Markdown: each case's published document with its notes, then every cell with its proofs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from orchestrator.messages import Language, say
from orchestrator.report.columns import MEASURED
from orchestrator.report.escape import fenced, markdown
from orchestrator.report.model import Report, Section, Table, build, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.report.columns import TableCell
    from orchestrator.report.reference import Block, Entry, General, Reference, Row


def report_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """The whole report. Raises ConfigError (E801) for a result that is not one."""
    report = build(result, language)
    blocks = [
        *(block for one in report.references for block in _reference(one, report)),
        f"### {say('section.run', language)}",
        _facts(report.facts),
        *(_section(section, language) for section in report.sections),
    ]
    return "\n\n".join(blocks) + "\n"


def table_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """The table and its notes alone, without a newline at its end. Raises ConfigError (E801)."""
    made = table(result, language)
    notes = _notes(made, range(1, len(made.notes) + 1))
    text = _rows(made.rows, made.columns, made.headings)
    return f"{text}\n\n{notes}" if notes else text


def _reference(one: Reference, report: Report) -> list[str]:
    """Headings and lists at the levels of the published documents."""
    language = report.language
    notes = _notes(report, one.notes)
    return [
        f"### {markdown(one.title)}",
        f"#### {say('reference.environment', language)}",
        *(_block(block) for block in one.environment),
        f"### {say('reference.run', language)}",
        f"* {say('reference.batch', language)}\n{_numbered(one.batch)}",
        *(_block(block) for block in one.repeated),
        f"* {say('reference.general', language)}",
        _general(one.general, language),
        f"* {say('reference.performance', language)}",
        *([markdown(one.preface)] if one.preface else []),
        _rows(one.rows, one.columns, report.headings),
        *([notes] if notes else []),
    ]


def _block(block: Block) -> str:
    lines = [line for entry in block.entries for line in _entry(entry, block.separator, indent="  ")]
    return "\n".join([f"- ##### {markdown(block.heading)}", *lines])


def _entry(entry: Entry, separator: str, *, indent: str) -> list[str]:
    value = _marked(entry.value) if entry.value else ""
    label = f"{markdown(entry.label)}{separator}" if entry.label else ""
    own = f"{indent}- {label}{value}".rstrip()
    return [
        own,
        *(line for child in entry.children for line in _entry(child, separator, indent=f"{indent}  ")),
    ]


def _numbered(entries: Iterable[Entry]) -> str:
    lines = []
    for number, entry in enumerate(entries, start=1):
        lines.append(f"  {number}. {_marked(entry.value)}" if entry.value else f"  {number}.")
        lines += [line for child in entry.children for line in _entry(child, "", indent="     ")]
    return "\n".join(lines)


def _general(rows: Iterable[General], language: Language) -> str:
    headings = [say(f"general.{key}", language) for key in ("name", "value", "remark")]
    return _table(
        headings,
        [
            [_bold(row.label, row.bold), _bold(_marked(row.value), row.bold), markdown(row.remark)]
            for row in rows
        ],
    )


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _rows(rows: Sequence[Row], columns: Sequence[str], headings: Mapping[str, str]) -> str:
    return _table(
        [headings[name] for name in columns],
        [[_marked(row.texts[name]) for name in columns] for row in rows],
    )


def _notes(made: Report | Table, numbers: Iterable[int]) -> str:
    return "\n".join(f"[^{number}]: {markdown(made.notes[number - 1])}" for number in numbers)


def _marked(cell: TableCell) -> str:
    return markdown(cell.text) + "".join(f"[^{number}]" for number in cell.notes)


def _section(section: Section, language: Language) -> str:
    heading = say("heading.cell", language, cell=markdown(section.cell_id))
    blocks = [f"### {heading}**{markdown(section.verdict)}**", markdown(section.heading)]
    if section.verdict != MEASURED:
        blocks.append(f"#### {say('section.reasons', language)}")
        blocks.append("\n".join(f"- {markdown(reason)}" for reason in section.reasons))
    if section.traceback is not None:
        rank = markdown(str(section.cause_rank))
        blocks.append(f"#### {say('section.traceback', language, rank=rank)}")
        blocks.append(fenced(section.traceback))
    # A heading between them: two lists in a row would read as one.
    blocks.append(f"#### {say('section.facts', language)}")
    blocks.append(_facts(section.facts))
    held = sum(held for _, held, _ in section.proofs)
    blocks.append(f"#### {say('section.proofs', language)} ({held}/{len(section.proofs)})")
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
