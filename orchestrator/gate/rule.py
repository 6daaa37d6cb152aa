"""What the gate is asked to hold: window, band, smallest effect, and how a suspect is confirmed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Confirm = Literal["next-night", "rerun", "both"]
Direction = Literal["higher", "lower"]
#: Metrics that a gate can judge: they have a direction, and follow from no other.
GateMetric = Literal["tokens_per_second_per_device", "loss", "memory_used_bytes", "acc_mmmu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRule:
    """How one metric is judged: which way is better, and the smallest relative change that counts."""

    direction: Direction
    min_effect: float


#: Smallest effects: of speed what two nights of a quiet cluster can tell apart; of loss and accuracy what
#: another order of sums does not explain; of memory what is more than an allocator's mood.
METRICS: dict[str, MetricRule] = {
    "tokens_per_second_per_device": MetricRule(direction="higher", min_effect=0.015),
    "loss": MetricRule(direction="lower", min_effect=0.03),
    "memory_used_bytes": MetricRule(direction="lower", min_effect=0.05),
    "acc_mmmu": MetricRule(direction="higher", min_effect=0.03),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The `gate:` block of a suite; what it leaves out is this.

    `window`: how many points make the band. `k`: the band is median ± k·MAD (not scaled to σ). `min_effect`:
    relative, by metric. `min_points`: fewer are no baseline. `noisy_above`: a band wider than this share of
    the median judges nothing. `apart_h`: two measurements at least so many hours apart are of two nights.
    `confirm`: what a suspect needs before it counts: the next night, a second run of the same night, or both.
    `rehearse`: also judge proxies and rehearsals, each only against its own kind.
    """

    window: Annotated[int, Ge(5), Le(365)] = 30
    k: Annotated[float, Gt(0), Le(20)] = 4.0
    min_effect: dict[GateMetric, Annotated[float, Ge(0), Le(1)]] = field(default_factory=dict)
    min_points: Annotated[int, Ge(3), Le(90)] = 7
    noisy_above: Annotated[float, Gt(0), Le(1)] = 0.1
    apart_h: Annotated[float, Gt(0), Le(168)] = 8.0
    confirm: Confirm = "next-night"
    metrics: tuple[GateMetric, ...] = (
        "tokens_per_second_per_device",
        "loss",
        "memory_used_bytes",
        "acc_mmmu",
    )
    rehearse: bool = False

    def __post_init__(self) -> None:
        if self.min_points > self.window:
            raise ValueError(f"min_points {self.min_points} is more than the window of {self.window}")


def rule_for(rule: Rule, metric: str) -> MetricRule:
    """Direction and smallest effect of `metric`. Raises KeyError for one that no gate judges."""
    own = METRICS[metric]
    effects: dict[str, float] = dict(rule.min_effect)  # type: ignore[arg-type]
    return replace(own, min_effect=effects.get(metric, own.min_effect))
