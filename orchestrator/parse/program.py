"""What an external program printed, and the times at which its observer saw that come → steps.

The time of a step is our own clock's: from the moment its iteration line came to that of the next one. Loss,
gradient norm and what was consumed are the program's word, read by the dialect of its log. Pure.
"""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from orchestrator.parse.dialects import DIALECTS, LogReader, Stated
from orchestrator.parse.dialects.record import StepLine
from orchestrator.parse.events import LineProblem, RankLog
from orchestrator.parse.records import Step
from orchestrator.parse.strict import Misread
from orchestrator.parse.transport import LineReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.parse.dialects.record import Dialect
    from orchestrator.parse.transport import Line
    from orchestrator.plan import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLog:
    """The whole output of one rank, read by one dialect. `num_unread` counts lines that look like the
    dialect's and cannot be read, that are too long, or that have no end.
    """

    rank: int
    num_bytes: int
    sha256: str
    num_lines: int
    steps: tuple[StepLine, ...]
    stated: tuple[Stated, ...]
    num_unread: int
    problems: tuple[LineProblem, ...]

    def says(self, name: str) -> tuple[float | int | str, ...]:
        """Every value that it states under this name, each once."""
        return tuple(dict.fromkeys(one.value for one in self.stated if one.name == name))


def read_program(chunks: Iterable[bytes], *, rank: int, dialect: str) -> ProgramLog:
    reader, digest, size, lines = LogReader((_dialect(dialect),)), hashlib.sha256(), 0, 0
    for chunk in chunks:
        reader.feed(chunk)
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
    reading = reader.finish()
    heard = reading.heard[0]
    cut = reading.passed.truncated is not None
    return ProgramLog(
        rank=rank,
        num_bytes=size,
        sha256=digest.hexdigest(),
        num_lines=lines,
        steps=heard.steps,
        stated=heard.stated,
        num_unread=heard.num_misread + reading.passed.num_overlong + cut,
        problems=heard.problems,
    )


def reporting_rank(cell: Cell) -> int:
    """The rank whose output has the iteration lines: Megatron prints them on the last one."""
    return cell.world_size - 1


def iterations(log: ProgramLog) -> tuple[StepLine, ...]:
    """The lines of iterations, without those about memory."""
    return tuple(one for one in log.steps if one.step is not None)


def came_s(log: RankLog, line: int) -> float | None:
    """When line `line` (from 1) had come whole, on the clock of that rank's node; null when nobody saw it."""
    at = bisect.bisect_left(log.outputs, line, key=lambda one: one.lines)
    return log.outputs[at].t_s if at < len(log.outputs) else None


def transcribed(
    cell: Cell, logs: Mapping[int, RankLog], programs: Mapping[int, ProgramLog]
) -> dict[int, RankLog]:
    """`logs` with the program's steps in every planned rank's: one step of all of them together, on each
    node's own clock. Samples and tokens are a rank's share by the plan, proven by what the log consumed.
    """
    last = reporting_rank(cell)
    observer, printed = logs.get(last), programs.get(last)
    if observer is None or printed is None:
        return dict(logs)
    steps = _steps(cell, observer, iterations(printed))
    made = {}
    for rank, log in logs.items():
        shift_s = _shift_s(observer, log)
        moved = tuple(_moved(step, rank, shift_s) for step in steps)
        made[rank] = replace(log, steps=moved)
    return made


def _steps(cell: Cell, observer: RankLog, lines: tuple[StepLine, ...]) -> list[Step]:
    batch, found = cell.job.batch, []
    before_s: float | None = None
    for line in lines:
        end_s = came_s(observer, line.line)
        if end_s is None or line.step is None:
            continue
        start_s = before_s if before_s is not None else end_s - (line.step_time_s or 0.0)
        before_s = end_s
        samples = batch.micro_batch_size * batch.gradient_accumulation_steps
        found.append(
            Step(
                line=line.line,
                nonce=cell.job.nonce,
                rank=observer.rank,
                seq=0,
                t_s=end_s,
                step=line.step,
                start_s=start_s,
                end_s=end_s,
                samples=samples,
                tokens=samples * batch.sequence_length,
                loss=line.loss,
                loss_nonfinite=_not_finite(line),
                grad_norm=line.grad_norm,
                learning_rate=line.learning_rate,
            )
        )
    return found


def _not_finite(line: StepLine) -> Literal["nan"] | None:
    return "nan" if "loss" in line.not_finite else None


def _shift_s(observer: RankLog, log: RankLog) -> float:
    """What a reading of the observer's clock is on the clock of `log`'s node, by the time of day."""
    if observer.hello is None or log.hello is None or observer.rank == log.rank:
        return 0.0
    ours, theirs = observer.hello, log.hello
    return (theirs.t_s - theirs.wall_time_s) - (ours.t_s - ours.wall_time_s)


def _moved(step: Step, rank: int, shift_s: float) -> Step:
    return msgspec.structs.replace(
        step,
        rank=rank,
        start_s=step.start_s + shift_s,
        end_s=step.end_s + shift_s,
        t_s=step.t_s + shift_s,
    )


class IterationReader:
    """Iteration lines as they appear, for the eye: what they say of times is the program's own word."""

    def __init__(self, rank: int, nonce: str, *, dialect: str) -> None:
        self._rank, self._nonce = rank, nonce
        self._dialect = _dialect(dialect)
        self._lines = LineReader(list(self._dialect.markers))

    def feed(self, chunk: bytes) -> list[Step]:
        return [step for line in self._lines.feed(chunk) for step in self._read(line)]

    def _read(self, line: Line) -> list[Step]:
        try:
            found = self._dialect.read(line)
        except Misread:
            return []
        return [self._step(one) for one in found if isinstance(one, StepLine) and one.step is not None]

    def _step(self, said: StepLine) -> Step:
        return Step(
            line=said.line,
            nonce=self._nonce,
            rank=self._rank,
            seq=0,
            t_s=0.0,
            step=said.step or 0,
            start_s=0.0,
            end_s=said.step_time_s or 0.0,
            samples=0,
            tokens=0,
            loss=said.loss,
            loss_nonfinite=_not_finite(said),
            grad_norm=said.grad_norm,
            learning_rate=said.learning_rate,
        )


def _dialect(name: str) -> Dialect:
    return next(one for one in DIALECTS if one.name == name)
