"""A run's folder → one file to hand to somebody else: what says how the run went, without secrets, and a list
of all that it holds and all that was left out. The same folder gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from orchestrator.derive.rawfiles import read_chunks, regular_files
from orchestrator.errors import ConfigError, Problem
from orchestrator.results.storage import storage_problem

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.bundle.redact import Redactor
    from orchestrator.results import RunFolder

#: Of a longer file the first and the last half of this are kept.
KEPT_BYTES = 4 << 20
#: What is no word about how a run went: weights, token lists, and the answers to questions.
LEFT_OUT = {".safetensors": "weights", ".bin": "binary data", ".tokens": "tokens", ".idx": "binary data"}
KEYS = "samples"
MANIFEST = "MANIFEST.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One file of a bundle. `size` and `sha256` are those of the bytes in it, `original_size` of the run's
    own; `masked` counts what was put out of sight, `dropped_bytes` what was cut out of the middle.
    """

    path: str
    size: int
    sha256: str
    original_size: int
    masked: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    path: str
    size: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The bytes of a .tar.gz, and what is in it."""

    data: bytes
    held: tuple[Held, ...]
    left_out: tuple[LeftOut, ...]


def bundle(folder: RunFolder, redactor: Redactor, *, version: str) -> Bundle:
    """Everything of a run that can be handed on. Raises ConfigError (E706) for a file that cannot be read."""
    held: list[Held] = []
    left: list[LeftOut] = []
    members: list[tuple[str, bytes]] = []
    for path in regular_files(folder.path):
        name = path.relative_to(folder.path).as_posix()
        size = path.stat().st_size
        why = "the key of the answers" if name.split("/")[0] == KEYS else LEFT_OUT.get(path.suffix)
        if why is not None:
            left.append(LeftOut(path=name, size=size, why=why))
            continue
        data, dropped = _ends(path)
        clean, masked = redactor.data(data)
        members.append((name, clean))
        held.append(
            Held(
                path=name,
                size=len(clean),
                sha256=hashlib.sha256(clean).hexdigest(),
                original_size=size,
                masked=masked,
                dropped_bytes=dropped,
            )
        )
    run_id = folder.run_id  # a time, a case, a vendor and a random word
    manifest = {
        "schema": "nx8.bundle/1",
        "run_id": run_id,
        "nx8_version": version,
        "anonymous": redactor.anonymous,
        "files": [asdict(one) for one in held],
        "left_out": [asdict(one) for one in left],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    members.insert(0, (MANIFEST, text.encode("utf-8", "backslashreplace")))
    return Bundle(data=_packed(f"nx8-bundle-{run_id}", members), held=tuple(held), left_out=tuple(left))


def write(path: Path, data: bytes) -> None:
    """A new file of mode 0600. Raises ConfigError: E290 where it cannot be written, E291 where one is."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError:
        raise ConfigError(
            Problem(code="E291", message=f"{path} is there already", help="name another one: --output FILE")
        ) from None
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise ConfigError(storage_problem(error, path, code="E290")) from error


def _ends(path: Path) -> tuple[bytes, int]:
    """The file, or its first and last bytes with a line between them that counts what is missing. Raises
    ConfigError (E706).
    """
    half = KEPT_BYTES // 2
    try:
        size = path.stat().st_size
        if size <= KEPT_BYTES:
            return b"".join(read_chunks(path) or ()), 0
        with path.open("rb") as file:
            head = file.read(half)
            file.seek(size - half)
            tail = file.read(half)
    except OSError as error:
        raise ConfigError(Problem(code="E706", message=f"{path} cannot be read: {error.strerror}")) from error
    dropped = size - 2 * half
    return head + b"\n[nx8 bundle: %d bytes left out]\n" % dropped + tail, dropped


def _packed(top: str, members: list[tuple[str, bytes]]) -> bytes:
    """A tar of these files, compressed; no time, no owner and no name of a file system in it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)
