"""Memory of devices, as the vendor's probe saw it over the measured window, and what else it saw there. Pure.

A node's monitor and its ranks read the same clock: containers have the monotonic clock of their node.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.metrics.summary import Computed, Details, NoValueError
from orchestrator.metrics.window import planned_ranks
from orchestrator.monitor import MonitorLog, Observed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.parse.events import RankLog
    from orchestrator.plan import Cell, Launch
    from orchestrator.probe import Sample

INSIDE = "inside the measured window"
AROUND = "the nearest before and after a measured window that lies between two probes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One node's measured window on its own clock, and the samples of the job's devices that count for it."""

    node_rank: int
    start_s: float
    end_s: float
    counted: tuple[Observed, ...]
    where: str
    log: MonitorLog

    def samples(self, num_devices: int) -> tuple[Sample, ...]:
        return tuple(sample for one in self.counted for sample in one.samples if sample.index < num_devices)


def memory_used(cell: Cell, logs: Mapping[int, RankLog], monitors: Mapping[int, MonitorLog]) -> Computed:
    if cell.probe is not None:
        watched = _watched(cell, logs, monitors)
        node, sample = _fullest(cell, watched)
        return int(sample.memory_used_bytes or 0), _details(cell, node, sample, watched)
    if cell.job.device.type != "cpu":
        raise NoValueError("no monitor samples: this figure is what a device's own monitor saw")
    per_host: dict[str, int] = defaultdict(int)
    for rank in planned_ranks(cell):
        log = logs.get(rank)
        if log is None or log.memory is None:
            raise NoValueError(f"rank {rank} reported no memory")
        per_host[log.hello.hostname if log.hello else ""] += log.memory.peak_rss_bytes
    return max(per_host.values()), {"basis": "summed peak RSS", "hosts": len(per_host)}


def memory_capacity(
    cell: Cell,
    logs: Mapping[int, RankLog],
    monitors: Mapping[int, MonitorLog],
    *,
    mem_total_bytes: int | None,
) -> Computed:
    if cell.probe is not None:
        _, sample = _fullest(cell, _watched(cell, logs, monitors))
        return int(sample.memory_total_bytes or 0), {"basis": "vendor's probe"}
    if cell.job.device.type != "cpu":
        raise NoValueError("no monitor samples: this figure is what a device's own monitor saw")
    if mem_total_bytes is None:
        raise NoValueError("MemTotal of the node is not known")
    return mem_total_bytes, {"basis": "MemTotal"}


def memory_framework(cell: Cell, logs: Mapping[int, RankLog], *, reserved: bool) -> Computed:
    peaks = []
    for rank in planned_ranks(cell):
        memory = log.memory if (log := logs.get(rank)) else None
        if memory is None:
            raise NoValueError(f"rank {rank} reported no memory")
        peak = memory.device_peak_reserved_bytes if reserved else memory.device_peak_allocated_bytes
        if peak is None:
            raise NoValueError(f"the device type {cell.job.device.type} has no such counter")
        peaks.append(peak)
    return max(peaks), {"ranks": len(peaks)}


def _watched(
    cell: Cell, logs: Mapping[int, RankLog], monitors: Mapping[int, MonitorLog]
) -> tuple[Watched, ...]:
    """What counts on every node. Raises NoValueError naming the first node whose window was not watched."""
    return tuple(
        _node_watched(cell, launch, logs, monitors.get(launch.node_rank)) for launch in cell.launches
    )


def _node_watched(cell: Cell, launch: Launch, logs: Mapping[int, RankLog], log: MonitorLog | None) -> Watched:
    start_s, end_s = _window(cell, launch, logs)
    if log is None:
        raise NoValueError(f"the vendor's probe gave no memory sample on {launch.node}")
    if log.end is None:
        raise NoValueError(f"the monitor on {launch.node} did not end by itself: samples may be missing")
    if log.end.t_s < end_s:
        raise NoValueError(f"the monitor on {launch.node} ended before the measured window: {log.end.reason}")
    inside = tuple(one for one in log.observed if start_s <= one.t_s and one.until_s <= end_s)
    interval_s = cell.probe.interval_s if cell.probe else 0.0
    if inside:
        counted, where = inside, INSIDE
    elif end_s - start_s < interval_s + (log.cost_s or 0.0):
        counted, where = _around(launch, log, start_s=start_s, end_s=end_s), AROUND
    else:
        raise NoValueError(
            f"no probe on {launch.node} was answered within the measured window of {end_s - start_s:.3g} s"
        )
    return Watched(
        node_rank=launch.node_rank, start_s=start_s, end_s=end_s, counted=counted, where=where, log=log
    )


def _window(cell: Cell, launch: Launch, logs: Mapping[int, RankLog]) -> tuple[float, float]:
    """From the first start to the last end of a measured step of the node's ranks, on the node's clock."""
    first, last = cell.job.steps.warmup_steps + 1, cell.job.steps.total
    steps = []
    for rank in launch.ranks:
        found = [step for step in log.steps if first <= step.step <= last] if (log := logs.get(rank)) else []
        if not found:
            raise NoValueError(f"rank {rank} reported no measured step")
        steps += found
    return min(step.start_s for step in steps), max(step.end_s for step in steps)


def _around(launch: Launch, log: MonitorLog, *, start_s: float, end_s: float) -> tuple[Observed, ...]:
    before = [one for one in log.observed if one.t_s < start_s]
    after = [one for one in log.observed if one.until_s > end_s]
    if not before or not after:
        side = "after" if before else "before"
        raise NoValueError(
            f"the measured window on {launch.node} lies between two probes, and none {side} it was answered"
        )
    pair = (max(before, key=lambda one: one.t_s), min(after, key=lambda one: one.until_s))
    return pair[:1] if pair[0] is pair[1] else pair


def _fullest(cell: Cell, watched: Iterable[Watched]) -> tuple[int, Sample]:
    """The node and the sample with the largest used share of its memory, over all nodes and devices."""
    found = []
    for node in watched:
        known = [
            sample
            for sample in node.samples(cell.devices_per_node)
            if sample.memory_used_bytes is not None and sample.memory_total_bytes
        ]
        blind = sorted(set(range(cell.devices_per_node)) - {sample.index for sample in known})
        if known and blind:
            devices = ", ".join(map(str, blind))
            name = next(launch.node for launch in cell.launches if launch.node_rank == node.node_rank)
            raise NoValueError(f"the vendor's probe gave no memory sample of device {devices} on {name}")
        if not known:
            name = next(launch.node for launch in cell.launches if launch.node_rank == node.node_rank)
            raise NoValueError(f"the vendor's probe gave no memory sample on {name} {node.where}")
        found.append((node.node_rank, max(known, key=_share)))
    return max(found, key=lambda one: _share(one[1]))


def _share(sample: Sample) -> float:
    return (sample.memory_used_bytes or 0) / (sample.memory_total_bytes or 1)


def _details(cell: Cell, node: int, sample: Sample, watched: tuple[Watched, ...]) -> Details:
    """Where the sample was seen, how many there were, what one probe cost, and what else it saw."""
    costs = [one.log.cost_s for one in watched if one.log.cost_s is not None]
    temperatures = [
        sample.temperature_c
        for one in watched
        for sample in one.samples(cell.devices_per_node)
        if sample.temperature_c is not None
    ]
    return {
        "basis": "vendor's probe",
        "samples": AROUND if any(one.where == AROUND for one in watched) else INSIDE,
        "num_samples": sum(len(one.counted) for one in watched),
        "node_rank": node,
        "device_index": sample.index,
        "probes": sum(one.log.num_probes for one in watched),
        "failed_probes": sum(one.log.num_failed for one in watched),
        "probe_interval_s": cell.probe.interval_s if cell.probe else None,
        "probe_cost_s": max(costs, default=None),
        "energy_j": _energy_j(watched, cell.devices_per_node),
        "temperature_max_c": max(temperatures, default=None),
    }


def _energy_j(watched: Iterable[Watched], num_devices: int) -> float | None:
    """Energy of all the job's devices over the measured window; None unless each one's power is known at both
    sides of it.
    """
    total = 0.0
    for node in watched:
        for index in range(num_devices):
            energy = _integral(_powers(node.log, index), start=node.start_s, end=node.end_s)
            if energy is None:
                return None
            total += energy
    return total


def _powers(log: MonitorLog, index: int) -> list[tuple[float, float]]:
    """(time, W) of one device, in the order of time; a probe's time is the middle of its run."""
    return sorted(
        ((one.t_s + one.until_s) / 2, sample.power_w)
        for one in log.observed
        for sample in one.samples
        if sample.index == index and sample.power_w is not None
    )


def _integral(points: list[tuple[float, float]], *, start: float, end: float) -> float | None:
    """By the trapezoid rule, with straight lines between points; None when they do not reach both sides."""
    if not points or points[0][0] > start or points[-1][0] < end:
        return None
    total = 0.0
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        left, right = max(t0, start), min(t1, end)
        if left < right:
            slope = (p1 - p0) / (t1 - t0)
            total += (right - left) * (2 * p0 + slope * (left - t0 + right - t0)) / 2
    return total
