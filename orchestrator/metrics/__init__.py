"""Cell × rank logs → Summary: speed, spread, loss, memory and MFU over the measured window.

Pure; proves nothing: verdict.py says which of these numbers may be shown.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

from orchestrator.metrics.spread import fifth, mean, percentile, spread
from orchestrator.metrics.summary import Computed, Details, Metric, NoValueError, Summary, measured
from orchestrator.metrics.window import WindowStep, coverage, planned_ranks, window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.monitor import MonitorLog
    from orchestrator.parse.events import RankLog
    from orchestrator.parse.records import Ready
    from orchestrator.plan import Cell
    from orchestrator.probe import Sample

__all__ = ["Metric", "Summary", "planned_ranks", "summarize"]

#: How many of the last measured steps make the table's loss.
LOSS_STEPS = 5


def summarize(
    cell: Cell,
    logs: Mapping[int, RankLog],
    *,
    mem_total_bytes: int | None = None,
    monitors: Mapping[int, MonitorLog] | None = None,
) -> Summary:
    """Every metric over the steps warmup + 1 … total of the planned ranks; None with a reason where there is
    none.

    `mem_total_bytes` is MemTotal of the node, used where the device is the CPU itself; `monitors` what the
    vendor's probe saw on each node, by node rank. Never raises on what ranks or probes wrote.
    """
    try:
        found: tuple[WindowStep, ...] | str = window(cell, logs)
    except NoValueError as reason:
        found = str(reason)

    def steps() -> tuple[WindowStep, ...]:
        if isinstance(found, str):
            raise NoValueError(found)
        return found

    speed = measured("tokens_per_second_per_device", lambda: _speed(cell, steps()))
    return Summary(
        metrics=(
            speed,
            measured("step_time_p50_s", lambda: _step_time(steps(), fraction=0.50)),
            measured("step_time_p95_s", lambda: _step_time(steps(), fraction=0.95)),
            measured("step_time_p99_s", lambda: _step_time(steps(), fraction=0.99)),
            measured("loss", lambda: _final_loss(steps())),
            measured("loss_first_fifth", lambda: _fifth_loss(steps(), last=False)),
            measured("loss_last_fifth", lambda: _fifth_loss(steps(), last=True)),
            measured("grad_norm_last", lambda: _last_grad_norm(steps())),
            measured("memory_used_bytes", lambda: _memory_used(cell, logs, monitors or {})),
            measured(
                "memory_capacity_bytes", lambda: _memory_capacity(cell, mem_total_bytes, monitors or {})
            ),
            measured("memory_framework_peak_bytes", lambda: _framework(cell, logs, reserved=False)),
            measured("memory_framework_reserved_bytes", lambda: _framework(cell, logs, reserved=True)),
            measured("mfu_published", lambda: _mfu_published(cell, speed)),
            measured("mfu_palm", lambda: _mfu_palm(cell, logs, speed)),
            measured("window_coverage", lambda: coverage(cell, logs)),
        )
    )


def _speed(cell: Cell, steps: tuple[WindowStep, ...]) -> Computed:
    """Padding counts as tokens. Definition: torchtitan's "tps" (components/metrics.py), so the figures
    compare.
    """
    if any(step.time_s <= 0 for step in steps):
        raise NoValueError("a step time is not positive")
    batch = cell.job.batch
    tokens = batch.global_batch_size * batch.sequence_length
    rates = spread([tokens / step.time_s / batch.world_size for step in steps])
    return rates.median, asdict(rates)


def _step_time(steps: tuple[WindowStep, ...], *, fraction: float) -> Computed:
    return percentile([step.time_s for step in steps], fraction), {"n": len(steps)}


def _final_loss(steps: tuple[WindowStep, ...]) -> Computed:
    """The end of training: the mean over all ranks and the last five steps.

    Published tables print the last loss of rank 0 alone, which jumps from step to step and rank to rank.
    This is the same quantity at the same place with less noise; a fifth of a long run would no longer be its
    end. Both fifths stand beside it. Fewer measured steps: all of them.
    """
    losses = _losses(steps)
    return mean(losses[-LOSS_STEPS:]), {"n": min(LOSS_STEPS, len(losses)), "last_step": losses[-1]}


def _fifth_loss(steps: tuple[WindowStep, ...], *, last: bool) -> Computed:
    losses = fifth(_losses(steps), last=last)
    return mean(losses), {"n": len(losses)}


def _losses(steps: tuple[WindowStep, ...]) -> list[float]:
    losses = [step.loss for step in steps if step.loss is not None]
    if len(losses) != len(steps):
        raise NoValueError(f"{len(steps) - len(losses)} of {len(steps)} measured steps have no finite loss")
    return losses


def _last_grad_norm(steps: tuple[WindowStep, ...]) -> Computed:
    if (norm := steps[-1].grad_norm) is None:
        raise NoValueError("the engine does not report it")
    return norm, {}


def _memory_used(cell: Cell, logs: Mapping[int, RankLog], monitors: Mapping[int, MonitorLog]) -> Computed:
    if cell.probe is not None:
        node, sample = _fullest(cell, monitors)
        return int(sample.memory_used_bytes or 0), _probed(cell, node, sample, monitors)
    if cell.job.device.type != "cpu":
        raise NoValueError("no monitor samples: this figure is what a device's own monitor saw")
    per_host: dict[str, int] = defaultdict(int)
    for rank in planned_ranks(cell):
        log = logs.get(rank)
        if log is None or log.memory is None:
            raise NoValueError(f"rank {rank} reported no memory")
        per_host[log.hello.hostname if log.hello else ""] += log.memory.peak_rss_bytes
    return max(per_host.values()), {"basis": "summed peak RSS", "hosts": len(per_host)}


def _fullest(cell: Cell, monitors: Mapping[int, MonitorLog]) -> tuple[int, Sample]:
    """The node and the sample with the largest used share of its memory, over all nodes and devices."""
    found = []
    for launch in cell.launches:
        log = monitors.get(launch.node_rank)
        sample = log.fullest() if log else None
        if sample is None:
            raise NoValueError(f"the vendor's probe gave no memory sample on {launch.node}")
        found.append((launch.node_rank, sample))
    return max(found, key=lambda one: (one[1].memory_used_bytes or 0) / (one[1].memory_total_bytes or 1))


def _probed(cell: Cell, node: int, sample: Sample, monitors: Mapping[int, MonitorLog]) -> Details:
    """Where the sample was seen, how many there were, and what one probe cost."""
    costs = [log.cost_s for log in monitors.values() if log.cost_s is not None]
    return {
        "basis": "vendor's probe",
        "node_rank": node,
        "device_index": sample.index,
        "probes": sum(log.num_probes for log in monitors.values()),
        "failed_probes": sum(log.num_failed for log in monitors.values()),
        "probe_interval_s": cell.probe.interval_s if cell.probe else None,
        "probe_cost_s": max(costs, default=None),
    }


def _memory_capacity(cell: Cell, mem_total_bytes: int | None, monitors: Mapping[int, MonitorLog]) -> Computed:
    if cell.probe is not None:
        _, sample = _fullest(cell, monitors)
        return int(sample.memory_total_bytes or 0), {"basis": "vendor's probe"}
    if cell.job.device.type != "cpu":
        raise NoValueError("no monitor samples: this figure is what a device's own monitor saw")
    if mem_total_bytes is None:
        raise NoValueError("MemTotal of the node is not known")
    return mem_total_bytes, {"basis": "MemTotal"}


def _framework(cell: Cell, logs: Mapping[int, RankLog], *, reserved: bool) -> Computed:
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


def _mfu_published(cell: Cell, speed: Metric) -> Computed:
    """The rule of the published tables: nominal parameters, no attention (cell.flops.source)."""
    flops_per_token = cell.flops.multiplier * cell.flops.parameters
    return _utilization(cell, speed, flops_per_token), {
        "flops_per_token": flops_per_token,
        "multiplier": cell.flops.multiplier,
        "parameters": cell.flops.parameters,
        **_peak_details(cell),
    }


def _mfu_palm(cell: Cell, logs: Mapping[int, RankLog], speed: Metric) -> Computed:
    """PaLM (arXiv:2204.02311), appendix B: 6·N + 12·L·d·s per token, attention included, not halved for its
    causal mask.

    N is the real number of parameters without the input embedding, a look-up and no multiplication, as
    torchtitan counts it. Tied embeddings stay in N: there the same matrix is the output projection.
    """
    model, sequence_length = cell.job.model, cell.job.batch.sequence_length
    ready = _agreed_ready(cell, logs)
    embedding = 0 if model.tie_embeddings else ready.num_embedding_parameters
    counted = ready.num_parameters - embedding
    attention = 12 * model.num_layers * model.hidden_size * sequence_length
    flops_per_token = 6 * counted + attention
    return _utilization(cell, speed, flops_per_token), {
        "flops_per_token": flops_per_token,
        "parameters": counted,
        "num_parameters": ready.num_parameters,
        "num_embedding_parameters": ready.num_embedding_parameters,
        "attention_flops_per_token": attention,
        **_peak_details(cell),
    }


def _agreed_ready(cell: Cell, logs: Mapping[int, RankLog]) -> Ready:
    readies = [log.ready if (log := logs.get(rank)) else None for rank in planned_ranks(cell)]
    counts = {(ready.num_parameters, ready.num_embedding_parameters) for ready in readies if ready}
    first = next((ready for ready in readies if ready), None)
    if first is None or None in readies:
        raise NoValueError("not every rank reported its number of parameters")
    if len(counts) > 1:
        raise NoValueError(f"the ranks disagree about the number of parameters: {sorted(counts)}")
    return first


def _utilization(cell: Cell, speed: Metric, flops_per_token: int) -> float:
    if cell.peak.tflops is None:
        raise NoValueError(
            f"the {cell.peak.dtype} peak is unknown: {cell.peak.reason or 'no reason was recorded'}"
        )
    if speed.value is None:
        raise NoValueError(speed.reason or "no speed")
    return speed.value * flops_per_token / (cell.peak.tflops * 1e12)


def _peak_details(cell: Cell) -> Details:
    return {
        "peak_tflops": cell.peak.tflops,
        "peak_dtype": cell.peak.dtype,
        "peak_source": cell.peak.source,
    }
