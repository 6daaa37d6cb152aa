"""Megatron-LM's `.idx`: where the sequences of a `.bin` lie, read and held against it. Standard library.

Little-endian: the magic, version 1 (u64), a code of the tokens' type (u8), the number of sequences and of
document indices (u64); of every sequence its length in tokens (i32) and its place in bytes (i64); the
sequence that every document begins with (i64), and one more at the end. Source: Megatron-LM,
megatron/core/datasets/indexed_dataset.py.
"""

from __future__ import annotations

import array
import hashlib
import os
import struct
import sys
from typing import Any, NamedTuple

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPES = {1: "uint8", 3: "int16", 4: "int32", 8: "uint16"}
SIZES = {"uint8": 1, "int16": 2, "uint16": 2, "int32": 4}
HEAD = struct.Struct("<9sQBQQ")


class IndexedError(ValueError):
    """The files are no pair of Megatron's, or not the planned one."""


class Indexed(NamedTuple):
    """A checked pair: sequences lie one behind the other, from the first byte of the `.bin` to its last."""

    dtype: str
    lengths: Any
    documents: Any
    sha256: str

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1


def read_indexed(index_path: str, data_path: str) -> Indexed:
    """Reads the whole index; of the data its size alone. Raises IndexedError."""
    try:
        with open(index_path, "rb") as file:
            content = file.read()
        data_bytes = os.path.getsize(data_path)
    except OSError as error:
        raise IndexedError("{}: {}".format(error.filename, error.strerror)) from error
    if len(content) < HEAD.size:
        raise IndexedError("{}: {} bytes are no index".format(index_path, len(content)))
    magic, version, code, count, num_indices = HEAD.unpack_from(content)
    if magic != MAGIC or version != VERSION or code not in DTYPES:
        raise IndexedError(
            "{}: magic {!r}, version {}, type {}: no index of word ids".format(
                index_path, magic, version, code
            )
        )
    wanted = HEAD.size + 12 * count + 8 * num_indices
    if len(content) not in (wanted, wanted + count):  # a mode of each sequence may follow; text has none
        raise IndexedError(
            "{}: {} bytes, {} sequences need {}".format(index_path, len(content), count, wanted)
        )
    lengths = _numbers(content, "i", HEAD.size, count)
    starts = _numbers(content, "q", HEAD.size + 4 * count, count)
    documents = _numbers(content, "q", HEAD.size + 12 * count, num_indices)
    place = 0
    for at, (length, start) in enumerate(zip(lengths, starts)):
        if length < 0 or start != place:
            raise IndexedError(
                "{}: sequence {} of {} tokens at byte {}, due at {}".format(
                    index_path, at, length, start, place
                )
            )
        place += length * SIZES[DTYPES[code]]
    if place != data_bytes:
        raise IndexedError(
            "{}: its sequences are {} bytes, {} has {}".format(index_path, place, data_path, data_bytes)
        )
    whole = bool(num_indices) and documents[0] == 0 and documents[-1] == count
    if not whole or any(documents[i] > documents[i + 1] for i in range(num_indices - 1)):
        raise IndexedError("{}: its documents do not divide its sequences".format(index_path))
    return Indexed(DTYPES[code], lengths, documents, hashlib.sha256(content).hexdigest())


def _numbers(content: bytes, code: str, at: int, count: int) -> Any:
    made = array.array(code)
    made.frombytes(content[at : at + count * made.itemsize])
    if sys.byteorder == "big":
        made.byteswap()
    return made
