"""Megatron-LM's `.idx`: where the sequences and documents of a `.bin` lie. Both ways, from bytes. Pure.

Layout, little-endian (Megatron-LM, megatron/core/datasets/indexed_dataset.py): the magic, version 1 as u64, a
code of the tokens' type as u8, the number of sequences and of document indices as u64; then of every sequence
its length (i32) and its place in the `.bin` in bytes (i64), and of every document the sequence it begins
with (i64), one more at the end.
"""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
#: Codes of the format; those that no tokenizer's ids have (floats, i8, i64) are refused by name.
CODES = {"uint8": 1, "int16": 3, "int32": 4, "uint16": 8}
OTHERS = {2: "int8", 5: "int64", 6: "float64", 7: "float32"}
SIZES = {"uint8": 1, "int16": 2, "uint16": 2, "int32": 4}
#: Below it Megatron's own writer takes u16.
SMALL_VOCABULARY = 65500
_HEAD = struct.Struct("<9sQBQQ")


class BadIndexError(ValueError):
    """The bytes are no index, or not that of the data beside it; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronIndex:
    """`lengths` in tokens; sequences lie one behind the other in the `.bin`, from its first byte to its
    last.
    """

    dtype: str
    lengths: Sequence[int]
    num_documents: int

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


def packed(lengths: Sequence[int], *, dtype: str) -> bytes:
    """The index of sequences that are a document each."""
    count, size = len(lengths), SIZES[dtype]
    ends = list(accumulate(lengths))
    starts = [0, *(end * size for end in ends[:-1])] if lengths else []
    return b"".join(
        (
            _HEAD.pack(MAGIC, VERSION, CODES[dtype], count, count + 1),
            _little("i", lengths),
            _little("q", starts),
            _little("q", range(count + 1)),
        )
    )


def read(content: bytes, *, data_bytes: int) -> MegatronIndex:
    """The index of a `.bin` of `data_bytes`. Raises BadIndexError."""
    if len(content) < _HEAD.size:
        raise BadIndexError(f"{len(content)} bytes: an index begins with {_HEAD.size}")
    magic, version, code, count, num_indices = _HEAD.unpack_from(content)
    if magic != MAGIC:
        raise BadIndexError("it does not begin as Megatron's index does: another format, or cut")
    if version != VERSION:
        raise BadIndexError(f"version {version}; {VERSION} is known")
    dtype = next((name for name, known in CODES.items() if known == code), None)
    if dtype is None:
        raise BadIndexError(f"tokens of type {OTHERS.get(code, f'number {code}')}: no ids of words")
    wanted = _HEAD.size + 12 * count + 8 * num_indices
    # Some writers add a mode of each sequence, one byte; text has none.
    if len(content) not in (wanted, wanted + count):
        raise BadIndexError(
            f"{len(content)} bytes; {count} sequences and {num_indices} document indices are {wanted}"
        )
    lengths = _read(content, "i", _HEAD.size, count)
    starts = _read(content, "q", _HEAD.size + 4 * count, count)
    documents = _read(content, "q", _HEAD.size + 12 * count, num_indices)
    _check(lengths, starts, documents, size=SIZES[dtype], data_bytes=data_bytes)
    return MegatronIndex(dtype=dtype, lengths=lengths, num_documents=num_indices - 1)


def _check(
    lengths: Sequence[int], starts: Sequence[int], documents: Sequence[int], *, size: int, data_bytes: int
) -> None:
    place = 0
    for at, (length, start) in enumerate(zip(lengths, starts, strict=True)):
        if length < 0:
            raise BadIndexError(f"sequence {at} has {length} tokens")
        if start != place:
            raise BadIndexError(
                f"sequence {at} begins at byte {start}, the one before ends at {place}: a gap or an overlap"
            )
        place += length * size
    if place != data_bytes:
        raise BadIndexError(f"its sequences are {place} bytes, the .bin has {data_bytes}")
    rising = all(before <= after for before, after in pairwise(documents))
    if not documents or documents[0] != 0 or documents[-1] != len(lengths) or not rising:
        raise BadIndexError(f"its documents do not divide sequences 0 … {len(lengths)}")


def _little(code: str, values: Iterable[int]) -> bytes:
    made = array.array(code, values)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def _read(content: bytes, code: str, at: int, count: int) -> array.array[int]:
    made: array.array[int] = array.array(code)
    made.frombytes(content[at : at + count * made.itemsize])
    if sys.byteorder == "big":
        made.byteswap()
    return made
