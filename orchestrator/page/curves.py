"""Raw records of one cell → curves and the compute time of every device. Pure.

A curve says what was recorded, also of a cell that is not proven: drawn to find out why, never as a result.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.grid import counts
from orchestrator.metrics.window import WindowStep, joined, planned_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from orchestrator.monitor import MonitorLog, Observed
    from orchestrator.parse.events import RankLog
    from orchestrator.parse.records import Step
    from orchestrator.plan import Cell
    from orchestrator.probe import Sample

GIB = 1024**3
#: A device stands out from here on: slower than the median of all by this share, and by so many MAD.
STANDS_OUT = 0.03
STANDS_OUT_MAD = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart; `name` is a key of the page's words. None: nothing was recorded there."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`x` is "step" (from 1) or "time" (s since the first step). x up to `warmup` was not measured.

    `recorded` counts the points that there were before any were left out.
    """

    name: str
    unit: str
    x: str
    xs: tuple[float, ...]
    lines: tuple[Line, ...]
    warmup: float | None
    recorded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Median seconds that the rank computed in a measured step; None where it reported none. `over` is how
    much slower than the median of all devices, a fraction; `stands_out` by more than the others scatter.
    """

    rank: int
    node: str
    node_rank: int
    local_rank: int
    compute_s: float | None
    over: float | None = None
    stands_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """`waits_known` is false where the engine does not say how long a rank waited for the others: then all
    show the step's own time, and a slow device hides among the waiting ones.
    """

    devices: tuple[Device, ...]
    median_s: float | None
    waits_known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """`missing` names the charts for which nothing was recorded."""

    cell_id: str
    charts: tuple[Chart, ...]
    missing: tuple[str, ...]
    heat: HeatMap


def curves_of(cell: Cell, logs: Mapping[int, RankLog], monitors: Mapping[int, MonitorLog]) -> Curves:
    made = [*_of_steps(cell, logs), *_of_monitors(cell, logs, monitors)]
    charts = tuple(chart for chart in made if _has_values(chart))
    missing = tuple(chart.name for chart in made if not _has_values(chart))
    return Curves(cell_id=cell.cell_id, charts=charts, missing=missing, heat=heat_of(cell, logs))


def thinned(chart: Chart, most: int) -> Chart:
    """At most `most` points: the ends, and the lowest and highest of every line in every stretch."""
    count = len(chart.xs)
    if count <= most:
        return chart
    stretches = max(1, (most - 2) // (2 * len(chart.lines)))
    kept = {0, count - 1}
    for number in range(stretches):
        begin, end = number * count // stretches, (number + 1) * count // stretches
        for line in chart.lines:
            known = [(value, n) for n in range(begin, end) if (value := line.values[n]) is not None]
            if known:
                kept |= {min(known)[1], max(known)[1]}
    picked = sorted(kept)
    return replace(
        chart,
        xs=tuple(chart.xs[n] for n in picked),
        lines=tuple(replace(line, values=tuple(line.values[n] for n in picked)) for line in chart.lines),
    )


def _has_values(chart: Chart) -> bool:
    return any(value is not None for line in chart.lines for value in line.values)


def _of_steps(cell: Cell, logs: Mapping[int, RankLog]) -> Iterator[Chart]:
    by_step: dict[int, dict[int, Step]] = defaultdict(dict)
    planned = planned_ranks(cell)
    for rank in planned:
        for step in logs[rank].steps if rank in logs else ():
            by_step[step.step].setdefault(rank, step)
    numbers = sorted(by_step)
    steps = [list(by_step[number].values()) for number in numbers]

    counting = [
        [one for rank, one in by_step[number].items() if counts(cell.job, rank)] for number in numbers
    ]
    whole = {
        number: joined(some, time_s=max(one.duration_s for one in step))
        for number, step, some in zip(numbers, steps, counting, strict=True)
        if len(step) == len(planned)
    }

    def chart(name: str, unit: str, **lines: Callable[[list[Step]], float | None]) -> Chart:
        made = (Line(name=key, values=tuple(map(compute, steps))) for key, compute in lines.items())
        return Chart(
            name=name,
            unit=unit,
            x="step",
            xs=tuple(map(float, numbers)),
            lines=tuple(line for line in made if any(value is not None for value in line.values)),
            warmup=float(cell.job.steps.warmup_steps) or None,
            recorded=len(numbers),
        )

    yield chart("throughput", "token/p/s", throughput=lambda step: _speed(cell, whole.get(step[0].step)))
    yield chart(
        "loss", "nats/token", loss=lambda step: one.loss if (one := whole.get(step[0].step)) else None
    )
    yield chart(
        "step_time",
        "s",
        step_time=lambda step: max(one.duration_s for one in step),
        compute=lambda step: _most(map(_compute_s, step)),
        comm_wait=lambda step: _most(one.comm_wait_s for one in step),
        data_wait=lambda step: _most(one.data_wait_s for one in step),
    )


def _speed(cell: Cell, step: WindowStep | None) -> float | None:
    """As the metric has it, of one step that all ranks reported: padding counts where samples are of one
    length.
    """
    batch = cell.job.batch
    if step is None or step.time_s <= 0:
        return None
    if cell.job.data.samples is None:
        tokens = batch.global_batch_size * batch.sequence_length
        return tokens / step.time_s / batch.world_size
    return None if step.real_tokens is None else step.real_tokens / step.time_s / batch.world_size


def _compute_s(step: Step) -> float | None:
    """What is left of a step without the waiting; None where the rank does not say how long it waited."""
    if step.comm_wait_s is None:
        return None
    return max(0.0, step.duration_s - step.comm_wait_s - (step.data_wait_s or 0.0))


def _most(values: Iterable[float | None]) -> float | None:
    """The largest; None unless all are known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return max(known) if known and len(known) == len(found) else None


def _of_monitors(
    cell: Cell, logs: Mapping[int, RankLog], monitors: Mapping[int, MonitorLog]
) -> Iterator[Chart]:
    """The highest and the lowest device of all nodes, over the time since each node's own first step."""
    seen: list[tuple[float, Observed]] = []
    for launch in cell.launches:
        log = monitors.get(launch.node_rank)
        begun = [logs[rank].steps[0].start_s for rank in launch.ranks if rank in logs and logs[rank].steps]
        if log is not None and log.observed:
            zero = min(begun) if begun else log.observed[0].t_s
            seen += [(one.t_s - zero, one) for one in log.observed]
    width = _interval([at for at, _ in seen], len(monitors))
    stretches: dict[int, list[Sample]] = defaultdict(list)
    for at, one in seen:
        stretches[round(at / width)] += one.samples
    numbers = sorted(stretches)
    readers: dict[str, tuple[str, Callable[[Sample], float | None]]] = {
        "memory": ("GiB", lambda one: None if one.memory_used_bytes is None else one.memory_used_bytes / GIB),
        "power": ("W", lambda one: one.power_w),
        "temperature": ("°C", lambda one: one.temperature_c),
    }
    for name, (unit, read) in readers.items():
        values = [[value for one in stretches[n] if (value := read(one)) is not None] for n in numbers]
        highest = Line(name="highest", values=tuple(max(one) if one else None for one in values))
        lowest = Line(name="lowest", values=tuple(min(one) if one else None for one in values))
        several = any(len(one) > 1 for one in values)
        yield Chart(
            name=name,
            unit=unit,
            x="time",
            xs=tuple(number * width for number in numbers),
            lines=(highest, lowest) if several else (replace(highest, name="device"),),
            warmup=None,
            recorded=len(numbers),
        )


def _interval(times: Sequence[float], num_nodes: int) -> float:
    """The usual distance of two probes of one node, in s."""
    if len(times) < 2 or num_nodes < 1:
        return 1.0
    ordered = sorted(times)
    per_node = max(1.0, len(ordered) / num_nodes - 1)
    return max((ordered[-1] - ordered[0]) / per_node, 0.001)


def heat_of(cell: Cell, logs: Mapping[int, RankLog]) -> HeatMap:
    """Compute time of every planned device; the step's own where ranks do not say how long they waited."""
    first = cell.job.steps.warmup_steps + 1
    measured = {
        rank: [step for step in logs[rank].steps if step.step >= first] if rank in logs else []
        for rank in planned_ranks(cell)
    }
    heard = [step for steps in measured.values() for step in steps]
    waits_known = bool(heard) and all(step.comm_wait_s is not None for step in heard)
    devices = []
    for launch in cell.launches:
        for local, rank in enumerate(launch.ranks):
            times = [_compute_s(step) if waits_known else step.duration_s for step in measured[rank]]
            known = [time for time in times if time is not None]
            devices.append(
                Device(
                    rank=rank,
                    node=launch.node,
                    node_rank=launch.node_rank,
                    local_rank=local,
                    compute_s=statistics.median(known) if known else None,
                )
            )
    found = [one.compute_s for one in devices if one.compute_s is not None]
    median = statistics.median(found) if found else None
    scatter = statistics.median([abs(one - median) for one in found]) if median is not None else 0.0
    return HeatMap(
        devices=tuple(_placed(one, median, scatter, judge=waits_known) for one in devices),
        median_s=median,
        waits_known=waits_known,
    )


def _placed(device: Device, median: float | None, scatter: float, *, judge: bool) -> Device:
    if device.compute_s is None or not median:
        return device
    slower = device.compute_s - median
    stands_out = judge and slower > STANDS_OUT * median and slower > STANDS_OUT_MAD * scatter
    return replace(device, over=slower / median, stands_out=stands_out)
