"""Proofs about a case that is trained in stages: what learned, what it began with and left, which samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.parse.visible import short_digest, visible
from orchestrator.verdict.order import due

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.parse.records import Hello, Ready, Step
    from orchestrator.verdict.evidence import Evidence
    from orchestrator.verdict.order import Due
    from orchestrator.verdict.proofs import Finding


def trained_part(evidence: Evidence) -> Finding:
    """As many parameters ask for a gradient as the stage trains."""
    job = evidence.cell.job
    wanted = {"num_trainable_parameters": job.num_trainable_parameters}
    faults = []
    for rank in evidence.ranks:
        faults += differences(rank, "ready", evidence.ready(rank), wanted)
    return faults, (
        f"{job.num_trainable_parameters} of {job.model.num_parameters} parameters learn "
        f"({', '.join(job.trainable or ())})"
    )


def initial_weights(evidence: Evidence) -> Finding:
    """Every rank began with the projector that the stage before left, byte for byte. The published folders
    are held against their planned lists by the ranks themselves, which fail otherwise.
    """
    initial = evidence.cell.job.initial
    assert initial is not None, "only asked where there are any"
    folders = f"{len(initial.folders)} folders of published weights"
    if initial.projector is None:
        return [], folders
    if evidence.before is None:
        return ["the stage before does not say that it left a projector"], ""
    wanted = {"projector_sha256": evidence.before.sha256}
    faults = []
    for rank in evidence.ranks:
        faults += differences(rank, "ready", evidence.ready(rank), wanted)
    return faults, (
        f"projector of the stage before, SHA-256 {short_digest(evidence.before.sha256)}, "
        f"on {len(evidence.ranks)} ranks; {folders}"
    )


def projector_saved(evidence: Evidence) -> Finding:
    """The first rank left the projector under the planned name, after its last step."""
    wanted = f"{evidence.cell.job.save}/model.safetensors"
    log = evidence.logs.get(0)
    if log is None or log.saved is None:
        return ["rank 0 does not say that it left a projector"], ""
    if log.saved.file != wanted:
        return [f"rank 0 left {visible(log.saved.file, limit=80)}, planned {wanted}"], ""
    if log.steps and log.saved.t_s < log.steps[-1].end_s:
        return ["rank 0 left its projector before its last step had ended"], ""
    return [], f"{log.saved.bytes} bytes, SHA-256 {short_digest(log.saved.sha256)}, after the last step"


def batches(evidence: Evidence) -> Finding:
    """Samples, images, tokens with and without padding of every step of every rank, as the planned order has
    them: it follows from the seed and from the lengths that the host kept.
    """
    job = evidence.cell.job
    if evidence.lists is None:
        return ["the lengths of the samples, which the host kept, are missing or changed"], ""
    if job.data.samples is None or len(evidence.lists.lengths) != job.data.samples.num_samples:
        return ["the host kept the lengths of another set"], ""
    faults: dict[int, list[str]] = {rank: [] for rank in evidence.ranks}
    numbered = {rank: {step.step: step for step in evidence.steps(rank)} for rank in evidence.ranks}
    total = 0
    for number, by_rank in enumerate(due(job, evidence.lists), start=1):
        for rank, wanted in enumerate(by_rank):
            total += wanted.real_tokens
            step = numbered.get(rank, {}).get(number)
            if step is not None and _seen(step) != _wanted(wanted):
                faults[rank].append(f"step {number} with {_words(step)}, planned {_words(wanted)}")
    listed = [f"rank {rank}: {len(ones)} steps, the first {ones[0]}" for rank, ones in faults.items() if ones]
    listed += [f"rank {rank}: no step" for rank in evidence.ranks if not numbered[rank]]
    return listed, (
        f"{job.batch.global_batch_size} samples a step and {total} tokens without padding in "
        f"{job.steps.total} steps, each as the planned order has it"
    )


def _seen(step: Step) -> tuple[int | None, ...]:
    return step.samples, step.tokens, step.real_tokens, step.images


def _wanted(wanted: Due) -> tuple[int | None, ...]:
    return wanted.samples, wanted.tokens, wanted.real_tokens, wanted.images


def _words(of: Step | Due) -> str:
    return f"{of.samples} samples, {of.tokens} tokens, {of.real_tokens} without padding, {of.images} images"


def differences(rank: int, event: str, record: Hello | Ready | None, due: Mapping[str, object]) -> list[str]:
    if record is None:
        return [f"rank {rank}: no {event} record"]
    return [
        f"rank {rank}: {event} says {key} {visible(str(getattr(record, key)), limit=80)}, planned {planned}"
        for key, planned in due.items()
        if getattr(record, key) != planned
    ]
