"""One nightly at a time on a cluster: flock, which ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.errors import BusyError, ConfigError, Problem
from orchestrator.results.storage import make_folder, storage_problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def alone(folder: Path, cluster: str, *, suite: str) -> Iterator[None]:
    """Holds `folder`/.<cluster>.lock. Raises BusyError (E740) naming who has it; nothing was touched then."""
    path = folder / f".{cluster}.lock"
    try:
        make_folder(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(storage_problem(error, path, code="E703")) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(_held(descriptor, cluster)) from None
        about = {
            "pid": os.getpid(),
            "suite": suite,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(about).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _held(descriptor: int, cluster: str) -> Problem:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        who = f"suite {about['suite']}, pid {about['pid']}, since {about['since']}"
    except (ValueError, KeyError, TypeError):
        who = "it has not said which yet"
    return Problem(
        code="E740",
        message=f"a nightly is at work on cluster {cluster} already: {who}",
        help="nothing was started and nothing touched; let it end, or stop it: kill -INT <pid>",
    )
