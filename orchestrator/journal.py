"""What a run did, line by line as it does it: journal.jsonl in the run's folder, synced before the next step.
Whoever holds the file's lock follows the run; the kernel lets it go when that process dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from orchestrator import facts
from orchestrator.errors import BusyError, Problem
from orchestrator.results.storage import sync_folder

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 64 << 20


class Journal:
    """Appends entries; from any thread."""

    def __init__(self, path: Path, descriptor: int, number: int) -> None:
        self.path = path
        self._fd = descriptor
        self._number = number
        #: Why an entry could not be written: the run goes on, but nobody can go on with it.
        self.trouble: str | None = None
        # A signal may come while we write, and be written down too.
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BusyError (E253) while another process follows the run."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _mend(descriptor)
            sync_folder(path.parent)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise BusyError(_followed(path)) from None
            raise
        journal = cls(path, descriptor, len(read(path)))
        journal.add(
            "controller", pid=os.getpid(), host=platform.node(), start=facts.process_start(os.getpid())
        )
        return journal

    def add(self, event: str, **fields: Any) -> None:
        """Durable when this returns, unless there is `trouble`."""
        with self._lock:
            if self._fd < 0:
                return  # a thread that outlives the run
            entry = {
                "n": self._number,
                "event": event,
                "utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "monotonic_s": round(time.monotonic(), 3),
                "boot_id": facts.boot_id(),
                **fields,
            }
            try:
                self._append(json.dumps(entry, allow_nan=False).encode() + b"\n")
            except OSError as error:
                self.trouble = self.trouble or f"{self.path}: {error.strerror}"
            else:
                self._number += 1

    def _append(self, line: bytes) -> None:
        """All of the line or nothing: what is added later must not stick to half of one. Raises OSError."""
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            raise

    def close(self) -> None:
        with self._lock:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mend(descriptor: int) -> None:
    """Cuts off a last line that was never finished: its step counts as not done."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 1 << 20, max(0, size - (1 << 20)))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(descriptor, size - (len(tail) - (tail.rfind(b"\n") + 1)))


def read(path: Path) -> tuple[dict[str, Any], ...]:
    """The entries; none where there is no journal. What is no entry ends the reading."""
    found = []
    try:
        with path.open("rb") as file:
            for line in file.read(MAX_BYTES).split(b"\n")[:-1]:
                entry = json.loads(line)
                if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
                    break
                found.append(entry)
    except (OSError, ValueError):
        pass
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The process that follows a run, or did."""

    pid: int
    host: str
    start: int | None
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a journal says of a run. Pure of `entries`.

    Of each cell: its beginning (`begun`), the start of its ranks (`started`) and its end (`ended`), by their
    entries. `images`: what `prepare` found on every node (None: it did not come so far). `closed`: the state
    it was left in.
    """

    locked: frozenset[str] = frozenset()
    images: Mapping[str, Any] | None = None
    begun: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    started: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    ended: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    closed: str | None = None
    drops: int = 0
    controllers: int = 0

    @classmethod
    def of(cls, entries: tuple[dict[str, Any], ...]) -> Past:
        named = {
            # The first of each counts: a second controller writes them again.
            event: {one["cell"]: one for one in reversed(entries) if one["event"] == event and "cell" in one}
            for event in ("cell", "started", "ended")
        }
        last = {one["event"]: one for one in entries}
        return cls(
            locked=frozenset(one["node"] for one in entries if one["event"] == "locked"),
            images=last["prepared"]["images"] if "prepared" in last else None,
            begun=named["cell"],
            started=named["started"],
            ended=named["ended"],
            closed=last["closed"]["state"] if "closed" in last else None,
            drops=sum(one["event"] == "drop" for one in entries),
            controllers=sum(one["event"] == "controller" for one in entries),
        )


def moment_s(entry: Mapping[str, Any]) -> float:
    """When an entry was made, on this boot's monotonic clock; of another boot by the wall clock."""
    if entry["boot_id"] == facts.boot_id():
        return float(entry["monotonic_s"])
    age = datetime.now(UTC) - datetime.fromisoformat(entry["utc"])
    return time.monotonic() - age.total_seconds()


def controller(path: Path) -> Controller | None:
    """Who follows the run of this journal, or did last."""
    entries = [one for one in read(path) if one["event"] == "controller"]
    if not entries:
        return None
    last = entries[-1]
    return Controller(pid=last["pid"], host=last["host"], start=last.get("start"), alive=followed(path))


def followed(path: Path) -> bool:
    """Whether a process holds the journal now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _followed(path: Path) -> Problem:
    one = controller(path)
    who = f"process {one.pid} on {one.host}" if one else "another process"
    return Problem(
        code="E253",
        message=f"run {path.parent.name} is followed by {who}",
        help=f"watch it: nx8 logs -f {path.parent.name}; end it: nx8 stop {path.parent.name}",
    )
