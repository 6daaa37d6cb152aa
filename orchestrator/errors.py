"""Every error a person can meet, with the exit code it leads to.

    Nx8Error
     ├─ ConfigError        2   usage or configuration; nothing was touched
     ├─ PreflightError     3   a node cannot run what was planned
     ├─ CellError          4   a cell failed or is not provable
     ├─ BuildError         5   image build or distribution
     ├─ BusyError          6   somebody else holds the lease
     ├─ TimeLimitError   124   the run's own time limit was used up
     └─ Stopped      128 + n   signal n: 129 SIGHUP, 130 SIGINT, 143 SIGTERM

0 is a run whose every planned cell is MEASURED, 1 a gate that failed, 7 a time budget used with a partial
report, 70 a bug of ours (with its traceback). Codes of messages: E1xx configuration, E2xx nodes and docker,
E3xx preflight and images, E4xx devices, E5xx training, E6xx parsing, E7xx storage, E8xx reports.
docs/exit-codes.md lists both for users.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Exit(IntEnum):
    OK = 0
    GATE = 1
    USAGE = 2
    PREFLIGHT = 3
    CELL = 4
    BUILD = 5
    BUSY = 6
    BUDGET = 7
    BUG = 70
    TIME_LIMIT = 124
    SIGHUP = 129
    SIGINT = 130
    SIGTERM = 143


#: When several apply, the leftmost wins.
WORST_FIRST = (70, 130, 143, 129, 124, 2, 6, 3, 5, 7, 4, 1, 0)


def worst(codes: Iterable[int]) -> int:
    """The exit code of a run whose parts ended with `codes`; 0 for none. An unlisted code is a bug and
    reads as 70.
    """
    return min((code if code in WORST_FIRST else 70 for code in codes), key=WORST_FIRST.index, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: what (`message`), where, and what to do next (`help`).

    `line` and `column` count from 1; `excerpt` is the source line they point into and `width` the number of
    columns (terminal cells) to underline.
    """

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    excerpt: str | None = None
    width: int = 1
    help: str | None = None

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        lines = [
            f"{where}: error[{self.code}] {self.message}" if where else f"error[{self.code}] {self.message}"
        ]
        if self.excerpt is not None and self.line is not None and self.column is not None:
            margin = f"{self.line:>5} | "
            indent = _cells(self.excerpt[: self.column - 1])
            lines.append(f"{margin}{self.excerpt}")
            lines.append(f"{' ' * (len(margin) - 2)}| {' ' * indent}{'^' * max(1, self.width)}")
        if self.help:
            lines += [
                f"      = help: {line}" if n == 0 else f"              {line}"
                for n, line in enumerate(self.help.splitlines())
            ]
        return "\n".join(lines)


def _cells(text: str) -> int:
    """Terminal cells that `text` takes: East Asian wide characters take two."""
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


class Nx8Error(Exception):
    """Base of all: carries every problem found, so that a person hears of all of them at once."""

    exit_code: Exit = Exit.BUG

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigError(Nx8Error):
    exit_code = Exit.USAGE


class PreflightError(Nx8Error):
    exit_code = Exit.PREFLIGHT


class CellError(Nx8Error):
    exit_code = Exit.CELL


class BuildError(Nx8Error):
    exit_code = Exit.BUILD


class BusyError(Nx8Error):
    exit_code = Exit.BUSY


class TimeLimitError(Nx8Error):
    exit_code = Exit.TIME_LIMIT


class Stopped(BaseException):
    """A signal asked us to end. Not an Exception: nothing that handles failures may swallow it."""

    def __init__(self, signum: int) -> None:
        self.signum = signal.Signals(signum)
        super().__init__(self.signum.name)

    @property
    def exit_code(self) -> Exit:
        return Exit(128 + self.signum)
