"""How one node's ranks ended: status.json, as docs/contract.md gives it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from typing import List, Optional

import job as jobs

STATUS_NAME = "status.json"
#: Kept free from the beginning, so that a full disk leaves room for what has to be said in the end.
ROOM_NAME = ".room"
ROOM_BYTES = 64 * 1024
#: What a rank or a launcher exits with that could not write for want of room.
EXIT_NO_ROOM = 73


def reserve(directory: str) -> None:
    """Takes the room that the status will need. Raises OSError where there is none."""
    path = os.path.join(directory, ROOM_NAME)
    with open(path, "wb") as file:
        file.write(bytes(ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())


def release(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, ROOM_NAME))


def no_room(error: BaseException) -> bool:
    """Whether a disk was full, or a quota used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@dataclass
class RankStatus:
    rank: int
    local_rank: int
    pid: Optional[int] = None
    exit_code: Optional[int] = None
    signal: Optional[str] = None
    ended_s: Optional[float] = None
    killed: bool = False
    end_count: Optional[int] = None
    end_sha256: Optional[str] = None
    dropped_bytes: Optional[int] = None  # of its standard output and error

    @property
    def failed(self) -> bool:
        return self.ended_s is not None and self.exit_code != 0

    def ended(self, wait_status: Optional[int], *, sent: Optional[int]) -> None:
        """Notes how the rank ended; `sent` is the last signal the launcher gave it."""
        self.ended_s = time.monotonic()
        if wait_status is None:
            self.killed = sent is not None
            return
        if not os.WIFSIGNALED(wait_status):
            self.exit_code = os.WEXITSTATUS(wait_status)
            return
        number = os.WTERMSIG(wait_status)
        self.signal = signal_name(number)
        # Ended by the very signal it was sent, or by the SIGTERM that came before the SIGKILL.
        self.killed = sent is not None and number in (sent, signal.SIGTERM)


@dataclass
class NodeStatus:
    nonce: str
    node_rank: int
    launcher: str
    master_port: int
    started_s: float
    contract: int = jobs.CONTRACT
    ended_s: Optional[float] = None
    wall_s: Optional[float] = None
    stopped_by: Optional[str] = None
    ranks: List[RankStatus] = field(default_factory=list)

    def write(self, directory: str) -> None:
        """Beside, then renamed: a reader sees all of it or nothing."""
        self.ended_s = time.monotonic()
        self.wall_s = self.ended_s - self.started_s
        release(directory)
        path = os.path.join(directory, STATUS_NAME)
        beside = "{}.{}".format(path, os.getpid())
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names of their own
        return "SIG{}".format(number)
