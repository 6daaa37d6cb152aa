"""Does a loss curve follow a reference curve? Pure.

The rule of the published 70B tables: from step 21 on, the mean relative error of the loss is below 2 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.metrics.spread import mean
from orchestrator.metrics.summary import NoValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

FROM_STEP = 21
LIMIT = 0.02
#: Fewer steps than these decide nothing: two, and a tenth of those that the reference has.
MIN_STEPS = 2
MIN_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """`mean_relative_error` is a fraction: the mean over `n` steps of |loss − reference| ÷ |reference|.

    `largest` is the largest single one, at step `largest_at`. `missing` counts steps from `from_step` on that
    only one of the curves has.
    """

    n: int
    from_step: int
    last_step: int
    mean_relative_error: float
    largest: float
    largest_at: int
    missing: int
    limit: float

    @property
    def aligned(self) -> bool:
        return self.mean_relative_error < self.limit


def align(
    losses: Mapping[int, float],
    reference: Mapping[int, float],
    *,
    from_step: int = FROM_STEP,
    limit: float = LIMIT,
) -> Alignment:
    """Both curves by step. Raises NoValueError where too few steps from `from_step` on are in both, or the
    reference is zero there.
    """
    ours = {step for step in losses if step >= from_step}
    theirs = {step for step in reference if step >= from_step}
    shared = sorted(ours & theirs)
    if not shared:
        raise NoValueError(f"the curves share no step from step {from_step} on")
    if len(shared) < max(MIN_STEPS, MIN_SHARE * len(theirs)):
        raise NoValueError(
            f"the curves share {len(shared)} of the reference's {len(theirs)} steps from step {from_step} "
            f"on, and it takes {MIN_STEPS} and a tenth of them"
        )
    if any(reference[step] == 0 for step in shared):
        raise NoValueError("the reference loss is zero, so there is no relative error")
    errors = {step: abs(losses[step] - reference[step]) / abs(reference[step]) for step in shared}
    if not all(map(math.isfinite, errors.values())):
        raise NoValueError("a relative error is beyond what a float holds")
    worst = max(shared, key=errors.__getitem__)
    return Alignment(
        n=len(shared),
        from_step=from_step,
        last_step=shared[-1],
        mean_relative_error=mean(list(errors.values())),
        largest=errors[worst],
        largest_at=worst,
        missing=len(ours ^ theirs),
        limit=limit,
    )
