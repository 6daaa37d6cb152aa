"""Document → Markdown: the published document again, cell for cell, and under it what was found wrong.

Everything from the document is escaped: what was markup in a cell is shown as the characters it was made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.messages import Language, say
from orchestrator.published.markup import plain
from orchestrator.report.escape import fenced, markdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.published.model import Block, Document, Finding, Row


def markdown_text(document: Document, findings: Sequence[Finding], language: Language = "zh") -> str:
    """The whole document. Comments of its source are left out; code comes in one block for each run."""
    lines = [*_body(document), "", *_origin(document, language), "", *_found(findings, language)]
    return "\n".join(lines).strip("\n") + "\n"


def _body(document: Document) -> Iterator[str]:
    code: list[str] = []
    for block in document.blocks:
        if block.kind == "code":
            code.append(block.text)
            continue
        if code:
            yield from ("", fenced("\n".join(code)), "")
            code = []
        if block.kind in ("table", "results"):
            rows = [row for row in document.rows if row.table == block.table]
            yield from ("", *_table(block, rows), "")
        elif block.kind != "comment":
            yield from _line(block)
    if code:
        yield from ("", fenced("\n".join(code)))


def _line(block: Block) -> Iterator[str]:
    marker = f"{' ' * min(block.indent, 12)}{block.marker} " if block.marker else ""
    heading = f"{'#' * block.level} " if block.level else ""
    if not marker and block.kind == "heading":
        yield ""
    yield f"{marker}{heading}{markdown(plain(block.text))}".rstrip()


def _table(block: Block, rows: Sequence[Row]) -> Iterator[str]:
    head, *rest = block.lines
    lines = [tuple(cell.raw for cell in row.cells if cell.state != "absent") for row in rows]
    yield _row(head.cells)
    yield "|" + " --- |" * len(head.cells)
    for cells in lines if block.kind == "results" else [line.cells for line in rest]:
        yield _row(cells)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell_text(raw) for raw in cells) + " |"


def cell_text(raw: str) -> str:
    """One cell for a table; bold around the whole stays, other markup is shown."""
    text = plain(raw)
    whole = raw.strip().startswith("**") and raw.strip() == f"**{raw.strip()[2:-2]}**" and text
    return f"**{markdown(text)}**" if whole and "*" not in text else markdown(text)


def _origin(document: Document, language: Language) -> Iterator[str]:
    source = document.source
    yield f"### {say('published.section.source', language)}"
    yield ""
    yield "- " + say(
        "published.source",
        language,
        file=markdown(source.file),
        lines=source.num_lines,
        sha256=source.sha256,
    )


def _found(findings: Sequence[Finding], language: Language) -> Iterator[str]:
    yield f"### {say('published.section.findings', language)} ({len(findings)})"
    yield ""
    if not findings:
        yield say("none", language)
    for finding in findings:
        yield say(
            "published.finding",
            language,
            line=finding.line,
            code=markdown(finding.code),
            message=markdown(finding.message),
            fits=markdown(finding.fits),
        )
