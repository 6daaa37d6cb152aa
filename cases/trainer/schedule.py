"""In which order a pipeline rank runs its micro-batches, and what it sends to whom. Pure.

A model is cut into P · V chunks; chunk c of rank r is place s = c · P + r of the model. With V = 1 this is
1F1B (arXiv:1806.03377, arXiv:2006.09503): as many forwards ahead as there are stages below, then one
backward for each forward, so that no rank keeps more than P micro-batches. With V > 1 it is the interleaved
schedule of arXiv:2104.04473, section 2.2: the bubble is V times smaller and there are V times the messages.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

FORWARD, BACKWARD = "forward", "backward"


class Op(NamedTuple):
    kind: str
    micro: int
    chunk: int


class Message(NamedTuple):
    """An activation (forward) or the gradient of one (backward), for the place `place` of the model."""

    kind: str
    micro: int
    place: int


def order(rank: int, *, stages: int, chunks: int, micros: int) -> List[Op]:
    """All operations of one optimizer step on the rank. With more than one chunk a rank, `micros` must be
    divisible by `stages`.
    """
    if chunks == 1:
        forwards = [Op(FORWARD, m, 0) for m in range(micros)]
        backwards = [Op(BACKWARD, m, 0) for m in range(micros)]
        ahead = min(stages - rank - 1, micros)
    else:
        if micros % stages:
            raise ValueError("{} micro-batches on {} interleaved stages".format(micros, stages))
        turns = [
            (k % (stages * chunks) // stages, k // (stages * chunks) * stages + k % stages)
            for k in range(micros * chunks)
        ]
        forwards = [Op(FORWARD, micro, chunk) for chunk, micro in turns]
        backwards = [Op(BACKWARD, micro, chunks - 1 - chunk) for chunk, micro in turns]
        ahead = min((stages - rank - 1) * 2 + (chunks - 1) * stages, len(turns))
        if micros == stages:
            ahead = len(turns)
    ops = forwards[:ahead]
    for forward, backward in zip(forwards[ahead:], backwards):
        ops += [forward, backward]
    return ops + backwards[len(forwards) - ahead :]


def needs(op: Op, rank: int, *, stages: int, chunks: int) -> Optional[Tuple[int, Message]]:
    """(sender, message) that the operation waits for; None at the model's ends."""
    place = op.chunk * stages + rank
    if op.kind == FORWARD:
        return None if place == 0 else ((rank - 1) % stages, Message(FORWARD, op.micro, place))
    return None if place == stages * chunks - 1 else ((rank + 1) % stages, Message(BACKWARD, op.micro, place))


def gives(op: Op, rank: int, *, stages: int, chunks: int) -> Optional[Tuple[int, Message]]:
    """(receiver, message) that the operation ends with."""
    place = op.chunk * stages + rank
    if op.kind == FORWARD:
        last = place == stages * chunks - 1
        return None if last else ((rank + 1) % stages, Message(FORWARD, op.micro, place + 1))
    return None if place == 0 else ((rank - 1) % stages, Message(BACKWARD, op.micro, place - 1))


def messages(sender: int, receiver: int, *, stages: int, chunks: int, micros: int) -> List[Message]:
    """What goes from one rank to another in a step, in the order in which it is sent: the receiver asks in
    just this order, whatever it needs first, so nothing is ever mixed up.
    """
    ops = order(sender, stages=stages, chunks=chunks, micros=micros)
    given = (gives(op, sender, stages=stages, chunks=chunks) for op in ops)
    return [one[1] for one in given if one is not None and one[0] == receiver]
