"""The files of a prepared set, and the check that they still belong together.

    <folder>/<name>/manifest.json    what the others are, written last: a set without one was never finished
                    tokens.i32       all samples one after the other, one IMAGE_TOKEN an image
                    learned.u8       1 where loss is taken on the token, else 0
                    offsets.i64      where sample i begins in both; one more entry than samples
                    image.i32        sample i's line of the list of images, -1 for none
                    words.i32        LLaVA's length of sample i for grouping, negative for text alone
                    images.sha256    "<sha256>  <name>" a line, as sha256sum writes and checks it
                    images/          only where the set brings its images along

Integers are little-endian. No clock, no path of this machine: the same inputs give the same bytes.
"""

from __future__ import annotations

import array
import hashlib
import json
import os
import secrets
import shutil
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Self

from orchestrator.data import NAME, file_sha256
from orchestrator.errors import CellError, ConfigError, Problem
from orchestrator.multimodal.description import IMAGE_TOKEN, ImageForm
from orchestrator.multimodal.layout import Named, missing_image
from orchestrator.multimodal.template import fit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.multimodal.template import Encoded
    from orchestrator.tokenizers import Tokenizer

MANIFEST = "manifest.json"
TOKENS, LEARNED, OFFSETS, IMAGE, WORDS = "tokens.i32", "learned.u8", "offsets.i64", "image.i32", "words.i32"
IMAGE_LIST, IMAGE_FOLDER = "images.sha256", "images"
#: Tokens held before they are written.
FLUSH_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetManifest:
    """What a prepared set is.

    `num_tokens` counts positions as they enter the model, an image's included, padding never;
    `mean_length` is that per sample: the published documents' sequence length. `source` is the file, or the
    list of files, that all comes from, null for a proxy's questions. `num_cut` samples were longer than
    `model_max_length`, `num_images_lost` of them before their image ended. `key_sha256` is of the answer key
    of questions.
    """

    schema: Literal[1]
    kind: Literal["conversations", "questions"]
    name: str
    dataset: str
    template: Literal["plain", "v1", "v1-prompt"]
    tokenizer: str
    tokenizer_sha256: str | None
    vocab_size: int
    pad_token: int
    eos_token: int | None
    image_token: int
    image_positions: int
    model_max_length: int | None
    image: ImageForm
    images_in_set: bool
    num_samples: int
    num_image_samples: int
    num_images: int
    num_tokens: int
    num_learned_tokens: int
    mean_length: float
    max_length: int
    num_cut: int
    num_images_lost: int
    source: StoredFile | None
    key_sha256: str | None
    files: tuple[StoredFile, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetForm:
    """What is known of a set before its first sample. `model_max_length` null: samples are never cut."""

    kind: Literal["conversations", "questions"]
    name: str
    dataset: str
    template: Literal["plain", "v1", "v1-prompt"]
    image: ImageForm
    image_positions: int
    model_max_length: int | None
    images_in_set: bool


def is_set(folder: Path, name: str) -> bool:
    return (folder / name / MANIFEST).is_file()


def refuse_taken(folder: Path, name: str) -> None:
    """Raises ConfigError (E711, E720) for a name that cannot be used or is taken."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            Problem(
                code="E711",
                message=f"{name!r} cannot name a prepared set",
                help="letters, digits, '.', '_' and '-', 63 at most",
            )
        )
    if (folder / name).exists():
        help_ = "remove it, or choose another name"
        raise ConfigError(
            Problem(code="E720", file=str(folder / name), message="this is there already", help=help_)
        )


@contextmanager
def new_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder that becomes `folder`/`name` when the block ends well, and is gone otherwise.

    Raises what refuse_taken does, and CellError (E701) when it cannot be written.
    """
    from orchestrator.results.storage import make_folder, storage_problem

    refuse_taken(folder, name)
    target = folder / name
    beside = folder / f".{name}.{secrets.token_hex(8)}"
    try:
        make_folder(folder)
        beside.mkdir(mode=0o700)
        yield beside
        beside.rename(target)
    except OSError as error:
        raise CellError(storage_problem(error, target, code="E701")) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(beside)


class SetWriter:
    """Writes a set's files sample by sample; only offsets and the names of images stay in memory."""

    def __init__(self, folder: Path, *, form: SetForm, tokenizer: Tokenizer, images: Path) -> None:
        self._folder, self._form, self._tokenizer, self._images = folder, form, tokenizer, images
        self._tokens, self._learned = _Column(folder / TOKENS, "i"), _Column(folder / LEARNED, "B")
        self._offsets, self._image = array.array("q", [0]), array.array("i")
        self._words = array.array("i")
        self._numbers: dict[str, int] = {}
        self._lines = _Column(folder / IMAGE_LIST, "B")
        self._num_tokens = self._num_learned = self._longest = self._cut = self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for column in (self._tokens, self._learned, self._lines):
            column.release()

    def add(self, encoded: Encoded, *, image: str | None, words: int) -> None:
        """Raises ConfigError (E717) when the image is gone since it was looked for."""
        positions = self._form.image_positions
        limit = self._form.model_max_length or sys.maxsize
        fitted = fit(encoded, image_positions=positions, limit=limit)
        number = -1 if image is None or fitted.image_lost else self._image_number(image)
        self._tokens.extend(fitted.encoded.tokens)
        self._learned.extend(fitted.encoded.learned)
        self._offsets.append(self._offsets[-1] + len(fitted.encoded.tokens))
        self._image.append(number)
        self._words.append(words)
        self._num_tokens += fitted.length
        self._num_learned += sum(fitted.encoded.learned)
        self._longest = max(self._longest, fitted.length)
        self._cut += fitted.cut
        self._lost += fitted.image_lost

    def _image_number(self, name: str) -> int:
        if name not in self._numbers:
            problem = missing_image(self._images, name, number=len(self._image))
            if problem is not None:
                raise ConfigError(problem)
            try:
                digest = file_sha256(self._images / name)
            except OSError as error:
                why = error.strerror or "cannot be read"
                raise ConfigError(Problem(code="E717", file=str(self._images / name), message=why)) from error
            self._lines.extend(f"{digest}  {name}\n".encode())
            self._numbers[name] = len(self._numbers)
        return self._numbers[name]

    def finish(
        self, *, source: StoredFile | None, key_sha256: str | None = None, further: tuple[str, ...] = ()
    ) -> SetManifest:
        """Writes what is left, the manifest last. `further` are files of the set that others wrote."""
        for name, values in ((OFFSETS, self._offsets), (IMAGE, self._image), (WORDS, self._words)):
            _write(self._folder / name, values)
        for column in (self._tokens, self._learned, self._lines):
            column.close()
        form, tokenizer, num_samples = self._form, self._tokenizer, len(self._image)
        names = (TOKENS, LEARNED, OFFSETS, IMAGE, WORDS, IMAGE_LIST, *further)
        manifest = SetManifest(
            schema=1,
            **{key: getattr(form, key) for key in form.__slots__},
            tokenizer=tokenizer.name,
            tokenizer_sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            pad_token=tokenizer.pad,
            eos_token=tokenizer.eos,
            image_token=IMAGE_TOKEN,
            num_samples=num_samples,
            num_image_samples=sum(number >= 0 for number in self._image),
            num_images=len(self._numbers),
            num_tokens=self._num_tokens,
            num_learned_tokens=self._num_learned,
            mean_length=self._num_tokens / num_samples,
            max_length=self._longest,
            num_cut=self._cut,
            num_images_lost=self._lost,
            source=source,
            key_sha256=key_sha256,
            files=tuple(stored(self._folder / name) for name in names),
        )
        _write(self._folder / MANIFEST, array.array("B", manifest.to_json().encode("utf-8")))
        return manifest


class _Column:
    """A file of integers, appended to and forced out at its end."""

    def __init__(self, path: Path, typecode: str) -> None:
        self._file = path.open("xb")
        self._held = array.array(typecode)

    def extend(self, values: array.array[int] | list[int] | bytes) -> None:
        self._held.extend(values)
        if len(self._held) >= FLUSH_TOKENS:
            self._flush()

    def _flush(self) -> None:
        if sys.byteorder == "big":
            self._held.byteswap()
        self._file.write(self._held.tobytes())
        del self._held[:]

    def close(self) -> None:
        self._flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.release()

    def release(self) -> None:
        self._file.close()


def _write(path: Path, values: array.array[int]) -> None:
    column = _Column(path, values.typecode)
    try:
        column.extend(values)
        column.close()
    finally:
        column.release()


def stored(path: Path) -> StoredFile:
    return StoredFile(name=path.name, bytes=path.stat().st_size, sha256=file_sha256(path))


def listed_sources(paths: list[Path], *, root: Path) -> StoredFile:
    """Several files as one: the digest of their list, as sha256sum writes it."""
    lines = "".join(f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in paths)
    return StoredFile(
        name=f"{len(paths)} files",
        bytes=sum(path.stat().st_size for path in paths),
        sha256=hashlib.sha256(lines.encode("utf-8")).hexdigest(),
    )


def verify(folder: Path, name: str, *, images: Path | None = None) -> SetManifest:
    """The manifest of a set whose files were just checked against it; with `images`, or where the set brings
    its own, every image too.

    Raises ConfigError: E721 for a missing or unfinished set, E722 for changed bytes, E717 for images that
    are gone.
    """
    from orchestrator.load import read_stored

    root = folder / name
    if not NAME.fullmatch(name) or not is_set(folder, name):
        raise ConfigError(
            Problem(
                code="E721",
                message=f"the prepared set {name} is not in {folder}, or was never finished",
                help="nx8 data prepare --help says how one is made",
            )
        )
    manifest = read_stored(root / MANIFEST, SetManifest)
    problems = Named()
    for file in manifest.files:
        problem = _changed(root / file.name, file)
        if problem is not None:
            problems.add(problem)
    problems.raise_any(f"{len(manifest.files)} files")
    where = root / IMAGE_FOLDER if manifest.images_in_set else images
    if where is not None:
        _verify_images(root / IMAGE_LIST, where)
    return manifest


def _changed(path: Path, wanted: StoredFile) -> Problem | None:
    try:
        seen = path.stat().st_size
        digest = file_sha256(path) if seen == wanted.bytes else None
    except OSError as error:
        return Problem(code="E721", file=str(path), message=error.strerror or "cannot be read")
    if digest == wanted.sha256:
        return None
    what = f"its sha256 is {digest}, not {wanted.sha256}" if digest else f"{seen} bytes, not {wanted.bytes}"
    return Problem(
        code="E722",
        file=str(path),
        message=f"not the file of its manifest: {what}",
        help="changed or cut after it was made: remove the whole folder, prepare the set again",
    )


def _verify_images(listing: Path, where: Path) -> None:
    problems = Named()
    count = 0
    with listing.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            count += 1
            digest, _, name = line.rstrip("\n").partition("  ")
            problem = missing_image(where, name, number=number)
            if problem is None and file_sha256(where / name) != digest:
                problem = Problem(
                    code="E722", file=str(where / name), message="not the image that the set was made with"
                )
            if problem is not None:
                problems.add(problem)
    problems.raise_any(f"{count} images")
