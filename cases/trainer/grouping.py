"""Batches of one modality and of like length, as LLaVA's group_by_modality_length has them. Pure Python.

The definition (llava_trainer.py): samples with an image and samples without are permuted each for themselves
and cut into pieces of one global batch; every piece is sorted by length, longest first, and dealt to the
micro-batches so that each gets as many samples and about as many words; then the pieces of both kinds are
mixed. What is left over of each kind goes together, into a first piece when it is enough for one, and into
the last.
"""

from __future__ import annotations

import heapq
from typing import List

from order import permutation

#: Streams of chance within one epoch.
IMAGES, WORDS, PIECES, HEAD, STREAMS = 0, 1, 2, 3, 4


class GroupedOrder:
    """An endless stream of sample indices, every sample once an epoch; asked for as SequenceOrder is.

    `lengths` in words, negative for samples without an image. Which samples make up a global batch depends
    on its size and the seed alone; how they are dealt to micro-batches, on the size of those as well.
    """

    def __init__(
        self, lengths: List[int], seed: int, *, global_batch_size: int, micro_batch_size: int
    ) -> None:
        if not lengths or 0 in lengths:
            raise ValueError("grouping wants at least one sample, and none of length 0")
        if global_batch_size % micro_batch_size:
            raise ValueError(
                "a global batch of {} holds no whole micro-batches of {}".format(
                    global_batch_size, micro_batch_size
                )
            )
        self._lengths, self._seed = lengths, seed
        self._gbs, self._mbs = global_batch_size, micro_batch_size
        self._epoch = -1
        self._order: List[int] = []
        self._last: List[int] = []

    def micro_batch(
        self, step: int, micro_batch: int, *, dp_rank: int, dp: int, mbs: int, gas: int
    ) -> List[int]:
        """The `mbs` indices of one micro-batch (0 … gas − 1) of one data-parallel rank, `dp_rank` counted
        over all nodes.
        """
        if (mbs, dp * mbs * gas) != (self._mbs, self._gbs):
            raise ValueError(
                "grouped for micro-batches of {} in {}, not {} in {}".format(
                    self._mbs, self._gbs, mbs, dp * mbs * gas
                )
            )
        first = step * self._gbs + (micro_batch * dp + dp_rank) * mbs
        return [self._at(position) for position in range(first, first + mbs)]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._lengths))
        if epoch == self._epoch - 1:
            return self._last[offset]
        if epoch != self._epoch:
            # A global batch can straddle two epochs.
            self._last = self._order if epoch == self._epoch + 1 else self._made(epoch - 1)
            self._epoch, self._order = epoch, self._made(epoch)
        return self._order[offset]

    def _made(self, epoch: int) -> List[int]:
        if epoch < 0:
            return []
        lead = -epoch * len(self._lengths) % self._gbs
        return epoch_order(self._lengths, self._seed, epoch, gbs=self._gbs, mbs=self._mbs, lead=lead)


def epoch_order(lengths: List[int], seed: int, epoch: int, *, gbs: int, mbs: int, lead: int = 0) -> List[int]:
    """One epoch. The first `lead` samples, ungrouped, fill up the global batch that the epoch before began:
    LLaVA trains a single epoch and says nothing about a second, whose pieces would fall across the batches.
    """

    def shuffled(items: List[int], stream: int) -> List[int]:
        return [items[i] for i in permutation(len(items), seed, STREAMS * epoch + stream)]

    everything = list(range(len(lengths)))
    if lead:
        everything = shuffled(everything, HEAD)
    head, rest = everything[:lead], sorted(everything[lead:])
    kinds = [
        shuffled([i for i in rest if lengths[i] > 0], IMAGES),
        shuffled([i for i in rest if lengths[i] < 0], WORDS),
    ]
    pieces: List[List[int]] = []
    left_over: List[int] = []
    for kind in kinds:
        cut = [dealt(kind[at : at + gbs], lengths, mbs=mbs) for at in range(0, len(kind), gbs)]
        # LLaVA takes the last piece of each kind for the rest, also when it is whole.
        pieces += cut[:-1]
        left_over += cut[-1] if cut else []
    pieces = [pieces[i] for i in permutation(len(pieces), seed, STREAMS * epoch + PIECES)]
    if len(left_over) >= gbs:
        pieces.insert(0, left_over[:gbs])
        left_over = left_over[gbs:]
    return head + [i for piece in pieces for i in piece] + left_over


def dealt(piece: List[int], lengths: List[int], *, mbs: int) -> List[int]:
    """The piece, longest first, dealt one by one to the micro-batch with the fewest words that has room; a
    piece that makes no whole micro-batches is dealt in turn.
    """
    ranked = sorted(piece, key=lambda i: -abs(lengths[i]))
    count, odd = divmod(len(ranked), mbs)
    if odd or not count:
        count += bool(odd)
        return [i for at in range(count) for i in ranked[at::count]]
    dealt_to: List[List[int]] = [[] for _ in range(count)]
    heap = [(0, at) for at in range(count)]
    for i in ranked:
        words, at = heapq.heappop(heap)
        dealt_to[at].append(i)
        if len(dealt_to[at]) < mbs:
            heapq.heappush(heap, (words + abs(lengths[i]), at))
    return [i for micro_batch in dealt_to for i in micro_batch]
