"""Proofs about tensor and pipeline parallelism: every rank where the plan has it, all of one mind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.grid import num_local_parameters, num_optimizer_parameters, place, sizes
from orchestrator.verdict.proofs.stages import differences

if TYPE_CHECKING:
    from orchestrator.verdict.evidence import Evidence
    from orchestrator.verdict.proofs import Finding


def places(evidence: Evidence) -> Finding:
    """The ranks say that they stand exactly on the planned grid, each place taken by the one rank that it is
    of, hold as many parameters as that place does, and share them out as planned.
    """
    job = evidence.cell.job
    cut = job.parallel
    assert cut is not None, "only asked of a model that is shared out"
    tensor, data, pipeline = sizes(job)
    faults = []
    for rank in evidence.ranks:
        at = place(job, rank)
        due: dict[str, object] = {
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
            "tensor_rank": at.tensor_rank,
            "pipeline_rank": at.pipeline_rank,
            "data_rank": at.data_rank,
            "num_local_parameters": num_local_parameters(job, rank),
            "virtual_pipeline_size": cut.virtual_pipeline_size,
            "sequence_parallel": cut.sequence_parallel,
            "num_optimizer_parameters": num_optimizer_parameters(job, rank),
        }
        faults += differences(rank, "ready", evidence.ready(rank), due)
    return faults, (
        f"{len(evidence.ranks)} ranks on the planned grid, tensor {tensor} pipeline {pipeline} data {data}; "
        "each with its share of the parameters, and of the optimizer's"
    )


def agreement(evidence: Evidence) -> Finding:
    """In every step all ranks of a data rank tell one loss, and all ranks one gradient norm, to the last bit:
    each is computed once and told to the others. All skip a step or none does.
    """
    job = evidence.cell.job
    faults: list[str] = []
    said: dict[tuple[str, int, int], tuple[int, float | bool | None]] = {}
    for rank in evidence.ranks:
        data_rank = place(job, rank).data_rank
        for step in evidence.steps(rank):
            for what, key, value in (
                ("loss", ("loss", data_rank, step.step), step.loss),
                ("grad_norm", ("grad_norm", 0, step.step), step.grad_norm),
                ("updated", ("updated", 0, step.step), step.updated),
            ):
                first, other = said.setdefault(key, (rank, value))
                if other != value:
                    faults.append(
                        f"step {step.step}: {what} is {other} on rank {first} and {value} on rank {rank}"
                    )
    steps = max((len(evidence.steps(rank)) for rank in evidence.ranks), default=0)
    return faults, f"one loss a data rank and one gradient norm in each of {steps} steps"
