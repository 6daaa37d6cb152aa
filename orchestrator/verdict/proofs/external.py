"""Proofs about an external program: what was run, what it printed, and whether that agrees with the plan and
with our own clock. docs/external.md says what they can hold and what not.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.parse.program import came_s, iterations, reporting_rank
from orchestrator.parse.visible import ranks_text, short_digest
from orchestrator.verdict.proofs import training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.verdict.evidence import Evidence
    from orchestrator.verdict.proofs import Finding

#: How far the program's own times may be from ours over the measured window: a share, and what the observer's
#: waking up may cost at both ends, in seconds.
CLOCK_SHARE, CLOCK_S = 0.1, 0.25
#: In less, a claim of half the time would pass.
LEAST_WINDOW_S = 2 * CLOCK_S
#: How exact the observer writes when output came, in seconds: GRAIN_S of its program.py. A step has two ends.
GRAIN_S = 0.01
LEAST_STEP_S = 2 * 2 * GRAIN_S


def program(evidence: Evidence) -> Finding:
    """Every rank ran exactly the planned words, under exactly the planned job."""
    job, faults = evidence.cell.job, []
    planned = job.program
    assert planned is not None, "only asked of an external program"
    digests = {hello.job_sha256 for rank in evidence.ranks if (hello := evidence.hello(rank))}
    for rank in evidence.ranks:
        log, hello = evidence.logs.get(rank), evidence.hello(rank)
        ran = log.program if log else None
        if ran is None or hello is None:
            faults.append(f"rank {rank}: nobody saw it start")
            continue
        if (ran.directory, ran.argv) != (planned.directory, planned.argv):
            faults.append(f"rank {rank}: not the planned arguments")
        if hello.world_size != job.batch.world_size or hello.engine != job.engine:
            faults.append(f"rank {rank}: one of {hello.world_size} of engine {hello.engine[:40]}")
    if len(digests) > 1:
        faults.append(f"{len(digests)} different jobs were read")
    faults += [] if digests <= {training.job_sha256(job)} else ["job.json is not the plan's"]
    return (
        faults,
        f"{len(evidence.ranks)} ranks ran {planned.argv[0]} with the {len(planned.argv) - 1} planned words",
    )


def program_data(evidence: Evidence) -> Finding:
    """The first rank of each node held the files against the plan before the program began."""
    data, faults = evidence.cell.job.data, []
    due = (data.sha256, data.index.sha256 if data.index else None)
    for launch in evidence.cell.launches:
        first = launch.ranks[0]
        log = evidence.logs.get(first)
        ran = log.program if log else None
        if ran is None or (ran.data_sha256, ran.index_sha256) != due:
            faults.append(f"node {launch.node_rank}: rank {first} did not find the planned data")
    return faults, f"SHA-256 {short_digest(data.sha256)} on {len(evidence.cell.launches)} nodes"


def output_intact(evidence: Evidence) -> Finding:
    """stdout.log of every rank has the bytes that its observer wrote, and no others."""
    faults, total = [], 0
    for rank in evidence.ranks:
        log, printed = evidence.logs.get(rank), evidence.programs.get(rank)
        end = log.output_end if log else None
        if end is not None and printed is None and end.bytes == 0:
            continue  # a rank that says nothing: an empty file is not brought home from a node
        if end is None or printed is None:
            faults.append(f"rank {rank}: no whole output")
            continue
        total += printed.num_bytes
        if (end.bytes, end.lines, end.sha256) != (printed.num_bytes, printed.num_lines, printed.sha256):
            faults.append(
                f"rank {rank}: {printed.num_bytes} bytes, SHA-256 {short_digest(printed.sha256)}; "
                f"its observer kept {end.bytes}, {short_digest(end.sha256)}"
            )
    return faults, f"{total} bytes of {len(evidence.ranks)} ranks, each as its observer wrote it"


def log_whole(evidence: Evidence) -> Finding:
    """One rank reports, every line of it was read, and the program says that it came to its end."""
    last = reporting_rank(evidence.cell)
    printed = evidence.programs.get(last)
    if printed is None:
        return [f"no output of rank {last}, which reports"], ""
    others = [rank for rank, log in evidence.programs.items() if rank != last and iterations(log)]
    faults = [f"iteration lines of {ranks_text(others)}, and of rank {last}"] if others else []
    if printed.num_unread:
        what = f": {printed.problems[0]}" if printed.problems else ""
        faults.append(f"rank {last}: {printed.num_unread} lines could not be read{what}")
    if not any(log.says("ended") for log in evidence.programs.values()):
        faults.append("no rank says that training is done")
    return faults, f"{len(iterations(printed))} iteration lines of rank {last}, all read; it says it is done"


def log_settings(evidence: Evidence) -> Finding:
    """What the program says it runs with, against the plan: sizes that it does not state are no proof."""
    job = evidence.cell.job
    cut, batch = job.parallel, job.batch
    due = {
        "world_size": batch.world_size,
        "tensor_parallel_size": cut.tensor_parallel_size if cut else 1,
        "pipeline_parallel_size": cut.pipeline_parallel_size if cut else 1,
        "data_parallel_size": batch.data_parallel_size,
        "micro_batch_size": batch.micro_batch_size,
        "global_batch_size": batch.global_batch_size,
        "sequence_length": batch.sequence_length,
        "num_layers": job.model.num_layers,
        "hidden_size": job.model.hidden_size,
    }
    faults = []
    for name, planned in due.items():
        said = {value for log in evidence.programs.values() for value in log.says(name)}
        if not said:
            faults.append(f"{name} is stated nowhere")
        elif said != {planned}:
            values = ", ".join(map(str, sorted(said, key=str)))[:60]
            faults.append(f"{name} is {values}, planned {planned}")
    return faults, ", ".join(f"{name} {value}" for name, value in due.items())


def losses_finite(evidence: Evidence) -> Finding:
    """And no iteration had a NaN or was skipped, as the program counts them: one that does not count proves
    nothing. float16's loss scale has to be found first: it may skip during the warm-up, and of what it skips
    Megatron prints no loss.
    """
    job = evidence.cell.job
    printed = evidence.programs.get(reporting_rank(evidence.cell))
    lines = iterations(printed) if printed else ()
    free = job.steps.warmup_steps if job.precision.compute_dtype == "fp16" else 0
    excused = frozenset(line.step for line in lines if line.step and line.step <= free and line.skipped)
    faults, seen = training.losses_finite(evidence, excused=excused)
    counts = {
        "nan": sum(line.nan or 0 for line in lines),
        "skipped": sum(line.skipped or 0 for line in lines if (line.step or 0) > free),
    }
    faults += [f"{count} {what} iterations" for what, count in counts.items() if count]
    silent = [line.step for line in lines if line.nan is None or line.skipped is None]
    if silent:
        faults.append(f"{len(silent)} iterations do not count nan and skipped ones, first {silent[0]}")
    return faults, seen


def consumed_samples(evidence: Evidence) -> Finding:
    """Iteration i of the planned number has consumed i × GBS samples, and says so."""
    gbs, total = evidence.cell.job.batch.global_batch_size, evidence.cell.job.steps.total
    printed = evidence.programs.get(reporting_rank(evidence.cell))
    lines = iterations(printed) if printed else ()
    faults = [] if lines else ["no iteration line"]
    for line in lines:
        due = (line.step or 0) * gbs
        said = (line.consumed_samples, line.global_batch_size, line.total_steps)
        if said[0] != due or said[1] not in (None, gbs) or said[2] != total:
            faults.append(
                f"iteration {line.step} of {said[2]}: {said[0]} samples consumed, GBS {said[1]}; "
                f"planned {due}, {gbs}, of {total}"
            )
    return faults, f"every iteration consumed GBS {gbs}, {total * gbs} samples in {total}"


def step_times(evidence: Evidence) -> Finding:
    """The program's own times against ours over the measured window: their sum, and the step that the figures
    stand for. Lines that come in bursts have the right sum and steps of no length.
    """
    window = _window(evidence)
    if isinstance(window, str):
        return [window], ""
    claims_s, gaps_s = window
    claimed_s, ours_s = math.fsum(claims_s), math.fsum(gaps_s)
    seen = f"its iterations are {claimed_s:.3f} s, {ours_s:.3f} s by the clock that saw their lines come"
    if ours_s < LEAST_WINDOW_S:
        return [f"{seen}: a window below {LEAST_WINDOW_S} s is too short to tell; train more steps"], seen
    faults = _apart(seen, claimed_s, ours_s, least_s=CLOCK_S)
    claimed_s, ours_s = _typical_s(claims_s), _typical_s(gaps_s)
    typical = f"its typical iteration is {claimed_s:.3f} s, {ours_s:.3f} s by that clock"
    faults += _apart(typical, claimed_s, ours_s, least_s=2 * GRAIN_S)
    if not faults and claimed_s < LEAST_STEP_S:
        faults.append(f"{typical}: a step below {LEAST_STEP_S} s is too short to tell")
    return faults, f"{seen}; {typical}"


def _apart(seen: str, claimed_s: float, ours_s: float, *, least_s: float) -> list[str]:
    far, allowed = abs(claimed_s - ours_s), max(CLOCK_SHARE * ours_s, least_s)
    return [f"{seen}: {far:.3f} s apart, {allowed:.3f} at most"] if far > allowed else []


def _typical_s(times_s: Sequence[float]) -> float:
    """The time at whose rate token/p/s is given: that is the median of the steps' rates."""
    return 1 / median(math.inf if time_s <= 0 else 1 / time_s for time_s in times_s)


def _window(evidence: Evidence) -> tuple[list[float], list[float]] | str:
    """(what the program says each measured iteration took, how long its line came after the one before)."""
    cell = evidence.cell
    last, warmup = reporting_rank(cell), cell.job.steps.warmup_steps
    log, printed = evidence.logs.get(last), evidence.programs.get(last)
    if log is None or printed is None:
        return f"no output of rank {last}"
    before = [line for line in iterations(printed) if line.step == warmup]
    inside = [line for line in iterations(printed) if line.step is not None and line.step > warmup]
    if not before or not inside:
        return "no measured window"
    claims_s = [line.step_time_s for line in inside if line.step_time_s is not None]
    if len(claims_s) != len(inside):
        return f"{len(inside) - len(claims_s)} of {len(inside)} iterations do not say what they took"
    came = [time_s for line in (before[-1], *inside) if (time_s := came_s(log, line.line)) is not None]
    if len(came) != 1 + len(inside):
        return "nobody saw when its lines came"
    return claims_s, [after - earlier for earlier, after in pairwise(came)]


def wall_clock(evidence: Evidence) -> Finding:
    """Iterations lie within the life of the launcher whose clock saw them, and that within what the host
    saw.
    """
    faults, host_wall_s = training.launchers_faults(evidence), evidence.host.launcher_wall_s
    last = reporting_rank(evidence.cell)
    faults += training.step_faults(evidence, last)
    total_s = math.fsum(step.duration_s for step in evidence.steps(last))
    return faults, f"{total_s:.6g} s of iterations" + (
        "" if host_wall_s is None else f" in {host_wall_s:.6g} s seen by the host"
    )


def mfu_possible(evidence: Evidence) -> Finding:
    """Of the published kind alone: the program does not say its number of parameters."""
    return training.mfu_possible(evidence, "mfu_published")
