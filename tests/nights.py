"""A year of a cluster that never was: nights × cells of speeds with the noise that real ones have.

Noise (CV 0.6 % in all): a part that a whole night shares and a part of each run, so that a second run of the
same night tells less than one of another night. Dips: a night, or a single run, that is slow for no reason
of ours. Drift: an autoregressive wandering of the level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.gate import Point, Rule, rule_for, walk

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

DAY_S = 86400.0
CV = 0.006
#: Share of the variance that a whole night has in common.
NIGHT_SHARE = 0.4
SPEED = "tokens_per_second_per_device"


@dataclass(frozen=True, kw_only=True)
class Noise:
    """`dips`: how many nights in a hundred are slow; `of_night`: the whole night, else single runs. `drift`:
    standard deviation of the wandering level, relative, with `memory` from night to night.
    """

    dips: float = 0.0
    of_night: bool = True
    drift: float = 0.0
    memory: float = 0.97


def year(rng: random.Random, noise: Noise, *, nights: int, fall_at: int | None = None) -> list[Point]:
    """One series: a point a night around 3000 tokens/s, and 5 % lower from the night `fall_at` on."""
    points = []
    wander = 0.0
    step = noise.drift * math.sqrt(1 - noise.memory**2)
    for night in range(nights):
        wander = noise.memory * wander + rng.gauss(0, step)
        dipped = rng.random() < noise.dips
        shared = rng.gauss(0, CV * math.sqrt(NIGHT_SHARE))
        own = rng.gauss(0, CV * math.sqrt(1 - NIGHT_SHARE))
        slow = 1 - rng.uniform(0.03, 0.12) if dipped else 1.0
        level = 0.95 if fall_at is not None and night >= fall_at else 1.0
        value = 3000 * level * (1 + wander) * (1 + shared + own) * slow
        points.append(Point(at_s=night * DAY_S, value=value, run_id=f"{night:04d}"))
    return points


def rerun(rng: random.Random, point: Point, noise: Noise) -> Point:
    """The same cell once more that night: a dip of the night is still there, one of a run is not."""
    own = rng.gauss(0, CV * math.sqrt(1 - NIGHT_SHARE))
    return Point(at_s=point.at_s + 3600, value=point.value * (1 + own), run_id=f"{point.run_id}b")


def false_alarms(points: Sequence[Point], rule: Rule) -> int:
    """How often a regression was confirmed on a series whose level never fell. After each, a person accepts
    the run, as one would who found nothing, and the gate goes on from there.
    """
    metric = rule_for(rule, SPEED)
    left, alarms = list(points), 0
    while True:
        judged = walk(left, rule=rule, metric=metric).judged
        at = next((at for at, one in enumerate(judged) if one.kind == "regression" and one.new), None)
        if at is None:
            return alarms
        alarms += 1
        one = left[at]
        left[at] = Point(at_s=one.at_s, value=one.value, run_id=one.run_id, accepted=True)


def found_after(points: Sequence[Point], since: int, rule: Rule) -> int | None:
    """Nights from the change until a regression was confirmed, the first of them counted; null for never."""
    judged = walk(points, rule=rule, metric=rule_for(rule, SPEED)).judged
    return next(
        (at - since + 1 for at, one in enumerate(judged) if at >= since and one.kind == "regression"), None
    )
