"""What a build says, kept in a file while it says it, with the secrets we know taken out."""

from __future__ import annotations

import base64
import os
from typing import IO, TYPE_CHECKING, Self

from orchestrator.errors import BuildError, Problem
from orchestrator.results.storage import make_folder, storage_problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MASK = "***"
LAST_LINES = 50
#: The last lines of a build are within these many bytes of its end, or they are too long to be read.
LAST_BYTES = 1 << 18
#: A line longer than this is written in pieces.
MAX_LINE_BYTES = 1 << 16


def masked(text: str, secrets: Iterable[str]) -> str:
    """`text` with `***` in place of every secret, also of one in base64."""
    for secret in secrets:
        for form in (secret, base64.b64encode(secret.encode("utf-8")).decode("ascii")):
            text = text.replace(form, MASK)
    return text


class BuildLog:
    """A build's log (mode 0600), whole lines at a time. Raises BuildError (E701) where it cannot be
    written.
    """

    def __init__(self, path: Path, secrets: tuple[str, ...] = ()) -> None:
        self.path = path
        self._secrets = secrets
        self._rest = b""
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            make_folder(self.path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb", buffering=0)
        except OSError as error:
            raise self._refused(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        try:
            self._put(self._rest)
        finally:
            self._file.close()

    def heard(self, data: bytes) -> None:
        whole, line_end, self._rest = (self._rest + data).rpartition(b"\n")
        self._put(whole + line_end)
        if len(self._rest) > MAX_LINE_BYTES:
            self._put(self._rest)
            self._rest = b""

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        text = data.decode("utf-8", "surrogateescape")
        try:
            self._file.write(masked(text, self._secrets).encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> BuildError:
        return BuildError(storage_problem(error, self.path, code="E701"))

    def last(self) -> list[str]:
        """Its last lines, printable."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - LAST_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        return ["".join(char if char.isprintable() else " " for char in line) for line in lines]

    def problem(self, message: str) -> Problem:
        """E311 with the last lines."""
        lines = self.last()
        shown = "\n".join(lines)
        return Problem(
            code="E311",
            message=masked(message, self._secrets),
            help=f"its last {len(lines)} lines (all of it: {self.path}):\n{shown}",
        )
