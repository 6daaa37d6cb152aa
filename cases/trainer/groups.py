"""The process groups of a rank and what it says in them: sums, messages and broadcasts, nothing else.

All other collectives are missing somewhere: gloo has no reduce-scatter, plug-ins lack this or that. Every
tensor that leaves or enters is also summed up once into the trace, which tells after a step that went
wrong where the first number that is not finite came from: out of this rank, or in from another.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Tuple

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from device import Device
    from grid import Grid

#: Before a gradient is summed over the data group, before a partial result over the tensor group …
OUT, IN = "out", "in"


class Mark(NamedTuple):
    """The sum of a tensor as it left or came: not finite as soon as one of its elements is not."""

    way: str
    what: str
    total: torch.Tensor


class Trace:
    """The marks of one step, in order."""

    def __init__(self) -> None:
        self._marks: List[Mark] = []

    def clear(self) -> None:
        self._marks.clear()

    def note(self, way: str, what: str, tensor: torch.Tensor) -> None:
        # In float32: a sum of finite float16 numbers is easily beyond float16.
        self._marks.append(Mark(way, what, tensor.detach().sum(dtype=torch.float32)))

    def first_bad(self) -> Optional[Mark]:
        """The first mark that is not finite. Waits for the device."""
        if not self._marks:
            return None
        totals = torch.stack([mark.total for mark in self._marks]).cpu()
        bad = (~torch.isfinite(totals)).nonzero()
        return self._marks[int(bad[0])] if len(bad) else None


class Groups:
    """The groups of this rank, made on all ranks together and in the same order."""

    def __init__(self, grid: Grid, device: Device, dtype: torch.dtype) -> None:
        self.grid = grid
        self.rank = dist.get_rank()
        self.tensor_rank, self.data_rank, self.pipeline_rank = grid.place(self.rank)
        self.trace = Trace()
        self.wait_s = 0.0
        self._timed = device.is_host
        every = range(grid.world_size)
        self.tensor = self._mine([grid.tensor_group(r) for r in every])
        self.data = self._mine([grid.data_group(r) for r in every])
        # One group for each direction of messages: on devices, what two ranks send each other on one
        # communicator waits in line, and both could be waiting for the other.
        self.pipelines = grid.pipeline_group(self.rank)
        lines = [grid.pipeline_group(r) for r in every]
        self._up = self._mine(lines)
        self._down = self._mine(lines)
        self._dtype, self._sum_dtype = dtype, summable(dtype, device, self.tensor)

    def _mine(self, groups: List[List[int]]) -> Any:
        """Makes every distinct group of more than one rank; this rank's, or None where it would be alone."""
        own = None
        for ranks in sorted({tuple(ranks) for ranks in groups}):
            if len(ranks) > 1:
                made = dist.new_group(list(ranks))
                own = made if self.rank in ranks else own
        return own

    def sum_tensor(self, x: torch.Tensor, what: str) -> torch.Tensor:
        """In place: the sum over the tensor group. `x` must be contiguous."""
        if self.tensor is not None:
            self.sum_tensor_begin(x, what)()
        return x

    def sum_tensor_begin(self, x: torch.Tensor, what: str) -> Any:
        """Begins that sum; what it returns is to be called when the sum is needed."""
        if self.tensor is None:
            return _nothing
        self.trace.note(OUT, what, x)
        # Only what is in the compute dtype may be changed: the float32 of loss and gradients stays float32.
        wire = x.to(self._sum_dtype) if x.dtype is self._dtype else x
        work = dist.all_reduce(wire, group=self.tensor, async_op=True)

        def end() -> None:
            self.wait(work)
            if wire is not x:
                x.copy_(wire)
            self.trace.note(IN, "tensor", x)

        return end

    def send(self, x: torch.Tensor, stage: int) -> Any:
        """Begins to send to a stage of this rank's pipeline."""
        self.trace.note(OUT, "pipeline", x)
        return dist.isend(x, self.pipelines[stage], group=self._way(self.pipeline_rank, stage))

    def receive(self, x: torch.Tensor, stage: int) -> Any:
        """Begins to receive from a stage of this rank's pipeline."""
        return dist.irecv(x, self.pipelines[stage], group=self._way(stage, self.pipeline_rank))

    def _way(self, sender: int, receiver: int) -> Any:
        return self._up if sender < receiver else self._down

    def wait(self, work: Any) -> None:
        """For what was begun; on the host the time it takes is counted in `wait_s`."""
        if not self._timed:
            work.wait()
            return
        asked_s = time.perf_counter()
        work.wait()
        self.wait_s += time.perf_counter() - asked_s

    def whole_world(self, x: torch.Tensor) -> torch.Tensor:
        """In place: the sum over all ranks, bit for bit the same on each."""
        if self.grid.world_size > 1:
            self.wait(dist.all_reduce(x, async_op=True))
        return x


def summable(dtype: torch.dtype, device: Device, group: Any) -> torch.dtype:
    """The dtype in which this backend sums tensors of `dtype`: older gloos do not know bfloat16."""
    if group is None:
        return dtype
    try:
        dist.all_reduce(torch.zeros(1, dtype=dtype, device=device.device), group=group)
    except RuntimeError:
        return torch.float32
    return dtype


def _nothing() -> None:
    pass


class Sum(torch.autograd.Function):
    """Partial results, summed over the tensor group; the gradient is as it is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, groups: Groups) -> torch.Tensor:
        ctx.mark_dirty(x)  # a fresh product, and no product's backward asks for its own result
        return groups.sum_tensor(x, "forward")

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> Tuple[torch.Tensor, None]:
        return gradient, None


class SumScatter(torch.autograd.Function):
    """With sequence parallelism: partial results of all positions are summed, and a rank keeps its share."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, groups: Groups) -> torch.Tensor:
        ctx.groups = groups
        return cut(groups.sum_tensor(x.detach(), "forward"), groups)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Tuple[torch.Tensor, None]:
        return gathered(gradient, ctx.groups, "backward"), None


def gathered(x: torch.Tensor, groups: Groups, what: str) -> torch.Tensor:
    """All positions (dimension 1) from the ranks' shares of them."""
    whole, end = gather_begin(x, groups, what)
    end()
    return whole


def gather_begin(x: torch.Tensor, groups: Groups, what: str) -> Tuple[torch.Tensor, Any]:
    """A gathering as a sum: each rank's share in its place, and nothing elsewhere."""
    shape = list(x.shape)
    share = shape[1]
    shape[1] = share * groups.grid.tensor
    whole = x.new_zeros(shape)
    whole[:, groups.tensor_rank * share : (groups.tensor_rank + 1) * share] = x
    return whole, groups.sum_tensor_begin(whole, what)


def cut(x: torch.Tensor, groups: Groups) -> torch.Tensor:
    share = x.shape[1] // groups.grid.tensor
    return x[:, groups.tensor_rank * share : (groups.tensor_rank + 1) * share].contiguous()


class Columns(torch.autograd.Function):
    """x @ weight.T for weights whose rows are split over the tensor group: a way in and the products in one.

    In backward the gradient of x is being summed while the weights' gradients are computed. With sequence
    parallelism x is a share of the positions; all of them are gathered for the product and not kept, but
    gathered once more in backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, groups: Groups, sequence_parallel: bool, *weights: torch.Tensor
    ) -> Any:
        ctx.groups, ctx.sequence_parallel = groups, sequence_parallel
        ctx.save_for_backward(x, *weights)
        whole = gathered(x, groups, "forward") if sequence_parallel else x
        return tuple(torch.nn.functional.linear(whole, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, *weights = ctx.saved_tensors
        groups, shape = ctx.groups, gradients[0].shape[:-1] + x.shape[-1:]
        end_gather, whole = _nothing, x
        if ctx.sequence_parallel:
            whole, end_gather = gather_begin(x, groups, "forward")
        flat = [g.reshape(-1, g.shape[-1]) for g in gradients]
        of_x = flat[0] @ weights[0]
        for gradient, weight in zip(flat[1:], weights[1:]):
            of_x.addmm_(gradient, weight)
        end_gather()
        end_sum = groups.sum_tensor_begin(of_x, "backward")
        x_TD = whole.reshape(-1, x.shape[-1])
        of_weights = [gradient.t() @ x_TD for gradient in flat]
        end_sum()
        of_x = of_x.view(shape)
        return (cut(of_x, groups) if ctx.sequence_parallel else of_x, None, None, *of_weights)


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits (T, V) in float32 whose vocabulary is split over the tensor group, without
    ever gathering them. `first` is the first word of this rank's share.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_TV: torch.Tensor, labels_T: torch.Tensor, first: int, groups: Groups
    ) -> torch.Tensor:
        T, V = logits_TV.shape
        # The largest logit by a sum, each rank in a row of its own: not every backend has a maximum.
        peaks = logits_TV.new_zeros(groups.grid.tensor, T)
        peaks[groups.tensor_rank] = logits_TV.max(dim=-1).values
        peak_T = groups.sum_tensor(peaks, "loss").max(dim=0).values
        shifted_TV = logits_TV - peak_T[:, None]
        here_T = (labels_T >= first) & (labels_T < first + V)
        index_T = torch.where(here_T, labels_T - first, torch.zeros_like(labels_T))
        target_T = shifted_TV.gather(1, index_T[:, None])[:, 0] * here_T
        exp_TV = shifted_TV.exp_()
        both_2T = groups.sum_tensor(torch.stack((exp_TV.sum(dim=-1), target_T)), "loss")
        ctx.save_for_backward(exp_TV.div_(both_2T[0][:, None]), index_T, here_T)
        return (both_2T[0].log() - both_2T[1]).mean()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        share_TV, index_T, here_T = ctx.saved_tensors
        share_TV.scatter_add_(1, index_T[:, None], -here_T[:, None].to(share_TV.dtype))
        return share_TV.mul_(gradient / share_TV.shape[0]), None, None, None
