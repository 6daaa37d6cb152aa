"""A series night by night: what is in band, what is suspect, and what a second measurement confirmed."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal

from orchestrator.gate.band import Verdict, judge, mad
from orchestrator.gate.rule import MetricRule, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a point is called: suspect is outside the band and not confirmed; recovered is the first point that is
#: in band again after a confirmed one; accepted is where a person began a new baseline.
Kind = Literal[
    "regression", "improvement", "suspect", "in_band", "recovered", "noisy", "not_enough", "accepted"
]
#: Where the series stands after its last point.
State = Literal["in_band", "regression", "improvement", "suspect", "noisy", "not_enough"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One proven figure of a series. `at_s`: when its run was planned, Unix time. `accepted`: a person began
    a new baseline with it.
    """

    at_s: float
    value: float
    run_id: str = ""
    cell_id: str = ""
    accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A point with its verdict. `new` marks a change of state: the first point of a confirmed regression or
    improvement, or of a recovery. `last_good`: the run of the last point in band before it.
    """

    point: Point
    kind: Kind
    verdict: Verdict
    new: bool = False
    last_good: str | None = None
    #: Out of band on the same side without a break, this one included, and over how many nights.
    runs: int = 0
    nights: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A whole series, judged; `state` after the last point."""

    judged: tuple[Judged, ...]
    state: State


@dataclass(slots=True)
class _Walker:
    """What the past says of the next point."""

    rule: Rule
    metric: MetricRule
    reference: float | None = None
    baseline: list[float] = field(default_factory=list)
    inherited: float | None = None
    pending: list[Point] = field(default_factory=list)
    side: str | None = None
    confirmed: str | None = None
    last_good: str | None = None

    def next(self, point: Point) -> Judged:
        if point.accepted and self.reference is None:
            return self._accepted(point)
        verdict = judge(
            self.baseline,
            point.value,
            rule=self.rule,
            metric=self.metric,
            inherited=self.inherited,
            reference=self.reference,
        )
        if verdict.kind in ("worse", "better"):
            return self._outside(point, verdict)
        return self._inside(point, verdict)

    def _accepted(self, point: Point) -> Judged:
        """A person said that this is normal now. The spread of before stays until there is another."""
        known = self.baseline[-self.rule.window :]
        if len(known) >= self.rule.min_points and median(known) > 0:
            self.inherited = mad(known) / median(known)
        # What led here was no noise but the change that was accepted.
        self.baseline = [point.value]
        self.pending, self.side, self.confirmed = [], None, None
        self.last_good = point.run_id
        verdict = Verdict(
            kind="in_band",
            median=point.value,
            band_low=None,
            band_high=None,
            n=1,
            change=0.0,
            why="accepted: a new baseline begins here",
        )
        return Judged(point=point, kind="accepted", verdict=verdict, last_good=point.run_id)

    def _inside(self, point: Point, verdict: Verdict) -> Judged:
        recovered = self.confirmed is not None and verdict.kind == "in_band"
        if self.confirmed is None:
            # What was not confirmed belongs to the noise that the band is made of.
            self.baseline += [one.value for one in self.pending]
        self.baseline.append(point.value)
        before = self.last_good
        self.pending, self.side, self.confirmed = [], None, None
        self.last_good = point.run_id
        kind: Kind = "recovered" if recovered else _plain(verdict)
        return Judged(point=point, kind=kind, verdict=verdict, new=recovered, last_good=before)

    def _outside(self, point: Point, verdict: Verdict) -> Judged:
        if self.side != verdict.kind:
            if self.confirmed is None:
                self.baseline += [one.value for one in self.pending]
            self.pending, self.confirmed = [], None
            self.side = verdict.kind
        self.pending.append(point)
        nights = _nights(self.pending, self.rule.apart_h)
        called = "regression" if verdict.kind == "worse" else "improvement"
        new = False
        if self.confirmed is None and _is_confirmed(nights, self.rule):
            self.confirmed, new = called, True
        kind: Kind = "suspect"
        if self.confirmed is not None:
            kind = "regression" if called == "regression" else "improvement"
        return Judged(
            point=point,
            kind=kind,
            verdict=verdict,
            new=new,
            last_good=self.last_good,
            runs=len(self.pending),
            nights=len(nights),
        )


def _plain(verdict: Verdict) -> Kind:
    if verdict.kind == "noisy":
        return "noisy"
    return "not_enough" if verdict.kind == "not_enough" else "in_band"


def _nights(points: Sequence[Point], apart_h: float) -> list[list[Point]]:
    """Points in groups of one night: a night ends `apart_h` hours after it began."""
    nights: list[list[Point]] = []
    for point in points:
        if nights and point.at_s - nights[-1][0].at_s < apart_h * 3600:
            nights[-1].append(point)
        else:
            nights.append([point])
    return nights


def _is_confirmed(nights: Sequence[Sequence[Point]], rule: Rule) -> bool:
    """`nights`: the points outside the band without a break, night by night."""
    if rule.confirm == "next-night":
        return len(nights) >= 2
    if rule.confirm == "rerun":
        return sum(map(len, nights)) >= 2
    return sum(len(night) >= 2 for night in nights) >= 2


def walk(points: Sequence[Point], *, rule: Rule, metric: MetricRule, reference: float | None = None) -> Trend:
    """Judges every point by those before it; `points` oldest first, proven ones of one series only. With a
    `reference`, a published figure, the band lies around that, and nothing needs to be accepted.
    """
    walker = _Walker(rule=rule, metric=metric, reference=reference)
    judged = tuple(walker.next(point) for point in points)
    return Trend(judged=judged, state=_state(judged))


def _state(judged: Sequence[Judged]) -> State:
    if not judged:
        return "not_enough"
    kind = judged[-1].kind
    return "in_band" if kind in ("accepted", "recovered", "in_band") else kind  # type: ignore[return-value]
