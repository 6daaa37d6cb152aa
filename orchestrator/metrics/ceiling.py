"""The second MFU: against what the run's own devices were measured to do on the day of the run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.metrics.summary import NoValueError

if TYPE_CHECKING:
    from orchestrator.metrics.summary import Computed, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """`tflops`: the mean over all devices of the cell of the best batch of matrix products of its type;
    None for `reason`. `at_utc` is when the oldest of them was measured.
    """

    tflops: float | None
    reason: str | None = None
    at_utc: str | None = None


def against_ceiling(ceiling: Ceiling, *, speed: Metric, flops_per_token: int, dtype: str) -> Computed:
    """FLOPs counted as mfu_palm counts them. A share above 1 is no share: the ceiling was measured while
    something else was at work, and says nothing.
    """
    if ceiling.tflops is None:
        raise NoValueError(ceiling.reason or "no ceiling was measured")
    if speed.value is None:
        raise NoValueError(speed.reason or "no speed")
    share = speed.value * flops_per_token / (ceiling.tflops * 1e12)
    if share > 1:
        raise NoValueError("the run was faster than the measured ceiling: measure it anew on idle nodes")
    return share, {
        "flops_per_token": flops_per_token,
        "ceiling_tflops": ceiling.tflops,
        "ceiling_dtype": dtype,
        "ceiling_at_utc": ceiling.at_utc,
    }
