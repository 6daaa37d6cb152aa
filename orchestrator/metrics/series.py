"""Lines of a log → one value a step, over all who reported it. Pure."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.metrics.spread import mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.parse.dialects import StepLine

#: How the ranks' values of one step become one: the others waited for the slowest.
JOINED: dict[str, Callable[[Sequence[float]], float]] = {
    "step_time_s": max,
    "samples_per_second": min,
    "running_samples_per_second": min,
    "tokens_per_second_per_device": min,
    "grad_norm": max,
    "mfu": min,
    "tflops_per_device": min,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A figure at `step`, counted from 1, None where no line says it. It speaks of the `covers` steps that
    end there.
    """

    step: int | None
    value: float
    covers: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One figure as training goes on. `interval` is the usual distance of two points in steps, `repeats` the
    steps that one source reported twice, as (step, earlier line, later line), `hole` the first two steps
    between which lines are missing.
    """

    points: tuple[Point, ...]
    interval: int
    hole: tuple[int, int] | None
    repeats: tuple[tuple[int, int, int], ...]

    @property
    def last_step(self) -> int | None:
        return self.points[-1].step if self.points else None

    def after(self, warmup_steps: int) -> tuple[Point, ...]:
        """The points that speak of no warm-up step. A log that starts late counts its warm-up from there;
        points without a step are all there.
        """
        numbered = [point.step for point in self.points if point.step is not None]
        begin = max(0, numbered[0] - self.interval) if numbered else 0
        return tuple(
            point
            for point in self.points
            if point.step is None or point.step - point.covers >= begin + warmup_steps
        )


def series(
    heard: Sequence[Sequence[StepLine]],
    field: str,
    *,
    accumulation: int | None = None,
    logging_steps: int | None = None,
) -> Series:
    """The figure `field` of the first of `heard` that has it.

    Lines that count micro-steps get their step by `accumulation`, lines without any number theirs by
    `logging_steps`; without those the step stays None.
    """
    records = next(
        (having for steps in heard if (having := [one for one in steps if _value(one, field) is not None])),
        [],
    )
    before = _epochs_before(records)
    numbers = [
        _step(one, ordinal, before=before, accumulation=accumulation, logging_steps=logging_steps)
        for ordinal, one in enumerate(records, start=1)
    ]
    grouped: dict[int, dict[tuple[str, int | None, int | None], list[StepLine]]] = defaultdict(
        lambda: defaultdict(list)
    )
    loose = []
    for number, one in zip(numbers, records, strict=True):
        if number is None:
            loose.append(Point(step=None, value=_number(one, field), covers=1, line=one.line))
        else:
            grouped[number][one.source, one.rank, one.micro_step].append(one)
    interval = _interval(sorted(grouped))
    joined = tuple(_joined(step, grouped[step], field=field, interval=interval) for step in sorted(grouped))
    return Series(
        points=joined or tuple(loose),
        interval=interval,
        # Steps that are made from calls of forward are rounded.
        hole=_hole(sorted(grouped), slack=int((accumulation or 1) > 1)),
        repeats=_repeats(grouped),
    )


def _value(one: StepLine, field: str) -> float | None:
    value = getattr(one, field)
    return value if isinstance(value, int | float) else None


def _number(one: StepLine, field: str) -> float:
    value = _value(one, field)
    assert value is not None
    return value


def _epochs_before(records: Sequence[StepLine]) -> dict[float | None, int]:
    """Epoch → calls of forward that were counted before it, where the count starts anew with each epoch. As
    many as were printed: what came after an epoch's last line, nobody knows.
    """
    counted: dict[float | None, list[int]] = defaultdict(list)
    for one in records:
        if one.step is None and one.micro_step is not None and one.epoch is not None:
            counted[one.epoch].append(one.micro_step)
    before, done, last = {}, 0, 0
    for epoch, calls in counted.items():
        done += last if min(calls) <= last else 0
        before[epoch], last = done, max(calls)
    return before


def _step(
    one: StepLine,
    ordinal: int,
    *,
    before: Mapping[float | None, int],
    accumulation: int | None,
    logging_steps: int | None,
) -> int | None:
    if one.step is not None:
        return one.step
    if one.micro_step is not None:
        calls = one.micro_step + before.get(one.epoch, 0)
        return None if accumulation is None else math.ceil(calls / accumulation)
    return None if logging_steps is None else ordinal * logging_steps


def _interval(steps: Sequence[int]) -> int:
    """The most frequent distance, the larger of two as frequent; all steps before a single point. From 1."""
    if len(steps) < 2:
        return max(1, steps[0]) if steps else 1
    distances = Counter(later - earlier for earlier, later in itertools.pairwise(steps))
    return max(distances, key=lambda distance: (distances[distance], distance))


def _hole(steps: Sequence[int], *, slack: int) -> tuple[int, int] | None:
    """The first two neighbours further apart than lines are. The first line of a log and its last may be out
    of step with the others; where two are left, lines of every k steps stand at multiples of k.
    """
    inner, pairs = steps[1:-1], list(itertools.pairwise(steps))
    if len(inner) < 2:
        return None
    usual = math.gcd(*inner) if len(inner) == 2 else min(b - a for a, b in itertools.pairwise(inner))
    return next((pair for pair in pairs if pair[1] - pair[0] > usual + slack), None)


def _joined(
    step: int,
    by_source: dict[tuple[str, int | None, int | None], list[StepLine]],
    *,
    field: str,
    interval: int,
) -> Point:
    records = [one for group in by_source.values() for one in group]
    # DeepSpeed prints its current speed beside the running one: a sample of one step, whatever the interval.
    sampled = field == "samples_per_second" and records[0].running_samples_per_second is not None
    return Point(
        step=step,
        value=JOINED.get(field, mean)([_number(one, field) for one in records]),
        covers=1 if sampled else min(interval, max(step, 1)),
        line=records[0].line,
    )


def _repeats(
    grouped: dict[int, dict[tuple[str, int | None, int | None], list[StepLine]]],
) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (step, group[0].line, group[1].line)
        for step, by_source in sorted(grouped.items())
        for group in by_source.values()
        if len(group) > 1
    )
