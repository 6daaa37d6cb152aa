"""Ranks under torch's own launcher, static rendezvous.

torchrun tells only that something failed. So every rank runs below a small supervisor (this file, started
by torchrun), which reports through a FIFO the rank's pid and, before anybody can reap it, how it ended:
news comes in the order in which it happened.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, NoReturn, Tuple

from ranks import PRINTS_TO, End, Place, die_with, run_rank

LINE = "{} {} {}\n"  # what, local rank, value; far below PIPE_BUF, so lines of several writers do not mix


class TorchrunRanks:
    """Ranks that torchrun starts."""

    def __init__(self, job_path: str, places: List[Place], *, num_nodes: int, script: str = __file__) -> None:
        self._script = script
        self._job_path = job_path
        self._places = places
        self._num_nodes = num_nodes
        self._pids: Dict[int, int] = {}  # local rank → pid, while it lives
        self._waiting = set(range(len(places)))  # local ranks whose end is not known yet
        self._rest = b""
        self._folder = tempfile.mkdtemp(prefix="nx8-torchrun-")
        self._fifo = os.path.join(self._folder, "news")
        os.mkfifo(self._fifo, 0o600)
        self.fd: Any = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Our own writing end: without one, select() would find the end of the file whenever no supervisor
        # is there.
        self._writer = os.open(self._fifo, os.O_WRONLY | os.O_CLOEXEC)

    def start(self) -> None:
        launcher = os.getpid()
        self._torchrun = subprocess.Popen(
            self._argv(),
            stdin=subprocess.DEVNULL,
            env=dict(os.environ, **given(self._places[0])),
            start_new_session=True,
            preexec_fn=lambda: die_with(launcher),  # noqa: PLW1509  this process has one thread
        )

    def _argv(self) -> List[str]:
        place = self._places[0]
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes={}".format(self._num_nodes),
            "--nproc-per-node={}".format(place.local_world_size),
            "--node-rank={}".format(place.node_rank),
            "--master-addr={}".format(place.master_addr),
            "--master-port={}".format(place.master_port),
            os.path.abspath(self._script),
            "--job={}".format(self._job_path),
            "--news={}".format(self._fifo),
        ]

    def news(self) -> Tuple[List[Tuple[int, int]], List[End]]:
        """([(local rank, pid)] started, [(local rank, wait status)] ended) since the last call."""
        over = self._torchrun.poll() is not None  # before reading: what supervisors wrote is then all there
        started: List[Tuple[int, int]] = []
        ended: List[End] = []
        for what, local_rank, value in self._read():
            if what == "started":
                self._pids[local_rank] = value
                started.append((local_rank, value))
            else:
                self._pids.pop(local_rank, None)
                self._waiting.discard(local_rank)
                ended.append((local_rank, value))
        if over and self._waiting:
            ended.extend(self._lost())
        return started, ended

    def _read(self) -> List[Tuple[str, int, int]]:
        try:
            self._rest += os.read(self.fd, 65536)
        except BlockingIOError:
            return []
        lines = self._rest.split(b"\n")
        self._rest = lines.pop()
        words = [line.decode("ascii").split() for line in lines]
        return [(what, int(local_rank), int(value)) for what, local_rank, value in words]

    def _lost(self) -> List[End]:
        """Ranks whose end nobody saw: their supervisor was killed, and they with it; or torchrun never came
        to start them.
        """
        lost: List[End] = []
        for local_rank in sorted(self._waiting):
            started = self._pids.pop(local_rank, None) is not None
            lost.append((local_rank, int(signal.SIGKILL) if started else None))
        self._waiting.clear()
        return lost

    def send(self, number: int) -> None:
        # Ranks first. torchrun has sessions of its own for them, so its group holds torchrun alone; it is
        # told only where that is all that is left to do, because on SIGTERM it would wait half a minute
        # before killing.
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if self._torchrun.poll() is None and (
            number == signal.SIGKILL or len(self._pids) < len(self._waiting)
        ):
            os.killpg(self._torchrun.pid, number)

    def close(self) -> None:
        """Waits for torchrun, which has nothing left to wait for, and takes it away if it does so all the
        same.
        """
        try:
            self._torchrun.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self._torchrun.pid, signal.SIGKILL)
            self._torchrun.wait()
        os.close(self.fd)
        os.close(self._writer)
        shutil.rmtree(self._folder, ignore_errors=True)


def given(place: Place) -> Dict[str, str]:
    """What a rank is told that torchrun does not tell it."""
    told = place.environment()
    return {key: told[key] for key in ("NX8_OUTPUT", PRINTS_TO) if key in told}


def supervise(job_path: str, fifo: str) -> NoReturn:
    """What torchrun starts in place of a rank."""
    parent = os.getppid()
    die_with(parent)
    # Fails when no launcher is left to read: then no rank must begin.
    news = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    place = place_from_environment()
    # torchrun's signals are for the rank; this process ends after it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(news)
        run_rank(place, job_path, parent=supervisor)
    os.write(news, LINE.format("started", place.local_rank, pid).encode())
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    wait_status = end.si_status << 8 if end.si_code == os.CLD_EXITED else end.si_status
    # Told while the rank is a zombie, so that the launcher never signals a pid that has become another
    # process.
    os.write(news, LINE.format("ended", place.local_rank, wait_status).encode())
    os._exit(os.WEXITSTATUS(wait_status) if os.WIFEXITED(wait_status) else 128 + os.WTERMSIG(wait_status))


def place_from_environment() -> Place:
    value = os.environ
    return Place(
        rank=int(value["RANK"]),
        local_rank=int(value["LOCAL_RANK"]),
        world_size=int(value["WORLD_SIZE"]),
        local_world_size=int(value["LOCAL_WORLD_SIZE"]),
        node_rank=int(value["GROUP_RANK"]),
        master_addr=value["MASTER_ADDR"],
        master_port=int(value["MASTER_PORT"]),
        output=value["NX8_OUTPUT"],
        prints_to=value.get(PRINTS_TO),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--news", required=True)
    arguments = parser.parse_args()
    supervise(arguments.job, arguments.news)
