"""A prepared set of conversations about images: verified, mapped, made into padded micro-batches.

The files are those that the host's docs/data.md describes. Images are read when they are needed and held
against the SHA-256 in the set's list each time. torch is enough; Pillow is needed for image files, not for
raw ones.

Shape suffixes: B samples of a micro-batch, S positions of the longest of them, N images in reading order,
C channels, H and W pixels, T stored tokens, X samples of the set.
"""

from __future__ import annotations

import collections
import hashlib
import importlib
import io
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, Tuple

import torch

CHUNK_BYTES = 4 * 1024 * 1024
IGNORED_LABEL = -100
#: Threads that open image files; LLaVA trains with as many workers.
DECODERS = 4


class SampleError(ValueError):
    """The set, or an image of it, is not the planned one or cannot be read."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded on the right.

    inputs_BS: int64, an image's positions filled with the image token. labels_BS: int64, for every position
    the token after it, -100 where no loss is taken. lengths_B: int64, positions without padding.
    images_NCHW: float32, N may be 0. `real_tokens` counts positions without padding, `padded_tokens` with it;
    `wait_s` is how long the caller stood still for this batch.
    """

    indices: List[int]
    inputs_BS: torch.Tensor
    labels_BS: torch.Tensor
    lengths_B: torch.Tensor
    images_NCHW: torch.Tensor
    real_tokens: int
    padded_tokens: int
    wait_s: float = 0.0


class PreparedSet:
    """The samples of one folder, by index.

    `images` is the folder of images where the set does not bring them along. Every file but the images is
    held against its digest here, so a set that opens is the planned one. Raises SampleError.
    """

    def __init__(
        self,
        folder: str,
        *,
        manifest_sha256: Optional[str] = None,
        images: Optional[str] = None,
        vocab_size: Optional[int] = None,
        image_positions: Optional[int] = None,
    ) -> None:
        self.folder = folder
        self.manifest, self.sha256 = read_manifest(os.path.join(folder, "manifest.json"), manifest_sha256)
        for file in self.manifest["files"]:
            verify_file(os.path.join(folder, file["name"]), file["bytes"], file["sha256"])
        self._check_model(vocab_size, image_positions)
        inside = os.path.join(folder, "images") if self.manifest["images_in_set"] else None
        self.images = inside or images
        self._tokens_T = self._mapped("tokens.i32", torch.int32)
        self._learned_T = self._mapped("learned.u8", torch.uint8)
        self._offsets_X = self._mapped("offsets.i64", torch.int64)
        self._image_X = self._mapped("image.i32", torch.int32)
        self._list = self._mapped("images.sha256", torch.uint8)
        self._line_ends = (self._list == ord("\n")).nonzero().flatten()
        self._open_image = opener(self.manifest["image"])
        self._check_contents()
        is_raw = self.manifest["image"]["encoding"] == "rgb"
        self._decoders = None if is_raw else ThreadPoolExecutor(DECODERS, thread_name_prefix="images")

    def __len__(self) -> int:
        return int(self.manifest["num_samples"])

    def words(self) -> List[int]:
        """LLaVA's length of every sample, negative without an image: what GroupedOrder wants."""
        return list(self._mapped("words.i32", torch.int32).tolist())

    def question_ids(self) -> List[str]:
        """The questions of a set of questions, in the order of its samples."""
        path = os.path.join(self.folder, "questions.jsonl")
        with open(path, encoding="utf-8") as lines:
            return [json.loads(line)["id"] for line in lines]

    def batch(self, indices: List[int]) -> Batch:
        """The samples at `indices`, and their images. Raises SampleError naming the sample at fault."""
        samples = [self._sample(index) for index in indices]
        lengths_B = torch.tensor([len(tokens_S) for tokens_S, _ in samples])
        longest = int(lengths_B.max())
        inputs_BS = torch.full((len(indices), longest), self.manifest["pad_token"], dtype=torch.int64)
        labels_BS = torch.full((len(indices), longest), IGNORED_LABEL, dtype=torch.int64)
        for at, (tokens_S, labels_S) in enumerate(samples):
            inputs_BS[at, : len(tokens_S)] = tokens_S
            labels_BS[at, : len(labels_S)] = labels_S
        return Batch(
            indices=list(indices),
            inputs_BS=inputs_BS,
            labels_BS=labels_BS,
            lengths_B=lengths_B,
            images_NCHW=self._images([index for index in indices if self._image_X[index] >= 0]),
            real_tokens=int(lengths_B.sum()),
            padded_tokens=inputs_BS.numel(),
        )

    def _sample(self, index: int) -> Tuple[torch.Tensor, torch.Tensor]:
        """(tokens, labels), both of the sample's length."""
        begin, end = self._offsets_X[index : index + 2].tolist()
        tokens_T = self._tokens_T[begin:end].long()
        places = (tokens_T == self.manifest["image_token"]).nonzero().flatten().tolist()
        tokens_S = widened(tokens_T, places, times=self.manifest["image_positions"])
        learned_T = self._learned_T[begin:end]
        learned_S = widened(learned_T, places, times=self.manifest["image_positions"]).bool()
        labels_S = torch.full_like(tokens_S, IGNORED_LABEL)
        labels_S[:-1] = torch.where(learned_S[1:], tokens_S[1:], labels_S[1:])
        return tokens_S, labels_S

    def _images(self, indices: List[int]) -> torch.Tensor:
        if not indices:
            side = self.manifest["image"]["side"]
            return torch.zeros((0, 3, side, side))
        load = self._decoders.map if self._decoders else map
        return torch.stack(list(load(self._image, indices)))

    def _image(self, index: int) -> torch.Tensor:
        content, path = self._content(index)
        try:
            return self._open_image(content)
        except Exception as error:  # whatever a library says about a damaged file
            raise SampleError("sample {}: image {}: {}".format(index, path, error)) from error

    def _content(self, index: int) -> Tuple[bytes, str]:
        digest, name = self._listed(int(self._image_X[index]))
        path = os.path.join(str(self.images), name)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise SampleError("sample {}: image {}: {}".format(index, path, error.strerror)) from error
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise SampleError(
                "sample {}: image {}: SHA-256 is {}, the set was made with {}".format(
                    index, path, found, digest
                )
            )
        return content, path

    def _listed(self, number: int) -> Tuple[str, str]:
        begin = int(self._line_ends[number - 1]) + 1 if number else 0
        line = bytes(self._list[begin : int(self._line_ends[number])].tolist()).decode("utf-8")
        digest, _, name = line.partition("  ")
        return digest, name

    def _mapped(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        path = os.path.join(self.folder, name)
        count = os.path.getsize(path) // torch.empty(0, dtype=dtype).element_size()
        # A file without a byte cannot be mapped.
        return (
            torch.from_file(path, shared=False, size=count, dtype=dtype)
            if count
            else torch.empty(0, dtype=dtype)
        )

    def _check_model(self, vocab_size: Optional[int], image_positions: Optional[int]) -> None:
        if image_positions not in (None, self.manifest["image_positions"]):
            raise SampleError(
                "{}: an image takes {} positions here, {} in the model".format(
                    self.folder, self.manifest["image_positions"], image_positions
                )
            )
        if vocab_size is not None and self.manifest["vocab_size"] > vocab_size:
            raise SampleError(
                "{}: a vocabulary of {}, the model's is {}".format(
                    self.folder, self.manifest["vocab_size"], vocab_size
                )
            )
        if sys.byteorder != "little":
            raise SampleError("prepared sets are little-endian, this machine is not")

    def _check_contents(self) -> None:
        """That the files agree with each other: a wrong index would be felt far from here."""
        count, tokens = len(self), len(self._tokens_T)
        offsets_X = self._offsets_X
        sound = (
            count > 0
            and len(offsets_X) == count + 1
            and len(self._image_X) == count
            and len(self._learned_T) == tokens
            and int(offsets_X[0]) == 0
            and int(offsets_X[-1]) == tokens
            and bool((offsets_X[1:] > offsets_X[:-1]).all())
            and int(self._image_X.max()) < len(self._line_ends)
        )
        if not sound:
            raise SampleError("{}: its files do not belong together".format(self.folder))
        ordinary = self._tokens_T[self._tokens_T != self.manifest["image_token"]]
        if int(ordinary.min()) < 0 or int(ordinary.max()) >= self.manifest["vocab_size"]:
            raise SampleError(
                "{}: tokens outside its vocabulary of {}".format(self.folder, self.manifest["vocab_size"])
            )
        if self.images is None and len(self._line_ends):
            raise SampleError("{}: the folder of its images is not named".format(self.folder))


def widened(values_T: torch.Tensor, places: List[int], *, times: int) -> torch.Tensor:
    """The values with each of those at `places` repeated. Not repeat_interleave: it wakes every thread of
    torch for a handful of numbers, and they are busy computing.
    """
    parts, done = [], 0
    for place in places:
        parts += [values_T[done:place], values_T[place].expand(times)]
        done = place + 1
    return torch.cat([*parts, values_T[done:]])


def read_manifest(path: str, planned_sha256: Optional[str]) -> Tuple[Dict[str, Any], str]:
    """The manifest and its own SHA-256. Raises SampleError when it is not the planned one."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        manifest = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise SampleError("{}: {}".format(path, error.strerror)) from error
    except ValueError as error:
        raise SampleError("{}: not JSON".format(path)) from error
    found = hashlib.sha256(content).hexdigest()
    if planned_sha256 not in (None, found):
        raise SampleError("{}: SHA-256 is {}, planned is {}".format(path, found, planned_sha256))
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        raise SampleError("{}: not the manifest of a prepared set".format(path))
    return manifest, found


def verify_file(path: str, size: int, sha256: str) -> None:
    """Raises SampleError unless the file has this size and this SHA-256."""
    found = hashlib.sha256()
    try:
        if os.path.getsize(path) != size:
            raise SampleError("{}: {} bytes, not {}".format(path, os.path.getsize(path), size))
        with open(path, "rb", buffering=0) as file:
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                found.update(chunk)
    except OSError as error:
        raise SampleError("{}: {}".format(path, error.strerror)) from error
    if found.hexdigest() != sha256:
        raise SampleError("{}: SHA-256 is {}, not {}".format(path, found.hexdigest(), sha256))


def opener(form: Dict[str, Any]) -> Callable[[bytes], torch.Tensor]:
    """The function that turns an image's bytes into float32 CHW. Raises SampleError without Pillow where it
    is needed.
    """
    mean_C11 = torch.tensor(form["mean"]).view(3, 1, 1)
    std_C11 = torch.tensor(form["std"]).view(3, 1, 1)
    side = form["side"]

    def normal(pixels: bytes) -> torch.Tensor:
        # frombuffer shares memory and wants to be allowed to write to it.
        image_HWC = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(side, side, 3)
        return (image_HWC.permute(2, 0, 1) * (1 / 255) - mean_C11) / std_C11

    if form["encoding"] == "rgb":
        return normal
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise SampleError(
            "the images of this set are files: reading them needs the package Pillow"
        ) from error
    ground = tuple(int(value * 255) for value in form["mean"])

    def opened(content: bytes) -> torch.Tensor:
        with pillow.open(io.BytesIO(content)) as stored:
            image = stored.convert("RGB")
        if form["fit"] == "pad":
            image = squared(image, ground)
        return normal(cropped(image, side).tobytes())

    return opened


def squared(image: Any, ground: Tuple[int, ...]) -> Any:
    """The image in the middle of a square of one colour, as LLaVA's `pad`."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = importlib.import_module("PIL.Image").new("RGB", (side, side), ground)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def cropped(image: Any, side: int) -> Any:
    """The shorter side made `side` long (bicubic), then the middle: CLIP's preprocessor."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(side * long / short)
    size = (side, longer) if width <= height else (longer, side)
    image = image.resize(size, resample=importlib.import_module("PIL.Image").BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return image.crop((left, top, left + side, top + side))


def micro_batches(
    order: Any, *, steps: Iterable[int], dp_rank: int, dp: int, mbs: int, gas: int
) -> Iterator[List[int]]:
    """The indices of this rank's micro-batches, step by step; `dp_rank` is counted over all nodes."""
    for step in steps:
        for micro_batch in range(gas):
            yield order.micro_batch(step, micro_batch, dp_rank=dp_rank, dp=dp, mbs=mbs, gas=gas)


class Prefetch:
    """Batches in the order of `indices`, up to `depth` of them made ahead by one thread.

    What goes wrong there is raised here, in its turn. Leaving the block, or close(), ends the thread.
    `wait_s` sums up how long the caller stood still.
    """

    def __init__(
        self, make: Callable[[List[int]], Batch], indices: Iterable[List[int]], *, depth: int = 4
    ) -> None:
        self.wait_s = 0.0
        self._make, self._indices, self._depth = make, indices, depth
        self._ready: Deque[Any] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        # A daemon: a rank that dies of something else must not be kept alive by its data.
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        asked_s = time.monotonic()
        with self._changed:
            while not self._ready and not self._closed:
                self._changed.wait()
            if self._closed:
                raise StopIteration
            found = self._ready[0]
            if isinstance(found, Batch):
                self._ready.popleft()  # an error or the end stays, for whoever asks again
                self._changed.notify_all()
        waited_s = time.monotonic() - asked_s
        if not isinstance(found, Batch):
            raise found
        self.wait_s += waited_s
        return replace(found, wait_s=waited_s)

    def close(self) -> None:
        """Ends the thread, after the batch it is at."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        try:
            for indices in self._indices:
                if not self._put(self._make(indices)):
                    return
            self._put(StopIteration())
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            self._put(error)

    def _put(self, item: Any) -> bool:
        with self._changed:
            while len(self._ready) >= self._depth and not self._closed:
                self._changed.wait()
            self._ready.append(item)
            self._changed.notify_all()
            return not self._closed
