"""Published weights that a case begins with: a Hugging Face folder below the data folder, with a list of its
files beside them that says which bytes they are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.data import NAME, file_sha256
from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "nx8-weights.json"
#: Of a Hugging Face folder the files that are read; the rest of it is not.
READ = ("*.safetensors", "*.safetensors.index.json", "config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsManifest:
    """The files that are read of a folder, by name."""

    schema: Literal[1]
    name: str
    files: tuple[WeightFile, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def prepare(folder: Path, name: str) -> Path:
    """Reads every file of `folder`/`name` once and writes their list. Returns its path.

    Raises ConfigError (E123) when there are no safetensors in it.
    """
    from orchestrator.results import write_atomic

    root = folder / name
    found = sorted({path for pattern in READ for path in root.glob(pattern) if path.is_file()})
    if not NAME.fullmatch(name) or not any(path.suffix == ".safetensors" for path in found):
        raise _missing(name, f"{root} holds no .safetensors file")
    manifest = WeightsManifest(
        schema=1,
        name=name,
        files=tuple(
            WeightFile(name=path.name, bytes=path.stat().st_size, sha256=file_sha256(path)) for path in found
        ),
    )
    write_atomic(root / MANIFEST, manifest.to_json().encode("utf-8"))
    return root / MANIFEST


def listed(folder: Path, name: str) -> tuple[WeightsManifest, str]:
    """The list of a folder's files and its SHA-256, every file there and of its size; the bytes are held
    against the list where they are read. Raises ConfigError (E123).
    """
    from orchestrator.load import read_stored

    path = folder / name / MANIFEST
    if not path.is_file():
        raise _missing(name, f"{path} is missing")
    manifest = read_stored(path, WeightsManifest)
    for file in manifest.files:
        at = folder / name / file.name
        size = at.stat().st_size if at.is_file() else None
        if size != file.bytes:
            seen = "missing" if size is None else f"{size} bytes, not {file.bytes}"
            raise _missing(name, f"{at}: {seen}")
    return manifest, hashlib.sha256(path.read_bytes()).hexdigest()


def _missing(name: str, why: str) -> ConfigError:
    help_ = f"put the Hugging Face folder there, then: nx8 data weights {name}"
    return ConfigError(Problem(code="E123", message=f"the weights {name} cannot be used: {why}", help=help_))
