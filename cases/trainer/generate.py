"""Greedy decoding with a cache of keys and values: the same words every time, on any number of devices.

Shape suffixes: B sequences (one), S positions of a prompt, D hidden size, K key/value heads, T positions so
far, E head size, V vocabulary, N images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any, Callable, Collection, List, Optional, Tuple

import torch


class Cache:
    """Keys and values of one layer, in memory taken once for all `capacity` positions."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._store: Tuple[torch.Tensor, ...] = ()

    def extend(self, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """All keys and values so far, these included: either the first ones, or those of one position."""
        news = (k_BKSE, v_BKSE)
        start, self.length = self.length, self.length + k_BKSE.shape[2]
        # Several queries behind earlier positions would need a mask that attend() does not make.
        assert start == 0 or k_BKSE.shape[2] == 1
        assert self.length <= self.capacity
        if not self._store:
            self._store = tuple(x.new_empty((*x.shape[:2], self.capacity, x.shape[3])) for x in news)
        for whole, new in zip(self._store, news):
            whole[:, :, start : self.length] = new
        k_BKTE, v_BKTE = (whole[:, :, : self.length] for whole in self._store)
        return k_BKTE, v_BKTE


def generate(
    model: Any,
    prompt_S: torch.Tensor,
    *,
    images_NCHW: Optional[torch.Tensor] = None,
    max_new_tokens: int,
    end_ids: Collection[int],
    all_done: Callable[[bool], bool] = bool,
) -> List[int]:
    """The most likely next token, again and again: the new tokens, without the end token that stopped them.

    `model` is a Llama, or a Llava where `images_NCHW` is given (N = 0 for words alone). One prompt at a time:
    no padding can reach the answer. Of equally likely tokens the lowest id wins.
    `all_done` hears whether this prompt is finished and says whether to stop. Under ZeRO-3 every forward is a
    collective, so there it must give all ranks the same answer; what it makes a finished prompt compute is
    thrown away.
    """
    language = getattr(model, "language_model", model)
    caches = [Cache(len(prompt_S) + max_new_tokens) for _ in language.model.layers]
    tokens: List[int] = []
    finished = False
    ids_BS = prompt_S.unsqueeze(0)
    with torch.no_grad():
        x_BSD = language.embed(ids_BS) if images_NCHW is None else model.embed(ids_BS, images_NCHW)
        for _ in range(max_new_tokens):
            last_BD = language.model(x_BSD, caches)[:, -1]
            next_B = language.head(last_BD).argmax(dim=-1)
            token = int(next_B)
            finished = finished or token in end_ids
            if not finished:
                tokens.append(token)
            if all_done(finished):
                break
            x_BSD = language.embed(next_B.unsqueeze(1))
    return tokens
