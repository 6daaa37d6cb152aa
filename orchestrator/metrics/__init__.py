"""Cell × rank logs → Summary: speed, spread, loss, memory and MFU over the measured window.

Pure; proves nothing: verdict.py says which of these numbers may be shown.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from orchestrator.metrics.ceiling import Ceiling, against_ceiling
from orchestrator.metrics.memory import memory_capacity, memory_framework, memory_used
from orchestrator.metrics.spread import fifth, mean, percentile, spread
from orchestrator.metrics.summary import (
    SPECS,
    VARYING_SPECS,
    Computed,
    Details,
    Metric,
    NoValueError,
    Summary,
    measured,
)
from orchestrator.metrics.window import WindowStep, coverage, planned_ranks, waited, window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.monitor import MonitorLog
    from orchestrator.parse.events import RankLog
    from orchestrator.parse.records import Ready
    from orchestrator.plan import Cell

__all__ = ["Metric", "Summary", "planned_ranks", "summarize"]

#: How many of the last measured steps make the table's loss.
LOSS_STEPS = 5


def summarize(
    cell: Cell,
    logs: Mapping[int, RankLog],
    *,
    mem_total_bytes: int | None = None,
    monitors: Mapping[int, MonitorLog] | None = None,
    ceiling: Ceiling | None = None,
) -> Summary:
    """Every metric over the steps warmup + 1 … total of the planned ranks; None with a reason where there is
    none.

    `mem_total_bytes` is MemTotal of the node, used where the device is the CPU itself; `monitors` what the
    vendor's probe saw on each node, by node rank; `ceiling` what its devices were measured to do that day.
    Never raises on what ranks or probes wrote.
    """
    try:
        found: tuple[WindowStep, ...] | str = window(cell, logs)
    except NoValueError as reason:
        found = str(reason)

    def steps() -> tuple[WindowStep, ...]:
        if isinstance(found, str):
            raise NoValueError(found)
        return found

    varying = cell.job.data.samples is not None
    specs = VARYING_SPECS if varying else SPECS
    compute = _varying_speed if varying else _speed
    speed = measured("tokens_per_second_per_device", lambda: compute(cell, steps()), specs=specs)
    lengths = (
        (
            measured("padded_tokens_per_second_per_device", lambda: _padded_speed(cell, steps())),
            measured("mean_sequence_length", lambda: _mean_length(steps())),
        )
        if varying
        else ()
    )
    return Summary(
        metrics=(
            speed,
            *lengths,
            measured("step_time_p50_s", lambda: _step_time(steps(), fraction=0.50)),
            measured("step_time_p95_s", lambda: _step_time(steps(), fraction=0.95)),
            measured("step_time_p99_s", lambda: _step_time(steps(), fraction=0.99)),
            measured("loss", lambda: _final_loss(steps())),
            measured("loss_first_fifth", lambda: _fifth_loss(steps(), last=False)),
            measured("loss_last_fifth", lambda: _fifth_loss(steps(), last=True)),
            measured("grad_norm_last", lambda: _last_grad_norm(steps())),
            measured("memory_used_bytes", lambda: memory_used(cell, logs, monitors or {})),
            measured(
                "memory_capacity_bytes",
                lambda: memory_capacity(cell, logs, monitors or {}, mem_total_bytes=mem_total_bytes),
            ),
            measured("memory_framework_peak_bytes", lambda: memory_framework(cell, logs, reserved=False)),
            measured("memory_framework_reserved_bytes", lambda: memory_framework(cell, logs, reserved=True)),
            measured("mfu_published", lambda: _mfu_published(cell, speed)),
            measured(
                "mfu_palm",
                lambda: (
                    _mfu_palm_staged(cell, logs, steps(), speed) if varying else _mfu_palm(cell, logs, speed)
                ),
                specs=specs,
            ),
            *_ceiling(cell, logs, steps, speed, ceiling),
            *_waits(cell, logs),
            measured("window_coverage", lambda: coverage(cell, logs)),
        )
    )


def _ceiling(
    cell: Cell,
    logs: Mapping[int, RankLog],
    steps: Callable[[], tuple[WindowStep, ...]],
    speed: Metric,
    ceiling: Ceiling | None,
) -> tuple[Metric, ...]:
    """Only of runs that looked for one: those of older versions did not."""
    if ceiling is None:
        return ()

    def share() -> Computed:
        varying = cell.job.data.samples is not None
        flops, _ = _palm_staged(cell, logs, steps()) if varying else _palm(cell, logs)
        return against_ceiling(ceiling, speed=speed, flops_per_token=flops, dtype=cell.peak.dtype)

    return (measured("mfu_ceiling", share),)


def _waits(cell: Cell, logs: Mapping[int, RankLog]) -> tuple[Metric, ...]:
    """Only of ranks that say how long they waited: those of older runs do not."""
    heard = [step for log in logs.values() for step in log.steps]
    kinds = {"data_wait_fraction": "data_wait_s", "comm_wait_fraction": "comm_wait_s"}
    return tuple(
        measured(name, lambda kind=kind: waited(cell, logs, kind=kind))  # type: ignore[misc]
        for name, kind in kinds.items()
        if any(getattr(step, kind) is not None for step in heard)
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


def _varying_speed(cell: Cell, steps: tuple[WindowStep, ...]) -> Computed:
    """Tokens without padding over the whole window: a step of short samples is a short step, so that no
    single one stands for the others. Their spread stands beside it.
    """
    real, whole_s = _real_tokens(steps), _whole_s(steps)
    world_size = cell.job.batch.world_size
    rates = spread([(step.real_tokens or 0) / step.time_s / world_size for step in steps])
    return real / whole_s / world_size, {
        "mean_sequence_length": real / sum(step.samples for step in steps),
        **asdict(rates),
    }


def _padded_speed(cell: Cell, steps: tuple[WindowStep, ...]) -> Computed:
    return sum(step.tokens for step in steps) / _whole_s(steps) / cell.job.batch.world_size, {}


def _mean_length(steps: tuple[WindowStep, ...]) -> Computed:
    samples = sum(step.samples for step in steps)
    return _real_tokens(steps) / samples, {"samples": samples}


def _real_tokens(steps: tuple[WindowStep, ...]) -> int:
    known = [step.real_tokens for step in steps if step.real_tokens is not None]
    if len(known) != len(steps):
        raise NoValueError("not every rank counted its tokens without padding")
    return sum(known)


def _whole_s(steps: tuple[WindowStep, ...]) -> float:
    if any(step.time_s <= 0 for step in steps):
        raise NoValueError("a step time is not positive")
    return math.fsum(step.time_s for step in steps)


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
    flops_per_token, details = _palm(cell, logs)
    return _utilization(cell, speed, flops_per_token), {**details, **_peak_details(cell)}


def _palm(cell: Cell, logs: Mapping[int, RankLog]) -> tuple[int, Details]:
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
    return flops_per_token, {
        "flops_per_token": flops_per_token,
        "parameters": counted,
        "num_parameters": ready.num_parameters,
        "num_embedding_parameters": ready.num_embedding_parameters,
        "attention_flops_per_token": attention,
    }


def _mfu_palm_staged(
    cell: Cell, logs: Mapping[int, RankLog], steps: tuple[WindowStep, ...], speed: Metric
) -> Computed:
    flops_per_token, details = _palm_staged(cell, logs, steps)
    return _utilization(cell, speed, flops_per_token), {**details, **_peak_details(cell)}


def _palm_staged(
    cell: Cell, logs: Mapping[int, RankLog], steps: tuple[WindowStep, ...]
) -> tuple[int, Details]:
    """As PaLM counts, for a language model behind a tower (cases/trainer/llava.py derives it): where the
    language model does not learn, the gradient still has to pass through it, 4·N instead of 6·N.
    """
    model, vision = cell.job.model, cell.job.model.vision
    if vision is None:
        raise NoValueError("no tower is planned")
    _agreed_ready(cell, logs)
    images = sum(step.images or 0 for step in steps)
    real = _real_tokens(steps)
    length = real / sum(step.samples for step in steps)
    embedding = 0 if model.tie_embeddings else model.num_embedding_parameters
    counted = model.num_language_parameters - embedding
    multiplier = 6 if "language_model" in (cell.job.trainable or ()) else 4
    attention = round(12 * model.num_layers * model.hidden_size * length)
    image_share = images * vision.num_patches / real
    beside = round(image_share * (6 * model.num_projector_parameters + 2 * vision.num_parameters))
    flops_per_token = multiplier * counted + attention + beside
    return flops_per_token, {
        "flops_per_token": flops_per_token,
        "multiplier": multiplier,
        "parameters": counted,
        "attention_flops_per_token": attention,
        "image_flops_per_token": beside,
        "image_share": image_share,
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
