"""Which sequences make up which batch. Pure Python, so that every torch version and every node agrees."""

from __future__ import annotations

import random
from typing import Dict, List


class SequenceOrder:
    """An endless stream of sequence indices: one seeded permutation of all of them after another.

    Optimizer step t (from 0) takes the `global_batch_size` indices from t × global_batch_size on, whatever
    the number of ranks and micro-batches that share them: the same training at every scale.
    """

    def __init__(self, num_sequences: int, seed: int) -> None:
        if num_sequences < 1:
            raise ValueError("the data hold not one sequence")
        self._num_sequences = num_sequences
        self._seed = seed
        self._epochs: Dict[int, List[int]] = {}

    def micro_batch(
        self, step: int, micro_batch: int, *, dp_rank: int, dp: int, mbs: int, gas: int
    ) -> List[int]:
        """The `mbs` indices of one micro-batch (0 … gas − 1) of one data-parallel rank, `dp_rank` counted
        over all nodes.
        """
        first = step * dp * mbs * gas + (micro_batch * dp + dp_rank) * mbs
        return [self._at(position) for position in range(first, first + mbs)]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self._num_sequences)
        if epoch not in self._epochs:
            # A batch can straddle two epochs; older ones are never asked for again.
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = permutation(self._num_sequences, self._seed, epoch)
        return self._epochs[epoch][offset]


def permutation(size: int, seed: int, epoch: int) -> List[int]:
    """Fisher-Yates on random(): the one method whose sequence Python promises never to change."""
    draw = random.Random(seed + (epoch << 64)).random
    items = list(range(size))
    for last in range(size - 1, 0, -1):
        other = int(draw() * (last + 1))
        items[last], items[other] = items[other], items[last]
    return items
