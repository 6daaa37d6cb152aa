"""Slow change: where the level of a series moved for good. Advisory: it names a night, and fails nothing.

Binary segmentation: the split of a segment that sets its two sides furthest apart by energy distance (Székely
and Rizzo; the statistic of E-divisive, Matteson and James, A Nonparametric Approach for Multiple Change Point
Analysis, JASA 2014) is kept when a rank-sum test tells the sides apart and their medians differ enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A level of fewer points is not one.
MIN_SIDE = 5
#: The best of many splits is tested, so the level is far below the usual 0.05.
ALPHA = 1e-4
#: Distances grow with the square: of a longer series the newest are looked at.
MAX_POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The level moved at point `index`: medians of the segments before and after it, and by how much,
    relative.
    """

    index: int
    before: float
    after: float
    change: float


def change_points(values: Sequence[float], *, min_effect: float = 0.01) -> tuple[Step, ...]:
    """Where the level moved by at least `min_effect` (relative), oldest first; of the newest MAX_POINTS."""
    skipped = max(0, len(values) - MAX_POINTS)
    seen = list(values[skipped:])
    cuts = sorted(_cuts(seen, 0, len(seen), min_effect))
    edges = [0, *cuts, len(seen)]
    steps = []
    for left, cut, right in zip(edges, edges[1:], edges[2:], strict=False):
        before, after = median(seen[left:cut]), median(seen[cut:right])
        change = after / before - 1 if before else math.inf
        if math.isfinite(change) and abs(change) >= min_effect:
            steps.append(Step(index=skipped + cut, before=before, after=after, change=change))
    return tuple(steps)


def _cuts(values: list[float], left: int, right: int, min_effect: float) -> list[int]:
    if right - left < 2 * MIN_SIDE:
        return []
    segment = values[left:right]
    cut = _best_cut(segment)
    one, other = segment[:cut], segment[cut:]
    moved = median(one) and abs(median(other) / median(one) - 1) >= min_effect
    if not moved or _rank_sum_p(one, other) > ALPHA:
        return []
    middle = left + cut
    return [*_cuts(values, left, middle, min_effect), middle, *_cuts(values, middle, right, min_effect)]


def _best_cut(values: list[float]) -> int:
    """The split of the largest energy distance n·m/(n+m) · (2·between − within − within).

    In quadratic time: the sums of distances are carried from one split to the next.
    """
    n = len(values)
    to_all = [sum(abs(value - other) for other in values) for value in values]
    total = sum(to_all)
    inside = 0.0  # twice the distances within the left side
    crossing = 0.0  # distances between the sides
    best, found = -math.inf, MIN_SIDE
    for cut in range(1, n):
        value = values[cut - 1]
        to_left = sum(abs(value - other) for other in values[: cut - 1])
        inside += 2 * to_left
        crossing += to_all[cut - 1] - 2 * to_left
        if not MIN_SIDE <= cut <= n - MIN_SIDE:
            continue
        left, right = cut, n - cut
        outside = total - inside - 2 * crossing
        distance = 2 * crossing / (left * right) - inside / left**2 - outside / right**2
        score = left * right / n * distance
        if score > best:
            best, found = score, cut
    return found


def _rank_sum_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney rank-sum test by the normal approximation, corrected for ties."""
    n, m = len(one), len(other)
    ordered = sorted((value, side) for side, values in ((0, one), (1, other)) for value in values)
    ranks, ties = 0.0, 0.0
    at = 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        count = end - at
        ties += count**3 - count
        ranks += (at + end + 1) / 2 * sum(side == 0 for _, side in ordered[at:end])
        at = end
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    u = ranks - n * (n + 1) / 2
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))
