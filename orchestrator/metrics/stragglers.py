"""Which ranks and nodes compute slower than the others do. Pure.

Synchronous training makes every rank's step as long as the slowest one's, so steps themselves tell nothing:
what is compared is a rank's own time, without what it waited for others. Where a rank does not say that
(DeepSpeed's ZeRO-3 gathers weights in the middle of its forward pass), nothing is judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from orchestrator.grid import place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.parse.events import RankLog
    from orchestrator.parse.records import Step
    from orchestrator.plan import Cell

#: A rank that reaches less than this of the speed of the faster half is slow.
LEAST_SPEED = 0.9
#: What it loses must also be this share of a whole step: a slow trifle delays nobody.
LEAST_SHARE = 0.02
#: And lie this many standard errors beyond what its own steps vary by.
SIGNIFICANCE = 4.0
LEAST_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """One rank, or all ranks of one node, that computes `factor` times as long as the faster half."""

    what: Literal["node", "rank"]
    node: str
    rank: int | None
    factor: float


def stragglers(cell: Cell, logs: Mapping[int, RankLog]) -> tuple[Slow, ...]:
    """Of a cell's measured window."""
    own: dict[int, list[float]] = {}
    lengths: list[float] = []
    for launch in cell.launches:
        for rank in launch.ranks:
            log = logs.get(rank)
            steps = [step for step in log.steps if step.step > cell.job.steps.warmup_steps] if log else []
            times = [own_time_s(step) for step in steps]
            known = [time for time in times if time is not None]
            if len(known) < len(times) or not known:
                return ()
            own[rank] = known
            lengths += [step.duration_s for step in steps]
    nodes = {launch.node: launch.ranks for launch in cell.launches}
    return slow_ones(own, nodes, step_s=median(lengths), peers=_stages(cell)) if lengths else ()


def _stages(cell: Cell) -> tuple[tuple[int, ...], ...]:
    """Ranks that have the same to do: those of one pipeline stage."""
    stages: dict[int, list[int]] = {}
    for rank in range(cell.job.batch.world_size):
        stages.setdefault(place(cell.job, rank).pipeline_rank, []).append(rank)
    return tuple(tuple(ranks) for ranks in stages.values())


def own_time_s(step: Step) -> float | None:
    """Seconds of a step in which the rank did its own work: all but waiting for others, or its forward passes
    where only they are known to have nothing of others in them.
    """
    if step.comm_wait_s is not None:
        return step.duration_s - step.comm_wait_s
    return step.forward_s


def slow_ones(
    own: Mapping[int, Sequence[float]],
    nodes: Mapping[str, Sequence[int]],
    *,
    step_s: float,
    peers: Sequence[Sequence[int]] | None = None,
) -> tuple[Slow, ...]:
    """`own`: a rank's own seconds, step by step; `nodes`: the ranks of each; `step_s`: a whole step; `peers`:
    groups of ranks that have the same to do and are held against each other, by default all.

    A node counts where all of its ranks are slow and others' are not; else each rank for itself.
    """
    slow: dict[int, float] = {}
    for group in (tuple(own),) if peers is None else peers:
        slow |= _behind({rank: own[rank] for rank in group if rank in own}, step_s)
    found: list[Slow] = []
    for node, ranks in nodes.items():
        mine = [rank for rank in ranks if rank in slow]
        if mine and len(mine) == len(ranks) and len(nodes) > 1:
            factor = median(slow[rank] for rank in mine)
            found.append(Slow(what="node", node=node, rank=None, factor=round(factor, 3)))
        else:
            found += [
                Slow(what="rank", node=node, rank=rank, factor=round(slow[rank], 3)) for rank in sorted(mine)
            ]
    return tuple(found)


def _behind(own: Mapping[int, Sequence[float]], step_s: float) -> dict[int, float]:
    """Of ranks that have the same to do, the slow ones: rank → how many times as long as the faster half."""
    if len(own) < 2 or any(len(times) < LEAST_STEPS for times in own.values()):
        return {}
    typical = {rank: median(times) for rank, times in own.items()}
    usual = median(sorted(typical.values())[: (len(typical) + 1) // 2])
    if not (usual > 0 and math.isfinite(usual)):
        return {}
    return {
        rank: typical[rank] / usual
        for rank in own
        if typical[rank] * LEAST_SPEED > usual
        and typical[rank] - usual > LEAST_SHARE * step_s
        and typical[rank] - usual > SIGNIFICANCE * _error(own[rank])
    }


def _error(times: Sequence[float]) -> float:
    """The standard error of a median, by the median deviation: one wild step does not widen it."""
    centre = median(times)
    return 1.858 * median(abs(time - centre) for time in times) / math.sqrt(len(times))
