"""One rank's events.jsonl → RankLog, in pieces of any size, with a count and samples of what was not
understood.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.parse.records import (
    Answered,
    End,
    Evaluated,
    Fail,
    Hello,
    Memory,
    Output,
    OutputEnd,
    Program,
    Ready,
    Record,
    Saved,
    Step,
    Unknown,
    decode,
)
from orchestrator.parse.strict import Misread
from orchestrator.parse.visible import visible_bytes

#: A longer line is counted as not understood and never held in memory.
MAX_LINE_BYTES = 1 << 20
#: What is kept word for word; beyond that only the count goes on.
MAX_SAMPLES = 5
MAX_NONCES = 8

KindT = TypeVar("KindT", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """A line that is not as the contract says. `line` counts from 1; `sample` is its beginning, safe to
    print.
    """

    line: int
    reason: str
    sample: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLog:
    """What one rank reported.

    The nonce is kept, not judged: `nonces` has the distinct ones in order of appearance (the first
    MAX_NONCES). Of hello, ready, memory, saved, evaluation, fail and end the first counts; a second one is a
    problem. `count_before_end` and `sha256_before_end` are what the end record should state: records and
    SHA-256 of all bytes before it. `sha256` and `num_bytes` are those of the whole file.
    """

    rank: int
    num_bytes: int
    sha256: str
    num_lines: int
    num_records: int
    num_unknown_events: int
    num_problems: int
    problems: tuple[LineProblem, ...]
    nonces: tuple[str, ...]
    hello: Hello | None
    ready: Ready | None
    steps: tuple[Step, ...]
    memory: Memory | None
    fail: Fail | None
    end: End | None
    end_is_last: bool
    count_before_end: int | None
    sha256_before_end: str | None
    saved: Saved | None = None
    answers: tuple[Answered, ...] = ()
    evaluated: Evaluated | None = None
    program: Program | None = None
    outputs: tuple[Output, ...] = ()
    output_end: OutputEnd | None = None

    @property
    def last_step(self) -> int | None:
        """The number of the step reported last."""
        return self.steps[-1].step if self.steps else None


class EventReader:
    """Reads the file of `rank` as it grows. Never raises on any bytes, and how they are cut into chunks
    changes nothing.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._pending = bytearray()
        self._overflow_bytes = 0
        self._sha256 = hashlib.sha256()
        self._num_bytes = self._num_lines = self._num_records = self._num_unknown = self._num_problems = 0
        self._next_seq = 0
        self._problems: list[LineProblem] = []
        self._nonces: list[str] = []
        self._steps: list[Step] = []
        self._answers: list[Answered] = []
        self._outputs: list[Output] = []
        self._first: dict[type[Record], Record] = {}
        self._count_before_end: int | None = None
        self._sha256_before_end: str | None = None
        self._lines_at_end: int | None = None
        # Lines that came whole are hashed together; before an end record, up to it.
        self._unhashed, self._at = b"", 0

    def feed(self, chunk: bytes) -> list[Record]:
        """The records that `chunk` completes, those with a wrong `seq` included; the problem is counted
        beside them.
        """
        self._num_bytes += len(chunk)
        start = 0
        records: list[Record | None] = []
        if self._pending:
            newline = chunk.find(b"\n")
            self._gather(chunk if newline < 0 else chunk[:newline])
            if newline < 0:
                return []
            records.append(self._end_of_line())
            start = newline + 1
        end = chunk.rfind(b"\n") + 1
        if end > start:
            records += self._whole_lines(chunk[start:end])
        self._gather(chunk[max(start, end) :])
        return [record for record in records if record is not None]

    def finish(self) -> RankLog:
        """All that was read so far; changes nothing, so it may be asked at any time. A line without its end
        is a problem.
        """
        problems, num_problems = list(self._problems), self._num_problems
        whole = self._sha256.copy()
        if self._pending:
            size = len(self._pending) + self._overflow_bytes
            num_problems += 1
            if len(problems) < MAX_SAMPLES:
                reason = f"cut off: {size} bytes without an end of line"
                problems.append(_problem(self._num_lines + 1, reason, bytes(self._pending[:480])))
            if not self._overflow_bytes:
                whole.update(self._pending)
        return RankLog(
            rank=self._rank,
            num_bytes=self._num_bytes,
            sha256=whole.hexdigest(),
            num_lines=self._num_lines + bool(self._pending),
            num_records=self._num_records,
            num_unknown_events=self._num_unknown,
            num_problems=num_problems,
            problems=tuple(problems),
            nonces=tuple(self._nonces),
            hello=self._one(Hello),
            ready=self._one(Ready),
            steps=tuple(self._steps),
            memory=self._one(Memory),
            fail=self._one(Fail),
            end=self._one(End),
            end_is_last=self._lines_at_end == self._num_lines and not self._pending,
            count_before_end=self._count_before_end,
            sha256_before_end=self._sha256_before_end,
            saved=self._one(Saved),
            answers=tuple(self._answers),
            evaluated=self._one(Evaluated),
            program=self._one(Program),
            outputs=tuple(self._outputs),
            output_end=self._one(OutputEnd),
        )

    def _gather(self, piece: bytes) -> None:
        """Adds to the line at hand. What is beyond the cap goes into the SHA-256 only."""
        room = MAX_LINE_BYTES - len(self._pending)
        self._pending += piece[:room]
        if len(piece) > room:
            if not self._overflow_bytes:
                self._sha256.update(self._pending)
            self._overflow_bytes += len(piece) - room
            self._sha256.update(piece[room:])

    def _whole_lines(self, lines: bytes) -> list[Record | None]:
        """Reads lines that came whole, without putting each together first."""
        self._unhashed, self._at = lines, 0
        records = []
        for line in lines[:-1].split(b"\n"):
            if len(line) > MAX_LINE_BYTES:
                records.append(self._line(line[:MAX_LINE_BYTES], size=len(line)))
            else:
                records.append(self._line(line, size=len(line)))
            self._at += len(line) + 1
        self._sha256.update(self._unhashed)
        self._unhashed, self._at = b"", 0
        return records

    def _end_of_line(self) -> Record | None:
        record = self._line(bytes(self._pending), size=len(self._pending) + self._overflow_bytes)
        if not self._overflow_bytes:
            self._sha256.update(self._pending)
        self._sha256.update(b"\n")
        self._pending.clear()
        self._overflow_bytes = 0
        return record

    def _line(self, line: bytes, *, size: int) -> Record | None:
        self._num_lines += 1
        record = None
        try:
            if size > MAX_LINE_BYTES:
                raise Misread(f"{size} bytes long, {MAX_LINE_BYTES} at most")
            record = decode(line, number=self._num_lines)
            if record.rank != self._rank:
                stated, record = record.rank, None
                raise Misread(f"a record of rank {stated} in the file of rank {self._rank}")
            self._take(record)
        except Misread as problem:
            self._num_problems += 1
            if len(self._problems) < MAX_SAMPLES:
                self._problems.append(_problem(self._num_lines, str(problem), line))
        return record

    def _take(self, record: Record) -> None:
        """Keeps `record`, then raises Misread if it is out of order: a diagnosis needs it even so."""
        before = self._num_records
        self._num_records += 1
        if record.nonce not in self._nonces and len(self._nonces) < MAX_NONCES:
            self._nonces.append(record.nonce)
        kind = type(record)
        repeated = kind in self._first
        after_end = End in self._first
        if isinstance(record, Step):
            self._steps.append(record)
        elif isinstance(record, Answered):
            self._answers.append(record)
        elif isinstance(record, Output):
            self._outputs.append(record)
        elif isinstance(record, Unknown):
            self._num_unknown += 1
        elif not repeated:
            self._first[kind] = record
            if isinstance(record, End):
                self._count_before_end = before
                self._sha256_before_end = self._hashed_so_far()
                self._lines_at_end = self._num_lines
        expected, self._next_seq = self._next_seq, record.seq + 1
        if record.seq != expected:
            raise Misread(f"seq {record.seq} where {expected} was due")
        if before == 0 and not isinstance(record, Hello):
            raise Misread("the first record is no hello")
        if after_end:
            raise Misread("a record after the end record")
        if repeated:
            raise Misread(f"a second {kind.__name__.lower()} record")

    def _hashed_so_far(self) -> str:
        """SHA-256 of all bytes before the line at hand."""
        self._sha256.update(self._unhashed[: self._at])
        self._unhashed, self._at = self._unhashed[self._at :], 0
        return self._sha256.hexdigest()

    def _one(self, kind: type[KindT]) -> KindT | None:
        record = self._first.get(kind)
        return record if isinstance(record, kind) else None


def _problem(line: int, reason: str, data: bytes) -> LineProblem:
    return LineProblem(line=line, reason=reason, sample=visible_bytes(data[:480]))
