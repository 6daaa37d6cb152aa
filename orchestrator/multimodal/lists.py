"""A prepared set as a plan needs it: its manifest, what its batches can be recomputed from, and for questions
the key that answers are scored with.
"""

from __future__ import annotations

import array
import hashlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.multimodal.preparedset import IMAGE, MANIFEST, OFFSETS, WORDS, SetManifest, verify
from orchestrator.multimodal.questions import key_file

if TYPE_CHECKING:
    from pathlib import Path

#: Kinds of tokenizer files, by their ending.
TOKENIZER_SUFFIXES = (".model", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """`sha256` is of manifest.json. `lengths` are positions as they enter the model, negative for a sample
    without an image, `words` LLaVA's lengths for grouping; both little-endian, four bytes a sample.
    """

    manifest: SetManifest
    sha256: str
    lengths: bytes
    words: bytes

    @property
    def lengths_sha256(self) -> str:
        return hashlib.sha256(self.lengths).hexdigest()

    @property
    def words_sha256(self) -> str:
        return hashlib.sha256(self.words).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKey:
    """The key's file and, where tokens are not bytes, the tokenizer's: what scoring needs, as it was read."""

    key: bytes
    tokenizer: bytes | None
    tokenizer_suffix: str

    @property
    def key_sha256(self) -> str:
        return hashlib.sha256(self.key).hexdigest()

    @property
    def tokenizer_sha256(self) -> str | None:
        return None if self.tokenizer is None else hashlib.sha256(self.tokenizer).hexdigest()


def samples(folder: Path, name: str) -> Samples:
    """The set, checked file by file. Raises what `verify` does."""
    manifest = verify(folder, name)
    root = folder / name
    return Samples(
        manifest=manifest,
        sha256=hashlib.sha256((root / MANIFEST).read_bytes()).hexdigest(),
        lengths=_lengths(root, manifest),
        words=(root / WORDS).read_bytes(),
    )


def _lengths(root: Path, manifest: SetManifest) -> bytes:
    offsets, images = _read(root / OFFSETS, "q"), _read(root / IMAGE, "i")
    wider = manifest.image_positions - 1
    found = array.array("i")
    for at, image in enumerate(images):
        stored = offsets[at + 1] - offsets[at]
        found.append(stored + wider if image >= 0 else -stored)
    return _little(found).tobytes()


def _read(path: Path, typecode: str) -> array.array[int]:
    found: array.array[int] = array.array(typecode)
    found.frombytes(path.read_bytes())
    return _little(found)


def _little(values: array.array[int]) -> array.array[int]:
    if sys.byteorder == "big":
        values.byteswap()
    return values


def answer_key(folder: Path, manifest: SetManifest) -> AnswerKey:
    """What the answers to these questions are scored with. Raises ConfigError (E725) for what is missing or
    not of these questions.
    """
    path = key_file(folder, manifest.name)
    try:
        key = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error.strerror or "cannot be read") from error
    if hashlib.sha256(key).hexdigest() != manifest.key_sha256:
        raise _unusable(path, f"not the key of {manifest.name}: its manifest names another SHA-256")
    if manifest.tokenizer_sha256 is None:
        return AnswerKey(key=key, tokenizer=None, tokenizer_suffix="")
    for suffix in TOKENIZER_SUFFIXES:
        path = tokenizer_file(folder, manifest.name, suffix)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() == manifest.tokenizer_sha256:
            return AnswerKey(key=key, tokenizer=content, tokenizer_suffix=suffix)
    path = tokenizer_file(folder, manifest.name, TOKENIZER_SUFFIXES[0])
    raise _unusable(path, f"the tokenizer that {manifest.name} was made with is not here")


def tokenizer_file(folder: Path, name: str, suffix: str) -> Path:
    """Where the tokenizer of questions lies, which their answers are read with."""
    return folder / f"{name}.tokenizer{suffix}"


def _unusable(path: Path, why: str) -> ConfigError:
    help_ = "it is made with its questions, by nx8 data prepare, and stays on this host"
    return ConfigError(Problem(code="E725", file=str(path), message=why, help=help_))
