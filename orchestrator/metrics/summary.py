"""Metric and Summary: a figure with its unit, formula and origin, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Detail = float | int | str | None
Details = dict[str, Detail]
Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure: a finite `value`, or None with the `reason`. `direction` says which way is better.

    Fractions are fractions; only reports write per cent. `details` are further figures of the same origin.
    """

    name: str
    value: float | int | None
    unit: str
    direction: Direction
    reason: str | None
    formula: str
    details: Details = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"{self.name}: a value or a reason, exactly one of them")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name}: {self.value} is not finite")

    def withheld(self, reason: str) -> Metric:
        """The same metric without any number: what is not proven is not shown, details included."""
        return Metric(
            name=self.name,
            value=None,
            unit=self.unit,
            direction=self.direction,
            reason=reason,
            formula=self.formula,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The metrics of one cell, always all of them and in the same order."""

    metrics: tuple[Metric, ...]

    def __getitem__(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)

    def value(self, name: str) -> float | int | None:
        return self[name].value

    def __add__(self, metrics: tuple[Metric, ...]) -> Summary:
        return Summary(metrics=(*self.metrics, *metrics))

    def withheld(self, reason: str) -> Summary:
        return Summary(metrics=tuple(metric.withheld(reason) for metric in self.metrics))


class NoValueError(Exception):
    """Why a metric has no value. Raised by what computes one, caught by `measured`."""


Computed = tuple[float | int, Details]


#: name → (unit, direction, formula). The formula is stored with every result.
SPECS: dict[str, tuple[str, Direction, str]] = {
    "tokens_per_second_per_device": (
        "tokens/s",
        "higher",
        "median over steps of global_batch_size × sequence_length / step_time_s / world_size",
    ),
    "padded_tokens_per_second_per_device": (
        "tokens/s",
        "higher",
        "the same with padding: tokens as they entered the model / step times / world_size",
    ),
    "mean_sequence_length": (
        "tokens/sample",
        "none",
        "tokens without padding / samples, over all ranks and measured steps",
    ),
    "step_time_p50_s": ("s", "lower", "50th percentile over steps of max over ranks of end_s − start_s"),
    "step_time_p95_s": ("s", "lower", "95th percentile over steps of max over ranks of end_s − start_s"),
    "step_time_p99_s": ("s", "lower", "99th percentile over steps of max over ranks of end_s − start_s"),
    "loss": (
        "nats/token",
        "lower",
        "mean over the last 5 measured steps of the token-weighted mean over ranks",
    ),
    "loss_first_fifth": (
        "nats/token",
        "lower",
        "mean over the first fifth of the measured steps, ranks weighted by tokens",
    ),
    "loss_last_fifth": (
        "nats/token",
        "lower",
        "mean over the last fifth of the measured steps, ranks weighted by tokens",
    ),
    "grad_norm_last": ("1", "none", "global gradient norm before clipping at the last measured step"),
    "memory_used_bytes": (
        "bytes",
        "lower",
        "cpu: sum of the ranks' peak RSS per host, the largest; other devices: what the monitor saw",
    ),
    "memory_capacity_bytes": ("bytes", "none", "cpu: MemTotal of the node; other devices: the device's own"),
    "memory_framework_peak_bytes": ("bytes", "lower", "max over ranks of device_peak_allocated_bytes"),
    "memory_framework_reserved_bytes": ("bytes", "lower", "max over ranks of device_peak_reserved_bytes"),
    "mfu_published": (
        "fraction",
        "higher",
        "tokens_per_second_per_device × multiplier × parameters / peak FLOP/s",
    ),
    "mfu_palm": (
        "fraction",
        "higher",
        "tokens_per_second_per_device × (6·N + 12·L·d·s) / peak FLOP/s, N without input embedding",
    ),
    "mfu_ceiling": (
        "fraction",
        "higher",
        "tokens_per_second_per_device × FLOPs per token of mfu_palm / measured FLOP/s of its devices",
    ),
    "data_wait_fraction": (
        "fraction",
        "lower",
        "max over ranks of the time that it stood still for its data / its measured step times",
    ),
    "comm_wait_fraction": (
        "fraction",
        "lower",
        "max over ranks of the time that it stood still for other ranks / its measured step times",
    ),
    "acc_mmmu": (
        "fraction",
        "higher",
        "questions answered right / questions, decoded greedily, scored on the host by MMMU's own rules",
    ),
    "window_coverage": (
        "fraction",
        "higher",
        "min over ranks of the sum of measured step times / wall time from the window's start to its end",
    ),
}


#: Where samples vary in length, padding counts as no token, and a sum goes with a sum: a mean length belongs
#: to the mean of the step times.
VARYING_SPECS: dict[str, tuple[str, Direction, str]] = {
    **SPECS,
    "tokens_per_second_per_device": (
        "tokens/s",
        "higher",
        "global_batch_size × mean_sequence_length / mean of step_time_s / world_size, padding not counted",
    ),
    "mfu_palm": (
        "fraction",
        "higher",
        "tokens_per_second_per_device × (m·N + 12·L·d·s + share of image positions × (6·N_p + 2·N_v))"
        " / peak FLOP/s; m 6 or, where the language model does not learn, 4",
    ),
}


def measured(
    name: str,
    compute: Callable[[], Computed],
    *,
    specs: Mapping[str, tuple[str, Direction, str]] = SPECS,
) -> Metric:
    """The metric `name` of `specs`, with the reason that `compute` raises where it has no value."""
    unit, direction, formula = specs[name]
    value, reason = None, None
    details: Details = {}
    try:
        value, details = compute()
        if not math.isfinite(value):
            value, reason, details = None, "the result is beyond what a float holds", {}
    except NoValueError as why:
        reason = str(why)
    except (OverflowError, ZeroDivisionError):
        reason = "the ranks' figures cannot be reckoned with: a division by zero or beyond what a float holds"
    finite = {
        key: item if not isinstance(item, float) or math.isfinite(item) else None
        for key, item in details.items()
    }
    return Metric(
        name=name,
        value=value,
        unit=unit,
        direction=direction,
        reason=reason,
        formula=formula,
        details=finite,
    )
