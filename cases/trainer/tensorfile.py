"""The safetensors format: files read where they lie, and written.

Eight bytes, the little-endian length of a JSON header; the header, name → dtype, shape and data_offsets; then
the raw little-endian data, without holes (huggingface.co/docs/safetensors). Nothing in it is ever executed,
which is why pickled weights (*.bin) are not read at all.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import stat
import struct
import sys
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import nn

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

# A model of 70 billion parameters has a header of 80 KB.
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_INTEGER_DIGITS = 19
MAX_DIMENSIONS = 8

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class WeightsError(ValueError):
    """The folders do not hold this model's weights; lists every problem found, one a line."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: bytes `start` … `stop` - 1 of it."""

    path: str
    dtype: str
    shape: Tuple[int, ...]
    start: int
    stop: int


def read_tensor(stored: Stored, files: Dict[str, mmap.mmap]) -> torch.Tensor:
    """The tensor as it is stored, a view of the mapped file; `files` keeps the mappings."""
    if stored.path not in files:
        with open(stored.path, "rb") as file:
            # A private copy that nothing writes to: torch warns of memory that it must not write.
            files[stored.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    dtype, count = TORCH_DTYPES[stored.dtype], math.prod(stored.shape)
    if count == 0:
        return torch.empty(stored.shape, dtype=dtype)
    buffer: Any = files[stored.path]
    start = stored.start
    if start % ITEM_BYTES[stored.dtype]:
        buffer, start = bytearray(buffer[start : stored.stop]), 0  # not every processor reads it as it lies
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=start).view(stored.shape)


def read_folder(folder: str, problems: List[str]) -> Dict[str, Stored]:
    """The tensors that the folder's files announce; what cannot be used is added to the problems."""
    index, single = os.path.join(folder, INDEX), os.path.join(folder, SINGLE)
    if os.path.exists(index) and os.path.exists(single):
        problems.append(
            "{}: holds {} and {}; which one is meant? Remove the other".format(folder, INDEX, SINGLE)
        )
        return {}
    if os.path.exists(index):
        return read_shards(folder, index, problems)
    if os.path.exists(single):
        return checked_header(single, problems)
    problems.append("{}: holds neither {} nor {}{}".format(folder, SINGLE, INDEX, pickle_hint(folder)))
    return {}


def read_shards(folder: str, index: str, problems: List[str]) -> Dict[str, Stored]:
    try:
        names = read_json(index).get("weight_map")
    except (OSError, WeightsError) as error:
        problems.append(str(error))
        return {}
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        problems.append("{}: weight_map must map names of tensors to names of files".format(index))
        return {}
    found: Dict[str, Stored] = {}
    for file in sorted(set(names.values())):
        if file != os.path.basename(file) or file in ("", ".", ".."):
            problems.append("{}: {!r:.200} is no file name".format(index, file))
            continue
        held = checked_header(os.path.join(folder, file), problems)
        listed = {name for name, one in names.items() if one == file}
        if held:
            problems.extend(
                "{}: {} has no {!r:.200}".format(index, file, name) for name in sorted(listed - set(held))
            )
            problems.extend(
                "{}: {!r:.200} is not in the index".format(file, name) for name in sorted(set(held) - listed)
            )
        found.update(held)
    return found


def checked_header(path: str, problems: List[str]) -> Dict[str, Stored]:
    try:
        return read_header(path)
    except (OSError, ValueError) as error:  # ValueError, too, for a name that no file can have
        problems.append(str(error))
        return {}


def read_header(path: str) -> Dict[str, Stored]:
    """What the file announces, every tensor inside the file and none on top of another.

    Raises WeightsError, OSError.
    """
    if sys.byteorder != "little":
        raise WeightsError("{}: is little-endian, this machine is not".format(path))
    size = regular_size(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= min(size - 8, MAX_JSON_BYTES):
            raise WeightsError(
                "{}: no safetensors file: header of {} bytes in {} bytes".format(path, length, size)
            )
        header = parse_json(file.read(length), path)
    begin = 8 + length
    header.pop("__metadata__", None)
    found = {name: stored_tensor(path, name, value, begin, size) for name, value in header.items()}
    position = begin
    for name, stored in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != position:
            what = "overlaps what is before it" if stored.start < position else "leaves a hole before it"
            raise WeightsError("{}: {!r:.200} {}".format(path, name, what))
        position = stored.stop
    if position != size:
        raise WeightsError("{}: {} bytes announced, {} there".format(path, position, size))
    return found


def stored_tensor(path: str, name: str, value: Any, begin: int, size: int) -> Stored:
    """One entry of a header. Raises WeightsError when it is not a tensor inside the file."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise WeightsError("{}: {!r:.200}: not dtype, shape and data_offsets".format(path, name))
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise WeightsError("{}: {!r:.200}: dtype {!r:.40} is not known".format(path, name, dtype))
    if not are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise WeightsError("{}: {!r:.200}: shape {!r:.200}".format(path, name, shape))
    if not are_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size - begin:
        raise WeightsError(
            "{}: {!r:.200}: data_offsets {!r:.200} are outside the file".format(path, name, offsets)
        )
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise WeightsError(
            "{}: {!r:.200}: {} bytes for {} {}".format(path, name, offsets[1] - offsets[0], dtype, shape)
        )
    return Stored(path, dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def read_json(path: str) -> Dict[str, Any]:
    """Raises WeightsError, OSError."""
    size = regular_size(path)
    if size > MAX_JSON_BYTES:
        raise WeightsError("{}: {} bytes are too many for it".format(path, size))
    with open(path, "rb") as file:
        return parse_json(file.read(), path)


def parse_json(text: bytes, path: str) -> Dict[str, Any]:
    """A JSON object, whoever wrote it. Raises WeightsError."""

    def unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return values

    def integer(digits: str) -> int:
        # Python takes quadratic time for a long one.
        if len(digits) > MAX_INTEGER_DIGITS:
            raise ValueError("an integer of {} digits".format(len(digits)))
        return int(digits)

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_int=integer)
    except (ValueError, RecursionError) as error:
        raise WeightsError("{}: not readable as JSON: {}".format(path, error)) from error
    if not isinstance(value, dict):
        raise WeightsError("{}: must be a JSON object".format(path))
    return value


def regular_size(path: str) -> int:
    """Bytes of a file; a pipe would be waited for without end. Raises WeightsError, OSError."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError("{}: is no file".format(path))
    return status.st_size


def pickle_hint(folder: str) -> str:
    try:
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in os.listdir(folder))
    except OSError as error:
        return " ({})".format(error.strerror)
    return (
        "; its *.bin are pickled and reading them could run code. "
        "Save the model as safetensors first: transformers' save_pretrained(safe_serialization=True)"
        if pickled
        else ""
    )


def make_header(parameters: Sequence[Tuple[str, nn.Parameter]]) -> Tuple[bytes, Dict[str, int], int]:
    """The first bytes of a file with these parameters, where each one's data starts, and the file's size."""
    words = {dtype: word for word, dtype in TORCH_DTYPES.items()}
    entries: Dict[str, Any] = {}
    position = 0
    for name, parameter in parameters:
        shape = list(getattr(parameter, "ds_shape", parameter.shape))
        word = words[parameter.dtype]
        stop = position + math.prod(shape) * ITEM_BYTES[word]
        entries[name] = {"dtype": word, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned
    header = struct.pack("<Q", len(text)) + text
    starts = {name: len(header) + entry["data_offsets"][0] for name, entry in entries.items()}
    return header, starts, len(header) + position


@contextlib.contextmanager
def new_file(path: str, size: int) -> Iterator[mmap.mmap]:
    """A file of that size to be filled, which takes its name when it is complete and on the disk."""
    beside = path + ".part"
    try:
        with open(beside, "w+b") as file:
            file.truncate(size)
            with mmap.mmap(file.fileno(), size) as data:
                yield data
                data.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def write_tensor(tensor: torch.Tensor, data: mmap.mmap, start: int) -> None:
    flat = tensor.to("cpu").contiguous().view(-1).view(torch.uint8)
    if flat.numel():
        torch.frombuffer(data, dtype=torch.uint8, count=flat.numel(), offset=start).copy_(flat)
