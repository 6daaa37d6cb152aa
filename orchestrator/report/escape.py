"""Text from files and logs, made harmless for the format it goes into."""

from __future__ import annotations

import re

from orchestrator.parse.visible import visible

MAX_CHARS = 2000
#: Characters that Markdown or HTML could take for markup wherever they stand. `_` only does at the edge of a
#: word.
_MARKUP = re.compile(r"[\\`*\[\]|~#!$]|(?<![^\W_])_|_(?![^\W_])")
_LINE_START = re.compile(r"^(?:([+=-])(?=[\s+=-]|$)|(\d+)([.)])(?=\s|$))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
#: What makes a spreadsheet take a field for a formula, their full-width forms included.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
#: Not hidden ones, but not in XML either.
_NOT_XML = re.compile("[\ufffe\uffff]")
_NEGATIVE = re.compile(r"-\d+(\.\d+)?(e-?\d+)?")


def markdown(text: str) -> str:
    """One line that Markdown shows as it is: no markup, no HTML, no new line, no control characters."""
    shown = _MARKUP.sub(r"\\\g<0>", visible(text, limit=MAX_CHARS))
    shown = _LINE_START.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}", shown)
    return "".join(_ENTITIES.get(char, char) for char in shown)


def fenced(text: str) -> str:
    """A code block with `text` in it, whatever backticks that has; every line visible."""
    lines = [visible(line, limit=MAX_CHARS) for line in text.splitlines()]
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence])


def field(text: str) -> str:
    """A spreadsheet's field, quotes left to the CSV writer: one line, never the start of a formula."""
    shown = visible(text, limit=MAX_CHARS)
    if _NEGATIVE.fullmatch(text):
        return shown
    return f"'{shown}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else shown


def xml(text: str) -> str:
    """One line of characters that XML 1.0 has; `<`, `&` and quotes are left to its writer."""
    return _NOT_XML.sub("\ufffd", visible(text, limit=MAX_CHARS))


def xml_lines(text: str) -> str:
    """`text` with its lines kept, each as `xml` has it."""
    return "\n".join(xml(line) for line in text.splitlines())


def label(text: str) -> str:
    r"""A Prometheus label's value, without its quotes: `\`, `"` and new lines escaped."""
    return visible(text, limit=MAX_CHARS).replace("\\", "\\\\").replace('"', '\\"')
