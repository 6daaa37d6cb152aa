"""The measured window of a cell: its steps, joined over the planned ranks. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.grid import counts
from orchestrator.metrics.summary import NoValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.metrics.summary import Computed
    from orchestrator.parse.events import RankLog
    from orchestrator.parse.records import Step
    from orchestrator.plan import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStep:
    """One measured step over all ranks. `time_s` is that of the slowest rank: the others waited for it.

    `samples` and `tokens` are of all data ranks, padding included: ranks that share out one model among them
    train the same tokens. `real_tokens` and `images` are None where every rank has none to report: samples of
    one length have no padding.
    """

    time_s: float
    loss: float | None
    grad_norm: float | None
    samples: int = 0
    tokens: int = 0
    real_tokens: int | None = None
    images: int | None = None


def window(cell: Cell, logs: Mapping[int, RankLog]) -> tuple[WindowStep, ...]:
    """The measured steps in order. Raises NoValueError unless every planned rank reported each once."""
    by_rank = {rank: _numbered(logs.get(rank)) for rank in planned_ranks(cell)}
    first, last = cell.job.steps.warmup_steps + 1, cell.job.steps.total
    if last < first:
        raise NoValueError("the plan measures no step")
    steps = []
    for number in range(first, last + 1):
        found = {rank: steps_of.get(number, []) for rank, steps_of in by_rank.items()}
        wrong = next((rank for rank, records in found.items() if len(records) != 1), None)
        if wrong is not None:
            raise NoValueError(
                f"step {number} was reported {len(found[wrong])} times by rank {wrong}, not once"
            )
        counting = [records[0] for rank, records in found.items() if counts(cell.job, rank)]
        slowest_s = max(records[0].duration_s for records in found.values())
        steps.append(joined(counting, time_s=slowest_s))
    return tuple(steps)


def planned_ranks(cell: Cell) -> tuple[int, ...]:
    """The ranks of all launches, ascending: those that must be heard, whatever wrote files."""
    return tuple(sorted(rank for launch in cell.launches for rank in launch.ranks))


def coverage(cell: Cell, logs: Mapping[int, RankLog]) -> Computed:
    """Per rank, because the clocks of two nodes have nothing to do with each other."""
    first, last = cell.job.steps.warmup_steps + 1, cell.job.steps.total
    shares = []
    for rank in planned_ranks(cell):
        log = logs.get(rank)
        steps = [step for step in log.steps if first <= step.step <= last] if log else []
        wall_s = steps[-1].end_s - steps[0].start_s if steps else 0.0
        if wall_s <= 0:
            raise NoValueError(f"rank {rank} has no measured window of positive length")
        shares.append(math.fsum(step.duration_s for step in steps) / wall_s)
    return min(shares), {"max": max(shares)}


def _numbered(log: RankLog | None) -> dict[int, list[Step]]:
    numbered: dict[int, list[Step]] = defaultdict(list)
    for step in log.steps if log else ():
        numbered[step.step].append(step)
    return numbered


def joined(records: list[Step], *, time_s: float) -> WindowStep:
    """One step of `time_s`: one record of every rank that counts tokens of its own."""
    # A rank's loss is a mean over the tokens that it learned from: those with a label where it counts them.
    weights = [step.tokens if step.labelled_tokens is None else step.labelled_tokens for step in records]
    losses = [
        (step.loss, weight)
        for step, weight in zip(records, weights, strict=True)
        if step.loss is not None and (weight > 0 or step.labelled_tokens is not None)
    ]
    tokens = sum(weight for _, weight in losses) or 1
    norms = [step.grad_norm for step in records if step.grad_norm is not None]
    # A weight is a share first: loss × tokens could leave the range of a float where the mean does not.
    loss = (
        math.fsum(loss * (weight / tokens) for loss, weight in losses)
        if len(losses) == len(records)
        else None
    )
    return WindowStep(
        time_s=time_s,
        loss=loss,
        grad_norm=max(norms) if norms else None,
        samples=sum(step.samples for step in records),
        tokens=sum(step.tokens for step in records),
        real_tokens=_sum([step.real_tokens for step in records]),
        images=_sum([step.images for step in records]),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def waited(cell: Cell, logs: Mapping[int, RankLog], *, kind: str) -> Computed:
    """The share of its step time that a rank stood still, `kind` is the name of the figure in its records:
    the most of any rank.
    """
    first, last = cell.job.steps.warmup_steps + 1, cell.job.steps.total
    shares = []
    for rank in planned_ranks(cell):
        log = logs.get(rank)
        steps = [step for step in log.steps if first <= step.step <= last] if log else []
        waits: list[float | None] = [getattr(step, kind) for step in steps]
        known = [wait_s for wait_s in waits if wait_s is not None]
        whole_s = math.fsum(step.duration_s for step in steps)
        if not known or len(known) != len(waits) or whole_s <= 0:
            raise NoValueError(f"rank {rank} does not say how long it waited")
        shares.append(math.fsum(known) / whole_s)
    return max(shares), {"min": min(shares)}
