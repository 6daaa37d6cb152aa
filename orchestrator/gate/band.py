"""One figure against the points before it: median ± k·MAD, never narrower than the smallest effect."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.gate.rule import MetricRule, Rule

#: in band · worse, better: outside it · noisy: the band is too wide to judge by · not enough: too few points.
BandKind = Literal["in_band", "worse", "better", "noisy", "not_enough"]
#: A MAD of few points is too small on average; these factors (Croux and Rousseeuw, Time-Efficient Algorithms
#: for Two Highly Robust Estimators of Scale, 1992) make up for it. From ten points on: n / (n − 0.8).
SMALL = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`band_low`, `band_high`, `median`: in the metric's unit, over `n` points; null where there is no band.
    `change` is relative to the median. `why` says it in words.
    """

    kind: BandKind
    median: float | None
    band_low: float | None
    band_high: float | None
    n: int
    change: float | None
    why: str


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation, corrected for few points, not scaled to σ."""
    centre = median(values)
    n = len(values)
    factor = SMALL.get(n, n / (n - 0.8)) if n > 1 else 1.0
    return factor * median(abs(value - centre) for value in values)


def judge(
    before: Sequence[float],
    new: float,
    *,
    rule: Rule,
    metric: MetricRule,
    inherited: float | None = None,
    reference: float | None = None,
) -> Verdict:
    """`new` against the last `rule.window` of `before`, oldest first.

    `inherited` is the relative MAD of the baseline before this one, where a person accepted a run: what was
    accepted is the new median at once, while its spread is not known before `min_points` points. With a
    `reference`, a published figure, the band lies around it, as wide as the series' own noise makes it.
    """
    values = list(before)[-rule.window :]
    n = len(values)
    enough = n >= rule.min_points
    if reference is None and not enough and (inherited is None or n == 0):
        return _without(n, f"{n} of {rule.min_points} points that a baseline needs")
    centre = median(values) if reference is None else reference
    if not centre > 0:
        return _without(n, f"the median of {n} points is {centre:g}: no relative change can be told")
    spread = max(0.0 if enough else inherited or 0.0, mad(values) / centre if n > 2 else 0.0)
    half = max(rule.k * spread, metric.min_effect)
    low, high = centre * (1 - half), centre * (1 + half)
    change = new / centre - 1
    kind: BandKind = "in_band"
    if rule.k * spread > rule.noisy_above:
        kind = "noisy"
    elif new < low:
        kind = "worse" if metric.direction == "higher" else "better"
    elif new > high:
        kind = "better" if metric.direction == "higher" else "worse"
    return Verdict(
        kind=kind,
        median=centre,
        band_low=low,
        band_high=high,
        n=n,
        change=change,
        why=_words(kind, change, half, n, rule, reference),
    )


def _words(kind: BandKind, change: float, half: float, n: int, rule: Rule, reference: float | None) -> str:
    median_of = f"±{half:.1%} of the median of {n}"
    band = median_of if reference is None else f"±{half:.1%} of the published {reference:.4g}"
    if kind == "noisy":
        return f"the series' own noise, {band}, is above {rule.noisy_above:.0%}: nothing can be told from it"
    place = "inside" if kind == "in_band" else "outside"
    return f"{change:+.1%}, {place} {band}"


def _without(n: int, why: str) -> Verdict:
    return Verdict(kind="not_enough", median=None, band_low=None, band_high=None, n=n, change=None, why=why)
