"""Starts the ranks of one node, waits for them, stops them if one fails or the host is gone, tells how it
went.

Standard library only until the ranks are forked, and one thread always. docs/contract.md says what it
promises.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

import events
import job as jobs
import program
import stacks
from lease import Lease
from output import Collector
from ranks import End, ForkedRanks, LaunchError, Place
from status import EXIT_NO_ROOM, NodeStatus, RankStatus, no_room, reserve, signal_name
from torchrun import TorchrunRanks

EXIT_FAILED = 1
EXIT_TOLD_TO_STOP = 75
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Makes the launcher write down where its ranks stand.
ASK_SIGNAL = signal.SIGUSR1


def main() -> int:
    started_s = time.monotonic()
    arguments = parse_arguments()
    output = os.path.abspath(arguments.output)
    os.makedirs(output, exist_ok=True)
    inbox = Inbox()  # from here on no signal is lost, however long the imports take
    lease = Lease(arguments.lease, arguments.lease_limit) if arguments.lease else None
    say = log_to(os.path.join(output, "launcher.log"))
    try:
        reserve(output)
        job = program.load_job(arguments.job) or jobs.load_job(arguments.job)
        places = make_places(arguments, job, output)
    except (jobs.JobError, program.ProgramError, LaunchError, OSError) as error:
        say("refused: {}".format(error), loud=True)
        return EXIT_NO_ROOM if no_room(error) else EXIT_FAILED
    status = NodeStatus(
        nonce=job.nonce,
        node_rank=arguments.node_rank,
        launcher=arguments.launcher,
        master_port=places[0].master_port,
        started_s=started_s,
        ranks=[RankStatus(rank=place.rank, local_rank=place.local_rank) for place in places],
    )
    watch = Watch(
        status,
        places,
        inbox,
        say,
        grace_s=arguments.grace,
        early_exit_s=arguments.early_exit_limit,
        lease=lease,
    )
    # Forked while nothing large is imported, and told of in every place from here on.
    collector = Collector({place.rank: place.directory for place in places})
    places[:] = [replace(place, prints_to=collector.folder) for place in places]
    try:
        watch.run(make_ranks(arguments, job, places))
        dropped = collector.finish()
    except Exception as error:  # noqa: BLE001  whatever it is, a status is owed
        say("failed: {}: {}".format(type(error).__name__, error), loud=True)
        collector.finish()
        return EXIT_FAILED if wrote(status, output, say) else EXIT_NO_ROOM
    for rank, place in zip(status.ranks, places):
        rank.dropped_bytes = dropped.get(rank.rank)
        rank.end_count, rank.end_sha256 = events.end_of(place.directory, job.nonce)
    if not wrote(status, output, say):
        return EXIT_NO_ROOM
    if watch.told_to_stop:
        return EXIT_TOLD_TO_STOP
    return EXIT_FAILED if any(rank.exit_code != 0 for rank in status.ranks) else 0


def wrote(status: NodeStatus, output: str, say: Any) -> bool:
    """Whether there was room for the status."""
    try:
        status.write(output)
    except OSError as error:
        if not no_room(error):
            raise
        say("no room for the status: {}".format(error), loud=True)
        return False
    return True


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True, help="job.json")
    parser.add_argument("--output", required=True, help="this node's folder of the cell")
    parser.add_argument("--launcher", choices=("fork", "torchrun"), required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--num-nodes", type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    parser.add_argument("--master-port", type=int, required=True, help="0 takes a free one; one node only")
    parser.add_argument("--local-world-size", type=int, required=True)
    parser.add_argument("--grace", type=float, default=3.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument(
        "--early-exit-limit", type=float, default=8.0, help="seconds a rank may be gone before the others"
    )
    parser.add_argument("--lease", metavar="FILE", help="a counter that the host keeps changing")
    parser.add_argument(
        "--lease-limit", type=float, default=60.0, metavar="S", help="seconds it may stay the same"
    )
    arguments = parser.parse_args()
    arguments.job = os.path.abspath(arguments.job)
    return arguments


def make_places(arguments: argparse.Namespace, job: Any, output: str) -> List[Place]:
    local, nodes = arguments.local_world_size, arguments.num_nodes
    if local * nodes != job.batch.world_size:
        raise LaunchError(
            "{} nodes × {} ranks are not the job's world_size {}".format(nodes, local, job.batch.world_size)
        )
    if not 0 <= arguments.node_rank < nodes:
        raise LaunchError("--node-rank {} of {} nodes".format(arguments.node_rank, nodes))
    port = arguments.master_port
    if port == 0:
        if nodes != 1:
            raise LaunchError("--master-port 0 needs one node: the others could not know the port")
        port = free_port(arguments.master_addr)
    return [
        Place(
            rank=arguments.node_rank * local + local_rank,
            local_rank=local_rank,
            world_size=job.batch.world_size,
            local_world_size=local,
            node_rank=arguments.node_rank,
            master_addr=arguments.master_addr,
            master_port=port,
            output=output,
        )
        for local_rank in range(local)
    ]


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def make_ranks(arguments: argparse.Namespace, job: Any, places: List[Place]) -> Any:
    if job.device.deepspeed_accelerator is not None:
        os.environ["DS_ACCELERATOR"] = job.device.deepspeed_accelerator  # DeepSpeed reads it when imported
    if arguments.local_world_size > 1:
        # As torchrun does: ranks share the cores, and more threads than cores only take turns.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Threads of a library that nobody asks to compute would make the fork unsafe.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if isinstance(job, program.ProgramJob):
        return TorchrunRanks(arguments.job, places, num_nodes=arguments.num_nodes, script=program.__file__)
    if arguments.launcher == "torchrun":
        return TorchrunRanks(arguments.job, places, num_nodes=arguments.num_nodes)
    return ForkedRanks(arguments.job, places, engine=job.engine)


class Inbox:
    """Wakes the launcher: signals by a pipe, the host's end by standard input, so that it sleeps whenever
    nothing happens.
    """

    def __init__(self) -> None:
        self._read, write = os.pipe()
        for fd in (self._read, write):
            os.set_blocking(fd, False)
        # Python writes the signal's number into the pipe; the handlers have nothing left to do.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, ASK_SIGNAL, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._host_fd: Optional[int] = 0
        #: Whether somebody wants to know where the ranks stand; for whoever sees to it to take back.
        self.asked = False

    def wait(self, deadline_s: Optional[float], fd: Optional[int]) -> Optional[str]:
        """Sleeps until something happens or the deadline has come. The reason to stop, if there is one, as
        status.json words it.
        """
        fds = [one for one in (self._read, self._host_fd, fd) if one is not None]
        timeout = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        ready, _, _ = select.select(fds, [], [], timeout)
        if self._read in ready:
            numbers = os.read(self._read, 4096)
            self.asked = self.asked or ASK_SIGNAL in numbers
            for number in numbers:
                if number in STOP_SIGNALS:
                    return "signal:{}".format(signal_name(number))
        if self._host_fd in ready and self._host_gone():
            return "host_gone"
        return None

    def _host_gone(self) -> bool:
        try:
            gone = not os.read(0, 4096)
        except OSError:  # closed, or a terminal that has hung up
            gone = True
        if gone:
            self._host_fd = None  # an ended file is always ready: it would be a busy loop
        return gone


class Watch:
    """Waits for the ranks and stops them all when one reason to stop comes up; the first reason is the one
    that is told.
    """

    def __init__(
        self,
        status: NodeStatus,
        places: List[Place],
        inbox: Inbox,
        say: Any,
        *,
        grace_s: float,
        early_exit_s: float,
        lease: Optional[Lease] = None,
    ) -> None:
        self._lease = lease
        self._status = status
        self._places = places
        self._inbox = inbox
        self._say = say
        self._grace_s = grace_s
        self._early_exit_s = early_exit_s
        self._early_exit_at: Optional[float] = None
        self._kill_at: Optional[float] = None
        self._sent: Optional[int] = None

    @property
    def told_to_stop(self) -> bool:
        reason = self._status.stopped_by
        return reason is not None and (reason in ("host_gone", "lost") or reason.startswith("signal:"))

    def run(self, ranks: Any) -> None:
        """Returns when every rank has ended."""
        reason = self._inbox.wait(time.monotonic(), None) or self._lost()
        if reason is not None:  # while the imports ran; there is nothing to stop yet
            self._status.stopped_by = reason
            self._say("stopped before the ranks began: {}".format(reason))
            return
        self._say("starting {} ranks".format(len(self._places)))
        ranks.start()
        while True:
            self._note(*ranks.news())
            if all(rank.ended_s is not None for rank in self._status.ranks):
                break
            if self._inbox.asked:
                self._inbox.asked = False
                self._look()
            self._act(ranks, reason)
            reason = self._inbox.wait(self._deadline_s(), ranks.fd)
            if reason is None and self._sent is None:
                reason = self._lost()
        ranks.close()

    def _lost(self) -> Optional[str]:
        return "lost" if self._lease is not None and self._lease.lapsed() else None

    def _look(self) -> None:
        """Where the ranks stand, into stacks.json; whatever goes wrong, the ranks are watched on."""
        alive = {rank.rank: rank.pid for rank in self._status.ranks if rank.ended_s is None}
        self._say("looking where the ranks stand")
        try:
            stacks.write(
                self._places[0].output,
                self._status.nonce,
                [(place.rank, alive.get(place.rank), place.directory) for place in self._places],
            )
        except OSError as error:
            self._say("where the ranks stand could not be written: {}".format(error))

    def _note(self, started: List[Tuple[int, int]], ended: List[End]) -> None:
        for local_rank, pid in started:
            self._status.ranks[local_rank].pid = pid
        for local_rank, wait_status in self._in_order(ended):
            rank = self._status.ranks[local_rank]
            rank.ended(wait_status, sent=self._sent)
            self._say("rank {}: exit code {}, signal {}".format(rank.rank, rank.exit_code, rank.signal))
            if rank.exit_code == 0 and self._early_exit_at is None and not self._has_end_record(local_rank):
                self._early_exit_at = rank.ended_s + self._early_exit_s

    def _in_order(self, ended: List[End]) -> List[End]:
        """Ends found at the same waking, in their likely order: one killed from outside comes before those
        that fail because it is gone, and these come as their own `fail` records say.
        """
        return sorted(ended, key=self._failed_at_s) if len(ended) > 1 else ended

    def _failed_at_s(self, end: End) -> float:
        local_rank, wait_status = end
        if wait_status is None or os.WIFSIGNALED(wait_status):
            return float("-inf")
        record: Dict[str, Any] = events.last_record(self._places[local_rank].directory) or {}
        return record["t_s"] if record.get("event") == "fail" else time.monotonic()

    def _has_end_record(self, local_rank: int) -> bool:
        return events.end_of(self._places[local_rank].directory, self._status.nonce)[0] is not None

    def _act(self, ranks: Any, reason: Optional[str]) -> None:
        """Begins to stop the ranks, or ends it by force, when the time has come."""
        now_s = time.monotonic()
        if self._sent is None:
            if any(rank.failed for rank in self._status.ranks):
                reason = "rank_failed"
            elif reason is None and self._early_exit_at is not None and now_s >= self._early_exit_at:
                reason = "early_exit"
            if reason is not None:
                self._status.stopped_by = reason
                self._say("stopping the ranks: {}".format(reason))
                self._send(ranks, signal.SIGTERM)
                self._kill_at = now_s + self._grace_s
        elif self._kill_at is not None and now_s >= self._kill_at:
            self._say("killing the ranks")
            self._send(ranks, signal.SIGKILL)
            self._kill_at = None

    def _send(self, ranks: Any, number: int) -> None:
        self._sent = number
        ranks.send(number)

    def _deadline_s(self) -> Optional[float]:
        if self._sent is not None:
            return self._kill_at
        looks = None if self._lease is None else self._lease.next_look_s()
        deadlines = [one for one in (self._early_exit_at, looks) if one is not None]
        return min(deadlines) if deadlines else None


def log_to(path: str) -> Any:
    """A function that writes a line to launcher.log, where this process's standard output and error go as
    well: imports are talkative. A loud line is repeated on the standard error that was.
    """
    before = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)

    def say(message: str, *, loud: bool = False) -> None:
        line = "{:.6f} {}\n".format(time.monotonic(), message).encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # a full disk must not end who watches the ranks
            os.write(2, line)
        if loud:
            print("launch.py: {}".format(message), file=before, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
