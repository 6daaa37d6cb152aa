"""Where a rank stands among tensor, data and pipeline parallelism, and with whom it shares what. Pure.

Tensor fastest, then data, then pipeline: rank = (p · data + d) · tensor + t. So the ranks of a tensor group,
which talk most, are neighbours on a node, and a pipeline goes across nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Tuple

if TYPE_CHECKING:
    import job as jobs


@dataclass(frozen=True)
class Grid:
    """Sizes of the three kinds of parallelism."""

    tensor: int
    data: int
    pipeline: int

    @property
    def world_size(self) -> int:
        return self.tensor * self.data * self.pipeline

    def rank(self, t: int, d: int, p: int) -> int:
        return (p * self.data + d) * self.tensor + t

    def place(self, rank: int) -> Tuple[int, int, int]:
        """(tensor rank, data rank, pipeline rank)."""
        return rank % self.tensor, rank // self.tensor % self.data, rank // (self.tensor * self.data)

    def tensor_group(self, rank: int) -> List[int]:
        _, d, p = self.place(rank)
        return [self.rank(t, d, p) for t in range(self.tensor)]

    def data_group(self, rank: int) -> List[int]:
        t, _, p = self.place(rank)
        return [self.rank(t, d, p) for d in range(self.data)]

    def pipeline_group(self, rank: int) -> List[int]:
        t, d, _ = self.place(rank)
        return [self.rank(t, d, p) for p in range(self.pipeline)]

    def words(self, rank: int) -> str:
        """As every message and the host name a rank: "rank 5 (tensor group 4–5, pipeline stage 1, data rank
        0)".
        """
        group, (_, d, p) = self.tensor_group(rank), self.place(rank)
        span = str(rank) if len(group) == 1 else "{}–{}".format(group[0], group[-1])
        return "rank {} (tensor group {}, pipeline stage {}, data rank {})".format(rank, span, p, d)


def grid_of(job: jobs.Job) -> Grid:
    parallel = job.parallel
    return Grid(
        tensor=parallel.tensor_parallel_size if parallel else 1,
        data=job.batch.data_parallel_size,
        pipeline=parallel.pipeline_parallel_size if parallel else 1,
    )


def layers_of_chunks(num_layers: int, num_chunks: int, lists: Tuple[int, ...] = ()) -> List[range]:
    """Which layers each chunk of the pipeline holds, in the order of the model. `lists` says how many each;
    without it they are shared out evenly, the first ones holding one more where they do not divide.
    """
    counts = list(lists) or [
        num_layers // num_chunks + (i < num_layers % num_chunks) for i in range(num_chunks)
    ]
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    return [range(start, stop) for start, stop in zip(starts, starts[1:])]
