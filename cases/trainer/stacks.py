"""Where every rank of this node stands, asked of the ranks and of the kernel: stacks.json, as
docs/contract.md gives it. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Any, Dict, List, Optional, Tuple

STACKS_NAME = "stacks.json"
#: Where a rank that gets SIGUSR1 writes the stacks of its threads, in its own folder.
RANK_STACKS_NAME = "stacks.log"
MAX_STACK_BYTES = 64 * 1024
#: How long ranks may take to answer, and how often it is looked whether they have.
ANSWER_LIMIT_S = 5.0
LOOK_S = 0.1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def write(output: str, nonce: str, ranks: List[Tuple[int, Optional[int], str]]) -> None:
    """Asks every rank (rank, pid or None when it does not live, its folder) and writes down what was found.

    Waits until all have answered that can, at most ANSWER_LIMIT_S. Beside, then renamed.
    """
    asked_s = time.monotonic()
    asked = [Asked(*one) for one in ranks]
    for one in asked:
        one.ask()
    deadline_s = asked_s + ANSWER_LIMIT_S
    # One look at least between two readings of the processor time.
    select.select([], [], [], LOOK_S)
    while time.monotonic() < deadline_s and not all(one.answered() for one in asked):
        select.select([], [], [], LOOK_S)
    document = {"contract": 1, "nonce": nonce, "asked_s": asked_s, "ranks": [one.found() for one in asked]}
    path = os.path.join(output, STACKS_NAME)
    beside = "{}.{}".format(path, os.getpid())
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, allow_nan=False)
        file.write("\n")
    os.replace(beside, path)


class Asked:
    """One rank that was asked where it stands."""

    def __init__(self, rank: int, pid: Optional[int], directory: str) -> None:
        self._rank = rank
        self._pid = pid
        self._path = os.path.join(directory, RANK_STACKS_NAME)
        self._begin = size(self._path)
        self._last = self._begin
        self._asked_s = time.monotonic()
        self._cpu_s = cpu_s(pid)

    def ask(self) -> None:
        if self._pid is not None and self._begin is not None:  # else SIGUSR1 would end it: nobody listens yet
            try:
                os.kill(self._pid, signal.SIGUSR1)
            except ProcessLookupError:
                self._pid = None

    def answered(self) -> bool:
        """Whether nothing more is to come: its file has grown and has stopped growing, or it cannot."""
        if self._pid is None or self._begin is None or state(self._pid) in ("T", "t", "Z", "X", ""):
            return True
        now, before = size(self._path), self._last
        self._last = now
        return now is not None and now > self._begin and now == before

    def found(self) -> Dict[str, Any]:
        passed_s = time.monotonic() - self._asked_s
        cpu_now_s = cpu_s(self._pid)
        known = self._cpu_s is not None and cpu_now_s is not None and passed_s > 0
        return {
            "rank": self._rank,
            "pid": self._pid,
            "state": state(self._pid) or None,
            "waits_in": text_of(self._pid, "wchan"),
            "cpu_share": (cpu_now_s - self._cpu_s) / passed_s if known else None,
            "stack": self._stack(),
        }

    def _stack(self) -> Optional[str]:
        if self._begin is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(self._begin)
            data = file.read(MAX_STACK_BYTES)
        return data.decode("utf-8", "replace") or None


def size(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def stat_of(pid: Optional[int]) -> List[str]:
    """The words of /proc/PID/stat after the process's name; none when it has gone."""
    if pid is None:
        return []
    try:
        with open("/proc/{}/stat".format(pid)) as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: Optional[int]) -> str:
    """The kernel's letter for what the process does: R runs, S sleeps, D waits for a device, T is stopped."""
    words = stat_of(pid)
    return words[0] if words else ""


def cpu_s(pid: Optional[int]) -> Optional[float]:
    """Processor time that it has used, in seconds."""
    words = stat_of(pid)
    return (int(words[11]) + int(words[12])) / TICKS_PER_S if words else None


def text_of(pid: Optional[int], name: str) -> Optional[str]:
    """One word of the kernel about a process, where it may be read."""
    if pid is None:
        return None
    try:
        with open("/proc/{}/{}".format(pid, name)) as file:
            return file.read(256).strip() or None
    except OSError:
        return None
