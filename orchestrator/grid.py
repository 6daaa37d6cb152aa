"""Where a rank of a job with tensor, pipeline and data parallelism must stand, and what it must hold. Pure.

The trainer has the same in cases/trainer/grid.py and stage.py; here it is written once more, because a proof
that asked the trainer what it should have done would prove little.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.plan import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of one rank: rank = (pipeline · DP + data) · TP + tensor. `tensor_group`: its first and last rank."""

    tensor_rank: int
    data_rank: int
    pipeline_rank: int
    tensor_group: tuple[int, int]

    def __str__(self) -> str:
        first, last = self.tensor_group
        group = f"{first}" if first == last else f"{first}–{last}"
        return f"tensor group {group}, pipeline stage {self.pipeline_rank}, data rank {self.data_rank}"


def sizes(job: Job) -> tuple[int, int, int]:
    """(tensor, data, pipeline) parallel sizes."""
    parallel = job.parallel
    if parallel is None:
        return 1, job.batch.data_parallel_size, 1
    return parallel.tensor_parallel_size, job.batch.data_parallel_size, parallel.pipeline_parallel_size


def place(job: Job, rank: int) -> Place:
    tensor, data, _ = sizes(job)
    row, tensor_rank = divmod(rank, tensor)
    pipeline_rank, data_rank = divmod(row, data)
    return Place(
        tensor_rank=tensor_rank,
        data_rank=data_rank,
        pipeline_rank=pipeline_rank,
        tensor_group=(row * tensor, row * tensor + tensor - 1),
    )


def counts(job: Job, rank: int) -> bool:
    """Whether this rank speaks for its data rank: all ranks of a model's copy train the same tokens, and they
    count once.
    """
    at = place(job, rank)
    return at.tensor_rank == 0 and at.pipeline_rank == 0


def layers_of_chunks(job: Job) -> list[range]:
    """Which layers each chunk of the pipeline holds, in the order of the model."""
    parallel = job.parallel
    if parallel is None:
        return [range(job.model.num_layers)]
    chunks = parallel.pipeline_parallel_size * parallel.virtual_pipeline_size
    each, more = divmod(job.model.num_layers, chunks)
    numbers = parallel.pipeline_layers or tuple(each + (n < more) for n in range(chunks))
    starts = [sum(numbers[:n]) for n in range(len(numbers) + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def num_local_parameters(job: Job, rank: int) -> int:
    """Parameters that this rank holds: its share of every matrix of its layers, and the norms whole."""
    model, at = job.model, place(job, rank)
    tensor, _, stages = sizes(job)

    def share(size: int) -> int:
        return size * (at.tensor_rank + 1) // tensor - size * at.tensor_rank // tensor

    d, head = model.hidden_size, model.hidden_size // model.num_heads
    layer = 2 * share(d) * d + 2 * share(head * model.num_kv_heads) * d
    layer += 3 * share(model.ffn_hidden_size) * d + 2 * d
    held = layers_of_chunks(job)[at.pipeline_rank :: stages]
    total = sum(len(layers) for layers in held) * layer
    if any(layers.start == 0 for layers in held):
        total += share(model.vocab_size) * d
    if any(layers.stop == model.num_layers for layers in held):
        total += d + (0 if model.tie_embeddings else share(model.vocab_size) * d)
    return total


def num_optimizer_parameters(job: Job, rank: int) -> int:
    """Parameters that this rank's optimizer steps: all that it holds, or with a sharded optimizer its part,
    filled up so that the parts of all data ranks are equal.
    """
    _, data, _ = sizes(job)
    part = -(-num_local_parameters(job, rank) // data)
    return part if job.parallel is not None and job.parallel.shard_optimizer else part * data
