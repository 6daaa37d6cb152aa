"""Which samples make up which batch, recomputed: what the ranks say they trained is held against it. Pure.

The definitions are the trainer's (cases/trainer/order.py and grouping.py), written once more here: the host
imports nothing of it, and a proof that asked the trainer what it should have done would prove little.
"""

from __future__ import annotations

import array
import heapq
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.plan import Job

#: Streams of chance within one epoch of a grouped order.
IMAGES, WORDS, PIECES, HEAD, STREAMS = 0, 1, 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """Of every sample of a set: `lengths`, its positions in the model, negative without an image; `words`,
    LLaVA's length for grouping.
    """

    lengths: Sequence[int]
    words: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What one rank trains in one optimizer step."""

    samples: int
    tokens: int
    real_tokens: int
    images: int


def read_list(content: bytes) -> Sequence[int]:
    """Little-endian integers of four bytes. Raises ValueError for anything else."""
    found: array.array[int] = array.array("i")
    found.frombytes(content)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def due(job: Job, lists: Lists) -> Iterator[tuple[Due, ...]]:
    """For every step of the job in order, what each rank trains, by rank."""
    batch = job.batch
    mbs, dp, gas = batch.micro_batch_size, batch.data_parallel_size, batch.gradient_accumulation_steps
    stream = _stream(job, lists)
    for _ in range(job.steps.total):
        whole = [next(stream) for _ in range(batch.global_batch_size)]
        yield tuple(
            _sum(
                [whole[(number * dp + rank) * mbs :][:mbs] for number in range(gas)],
                lists.lengths,
            )
            for rank in range(dp)
        )


def _sum(micro_batches: list[list[int]], lengths: Sequence[int]) -> Due:
    sizes = [[lengths[index] for index in indices] for indices in micro_batches]
    return Due(
        samples=sum(len(one) for one in sizes),
        tokens=sum(len(one) * max(abs(size) for size in one) for one in sizes),
        real_tokens=sum(abs(size) for one in sizes for size in one),
        images=sum(size > 0 for one in sizes for size in one),
    )


def _stream(job: Job, lists: Lists) -> Iterator[int]:
    """Sample numbers without end, epoch after epoch."""
    samples, epoch = job.data.samples, 0
    assert samples is not None, "only a prepared set has samples"
    while True:
        if samples.order == "grouped":
            batch = job.batch
            lead = -epoch * len(lists.words) % batch.global_batch_size
            yield from epoch_order(
                lists.words,
                job.seed,
                epoch,
                gbs=batch.global_batch_size,
                mbs=batch.micro_batch_size,
                lead=lead,
            )
        else:
            yield from permutation(len(lists.lengths), job.seed, epoch)
        epoch += 1


def permutation(size: int, seed: int, epoch: int) -> list[int]:
    """Fisher-Yates on random(): the one method whose sequence Python promises never to change."""
    draw = random.Random(seed + (epoch << 64)).random  # noqa: S311 - no secret
    items = list(range(size))
    for last in range(size - 1, 0, -1):
        other = int(draw() * (last + 1))
        items[last], items[other] = items[other], items[last]
    return items


def epoch_order(
    words: Sequence[int], seed: int, epoch: int, *, gbs: int, mbs: int, lead: int = 0
) -> list[int]:
    """One epoch in batches of one modality and of like length, the first `lead` samples ungrouped."""

    def shuffled(items: list[int], stream: int) -> list[int]:
        return [items[i] for i in permutation(len(items), seed, STREAMS * epoch + stream)]

    everything = list(range(len(words)))
    if lead:
        everything = shuffled(everything, HEAD)
    head, rest = everything[:lead], sorted(everything[lead:])
    kinds = (
        shuffled([i for i in rest if words[i] > 0], IMAGES),
        shuffled([i for i in rest if words[i] < 0], WORDS),
    )
    pieces: list[list[int]] = []
    left_over: list[int] = []
    for kind in kinds:
        cut = [_dealt(kind[at : at + gbs], words, mbs=mbs) for at in range(0, len(kind), gbs)]
        pieces += cut[:-1]
        left_over += cut[-1] if cut else []
    pieces = [pieces[i] for i in permutation(len(pieces), seed, STREAMS * epoch + PIECES)]
    if len(left_over) >= gbs:
        pieces.insert(0, left_over[:gbs])
        left_over = left_over[gbs:]
    return head + [i for piece in pieces for i in piece] + left_over


def _dealt(piece: list[int], words: Sequence[int], *, mbs: int) -> list[int]:
    """Longest first, one by one to the micro-batch with the fewest words that has room."""
    ranked = sorted(piece, key=lambda i: -abs(words[i]))
    count, odd = divmod(len(ranked), mbs)
    if odd or not count:
        count += bool(odd)
        return [i for at in range(count) for i in ranked[at::count]]
    dealt: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, at) for at in range(count)]
    for i in ranked:
        held, at = heapq.heappop(heap)
        dealt[at].append(i)
        if len(dealt[at]) < mbs:
            heapq.heappush(heap, (held + abs(words[i]), at))
    return [i for one in dealt for i in one]
