"""The token file: verified, mapped, cut into fixed windows.

The file holds raw little-endian integers and nothing else. Window i begins at token i × sequence_length and
is one token longer, because every position's label is the token after it; windows share that one token and
nothing more. Shape suffixes: W windows, B sequences of a micro-batch, S sequence length, T tokens of the
file.
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import TYPE_CHECKING, List, Tuple

import torch

if TYPE_CHECKING:
    import job as jobs

Batch = Tuple[torch.Tensor, torch.Tensor]

CHUNK_BYTES = 4 * 1024 * 1024


class DataError(ValueError):
    """The token file is not the planned one."""


class Windows:
    """The verified file as a table of windows. Raises DataError when it is not the planned file."""

    def __init__(self, data: jobs.Data, *, sequence_length: int, vocab_size: int) -> None:
        dtype = getattr(torch, data.dtype)
        self.sha256 = verified_sha256(data, torch.empty(0, dtype=dtype).element_size())
        self.num_tokens = data.num_tokens
        self.sequence_length = sequence_length
        self._count = (data.num_tokens - 1) // sequence_length
        if self._count < 1:
            raise DataError(
                "{}: {} tokens make no window of {} + 1".format(data.file, data.num_tokens, sequence_length)
            )
        tokens_T = torch.from_file(data.file, shared=False, size=data.num_tokens, dtype=dtype)
        least, most = int(tokens_T.min()), int(tokens_T.max())
        if least < 0 or most >= vocab_size:
            # Devices answer a wrong index with an assertion far from here, or with nothing at all.
            raise DataError(
                "{}: tokens {} … {} with a vocabulary of {}".format(data.file, least, most, vocab_size)
            )
        self._windows_WS = tokens_T.as_strided((self._count, sequence_length + 1), (sequence_length, 1))

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: List[int], device: torch.device) -> Batch:
        """(inputs_BS, labels_BS) as int64 on the device."""
        window_BS = self._windows_WS.index_select(0, torch.tensor(indices)).long().to(device)
        return window_BS[:, :-1], window_BS[:, 1:]


def verified_sha256(data: jobs.Data, item_bytes: int) -> str:
    """The file's SHA-256. Raises DataError when its size or its hash is not the planned one."""
    if sys.byteorder != "little" and item_bytes > 1:
        raise DataError("token files are little-endian, this machine is not")
    try:
        size = os.path.getsize(data.file)
    except OSError as error:
        raise DataError("{}: {}".format(data.file, error.strerror)) from error
    if size != data.num_tokens * item_bytes:
        expected = data.num_tokens * item_bytes
        raise DataError(
            "{}: {} bytes, {} {} tokens are {}".format(data.file, size, data.num_tokens, data.dtype, expected)
        )
    found = hashlib.sha256()
    with open(data.file, "rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            found.update(chunk)
    if found.hexdigest() != data.sha256:
        raise DataError("{}: SHA-256 is {}, planned is {}".format(data.file, found.hexdigest(), data.sha256))
    return data.sha256
