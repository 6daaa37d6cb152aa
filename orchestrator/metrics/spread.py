"""Order statistics of one series of measurements. Pure; raises ValueError on an empty one."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Below this many values the exact binomial sums are used, above it their normal approximation.
EXACT_UP_TO = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where a series lies and how wide it is, all in its own unit.

    `std` is the sample's (n − 1), None for one value. `mad` is the median absolute deviation, not scaled to a
    normal's. `ci95_low` and `ci95_high` enclose the median with at least 95 % confidence; None with fewer
    than six values, where even minimum and maximum do not. `ci95_coverage` is the confidence really reached.
    """

    n: int
    median: float
    mean: float
    std: float | None
    mad: float
    min: float
    max: float
    ci95_low: float | None
    ci95_high: float | None
    ci95_coverage: float | None


def spread(values: Sequence[float]) -> Spread:
    """The spread of `values`. Raises ValueError when there are none, OverflowError when their sum is beyond a
    float.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    n, median, mean = len(ordered), statistics.median(ordered), math.fsum(ordered) / len(ordered)
    rank, coverage = median_interval(n)
    return Spread(
        n=n,
        median=median,
        mean=mean,
        std=math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (n - 1)) if n > 1 else None,
        mad=statistics.median(abs(value - median) for value in ordered),
        min=ordered[0],
        max=ordered[-1],
        ci95_low=None if rank is None else ordered[rank - 1],
        ci95_high=None if rank is None else ordered[n - rank],
        ci95_coverage=coverage,
    )


def median_interval(n: int) -> tuple[int | None, float | None]:
    """(k, coverage): the k-th smallest and k-th largest of `n` values enclose the median with ≥ 95 %
    confidence.

    k is the largest with 2·P(Binomial(n, ½) ≤ k − 1) ≤ 5 %, whatever the distribution. The values count as
    independent; steps that drift together make the true interval wider. Source: David and Nagaraja, Order
    Statistics, 3rd ed. (2003), section 7.1; recommended for run times by Hoefler and Belli, SC15
    (doi:10.1145/2807591.2807644), section 3.1.3. Above EXACT_UP_TO values, the normal approximation of Le
    Boudec, Performance Evaluation (2010), theorem 2.1; coverage is then stated as 0.95.
    """
    if n > EXACT_UP_TO:
        return math.floor(0.5 * n - 0.98 * math.sqrt(n)), 0.95
    # Whole numbers throughout: `tail` counts, of all 2^n outcomes, those below the k-th value.
    rank, tail = None, 0
    coverage = None
    for k in range(1, n // 2 + 1):
        tail += math.comb(n, k - 1)
        if 40 * tail > 2**n:
            break
        rank, coverage = k, 1 - 2 * tail / 2**n
    return rank, coverage


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value below which `fraction` (0 … 1) of `values` lies, linear between neighbours (Hyndman and Fan's
    type 7, numpy's).
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def fifth(values: Sequence[float], *, last: bool) -> Sequence[float]:
    """The first or last fifth of `values`, at least one of them."""
    size = max(1, len(values) // 5)
    return values[-size:] if last else values[:size]


def mean(values: Sequence[float]) -> float:
    """The mean, summed exactly. Raises ValueError for no values, OverflowError beyond a float."""
    if not values:
        raise ValueError("no values")
    return math.fsum(values) / len(values)
