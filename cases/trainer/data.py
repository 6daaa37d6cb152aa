"""What a rank is fed: micro-batches of a token file or of a prepared set, in the planned order.

The token file is verified, mapped, and cut into fixed windows. It holds raw little-endian integers and
nothing else. Window i begins at token i × sequence_length and is one token longer, because every position's
label is the token after it; windows share that one token and nothing more. Shape suffixes: W windows, B
sequences of a micro-batch, S sequence length, T tokens of the file.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional, Tuple, Union

import torch
from grouping import GroupedOrder
from indexed import IndexedError, read_indexed
from llava import LlavaConfig, check_images
from order import SequenceOrder
from samples import Prefetch, PreparedSet, micro_batches

if TYPE_CHECKING:
    import job as jobs

#: What the model's forward takes.
Batch = Tuple[torch.Tensor, ...]

CHUNK_BYTES = 4 * 1024 * 1024


class DataError(ValueError):
    """The token file is not the planned one."""


class Piece(NamedTuple):
    """One micro-batch. `tokens` counts padding too; the three that follow only where there is any.

    `wait_s` is how long the rank stood still for it.
    """

    tensors: Batch
    samples: int
    tokens: int
    wait_s: float
    real_tokens: Optional[int] = None
    labelled_tokens: int = 0
    images: int = 0


class Fed:
    """Micro-batches on their way into the engine, counted as they pass: what was trained, not what was
    planned.
    """

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self.samples = self.tokens = self.labelled_tokens = self.images = 0
        self.real_tokens: Optional[int] = None
        self.wait_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        for piece in self._pieces:
            self.samples += piece.samples
            self.tokens += piece.tokens
            self.labelled_tokens += piece.labelled_tokens
            self.images += piece.images
            self.wait_s += piece.wait_s
            if piece.real_tokens is not None:
                self.real_tokens = (self.real_tokens or 0) + piece.real_tokens
            yield piece.tensors


def make_feed(job: jobs.Job, *, rank: int) -> Union[TextFeed, SetFeed]:
    """What feeds data rank `rank`, counted over all nodes. Raises DataError or SampleError."""
    return TextFeed(job, rank) if job.data.samples is None else SetFeed(job, job.data.samples, rank)


class TextFeed:
    """Windows of a token file, shuffled."""

    def __init__(self, job: jobs.Job, rank: int) -> None:
        self._windows = Windows(
            job.data, sequence_length=job.batch.sequence_length, vocab_size=job.model.vocab_size
        )
        self._order = SequenceOrder(len(self._windows), job.seed)
        self._batch, self._rank = job.batch, rank
        self.sha256, self.num_tokens = self._windows.sha256, self._windows.num_tokens
        self.sequence_length = self._windows.sequence_length

    def __enter__(self) -> TextFeed:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def micro_batches(self, step: int, device: torch.device) -> Iterator[Piece]:
        """Those of this rank in optimizer step `step`, from 0."""
        batch = self._batch
        for indices in micro_batches(self._order, steps=(step,), **placed(batch, self._rank)):
            asked_s = time.monotonic()
            tensors = self._windows.batch(indices, device)
            wait_s = time.monotonic() - asked_s
            yield Piece(tensors, tensors[0].shape[0], tensors[0].numel(), wait_s)


class SetFeed:
    """Samples of a prepared set, made ahead by a thread; leaving the block ends it."""

    def __init__(self, job: jobs.Job, planned: jobs.Samples, rank: int) -> None:
        config = llava_config(job.model)
        self._samples = PreparedSet(
            os.path.dirname(job.data.file),
            manifest_sha256=job.data.sha256,
            images=planned.images,
            vocab_size=job.model.vocab_size,
            image_positions=config.vision.num_patches,
        )
        manifest, batch = self._samples.manifest, job.batch
        if len(self._samples) != planned.num_samples:
            raise DataError("{}: {} samples, planned {}".format(job.data.file, len(self._samples), planned))
        self.sha256, self.num_tokens = self._samples.sha256, int(manifest["num_tokens"])
        self.sequence_length = manifest["model_max_length"]
        order: Union[SequenceOrder, GroupedOrder] = SequenceOrder(len(self._samples), job.seed)
        if planned.order == "grouped":
            order = GroupedOrder(
                self._samples.words(),
                job.seed,
                global_batch_size=batch.global_batch_size,
                micro_batch_size=batch.micro_batch_size,
            )

        def checked(indices: List[int]) -> Any:
            made = self._samples.batch(indices)
            check_images(made.inputs_BS, made.images_NCHW, config=config)
            return made

        steps = range(job.steps.planned)
        self._prefetch = Prefetch(checked, micro_batches(order, steps=steps, **placed(batch, rank)))
        self._accumulation = batch.gradient_accumulation_steps

    def __enter__(self) -> SetFeed:
        return self

    def __exit__(self, *_: Any) -> None:
        self._prefetch.close()

    def micro_batches(self, step: int, device: torch.device) -> Iterator[Piece]:  # noqa: ARG002
        """Those of this rank in the next optimizer step."""
        for _ in range(self._accumulation):
            made = next(self._prefetch)
            yield Piece(
                tensors=tuple(x.to(device) for x in (made.inputs_BS, made.labels_BS, made.images_NCHW)),
                samples=made.inputs_BS.shape[0],
                tokens=made.padded_tokens,
                wait_s=made.wait_s,
                real_tokens=made.real_tokens,
                labelled_tokens=int((made.labels_BS >= 0).sum()),
                images=made.images_NCHW.shape[0],
            )


def placed(batch: jobs.Batch, rank: int) -> Any:
    """Where a rank stands in a global batch, as the orders ask for it."""
    return {
        "dp_rank": rank,
        "dp": batch.data_parallel_size,
        "mbs": batch.micro_batch_size,
        "gas": batch.gradient_accumulation_steps,
    }


#: What stands for an image in a prepared set; no tokenizer has a negative id.
IMAGE_TOKEN = -200


def llava_config(model: jobs.Model) -> LlavaConfig:
    assert model.vision is not None  # the job was checked
    return LlavaConfig(language=model, vision=model.vision, image_token_id=IMAGE_TOKEN)


#: torch 2.0 has no 16-bit numbers without a sign: the same bytes with one, and the sign taken off later.
UNSIGNED = {"uint16": ("int16", 0xFFFF)}


class Windows:
    """The verified file as a table of windows. Raises DataError when it is not the planned file."""

    def __init__(self, data: jobs.Data, *, sequence_length: int, vocab_size: int) -> None:
        name, self._mask = UNSIGNED.get(data.dtype, (data.dtype, None))
        dtype = getattr(torch, name)
        if data.index is not None:
            check_index(data, data.index)
        self.sha256 = verified_sha256(data, torch.empty(0, dtype=dtype).element_size())
        self.num_tokens = data.num_tokens
        self.sequence_length = sequence_length
        self._count = (data.num_tokens - 1) // sequence_length
        if self._count < 1:
            raise DataError(
                "{}: {} tokens make no window of {} + 1".format(data.file, data.num_tokens, sequence_length)
            )
        tokens_T = torch.from_file(data.file, shared=False, size=data.num_tokens, dtype=dtype)
        least, most = self._extremes(tokens_T)
        if least < 0 or most >= vocab_size:
            # Devices answer a wrong index with an assertion far from here, or with nothing at all.
            raise DataError(
                "{}: tokens {} … {} with a vocabulary of {}".format(data.file, least, most, vocab_size)
            )
        self._windows_WS = tokens_T.as_strided((self._count, sequence_length + 1), (sequence_length, 1))

    def __len__(self) -> int:
        return self._count

    def _extremes(self, tokens_T: torch.Tensor) -> Tuple[int, int]:
        if self._mask is None:
            return int(tokens_T.min()), int(tokens_T.max())
        pieces = (piece.int() & self._mask for piece in tokens_T.split(CHUNK_BYTES))
        found = [(int(piece.min()), int(piece.max())) for piece in pieces]
        return min(least for least, _ in found), max(most for _, most in found)

    def batch(self, indices: List[int], device: torch.device) -> Batch:
        """(inputs_BS, labels_BS) as int64 on the device."""
        window_BS = self._windows_WS.index_select(0, torch.tensor(indices)).long()
        if self._mask is not None:
            window_BS &= self._mask
        window_BS = window_BS.to(device)
        return window_BS[:, :-1], window_BS[:, 1:]


def check_index(data: jobs.Data, planned: jobs.Index) -> None:
    """Raises DataError unless the index is the planned one and describes the planned tokens."""
    try:
        found = read_indexed(planned.file, data.file)
    except IndexedError as error:
        raise DataError(str(error)) from error
    seen = (found.sha256, found.dtype, found.num_tokens, len(found.lengths), found.num_documents)
    due = (planned.sha256, data.dtype, data.num_tokens, planned.num_sequences, planned.num_documents)
    if seen != due:
        raise DataError(
            "{}: SHA-256, type, tokens, sequences, documents are {}, planned {}".format(
                planned.file, seen, due
            )
        )


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
