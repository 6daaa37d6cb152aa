"""What a lab asks of this machine: its tools, their limits, and processes known by pid and start time."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from orchestrator.errors import BusyError, PreflightError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

#: Each program a lab runs on this machine → the Debian package that brings it.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "tar": "tar",
    "cp": "coreutils",
    "chroot": "coreutils",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_LINES = 20


def program(name: str) -> str | None:
    """Where a program is; sbin is looked into even where a person's PATH lacks it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")


def problems() -> list[Problem]:
    """Why this machine cannot carry a lab; empty when it can. Looks, never installs."""
    if sys.platform != "linux":
        return [
            Problem(
                code="E280",
                message=f"a lab needs Linux (namespaces, overlay roots); this machine is {sys.platform}",
                help="run it on a Linux machine or in a virtual one",
            )
        ]
    found = []
    if os.geteuid() != 0:
        found.append(
            Problem(
                code="E280",
                message=f"a lab needs root for namespaces, mounts and links; this is uid {os.geteuid()}",
                help="run the same command with sudo",
            )
        )
    missing = sorted({package for name, package in PROGRAMS.items() if program(name) is None})
    if missing:
        found.append(
            Problem(
                code="E281",
                message=f"a lab needs Debian packages that are not installed: {', '.join(missing)}",
                help=f"apt-get install -y --no-install-recommends {' '.join(missing)}",
            )
        )
    return found


def require() -> None:
    """Raises PreflightError listing all that this machine lacks."""
    if found := problems():
        raise PreflightError(found)


def run(
    argv: Sequence[str | Path],
    *,
    doing: str,
    limit_s: float = 60.0,
    stdin: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """The standard output of a program that ended with 0 in time.

    Raises PreflightError (E282) with its last lines otherwise. The program is in a process group of its own,
    and all of it is killed when the time is up or we are interrupted.
    """
    command = [str(part) for part in argv]
    command[0] = program(command[0]) or command[0]
    # When we are killed, so is it: nothing goes on making what `down` removes.
    with_us = [program("setpriv") or "setpriv", "--pdeathsig", "KILL"]
    process = subprocess.Popen(
        [*with_us, *command],
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", **(environment or {})},
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        output = _end(process)
        raise PreflightError(_failed(doing, f"not done within {limit_s:g} s", output, log)) from None
    except BaseException:
        _end(process)
        raise
    if log:
        log.write_text(output)
    if process.returncode:
        raise PreflightError(_failed(doing, f"{argv[0]} exited {process.returncode}", output, log))
    return output


def _end(process: subprocess.Popen[str]) -> str:
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0] or ""


def _failed(doing: str, how: str, output: str, log: Path | None) -> Problem:
    last = output.rstrip().splitlines()[-LOG_LINES:]
    if log:
        log.write_text(output)
    return Problem(
        code="E282",
        message="\n    ".join([f"{doing}: {how}", *last]),
        help=f"all of it is in {log}" if log else None,
    )


def until(answer: Callable[[], T | None], *, limit_s: float, waiting_for: Callable[[], str]) -> T:
    """The first answer that is not None or False. Raises PreflightError (E283) when the time is up."""
    deadline = time.monotonic() + limit_s
    pause_s = 0.01
    while True:
        found = answer()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise PreflightError(
                Problem(code="E283", message=f"{waiting_for()} (waited {limit_s:g} s)"),
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)


@contextmanager
def alone(what: str, *, wait_s: float = 0.0, doing: str) -> Iterator[None]:
    """Held by one process of this machine at a time, and given back even when it is killed.

    Raises BusyError (E284) when another has it for longer than `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as name:
        while True:
            try:
                name.bind(f"\0nx8-lab-{what}")
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise BusyError(
                        Problem(code="E284", message=f"{doing}: another `nx8 lab` is at it on this machine")
                    ) from None
            time.sleep(0.1)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that stays itself: its pid with the clock tick of its start, so no other is ever meant."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return _start_of(self.pid) == self.started

    def kill(self, signum: int = signal.SIGKILL) -> None:
        if self.alive:
            os.kill(self.pid, signum)

    def reap(self) -> None:
        """Forgets it where it was our own child."""
        reap(self.pid)


def reap(pid: int) -> None:
    """Takes the exit status of a child that has ended; of any other process, nothing."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def process(pid: int) -> Process | None:
    started = _start_of(pid)
    return None if started is None else Process(pid=pid, started=started)


def _start_of(pid: int) -> int | None:
    """The start of a living process in clock ticks since boot; None for a dead one and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> list[int]:
    """The pids of the children of `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


# What a node's processes are counted and limited by.
def cgroup_folders(name: str) -> list[Path]:
    """The cgroup of that name, in each controller's tree (cgroup v1) or in the only one (v2)."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").is_file():
        return [top / name]
    trees = [path for path in top.iterdir() if path.is_dir() and not path.is_symlink()]
    return [tree / name for tree in sorted(trees) if (tree / "cgroup.procs").is_file()]
