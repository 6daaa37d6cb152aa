"""All weights of a rank in one piece of memory, all gradients in another, and AdamW over them at once.

The gradients are float32 and add up over the micro-batches; while the last one's backward goes on, what is
complete is already being summed over the data group. Sharded, a data rank keeps the optimizer's state and
the float32 weights of its own part only, updates that, and broadcasts it (ZeRO-1, arXiv:1910.02054, with
sums where the paper has reduce-scatters: those are missing in some backends). Both ways compute the same to
the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional

import torch
import torch.distributed as dist
from groups import OUT
from torch import nn

if TYPE_CHECKING:
    from device import Device
    from groups import Groups

#: Gradients that are summed at a time, in bytes: DDP's figure.
BUCKET_BYTES = 25 * 1024 * 1024
ROW = 256


class Flat:
    """`replicated` parameters are whole on every rank of a tensor group; with `partial` each rank has only a
    part of their gradients, of its share of the positions.
    """

    def __init__(
        self,
        chunks: List[nn.Module],
        groups: Groups,
        device: Device,
        dtype: torch.dtype,
        *,
        shard: bool,
        partial: bool,
        overlap: bool,
    ) -> None:
        self._groups, self._shard, self._partial, self._overlap = groups, shard, partial, overlap
        # In the order in which backward completes them; what every tensor rank has whole comes last.
        found = [p for chunk in reversed(chunks) for p in reversed(list(chunk.parameters()))]
        split = [p for p in found if hasattr(p, "whole_shape")]
        parameters = split + [p for p in found if not hasattr(p, "whole_shape")]
        self.num_split = sum(p.numel() for p in split)
        self.num_parameters = sum(p.numel() for p in parameters)
        parts = groups.grid.data
        self._part = -(-self.num_parameters // parts)
        self.weights = torch.zeros(self._part * parts, dtype=dtype, device=device.device)
        self.gradients = torch.zeros(self._part * parts, dtype=torch.float32, device=device.device)
        self._chunk_of = {id(p): number for number, chunk in enumerate(chunks) for p in chunk.parameters()}
        self._nodes: List[Any] = []
        self._buckets: List[Bucket] = []
        self._sums: List[Any] = []
        self._next = 0
        self._last_backward = [False] * len(chunks)
        masters = self.weights if dtype is torch.float32 else torch.zeros_like(self.gradients)
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            masters[start:stop].copy_(parameter.detach().flatten())
            self._adopt(parameter, start, stop)
            start = stop
        self._mine = slice(groups.data_rank * self._part, (groups.data_rank + 1) * self._part)
        own = masters[self._mine] if shard else masters
        #: What the optimizer steps: float32, of this rank's part or of all.
        self.master = nn.Parameter(own.clone() if shard and dtype is not torch.float32 else own)
        self.master.grad = self.gradients[self._mine] if shard else self.gradients

    def _adopt(self, parameter: nn.Parameter, start: int, stop: int) -> None:
        """Moves the parameter into the flat memory, and its gradient."""
        view = self.weights[start:stop].view(parameter.shape)
        view.copy_(parameter.detach())
        parameter.data = view
        total = self.gradients[start:stop].view(parameter.shape)
        in_place = view.dtype is torch.float32
        if in_place:
            parameter.grad = total
        chunk, bucket = self._chunk_of[id(parameter)], self._bucket(start, stop)

        def arrived(*_: Any) -> None:
            if not in_place:
                total.add_(parameter.grad)
                parameter.grad = None
            if bucket is not None and self._last_backward[chunk]:
                bucket.missing -= 1
                if self._overlap:
                    self._sum_complete()

        # The node that adds up this parameter's gradient: its hook is older than the public one of torch
        # 2.1. It lives as long as somebody holds it.
        node = parameter.expand_as(parameter).grad_fn.next_functions[0][0]
        node.register_hook(arrived)
        self._nodes.append(node)

    def _bucket(self, start: int, stop: int) -> Optional[Bucket]:
        """Which one the gradients start … stop - 1 join; none for those that are summed at the very end."""
        if start >= self.num_split:
            return None
        if not self._buckets or (stop - self._buckets[-1].start) * 4 > BUCKET_BYTES:
            self._buckets.append(Bucket(start))
        self._buckets[-1].stop = stop
        self._buckets[-1].members += 1
        return self._buckets[-1]

    def begin(self) -> None:
        """Before the first micro-batch of a step."""
        self.gradients.zero_()
        self._sums, self._next = [], 0
        self._last_backward = [False] * len(self._last_backward)
        for bucket in self._buckets:
            bucket.missing = bucket.members

    def last_backward(self, chunk: int) -> None:
        """The backward that begins is the chunk's last one in this step."""
        self._last_backward[chunk] = True

    def _sum_complete(self) -> None:
        # In one order on all ranks, whatever order backward takes: a sum begun in another would be mixed up.
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            bucket = self._buckets[self._next]
            self._sum(self.gradients[bucket.start : bucket.stop])
            self._next += 1

    def _sum(self, part: torch.Tensor) -> None:
        self._groups.trace.note(OUT, "gradient", part)
        if self._groups.data is not None:
            self._sums.append(dist.all_reduce(part, group=self._groups.data, async_op=True))

    def finish(self) -> None:
        """The gradients become the sums over all ranks that have a part of them."""
        replicated = self.gradients[self.num_split : self.num_parameters]
        if self._partial and len(replicated):
            self._groups.sum_tensor(replicated, "gradient")
        if len(replicated):
            self._sum(replicated)
        self._sum_complete()
        if self._next != len(self._buckets):
            raise RuntimeError("some weights had no gradient")
        for work in self._sums:
            self._groups.wait(work)

    def norm_squared(self) -> torch.Tensor:
        """This rank's part of the square of the gradients' norm: over all ranks, every parameter counts once.

        Each data rank takes its own part, and what a tensor group has whole is counted by its first rank.
        """
        stop = self._mine.stop
        if self._groups.tensor_rank != 0:
            stop = min(stop, self.num_split)
        part = self.gradients[self._mine.start : max(self._mine.start, stop)]
        return norm(part).square()

    def publish(self) -> None:
        """After the optimizer's step: the weights become what it made of them."""
        parts = [self.weights[i * self._part : (i + 1) * self._part] for i in range(self._groups.grid.data)]
        if self.weights.dtype is not torch.float32:
            (self.weights[self._mine] if self._shard else self.weights).copy_(self.master.detach())
        if self._shard and self._groups.data is not None:
            owners = self._groups.grid.data_group(self._groups.rank)
            begun = []
            for part, owner in zip(parts, owners):
                # As bytes: not every backend knows every dtype.
                begun.append(
                    dist.broadcast(part.view(torch.uint8), owner, group=self._groups.data, async_op=True)
                )
            for work in begun:
                self._groups.wait(work)


def norm(x: torch.Tensor) -> torch.Tensor:
    """Of a vector of any length, by rows: one after the other, float32 loses what is small beside the sum so
    far, on a CPU a hundred-thousandth of the norm of 45 thousand gradients.
    """
    while x.numel() > ROW:
        whole = x.numel() // ROW * ROW
        rows = torch.linalg.vector_norm(x[:whole].view(-1, ROW), dim=1)
        x = torch.cat((rows, x[whole:]))
    return torch.linalg.vector_norm(x)


class Bucket:
    """A run of gradients that is summed at once, when none of its members is missing any more."""

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self.members = self.missing = 0
