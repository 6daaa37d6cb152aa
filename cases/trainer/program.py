"""An external program as a rank: started, watched from outside, its output kept with the time it came.

torchrun starts this file once for every rank. It runs the job's program below itself, reads what that prints
through a pipe, writes it to the rank's stdout.log, and records with our own clock how much had come when.
It knows nothing of what is printed: what lines mean is read on the host. docs/external.md.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, Dict, List, NoReturn, Optional

from events import EventWriter
from ranks import Place, detach, die_with, redirect
from status import EXIT_NO_ROOM, no_room

CONTRACT = 1
READ_BYTES = 1 << 16
#: How exact the times of output are: what comes within this is one record, in seconds.
GRAIN_S = 0.01
#: How often it is looked whether the program has ended, while it prints nothing, in seconds.
TICK_S = 0.2
#: What is still to come once the program has ended is in the pipe already, unless a child of it lives on.
LEFT_OVER_S = 2.0
#: Said in place of what only a trainer of ours could see.
NOT_SEEN = "external"


class ProgramError(ValueError):
    """job.json asks for an external program and does not say which."""


@dataclass(frozen=True)
class Batch:
    world_size: int


@dataclass(frozen=True)
class Device:
    deepspeed_accelerator: Optional[str] = None


@dataclass(frozen=True)
class ProgramJob:
    """Of job.json only what an observer needs; the rest is in the program's own arguments."""

    nonce: str
    engine: str
    seed: int
    batch: Batch
    device: Device
    directory: str
    argv: List[str]
    environment: Dict[str, str]
    #: File → planned SHA-256, checked by the first rank of each node.
    files: Dict[str, str]
    sha256: str


def load_job(path: str) -> Optional[ProgramJob]:
    """None for a job of our own trainer. Raises ProgramError, OSError."""
    with open(path, "rb") as file:
        raw = file.read()
    try:
        value = json.loads(raw.decode("utf-8"))
    except ValueError:
        return None  # the trainer's own reader says what is wrong
    if not isinstance(value, dict) or "program" not in value:
        return None
    try:
        given, data = value["program"], value["data"]
        if value["contract"] != CONTRACT:
            raise ProgramError("{}: contract {!r}; this one is {}".format(path, value["contract"], CONTRACT))
        files = {data["file"]: data["sha256"]}
        if data.get("index"):
            files[data["index"]["file"]] = data["index"]["sha256"]
        return ProgramJob(
            nonce=str(value["nonce"]),
            engine=str(value["engine"]),
            seed=int(value["seed"]),
            batch=Batch(world_size=int(value["batch"]["world_size"])),
            device=Device(),
            directory=str(given["directory"]),
            argv=[str(word) for word in given["argv"]],
            environment={str(key): str(one) for key, one in given["environment"].items()},
            files={str(name): str(digest) for name, digest in files.items()},
            sha256=hashlib.sha256(raw).hexdigest(),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProgramError("{}: {}: {}".format(path, type(error).__name__, error)) from error


def supervise(job_path: str, fifo: str) -> NoReturn:
    """What torchrun starts as a rank: reports to the launcher like torchrun.supervise."""
    from torchrun import LINE, place_from_environment

    parent = os.getppid()
    die_with(parent)
    # Fails when no launcher is left to read: then no rank must begin.
    news = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    place = place_from_environment()
    # torchrun's signals are for the program; this process ends after it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    started = False

    def began(pid: int) -> None:
        nonlocal started
        started = True
        os.write(news, LINE.format("started", place.local_rank, pid).encode())

    try:
        wait_status = observed(job_path, place, began)
    except BaseException as error:  # noqa: BLE001  whatever it is, the launcher has to hear of an end
        with contextlib.suppress(OSError):  # of a full disk there may be no room to tell
            traceback.print_exc()
        wait_status = (EXIT_NO_ROOM if no_room(error) else 1) << 8
    if not started:
        began(os.getpid())
    os.write(news, LINE.format("ended", place.local_rank, wait_status).encode())
    code = os.WEXITSTATUS(wait_status) if os.WIFEXITED(wait_status) else 128 + os.WTERMSIG(wait_status)
    os._exit(code)


def observed(job_path: str, place: Place, began: Any) -> int:
    """Runs the program to its end; its wait status. The end record is written after an exit 0 alone, and
    before the launcher hears of it.
    """
    job = load_job(job_path)
    assert job is not None, "the launcher has read it"
    writer = EventWriter(place.directory, job.nonce, place.rank)
    writer.write("hello", **hello(job, place))
    try:
        digests = checked(job) if place.local_rank == 0 else {}
        reading, pid = start(job, place)
    except (OSError, ProgramError) as error:
        words = traceback.format_exc()
        writer.write("fail", type=type(error).__name__, message=str(error), traceback=words[-65536:])
        raise
    began(pid)
    found = [*digests.values(), None, None]
    writer.write(
        "program",
        directory=job.directory,
        argv=job.argv,
        data_sha256=found[0],
        index_sha256=found[1],
    )
    output = Output(reading, os.path.join(place.directory, "stdout.log"), writer)
    try:
        end = output.copy_until_end_of(pid)
    finally:
        output.close()
    wait_status = end.si_status << 8 if end.si_code == os.CLD_EXITED else end.si_status
    if wait_status == 0:
        writer.write("output_end", bytes=output.bytes, lines=output.lines, sha256=output.hash.hexdigest())
        writer.end(0)
    return int(wait_status)


def hello(job: ProgramJob, place: Place) -> Dict[str, Any]:
    """What can be seen from outside."""
    return {
        "world_size": place.world_size,
        "local_rank": place.local_rank,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "wall_time_s": time.time(),
        "device_type": NOT_SEEN,
        "device_name": None,
        "backend": NOT_SEEN,
        "engine": job.engine,
        "attention": NOT_SEEN,
        "versions": versions(job.directory),
        "os": "{} {}".format(platform.system(), platform.release()),
        "seed": job.seed,
        "job_sha256": job.sha256,
    }


def versions(directory: str) -> Dict[str, Optional[str]]:
    """Of installed packages by their metadata, nothing is imported; of the program the commit that its folder
    is at, where that is a checkout.
    """
    from importlib import metadata

    found: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for name in ("torch", "numpy", "sentencepiece", "flash-attn", "transformer-engine"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # noqa: PERF203  each name for itself
            found[name] = None
    try:
        with open(os.path.join(directory, ".git", "HEAD"), encoding="ascii") as file:
            commit = file.read(64).strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    is_commit = len(commit) == 40 and set(commit) <= set("0123456789abcdef")
    found[os.path.basename(directory)] = "git@" + commit[:7] if is_commit else None
    return found


def checked(job: ProgramJob) -> Dict[str, str]:
    """SHA-256 by file. Raises ProgramError for one that is not the planned."""
    found = {}
    for name, planned in job.files.items():
        digest = hashlib.sha256()
        with open(name, "rb", buffering=0) as file:
            for chunk in iter(lambda: file.read(4 << 20), b""):
                digest.update(chunk)
        found[name] = digest.hexdigest()
        if found[name] != planned:
            raise ProgramError("{}: SHA-256 is {}, planned is {}".format(name, found[name], planned))
    return found


def start(job: ProgramJob, place: Place) -> Any:
    """(reading end of its output, pid). Its standard error goes to stderr.log."""
    reading, writing = os.pipe()
    observer = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        os.set_blocking(reading, False)
        return reading, pid
    try:
        detach(observer)
        redirect(place)
        os.dup2(writing, 1)
        os.close(reading)
        os.environ.update(job.environment)
        os.chdir(job.directory)
        # Unbuffered: a line that waits in a buffer would come at a time that says nothing.
        os.execv(sys.executable, [sys.executable, "-u", *job.argv])  # noqa: S606
    except BaseException:  # noqa: BLE001  nothing may get past the _exit below
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(127)


class Output:
    """What comes through the pipe, on its way into a file."""

    def __init__(self, reading: int, path: str, writer: EventWriter) -> None:
        self._reading = reading
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._writer = writer
        self._open = True
        self._ended_s: Optional[float] = None
        self.bytes = self.lines = 0
        self.hash = hashlib.sha256()

    def copy_until_end_of(self, pid: int) -> Any:
        """Copies until the program has ended and what it wrote is here. How it ended, by waitid, without
        reaping it: no other process can have its pid while the launcher may still signal it.
        """
        end = None
        while True:
            if end is None:
                end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if end is not None:
                    self._ended_s = time.monotonic()
            if not self._open and end is not None:
                return end
            if not self._copy() and end is not None:
                return end

    def _copy(self) -> bool:
        """Takes what is there, or waits for it a little; whether more may come."""
        if not self._open:
            time.sleep(TICK_S)  # it closed its output and goes on
            return True
        limit_s = TICK_S
        if self._ended_s is not None:
            limit_s = self._ended_s + LEFT_OVER_S - time.monotonic()
            if limit_s <= 0:
                return False
        ready, _, _ = select.select([self._reading], [], [], limit_s)
        if not ready:
            return self._ended_s is None
        before_s = time.monotonic()
        while time.monotonic() - before_s < GRAIN_S and self._open:
            chunk = self._read()
            if chunk is None:
                break
            self._open = bool(chunk)
            self._take(chunk)
        self._writer.write("output", bytes=self.bytes, lines=self.lines)
        return self._open

    def _read(self) -> Optional[bytes]:
        """What is there; empty at the end, None where more may come."""
        try:
            return os.read(self._reading, READ_BYTES)
        except BlockingIOError:
            return None

    def _take(self, chunk: bytes) -> None:
        self.bytes += len(chunk)
        self.lines += chunk.count(b"\n")
        self.hash.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        os.close(self._file)
        os.close(self._reading)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--news", required=True)
    arguments = parser.parse_args()
    supervise(arguments.job, arguments.news)
