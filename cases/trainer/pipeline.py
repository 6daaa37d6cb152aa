"""Runs one rank's chunks over the micro-batches of a step, in the order of schedule.py.

What comes from another rank is asked for one operation ahead, and what goes to one is not waited for until
long after: messages travel while the rank computes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterator, List, Optional, Tuple

import schedule
import torch
from groups import IN
from schedule import FORWARD, Message, Op

if TYPE_CHECKING:
    from data import Batch
    from groups import Groups
    from stage import Chunk


class Pipeline:
    """`shape` and `dtype` are those of what is passed on, the same everywhere."""

    def __init__(
        self,
        chunks: List[Chunk],
        groups: Groups,
        *,
        micros: int,
        shape: Tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        overlap: bool,
    ) -> None:
        self._chunks, self._groups, self._micros = chunks, groups, micros
        self.shape = shape
        self._rank = groups.pipeline_rank
        self._cut = {"stages": groups.grid.pipeline, "chunks": len(chunks)}
        self.order = schedule.order(self._rank, micros=micros, **self._cut)
        self._empty = lambda: torch.empty(shape, dtype=dtype, device=device)
        self._ahead = 1 if overlap else 0
        #: So many sent messages may be on their way: a receiver never is further behind.
        self._in_flight = 4 * groups.grid.pipeline * len(chunks)

    def run(
        self,
        batches: Iterator[Batch],
        *,
        scale: float,
        before_backward: Callable[[Op], None],
    ) -> Optional[torch.Tensor]:
        """Forward and backward of every micro-batch; gradients add up in the parameters. `scale`: what the
        loss of each is multiplied by. The sum of their losses on the last stage, None on the others.
        """
        inbox = Inbox(self._groups, self._micros, self._cut, self._empty)
        sent: Deque[Any] = deque()
        given: Dict[int, Batch] = {}
        kept: Dict[Tuple[int, int], Tuple[Optional[torch.Tensor], torch.Tensor]] = {}
        total: Optional[torch.Tensor] = None
        for number, op in enumerate(self.order):
            for near in self.order[number : number + 1 + self._ahead]:
                inbox.ask(schedule.needs(near, self._rank, **self._cut))
            came = inbox.take(schedule.needs(op, self._rank, **self._cut))
            if op.kind == FORWARD:
                while op.micro not in given:
                    given[len(given)] = next(batches)
                result, loss = self._forward(op, came, given, kept)
                if loss is not None:
                    total = loss if total is None else total + loss
            else:
                before_backward(op)
                result = self._backward(op, came, kept, scale)
            to = schedule.gives(op, self._rank, **self._cut)
            if to is not None:
                assert result is not None
                result = result.contiguous()
                sent.append((self._groups.send(result, to[0]), result))
                while len(sent) > self._in_flight:
                    self._groups.wait(sent.popleft()[0])
        for work, _ in sent:
            self._groups.wait(work)
        return total

    def _forward(
        self, op: Op, came: Optional[torch.Tensor], given: Dict[int, Any], kept: Dict[Any, Any]
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """(what goes on, the loss on the last chunk)."""
        chunk, (ids_BS, labels_BS) = self._chunks[op.chunk], given[op.micro]
        if op.chunk == len(self._chunks) - 1:
            given[op.micro] = ()  # nobody asks again
        if came is not None:
            came.requires_grad_()
        output = chunk(ids_BS if came is None else came, labels_BS if chunk.last else None)
        kept[op.micro, op.chunk] = came, output
        return output.detach(), output.detach() if chunk.last else None

    def _backward(
        self, op: Op, came: Optional[torch.Tensor], kept: Dict[Any, Any], scale: float
    ) -> Optional[torch.Tensor]:
        """The gradient of the chunk's input; None where that is token ids."""
        given, output = kept.pop((op.micro, op.chunk))
        if came is None:
            (output * scale).backward()
        else:
            torch.autograd.backward(output, came)
        return given.grad if given is not None else None


class Inbox:
    """Messages of one step on their way to this rank. Of each sender they are asked for in the order in which
    it sends them.
    """

    def __init__(self, groups: Groups, micros: int, cut: Dict[str, int], empty: Any) -> None:
        self._groups, self._empty = groups, empty
        rank, stages = groups.pipeline_rank, cut["stages"]
        self._due = {
            sender: deque(schedule.messages(sender, rank, micros=micros, **cut))
            for sender in {(rank - 1) % stages, (rank + 1) % stages} - {rank}
        }
        self._asked: Dict[Message, Tuple[Any, torch.Tensor]] = {}

    def ask(self, needed: Optional[Tuple[int, Message]]) -> None:
        if needed is None:
            return
        sender, message = needed
        while message not in self._asked and self._due[sender] and message in self._due[sender]:
            buffer = self._empty()
            self._asked[self._due[sender].popleft()] = self._groups.receive(buffer, sender), buffer

    def take(self, needed: Optional[Tuple[int, Message]]) -> Optional[torch.Tensor]:
        if needed is None:
            return None
        work, buffer = self._asked.pop(needed[1])
        self._groups.wait(work)
        self._groups.trace.note(IN, "pipeline", buffer)
        return buffer
