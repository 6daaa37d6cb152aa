"""Logs of training programs → records, one pure module a dialect; what none of them reads is counted.

No figure from here is a proof: anything that can print can print these lines (docs/parsing.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.parse.dialects import (
    deepspeed,
    events,
    flagperf,
    huggingface,
    megatron,
    mllog,
    torchtitan,
)
from orchestrator.parse.dialects.record import Dialect, Found, Stated, StepLine
from orchestrator.parse.events import MAX_SAMPLES, LineProblem
from orchestrator.parse.strict import Misread
from orchestrator.parse.transport import LineReader, Passed
from orchestrator.parse.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.parse.transport import Line

__all__ = ["DIALECTS", "Dialect", "Found", "Heard", "LogReader", "Reading", "Stated", "StepLine"]

DIALECTS: tuple[Dialect, ...] = (
    events.DIALECT,
    deepspeed.DIALECT,
    megatron.DIALECT,
    huggingface.DIALECT,
    flagperf.DIALECT,
    torchtitan.DIALECT,
    mllog.DIALECT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one dialect read in a log. `problems` are the first lines it should have read and could not."""

    dialect: str
    steps: tuple[StepLine, ...]
    stated: tuple[Stated, ...]
    num_misread: int
    problems: tuple[LineProblem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A whole log: what went by, and what each dialect heard, in the order of DIALECTS."""

    passed: Passed
    heard: tuple[Heard, ...]


class LogReader:
    """Reads a log as it grows, in all dialects at once or in those given. Never raises on any bytes, and how
    they are cut into chunks changes nothing.
    """

    def __init__(self, dialects: Sequence[Dialect] = DIALECTS) -> None:
        self._ears = [_Ear(dialect) for dialect in dialects]
        self._lines = LineReader([marker for dialect in dialects for marker in dialect.markers])

    def feed(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk):
            for ear in self._ears:
                ear.hear(line)

    def finish(self) -> Reading:
        """All that was read so far; changes nothing."""
        return Reading(passed=self._lines.passed(), heard=tuple(ear.heard() for ear in self._ears))


class _Ear:
    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._markers = tuple(marker.decode() for marker in dialect.markers)
        self._steps: list[StepLine] = []
        self._stated: list[Stated] = []
        self._num_misread = 0
        self._problems: list[LineProblem] = []

    def hear(self, line: Line) -> None:
        if not any(marker in line.text for marker in self._markers):
            return
        try:
            found = self._dialect.read(line)
        except Misread as problem:
            self._num_misread += 1
            if len(self._problems) < MAX_SAMPLES:
                self._problems.append(
                    LineProblem(line=line.number, reason=str(problem), sample=visible(line.text, limit=120))
                )
            return
        for one in found:
            if isinstance(one, StepLine):
                self._steps.append(one)
            else:
                self._stated.append(one)

    def heard(self) -> Heard:
        return Heard(
            dialect=self._dialect.name,
            steps=tuple(self._steps),
            stated=tuple(self._stated),
            num_misread=self._num_misread,
            problems=tuple(self._problems),
        )
