"""One node's part of a cell: its container, its monitor, and how far its files have come."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator.node
from orchestrator import docker
from orchestrator.containers.ending import Ending, ending
from orchestrator.errors import Nx8Error, PreflightError, Problem
from orchestrator.hung import STACKS
from orchestrator.lease import LOCK, Lease
from orchestrator.plan import Launch
from orchestrator.remote.remote import Remote, Spawned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.plan import Cell
    from orchestrator.remote.remote import Completed

COMMAND_LIMIT_S = 30.0
PIECE_BYTES = 1 << 20
MONITOR = "monitor.jsonl"
#: How long a monitor may take to end: the probe that is running, and its last one.
MONITOR_END_S = 60.0


class Gone(PreflightError):  # noqa: N818 - what happened, as LinkLost
    """docker knows no such container: somebody removed it."""


@dataclass(slots=True, kw_only=True)
class OnNode:
    """`user` is the uid:gid that the container runs as. `unsure`: it was asked for, and the answer has not
    come. `missed` counts the looks that failed. `leaves` are the files that its ranks leave for the next
    stage; `probe_argv` prints what the vendor's probe sees, empty where it has none. `boot_id` is the node's
    when its container was made.
    """

    launch: Launch
    remote: Remote
    host_output: Path
    offsets: dict[str, int] = field(default_factory=dict)
    state: docker.ContainerState | None = None
    monitor: Spawned | None = None
    user: str | None = None
    unsure: bool = False
    missed: int = 0
    leaves: tuple[str, ...] = ()
    lease: Lease | None = None
    #: Containers that were there already when we asked for them: our run's, by its nonce.
    adopted: bool = False
    #: Whether this run told its container to end, or another controller of it may have.
    halted: bool = False
    brought_bytes: int = 0
    drops_before: int = 0
    probe_argv: tuple[str, ...] = ()
    boot_id: str | None = None
    #: A look that was given up may still be at work when the next begins.
    reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files it makes, below its output folder."""
        ranks = (
            f"rank{rank}/{name}"
            for rank in self.launch.ranks
            for name in ("events.jsonl", "stdout.log", "stderr.log")
        )
        return ("launcher.log", "status.json", MONITOR, STACKS, *ranks, *self.leaves)

    @property
    def node_output(self) -> str:
        return f"{self.launch.node_job_dir}/node{self.launch.node_rank}"

    @property
    def ended(self) -> bool:
        return self.state is not None and self.state.exit_code is not None

    @property
    def begun(self) -> bool:
        """Whether its container was ever started."""
        return self.state is not None and self.state.started_at is not None

    def record(self) -> dict[str, Any]:
        """For host.json: the container as docker said it was when it was last seen."""
        state = self.state
        return {
            "container": self.launch.container,
            "user": self.user,
            "image_id": state.image_id if state else None,
            "exit_code": state.exit_code if state else None,
            "oom_killed": state.oom_killed if state else None,
            "error": state.error if state else None,
            "started_at": state.started_at if state else None,
            "finished_at": state.finished_at if state else None,
            "missed_looks": self.missed,
            "link_drops": self.remote.drops - self.drops_before,
            "brought_bytes": self.brought_bytes,
            "ending": self.ending(),
        }

    def ending(self) -> Ending:
        try:
            status = (self.host_output / "status.json").read_bytes()
        except OSError:
            status = None
        return ending(self.state, status, asked=self.halted)

    def lost(self) -> str | None:
        """Why our hold on this node is gone, or None."""
        return self.lease.lost if self.lease else None

    def hold_lost(self) -> str | None:
        """The same, asked of the node itself."""
        if self.lease is not None:
            with contextlib.suppress(Nx8Error):
                self.lease.renew()
        return self.lost()

    def look(self) -> None:
        """Brings home what is new, and asks docker how the container is. Raises PreflightError."""
        self.mirror(until_end=False)
        self.inspect()

    def inspect(self) -> None:
        """Raises Gone when there is no such container, PreflightError when docker does not answer."""
        argv = docker.inspect_argv(str(self.launch.container))
        done = self.remote.run(argv, timeout_s=COMMAND_LIMIT_S, again=True)
        if done.rc != 0:
            raise _not_inspected(self.launch, done)
        found = docker.read_inspect(done.stdout)
        if isinstance(found, Problem):
            raise PreflightError(found)
        self.state = found

    def go_on(self) -> None:
        """From where the copies here end: another controller began them."""
        for name in self.files:
            with contextlib.suppress(FileNotFoundError):
                self.offsets[name] = (self.host_output / name).stat().st_size

    def mirror(self, *, until_end: bool) -> None:
        """Puts what is new of every file into its copy here; to the end of each when `until_end`."""
        with self.reading:
            while self._mirror_once() and until_end:
                pass

    def _mirror_once(self) -> bool:
        """Whether more of a file was there than one piece."""
        wanted = [
            (f"{self.node_output}/{name}", self.offsets.get(name, 0), PIECE_BYTES) for name in self.files
        ]
        more = False
        for name, piece in zip(self.files, self.remote.read(wanted), strict=True):
            if piece.error and not piece.missing:
                message = f"{self.launch.node}: {piece.path}: {piece.error}"
                raise PreflightError(Problem(code="E210", message=message))
            if piece.data:
                self._keep(name, piece.data, offset=piece.offset)
                self.offsets[name] = piece.end
                more = more or not piece.eof
        return more

    def _keep(self, name: str, data: bytes, *, offset: int) -> None:
        """At its place, not at the end: a piece that was half written when it failed is written again."""
        path = self.host_output / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "xb") as file:
            file.seek(offset)
            file.write(data)

    def rebooted(self) -> str | None:
        """What a node is told apart by that started anew meanwhile; None where it did not, or cannot say."""
        if self.boot_id is None:
            return None
        now = self.remote.hello(timeout_s=COMMAND_LIMIT_S).get("boot_id")
        if now is None or now == self.boot_id:
            return None
        return f"{self.launch.node}: rebooted: its boot id was {self.boot_id}, and is {now}"

    def keep(self, name: str, data: bytes) -> None:
        """Beside the copies of its files: what was asked of the node, not what its job wrote."""
        self.host_output.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.host_output / name).write_bytes(data)

    def sizes(self) -> tuple[int, int]:
        """Bytes on the node that are not here yet, and bytes of all files there."""
        found = self.remote.stat(*(f"{self.node_output}/{name}" for name in self.files))
        whole = [int(one.get("size") or 0) for one in found]
        here = [self.offsets.get(name, 0) for name in self.files]
        return sum(max(0, size - held) for size, held in zip(whole, here, strict=True)), sum(whole)

    def compared(self, *, limit_s: float) -> list[str]:
        """The files whose bytes here are not those on the node, also after they were fetched once more. A
        copy whose file the node has no more, or does not let us read, is all that is left of it, and stays.
        """
        found = self.differing(self.files, limit_s=limit_s)
        again = [name for name, digest in found.items() if digest is not None]
        wrong = found.keys() - again
        if again:
            self._fetched_anew(again)
            wrong |= {name for name in again if not self.offsets[name]}
            wrong |= self.differing(again, limit_s=limit_s).keys()
        self.brought_bytes = sum(self.offsets.values())
        return [name for name in self.files if name in wrong]

    def _fetched_anew(self, names: Sequence[str]) -> None:
        """The copy that was here comes back where none came in its place."""
        aside = {name: (self.host_output / name).with_suffix(".differs") for name in names}
        came: set[str] = set()
        for name, path in aside.items():
            self.offsets[name] = 0
            (self.host_output / name).replace(path)
        try:
            self.mirror(until_end=True)
            came = {name for name in names if self.offsets[name]}
        finally:
            for name, path in aside.items():
                if name in came:
                    path.unlink()
                else:
                    path.replace(self.host_output / name)

    def differing(self, files: Sequence[str], *, limit_s: float) -> dict[str, str | None]:
        """Of these files those whose bytes here are not the node's: the SHA-256 there, None where it cannot
        be read.
        """
        names = [name for name in files if self.offsets.get(name)]
        paths = (f"{self.node_output}/{name}" for name in names)
        there = self.remote.sha256(*paths, timeout_s=limit_s)
        return {
            name: digest
            for name, digest in zip(names, there, strict=True)
            if digest != _sha256(self.host_output / name)
        }

    def watch(self, cell: Cell, *, limit_s: float) -> None:
        """Starts the vendor's probe beside the job."""
        assert cell.probe is not None
        folder = str(self.launch.node_job_dir)
        config = {
            "argv": cell.probe.argv,
            "interval_s": cell.probe.interval_s,
            "timeout_s": cell.probe.limit_s,
            "limit_s": limit_s,
            "output": f"{self.node_output}/{MONITOR}",
            "lock": LOCK,
        }
        source = Path(orchestrator.node.__file__).with_name("monitor.py")
        self.remote.write(f"{folder}/monitor.py", source.read_bytes())
        self.remote.write(f"{folder}/monitor.json", json.dumps(config).encode("utf-8"))
        self.monitor = self.remote.spawn(
            ("python3", f"{folder}/monitor.py", f"{folder}/monitor.json"),
            stdout=f"{folder}/monitor.out",
            stderr=f"{folder}/monitor.err",
        )

    def unwatch(self) -> None:
        """Asks the monitor to write its last lines and waits until it has gone; then insists."""
        monitor = self.monitor or self._found_monitor()
        if monitor is None:
            return
        deadline = time.monotonic() + MONITOR_END_S
        pause = threading.Event()
        # Not to its group: the probe that is running belongs to it, and shall end by itself.
        alive = self.remote.signal(monitor, signal.SIGTERM, group=False)
        while alive and time.monotonic() < deadline:
            pause.wait(0.05)
            alive = self.remote.signal(monitor, 0)
        if alive:
            self.remote.signal(monitor, signal.SIGKILL)
        self.monitor = None

    def _found_monitor(self) -> Spawned | None:
        """The one that another controller of this run started."""
        if not self.adopted:
            return None
        (piece,) = self.remote.read([(f"{self.node_output}/{MONITOR}.pid", 0, 1 << 12)])
        try:
            return Spawned(**json.loads(piece.data))
        except (ValueError, TypeError):
            return None


def said(error: Nx8Error) -> str:
    """What went wrong, without code and help."""
    return str(error.problems[0].message) if error.problems else str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_inspected(launch: Launch, done: Completed) -> PreflightError:
    last = docker.last_words(done.stderr, rc=done.rc)
    gone = "no such container" in last.lower()
    message = f"{launch.node}: docker says of {launch.container}: {last}"
    return (Gone if gone else PreflightError)(Problem(code="E233", message=message))
