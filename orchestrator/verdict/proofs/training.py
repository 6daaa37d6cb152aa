"""Proofs about what was computed: the planned work, all of it, in a time that is possible."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.metrics import summarize
from orchestrator.metrics.summary import NoValueError
from orchestrator.metrics.window import coverage
from orchestrator.parse.visible import short_digest
from orchestrator.plan import to_json
from orchestrator.verdict.proofs import clocks, stages
from orchestrator.verdict.proofs.stages import differences

if TYPE_CHECKING:
    from orchestrator.plan import Job
    from orchestrator.verdict.evidence import Evidence
    from orchestrator.verdict.proofs import Finding


#: A status states wall_s and both ends of it; rounding to whole microseconds may part them this much.
WALL_TOLERANCE_S = 1e-3
#: The host notices a launcher's start and end from outside, a moment after the one and before the other.
HOST_TOLERANCE_S = 1.0
#: What lies between two timed steps is writing one record; far more than that is work that was not timed.
LEAST_COVERAGE = 0.9
#: Of the measured steps: a loss scale that doubles every hundred good steps overflows as often at worst.
MAX_SKIPPED = 0.02
#: Relative to the full learning rate.
RATE_TOLERANCE = 1e-12


def steps_reached(evidence: Evidence) -> Finding:
    total = evidence.cell.job.steps.total
    due = tuple(range(1, total + 1))
    faults = []
    for rank in evidence.stepping:
        steps = evidence.steps(rank)
        numbers = tuple(step.step for step in steps)
        if numbers == due:
            continue
        wrong = next((n for n, number in enumerate(numbers) if number != n + 1), len(numbers))
        place = f", after step {wrong} comes {numbers[wrong]}" if wrong < len(numbers) else ""
        faults.append(f"rank {rank}: {len(steps)} step records of {total}{place}")
    return faults, f"steps 1 … {total}, each once and in order, {evidence.stepping_text}"


def window_complete(evidence: Evidence) -> Finding:
    plan = evidence.cell.job.steps
    faults = [] if plan.measured_steps > 0 else ["the plan measures no step"]
    for rank in evidence.stepping:
        steps = evidence.steps(rank)
        measured = [step for step in steps if plan.warmup_steps < step.step <= plan.total]
        if len(measured) != plan.measured_steps:
            faults.append(f"rank {rank}: {len(measured)} of {plan.measured_steps} measured steps")
        faults += [
            f"rank {rank}: step {step.step} took {step.duration_s:.6g} s"
            for step in steps
            if step.duration_s <= 0
        ]
        for before, after in pairwise(steps):
            if after.start_s < before.end_s:
                faults.append(
                    f"rank {rank}: step {after.step} starts {before.end_s - after.start_s:.6g} s "
                    f"before step {before.step} ends"
                )
    return faults, (
        f"{plan.measured_steps} measured steps after {plan.warmup_steps} of warm-up "
        f"{evidence.stepping_text}, every duration positive, none overlapping"
    )


def losses_finite(evidence: Evidence, *, excused: frozenset[int] = frozenset()) -> Finding:
    """Steps that are `excused` may have no loss; not one that is not finite."""
    faults, num_losses = [], 0
    for rank in evidence.stepping:
        steps = [
            step
            for step in evidence.steps(rank)
            if step.loss is not None or step.loss_nonfinite or step.step not in excused
        ]
        num_losses += len(steps)
        if not steps:
            faults.append(f"rank {rank}: no loss at all")
        bad = [step for step in steps if step.loss is None or step.loss_nonfinite]
        if bad:
            kind = bad[0].loss_nonfinite or "null"
            faults.append(f"rank {rank}: {len(bad)} of {len(steps)}, first {kind} at step {bad[0].step}")
    return faults, f"{num_losses} losses, every one a finite number"


def job_sha256(planned: Job) -> str:
    """Of the bytes of job.json."""
    return hashlib.sha256(to_json(planned).encode("utf-8")).hexdigest()


def job(evidence: Evidence) -> Finding:
    """Every rank read exactly the job of the plan, and trained at its learning rate."""
    wanted = job_sha256(evidence.cell.job)
    optimizer, total = evidence.cell.job.optimizer, evidence.cell.job.steps.total
    faults = []
    for rank in evidence.ranks:
        faults += differences(rank, "hello", evidence.hello(rank), {"job_sha256": wanted})
        wrong = [
            step.step
            for step in evidence.steps(rank)
            # The cosine of two machines may differ in its last bit; a constant rate is exact.
            if step.learning_rate is None
            or not math.isclose(
                step.learning_rate,
                optimizer.learning_rate_at(step.step, total=total),
                rel_tol=RATE_TOLERANCE if optimizer.schedule else 0.0,
                abs_tol=optimizer.learning_rate * RATE_TOLERANCE if optimizer.schedule else 0.0,
            )
        ]
        if wrong:
            faults.append(f"rank {rank}: another learning rate in {len(wrong)} steps, the first {wrong[0]}")
    return faults, f"SHA-256 {short_digest(wanted)} on {len(evidence.ranks)} ranks"


def model(evidence: Evidence) -> Finding:
    """The model that stands has the parameters of the planned one."""
    planned = evidence.cell.job.model
    due: dict[str, object] = {
        "num_parameters": planned.num_parameters,
        "num_embedding_parameters": planned.num_embedding_parameters,
    }
    faults = []
    for rank in evidence.ranks:
        faults += differences(rank, "ready", evidence.ready(rank), due)
    return faults, f"{planned.num_parameters} parameters on {len(evidence.ranks)} ranks"


def window_covered(evidence: Evidence) -> Finding:
    """The measured steps fill their window: a step timed too short leaves time that nobody accounts for."""
    try:
        least, _ = coverage(evidence.cell, evidence.logs)
    except NoValueError as reason:
        return [str(reason)], ""
    if least < LEAST_COVERAGE:
        return [f"step times are {least:.1%} of the window's own time, {LEAST_COVERAGE:.0%} at least"], ""
    return [], "step times fill the window on every rank, but for the writing of records"


def world_size(evidence: Evidence) -> Finding:
    job = evidence.cell.job
    due: dict[str, object] = {
        "world_size": job.batch.world_size,
        "backend": job.device.backend,
        "device_type": job.device.type,
        "engine": job.engine,
        "attention": job.attention,
        "seed": job.seed,
    }
    due_ready: dict[str, object] = {
        "world_size": job.batch.world_size,
        "zero_stage": job.zero.stage,
        "compute_dtype": job.precision.compute_dtype,
        "recompute": job.recompute,
    }
    faults = []
    for rank in evidence.ranks:
        faults += differences(rank, "hello", evidence.hello(rank), due)
        ready = evidence.ready(rank)
        # What the model, the engine and torch say of themselves, where they do: earlier runs said nothing.
        said = {name: value for name, value in _says(job).items() if getattr(ready, name, None) is not None}
        faults += differences(rank, "ready", ready, {**due_ready, **said})
    return faults, (
        f"world size {job.batch.world_size}, {job.engine} on {job.device.type} with {job.device.backend}, "
        f"ZeRO {job.zero.stage}, {job.precision.compute_dtype} on {len(evidence.ranks)} ranks"
    )


def _says(job: Job) -> dict[str, object]:
    """A kernel, a compiler or a loss scale that the plan does not name would be another training."""
    dtype = job.precision.compute_dtype
    return {
        "attention": job.attention,
        "compiled": False,
        "loss_scaling": "dynamic" if dtype == "fp16" else "none",
        "tf32": dtype == "tf32",
    }


def updated(evidence: Evidence) -> Finding:
    """The weights learned in the measured steps: one whose update an overflow skipped does less work, and
    nothing is trained by a run of such alone.
    """
    plan = evidence.cell.job.steps
    faults, skipped = [], 0
    for rank in evidence.ranks:
        measured = [step for step in evidence.steps(rank) if step.step > plan.warmup_steps]
        silent = [step.step for step in measured if step.updated is None]
        without = [step.step for step in measured if step.updated is False]
        skipped = max(skipped, len(without))
        if not measured:
            faults.append(f"rank {rank}: no measured step")
        elif silent:
            faults.append(
                f"rank {rank}: {len(silent)} steps do not say whether they updated, first {silent[0]}"
            )
        elif len(without) > _may_skip(len(measured)):
            faults.append(
                f"rank {rank}: {len(without)} of {len(measured)} measured steps skipped their update, "
                f"first {without[0]}; {_may_skip(len(measured))} at most"
            )
    return faults, f"{skipped} of {plan.measured_steps} measured steps skipped their update"


def _may_skip(num_steps: int) -> int:
    """One of a few; never all."""
    return min(max(1, int(MAX_SKIPPED * num_steps)), num_steps - 1)


def batch(evidence: Evidence) -> Finding:
    """Every step had the planned samples and tokens; of samples that vary in length, exactly those of the
    planned order.
    """
    batch = evidence.cell.job.batch
    due_ready: dict[str, object] = {
        "micro_batch_size": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "sequence_length": batch.sequence_length,
    }
    samples = batch.micro_batch_size * batch.gradient_accumulation_steps
    tokens = samples * batch.sequence_length
    faults = []
    if evidence.cell.job.data.samples is not None:
        for rank in evidence.ranks:
            faults += differences(rank, "ready", evidence.ready(rank), due_ready)
        found, seen = stages.batches(evidence)
        return [*faults, *found], seen
    for rank in evidence.ranks:
        faults += differences(rank, "ready", evidence.ready(rank), due_ready)
        steps = evidence.steps(rank)
        wrong = [step for step in steps if (step.samples, step.tokens) != (samples, tokens)]
        if wrong:
            faults.append(
                f"rank {rank}: {len(wrong)} steps, the first {wrong[0].step} with {wrong[0].samples} samples "
                f"and {wrong[0].tokens} tokens, planned {samples} and {tokens}"
            )
        if not steps:
            faults.append(f"rank {rank}: no step")
    return faults, f"samples {samples}, tokens {tokens} in every step of {len(evidence.ranks)} ranks"


def data(evidence: Evidence) -> Finding:
    data = evidence.cell.job.data
    due: dict[str, object] = {"data_sha256": data.sha256, "data_num_tokens": data.num_tokens}
    faults = []
    for rank in evidence.ranks:
        faults += differences(rank, "ready", evidence.ready(rank), due)
    return (
        faults,
        f"SHA-256 {short_digest(data.sha256)} and {data.num_tokens} tokens on {len(evidence.ranks)} ranks",
    )


def wall_clock(evidence: Evidence) -> Finding:
    """Steps lie within their rank's life, that within its launcher's, and that within what the host saw."""
    faults = launchers_faults(evidence)
    for rank in evidence.ranks:
        faults += step_faults(evidence, rank)
    faults += clocks.seen_early(evidence) + clocks.left_late(evidence)
    longest_s = max(
        (sum(step.duration_s for step in evidence.steps(rank)) for rank in evidence.ranks), default=0.0
    )
    host_wall_s = evidence.host.launcher_wall_s
    walls_s = [status.wall_s for node in evidence.nodes if (status := evidence.status(node))]
    return faults, (
        f"{longest_s:.6g} s of steps at most in {min(walls_s, default=math.nan):.6g} s of the launcher"
        + ("" if host_wall_s is None else f", {host_wall_s:.6g} s seen by the host")
    )


def launchers_faults(evidence: Evidence) -> list[str]:
    """Launchers whose life does not add up, or is longer than the host saw."""
    host_wall_s = evidence.host.launcher_wall_s
    faults = ["the host did not see how long the launcher lived"] if host_wall_s is None else []
    for node in evidence.nodes:
        faults += _launcher_faults(evidence, node, host_wall_s)
    return faults


def _launcher_faults(evidence: Evidence, node: int, host_wall_s: float | None) -> list[str]:
    status = evidence.status(node)
    if status is None:
        return [f"node {node}: {evidence.no_status(node)}"]
    faults = []
    lived_s = status.ended_s - status.started_s
    if abs(lived_s - status.wall_s) > WALL_TOLERANCE_S:
        faults.append(f"node {node}: wall_s {status.wall_s:.6g} is not ended_s − started_s, {lived_s:.6g}")
    if host_wall_s is not None and status.wall_s > host_wall_s + HOST_TOLERANCE_S:
        faults.append(
            f"node {node}: {status.wall_s:.6g} s of the launcher in {host_wall_s:.6g} s seen by the host"
        )
    return faults


def step_faults(evidence: Evidence, rank: int) -> list[str]:
    """Steps outside the launcher's life, or records written before what they tell had happened."""
    status, steps = evidence.status(evidence.node_of(rank)), evidence.steps(rank)
    faults = []
    total_s = sum(step.duration_s for step in steps)
    if status is not None and not total_s <= status.wall_s:
        faults.append(f"rank {rank}: {total_s:.6g} s of steps in {status.wall_s:.6g} s of its launcher")
    outside = [
        step.step
        for step in steps
        if status is not None and not status.started_s <= step.start_s <= step.end_s <= status.ended_s
    ]
    if outside:
        faults.append(f"rank {rank}: {len(outside)} steps outside its launcher's life, first {outside[0]}")
    early = [step.step for step in steps if step.t_s < step.end_s]
    if early:
        faults.append(f"rank {rank}: {len(early)} steps recorded before they ended, the first {early[0]}")
    return faults


def mfu_possible(evidence: Evidence, *names: str) -> Finding:
    """`names`: the figures of MFU that the cell has, without any the two of our own trainer."""
    names = names or ("mfu_published", "mfu_palm")
    peak = evidence.cell.peak
    if peak.tflops is None:
        return [], f"no {peak.dtype} peak is known: {peak.reason or 'no reason was recorded'}"
    summary = summarize(evidence.cell, evidence.logs)
    faults = []
    for name in names:
        metric = summary[name]
        if metric.value is None:
            faults.append(f"{name}: {metric.reason}")
        elif not 0 < metric.value <= 1:
            faults.append(f"{name}: {metric.value:.2%} of {peak.tflops:g} TFLOPS")
    # Not the figure itself: this proof may hold for a cell whose numbers must not be shown.
    verb = "is" if len(names) == 1 else "are"
    return faults, f"{' and '.join(names)} {verb} at most 100 % of {peak.tflops:g} TFLOPS"
