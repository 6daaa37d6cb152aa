"""A file's text, and problems that point into it."""

from __future__ import annotations

import codecs
import errno
import re
import stat
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING
from unicodedata import category, east_asian_width

from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MAX_BYTES = 1024 * 1024
#: Beyond these a reader is not helped by more.
MAX_EXCERPT = 160
MAX_PROBLEMS = 100
MAX_MESSAGE = 1000

LINE_BREAK = re.compile(r"\r\n|\r|\n")
#: What YAML does not allow in a file, and the three breaks that YAML 1.1 and 1.2 count differently.
FORBIDDEN = re.compile(
    "[^\t\n\r -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
#: A key that nobody should have written there, and what stands behind it: the line is shown, that is not.
SECRET = re.compile(
    r"""(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|credentials?)["']?\s*[:=]\s*)\S.*"""
)
#: Unicode categories that can move a cursor, turn text around or hide it.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Span:
    """Where a piece of text stands: lines and columns from 1, `end_column` just behind it."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The text of one file by the name that a person knows it by."""

    name: str
    text: str
    lines: tuple[str, ...]

    def problem(
        self, code: str, message: str, at: Span, *, advice: str | None = None, excerpt: bool = True
    ) -> Problem:
        """A problem at `at`; the excerpt is its first line, safe to print."""
        line = min(max(at.line, 1), len(self.lines))
        text = self.lines[line - 1]
        column = at.column if line == at.line else len(text) + 1
        end = at.end_column if at.end_line == line else len(text) + 1
        shown = SECRET.sub(r"\1***", clean(text))
        if len(shown) > MAX_EXCERPT:
            shown = shown[: MAX_EXCERPT - 1] + "…"
        pointed = text[column - 1 : min(end - 1, MAX_EXCERPT)]
        return Problem(
            code=code,
            message=_capped(message),
            file=clean(self.name),
            line=line,
            column=column,
            excerpt=shown if excerpt and column <= MAX_EXCERPT else None,
            width=max(1, sum(2 if east_asian_width(char) in "WF" else 1 for char in clean(pointed))),
            help=None if advice is None else _capped(advice),
        )

    def token(self, start: Span) -> Span:
        """The run of characters that are not blank from its first on."""
        line, column = start.line, start.column
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        run = re.compile(r"[^\s,\[\]{}]*").match(text, column - 1)
        return Span(line, column, line, max(column + 1, run.end() + 1 if run else 0))

    def listed(self, problems: Iterable[Problem]) -> list[Problem]:
        """By line, each once, and only as many as a person can use."""
        ordered = sorted(
            dict.fromkeys(problems), key=lambda problem: (problem.line or 0, problem.column or 0)
        )
        if len(ordered) <= MAX_PROBLEMS:
            return ordered
        more = Problem(
            code=ordered[MAX_PROBLEMS].code,
            file=clean(self.name),
            line=ordered[MAX_PROBLEMS].line,
            message="more problems follow from this line on",
        )
        return [*ordered[:MAX_PROBLEMS], more]


def clean(text: str) -> str:
    """`text` with every character that could draw on a terminal replaced by one that cannot, one for one."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        " " if char == "\t" else "\N{REPLACEMENT CHARACTER}" if category(char) in UNSEEN else char
        for char in text
    )


def dotted(loc: Sequence[str | int]) -> str:
    """A place in a tree as people write it: nodes[0].name."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def read_source(path: Path, *, shown_as: str | None = None) -> Source:
    """The text of a YAML file. Raises ConfigError: E102 unreadable, E103 not UTF-8 text, E106 too large."""
    name = str(path) if shown_as is None else shown_as
    return text_source(_text(read_bytes(path, shown=name, limit=MAX_BYTES, code="E102"), name), shown_as=name)


def text_source(text: str, *, shown_as: str) -> Source:
    """YAML text that is no file. Raises ConfigError (E103) for characters that YAML does not allow."""
    source = _source(shown_as, text)
    forbidden = FORBIDDEN.search(source.text)
    if forbidden:
        char = forbidden.group()
        before = LINE_BREAK.split(source.text[: forbidden.start()])
        line, column = len(before), len(before[-1]) + 1
        if char in "\x85\u2028\u2029":
            what = f"U+{ord(char):04X}, an invisible line break that YAML versions count differently"
        else:
            what = f"U+{ord(char):04X}, a character that YAML does not allow"
        raise ConfigError(
            source.problem("E103", what, Span(line, column, line, column + 1), advice="remove that character")
        )
    return source


def read_bytes(path: Path, *, shown: str, limit: int, code: str) -> bytes:
    """The bytes of a regular file. Raises ConfigError: `code` when it cannot be read, E106 beyond `limit`."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file"
            raise ConfigError(Problem(code=code, file=clean(shown), message=what, help="name a file"))
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except (OSError, ValueError) as error:
        message, advice = _unreadable(path, error)
        raise ConfigError(Problem(code=code, file=clean(shown), message=message, help=advice)) from error
    if len(raw) > limit:
        raise ConfigError(
            Problem(
                code="E106",
                file=clean(shown),
                line=1,
                message=f"larger than {limit // 1024**2} MiB, the most that is read",
                help="is this the right file?",
            )
        )
    return raw


def _unreadable(path: Path, error: OSError | ValueError) -> tuple[str, str | None]:
    """What is wrong and what to do, by the system's answer."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file", _similar(path)
    if number in (errno.EACCES, errno.EPERM):
        return "this user may not read it", f"ls -l {clean(str(path))}   shows who may"
    if number == errno.ELOOP:
        return "its symbolic links run in a circle", f"ls -l {clean(str(path))}   shows where they point"
    if number == errno.ENAMETOOLONG:
        return "the name is longer than this system allows", None
    if number is None:
        return "no file can have this name", "it holds a NUL or another character that names cannot hold"
    assert isinstance(error, OSError)
    return f"cannot be read: {clean(error.strerror or str(error))}", None


def _similar(path: Path) -> str | None:
    try:
        beside = sorted(other.name for other in path.parent.iterdir())
    except OSError:
        return f"the folder {clean(str(path.parent))} cannot be listed either"
    near = get_close_matches(path.name, beside, n=1)
    return f"did you mean {clean(near[0])!r}, in the same folder?" if near else None


def _text(raw: bytes, name: str) -> str:
    """UTF-8, with or without its byte order mark."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(
            Problem(code="E103", file=clean(name), line=1, message="UTF-16 text", help="save it as UTF-8")
        )
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        rest = error.object[error.start : error.start + MAX_EXCERPT].decode("utf-8", "replace")
        source = _source(name, before + rest)
        lines = LINE_BREAK.split(before)
        line, column = len(lines), len(lines[-1]) + 1
        raise ConfigError(
            source.problem(
                "E103",
                f"not UTF-8: the byte 0x{error.object[error.start]:02x} stands here",
                Span(line, column, line, column + 1),
                advice="save it as UTF-8",
            )
        ) from error


def _source(name: str, text: str) -> Source:
    return Source(name=name, text=text, lines=tuple(LINE_BREAK.split(text)))


def _capped(message: str) -> str:
    """Safe to print; line breaks of ours stay."""
    text = "\n".join(clean(line) for line in message.split("\n"))
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
