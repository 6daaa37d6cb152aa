"""Bytes of a Markdown file → blocks: headings, items, tables, text. Reads what people wrote, not what a
standard asks for: any line ends, tables without a delimiter row, HTML tables, cells too few or too many.

Every pattern here is linear: no two parts of one can take the same character.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from orchestrator.errors import ConfigError, Problem
from orchestrator.parse.visible import encodable, visible
from orchestrator.published.model import Block, TableLine

#: A line of a table with some ten columns has a few hundred characters.
MAX_LINE = 20_000
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_PIPE = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r"(#{1,6})(?:[ ]+|(?=[^# ])|$)")
_MARKER = re.compile(r"([-*+]|[0-9]{1,9}[.)])[ ]+")
_FENCE = re.compile(r"(`{3,}|~{3,})")
_HTML_TABLE = re.compile(r"<table\b", re.IGNORECASE)
_HTML_CELLS = re.compile(r"<(/?)(table|tr|td|th)\b[^<>]*>", re.IGNORECASE)
_HTML_INLINE = re.compile(
    r"</?(?:b|strong|i|em|code|sub|sup|span|font|p|div|a|center|u|small)\b[^<>]*>", re.IGNORECASE
)
_HTML_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
_COMMENT = re.compile(r"<!--[^<>]*-->")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_WIDTHLESS = str.maketrans("", "", "\u200b\ufeff\u00ad")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "nbsp": " ", "quot": '"', "times": "×"}
_ENTITY = re.compile(rf"&(?:({'|'.join(_ENTITIES)})|#([0-9]{{1,6}})|#x([0-9a-f]{{1,5}}));", re.IGNORECASE)


def decoded(data: bytes) -> tuple[str, str]:
    """Text and the name of its encoding: UTF-8, UTF-16 by its mark, GB 18030, or UTF-8 with replacements."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace"), "utf-16"
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding), "utf-8" if encoding == "utf-8-sig" else encoding
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace"), "utf-8, damaged"


def lines_of(text: str, *, file: str) -> tuple[str, ...]:
    r"""The lines, every hidden character of them written out (\x1b). Raises ConfigError (E821) for a line
    that no result document has.
    """
    lines = _LINE_BREAK.split(text)
    problems = [
        Problem(
            code="E821",
            file=file,
            line=number,
            message=f"a line of {len(line)} characters; {MAX_LINE} is the most",
            help="is this the right file? A result document is a Markdown text",
        )
        for number, line in enumerate(lines, start=1)
        if len(line) > MAX_LINE
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(
        visible(encodable(line.replace("\t", "    ").translate(_WIDTHLESS)), limit=10 * MAX_LINE)
        for line in lines
    )


def plain(raw: str) -> str:
    """A cell's words: HTML of emphasis and Markdown escapes undone, emphasis around the whole taken off."""
    text = _HTML_INLINE.sub("", _HTML_BREAK.sub(" ", _COMMENT.sub("", raw)))
    text = _ENTITY.sub(_character, text).strip()
    for mark in ("**", "__", "`", "*", "_"):
        inner = text[len(mark) : -len(mark)]
        if len(text) > 2 * len(mark) and text == f"{mark}{inner}{mark}" and mark not in inner:
            text = inner.strip()
    return _ESCAPED.sub(r"\1", text)


def _character(entity: re.Match[str]) -> str:
    """Of an entity; a hidden character is written out here as everywhere."""
    if entity[1]:
        return _ENTITIES[entity[1].lower()]
    return visible(chr(int(entity[2]) if entity[2] else int(entity[3], 16)))


def split_cells(line: str) -> tuple[str, ...]:
    r"""The cells of a table's line, stripped; `\|` is a character of a cell."""
    cells = [cell.strip() for cell in _PIPE.split(line.strip())]
    if cells and not cells[0] and line.lstrip().startswith("|"):
        cells = cells[1:]
    if cells and not cells[-1] and line.rstrip().endswith("|"):
        cells = cells[:-1]
    return tuple(cells)


def is_delimiter(line: str) -> bool:
    """`| --- | :-: |`, the dashes of any width."""
    cells = split_cells(line)
    return bool(cells) and all(
        cell and set(cell) <= set("-:—－–") and set(cell) & set("-—－–") for cell in cells
    )


def blocks_of(lines: tuple[str, ...]) -> tuple[Block, ...]:
    """Every block, in order; a result table is still a table like any other. Blank lines are none."""
    reader = _Reader(lines=lines, blocks=[])
    while reader.at < len(lines):
        reader.take()
    return tuple(_table_block(tuple(found)) if isinstance(found, list) else found for found in reader.blocks)


@dataclass(slots=True, kw_only=True)
class _Reader:
    lines: tuple[str, ...]
    #: A table is the list of its lines until all is read: rows behind a blank line may still belong to it.
    blocks: list[Block | list[TableLine]]
    at: int = 0
    #: Whether the last table has a delimiter row: without one nobody knows its headings from its rows.
    ruled: bool = False

    def take(self) -> None:
        line = self.lines[self.at]
        stripped = line.strip()
        if not stripped:
            self.at += 1
        elif _FENCE.match(stripped):
            self._fenced(stripped)
        elif stripped.startswith("<!--") and "-->" not in stripped:
            self._comment()
        elif _HTML_TABLE.search(line):
            self._html_table()
        elif self._is_table():
            self._table()
        else:
            self.blocks.append(_text_block(line, number=self.at + 1))
            self.at += 1

    def _fenced(self, opening: str) -> None:
        fence = _FENCE.match(opening)
        assert fence is not None
        mark = fence[1]
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            if line.strip().startswith(mark) and not line.strip().strip(mark[0]):
                return
            self.blocks.append(Block(kind="code", line=self.at, text=line))

    def _comment(self) -> None:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            self.blocks.append(Block(kind="comment", line=self.at, text=line.strip()))
            if "-->" in line:
                return

    def _is_table(self) -> bool:
        line = self.lines[self.at]
        if "|" not in line:
            return False
        has_delimiter = self.at + 1 < len(self.lines) and is_delimiter(self.lines[self.at + 1])
        return (has_delimiter and "|" in self.lines[self.at + 1]) or (
            line.lstrip().startswith("|") and len(split_cells(line)) > 1
        )

    def _table(self) -> None:
        start = self.at
        while self.at < len(self.lines) and "|" in self.lines[self.at]:
            self.at += 1
        rows = [
            TableLine(line=number + 1, cells=cells)
            for number in range(start, self.at)
            if (cells := split_cells(self.lines[number]))
            and not (number == start + 1 and is_delimiter(self.lines[number]))
        ]
        if not rows:
            return
        ruled = start + 1 < self.at and is_delimiter(self.lines[start + 1])
        before = self.blocks[-1] if self.blocks else None
        goes_on = self.ruled and not ruled and isinstance(before, list)
        if goes_on and isinstance(before, list) and self._only_blank_between(before[-1].line, start):
            # A blank line in the middle of a table ends it for a renderer, not for the person who wrote it.
            before.extend(rows)
        else:
            self.blocks.append(rows)
            self.ruled = ruled

    def _only_blank_between(self, last: int, start: int) -> bool:
        return not any(self.lines[number].strip() for number in range(last, start))

    def _html_table(self) -> None:
        start = self.at
        rows = self._html_rows()
        self.ruled = False
        if rows:
            self.blocks.append(rows)
        else:
            self.blocks.append(Block(kind="text", line=start + 1, text=self.lines[start].strip()))

    def _html_rows(self) -> list[TableLine]:
        """From `<table` to its end, or the file's; columns that span several count once."""
        rows: list[tuple[int, list[str]]] = []
        cell: str | None = None
        closed = False
        while self.at < len(self.lines) and not closed:
            line, position = self.lines[self.at], 0
            for tag in _HTML_CELLS.finditer(line):
                if cell is not None:
                    rows[-1][1].append(f"{cell}{line[position : tag.start()]}".strip().replace("|", r"\|"))
                    cell = None
                position = tag.end()
                name, ends = tag[2].lower(), bool(tag[1])
                if not ends and (name == "tr" or (name != "table" and not rows)):
                    rows.append((self.at + 1, []))
                if not ends and name in ("td", "th"):
                    cell = ""
                closed = closed or (ends and name == "table")
            if cell is not None:
                cell += line[position:] + " "
            self.at += 1
        return [TableLine(line=number, cells=tuple(cells)) for number, cells in rows if cells]


def _table_block(lines: tuple[TableLine, ...]) -> Block:
    return Block(kind="table", line=lines[0].line, lines=lines)


def _text_block(line: str, *, number: int) -> Block:
    """A heading, an item, a heading in an item, or just words."""
    text = line.lstrip(" ")
    indent = len(line) - len(text)
    marker = _MARKER.match(text)
    if marker:
        text = text[marker.end() :]
    heading = _HEADING.match(text)
    if heading:
        text = text[heading.end() :].strip().rstrip("#").rstrip()
    return Block(
        kind="heading" if heading else "item" if marker else "text",
        line=number,
        text=text.strip(),
        level=len(heading[1]) if heading else 0,
        indent=indent if marker else 0,
        marker=marker[1] if marker else None,
    )
