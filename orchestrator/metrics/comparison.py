"""The same work at several scales: how much of the smallest one's speed a device keeps. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePoint:
    """`tokens_per_second_per_device` at `world_size` devices; `efficiency` is its share of that of the
    smallest scale, a fraction (1 is linear scaling).
    """

    world_size: int
    tokens_per_second_per_device: float
    efficiency: float


def scaling_efficiency(speeds: Mapping[int, float]) -> tuple[ScalePoint, ...]:
    """`speeds`: world size → tokens per second and device. Ascending; empty for fewer than two scales.

    Weak or strong scaling alike: work per device over time, so a batch that grows with the devices and one
    that stays can both be asked about. Raises ValueError unless every speed is > 0.
    """
    if any(speed <= 0 for speed in speeds.values()):
        raise ValueError("a speed is not positive")
    if len(speeds) < 2:
        return ()
    base = speeds[min(speeds)]
    if not all(math.isfinite(speed / base) for speed in speeds.values()):
        return ()
    return tuple(
        ScalePoint(
            world_size=world, tokens_per_second_per_device=speeds[world], efficiency=speeds[world] / base
        )
        for world in sorted(speeds)
    )
