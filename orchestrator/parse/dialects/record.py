"""What a line of a log says, in one form for all dialects: only what stands there, nothing worked out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.linear import compiled
from orchestrator.parse.strict import Misread
from orchestrator.parse.transport import Line

NUMBER = compiled(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
WHOLE = compiled(r"\d{1,18}")
GROUPED = compiled(r"\d{1,3}(,\d\d\d)*")
NOT_FINITE = {
    "nan": "nan",
    "inf": "inf",
    "+inf": "inf",
    "-inf": "-inf",
    "infinity": "inf",
    "-infinity": "-inf",
}
LARGEST = 1e300
#: No number of a log has more characters; what follows a digit for pages is none.
MAX_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """One line about training as it goes on. None: the line does not say it.

    `step` counts optimizer steps from 1, `micro_step` calls of forward. Times in seconds, memory in bytes,
    `mfu` a fraction, `learning_rate` and `grad_norm` as printed. `running_samples_per_second` is a mean since
    the third step, `samples_per_second` that of the steps the line is about. `elapsed_s` and `clock_s` are
    readings of a clock: since the start of training, and of the day. `skipped` and `nan` count steps since
    the line before, `skipped_total` those since the start. `not_finite` names what was NaN or infinite.
    `run` and `seq` are the nonce and the number of the record, where lines are records.
    """

    line: int
    source: str = ""
    rank: int | None = None
    step: int | None = None
    micro_step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    step_time_s: float | None = None
    samples_per_second: float | None = None
    running_samples_per_second: float | None = None
    tokens_per_second_per_device: float | None = None
    tflops_per_device: float | None = None
    mfu: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    memory_allocated_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    forward_s: float | None = None
    backward_s: float | None = None
    optimizer_s: float | None = None
    elapsed_s: float | None = None
    clock_s: float | None = None
    skipped: int | None = None
    skipped_total: int | None = None
    nan: int | None = None
    global_batch_size: int | None = None
    sequence_length: int | None = None
    consumed_samples: int | None = None
    consumed_tokens: int | None = None
    loss_scale: float | None = None
    not_finite: tuple[str, ...] = ()
    run: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """Something the log says about the whole run: a size, a closing figure, or that it ended.

    `name` is that of StepLine or of `--set`; `started`, `ended` and `record` (one with nothing else to read)
    have no value beyond 1, `failed` that of an exception's type. `value` is finite. `run` and `seq` as above.
    """

    line: int
    source: str = ""
    rank: int | None = None
    name: str
    value: float | int | str
    run: str | None = None
    seq: int | None = None


Found = StepLine | Stated


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one family of programs writes its log.

    `markers`: every line of the dialect holds at least one, so no other is looked at. `read` gives what a
    line says, nothing for a line that only looks like one, and raises Misread for one that should be read and
    cannot be. `yields_to` names dialects that say more about training: where one of them is found as well, it
    is the log's, and this one fills in what it leaves out. `prints_end`: its programs say when training is
    over.
    """

    name: str
    says: str
    markers: tuple[bytes, ...]
    read: Callable[[Line], tuple[Found, ...]]
    yields_to: tuple[str, ...] = ()
    prints_end: bool = False


class Figures:
    """Collects what one line says and makes a StepLine of it; NaN and infinity become names, not values."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._values: dict[str, Any] = {}
        self._not_finite: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._not_finite

    def take(self, name: str, text: str, *, scale: float = 1.0) -> None:
        """A real number. Raises Misread."""
        value = real(text, name)
        if isinstance(value, str):
            self._not_finite.append(name)
        else:
            self._values[name] = value * scale

    def take_whole(self, name: str, text: str) -> None:
        """A count. Raises Misread."""
        self._values[name] = whole(text, name)

    def put(self, name: str, value: float | None) -> None:
        if value is not None:
            self._values[name] = value

    def take_bytes(self, name: str, text: str, *, unit: int) -> None:
        """An amount of memory in units of `unit` bytes, to the nearest byte. Raises Misread."""
        value = real(text, name)
        if isinstance(value, str) or value < 0:
            raise Misread(f"{name} is {text.strip()[:40]!r}, no amount of memory")
        self._values[name] = round(value * unit)

    def made(self, **more: Any) -> StepLine:
        """The line as a record. `more` overrides."""
        values = {**self._values, **more}
        return StepLine(
            line=self._line.number,
            source=self._line.source,
            rank=values.pop("rank", self._line.rank),
            not_finite=tuple(dict.fromkeys(self._not_finite)),
            **values,
        )


def real(text: str, name: str) -> float | str:
    """A number as programs print it; the words nan, inf or -inf where it is none. Raises Misread."""
    bare = text.strip()
    if len(bare) <= MAX_DIGITS:
        if NUMBER.fullmatch(bare):
            value = float(bare)
            return value if abs(value) < LARGEST else "inf" if value > 0 else "-inf"
        if bare.lower() in NOT_FINITE:
            return NOT_FINITE[bare.lower()]
    raise Misread(f"{name} is {bare[:40]!r}, no number")


def whole(text: str, name: str) -> int:
    """A count of at most 18 digits. Raises Misread."""
    bare = text.strip()
    if not WHOLE.fullmatch(bare):
        raise Misread(f"{name} is {bare[:40]!r}, no count")
    return int(bare)


def grouped(text: str, name: str) -> float:
    """A count with commas between thousands, as `{:,}` prints it, or a plain number. Raises Misread."""
    bare = text.strip()
    if len(bare) <= MAX_DIGITS and GROUPED.fullmatch(bare):
        return float(bare.replace(",", ""))
    value = real(bare, name)
    if isinstance(value, str):
        raise Misread(f"{name} is {bare[:40]!r}, no count")
    return value


def stated(line: Line, name: str, value: float | str) -> Stated:
    return Stated(line=line.number, source=line.source, rank=line.rank, name=name, value=value)


def stated_real(line: Line, name: str, text: str, *, scale: float = 1.0) -> tuple[Stated, ...]:
    """A closing figure; nothing where it is NaN or infinite. Raises Misread."""
    value = real(text, name)
    return () if isinstance(value, str) else (stated(line, name, value * scale),)


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`, NaN and Infinity allowed, as Python's own writer prints them. Raises
    Misread.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Misread("not JSON") from None
    if not isinstance(value, dict):
        raise Misread("not a JSON object")
    return value


def json_real(value: object) -> float | None:
    """A finite number of a JSON object, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST and math.isfinite(value) else None


def json_whole(value: object) -> int | None:
    """A count of a JSON object, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
        return None
    return value


def json_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
