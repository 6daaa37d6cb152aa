"""The containers of one cell: all started or none, their files mirrored here, always stopped and removed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.errors import Nx8Error, PreflightError, Problem
from orchestrator.plan import Launch, to_json
from orchestrator.remote.remote import Remote, Spawned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.plan import Cell
    from orchestrator.remote.pool import Pool
    from orchestrator.results import CellFolder

#: How often the nodes' files are looked at, in seconds.
TICK_S = 0.5
COMMAND_LIMIT_S = 30.0
#: Once one node's ranks have ended badly the others get this long to notice by themselves.
GANG_LIMIT_S = 20.0
PIECE_BYTES = 1 << 20
STOP_TIMEOUT_S = 10
MONITOR = "monitor.jsonl"


@dataclass(slots=True, kw_only=True)
class OnNode:
    """One node's part of the cell, and how far its files have come."""

    launch: Launch
    remote: Remote
    host_output: Path
    offsets: dict[str, int] = field(default_factory=dict)
    state: docker.ContainerState | None = None
    monitor: Spawned | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files it makes, below its output folder."""
        ranks = (
            f"rank{rank}/{name}"
            for rank in self.launch.ranks
            for name in ("events.jsonl", "stdout.log", "stderr.log")
        )
        return ("launcher.log", "status.json", MONITOR, *ranks)

    @property
    def node_output(self) -> str:
        return f"{self.launch.node_job_dir}/node{self.launch.node_rank}"

    @property
    def ended(self) -> bool:
        return self.state is not None and not self.state.running

    def mirror(self, *, until_end: bool) -> None:
        """Appends what is new of every file to its copy here; to the end of each when `until_end`."""
        while True:
            at = [(name, self.offsets.get(name, 0)) for name in self.files]
            wanted = [(f"{self.node_output}/{name}", offset, PIECE_BYTES) for name, offset in at]
            more = False
            for name, piece in zip(self.files, self.remote.read(wanted), strict=True):
                if piece.error and not piece.missing:
                    raise PreflightError(Problem(code="E210", message=f"{piece.path}: {piece.error}"))
                if piece.data:
                    self._append(name, piece.data)
                    self.offsets[name] = piece.end
                    more = more or not piece.eof
            if not (until_end and more):
                return

    def _append(self, name: str, data: bytes) -> None:
        path = self.host_output / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def differing(self) -> list[str]:
        """The files whose bytes here are not those on the node, by SHA-256."""
        names = [name for name in self.files if self.offsets.get(name)]
        there = self.remote.sha256(*(f"{self.node_output}/{name}" for name in names))
        return [
            name
            for name, digest in zip(names, there, strict=True)
            if digest != hashlib.sha256((self.host_output / name).read_bytes()).hexdigest()
        ]


class Containers:
    """Follows the running containers of a cell from a thread; to others it looks like a local launcher."""

    def __init__(self, nodes: list[OnNode], pool: Pool, *, started_s: float) -> None:
        self._nodes = nodes
        self._pool = pool
        self._stopping = threading.Event()
        self._failed_s: float | None = None
        self._code: int | None = None
        self.lost: str | None = None
        self.started_s = started_s
        self.ended_s: float | None = None
        self.descriptor, self._bell = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._follow, name="nx8-follow", daemon=True)
        self._thread.start()

    @property
    def wall_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.started_s

    def exit_code(self) -> int | None:
        """The worst exit code of the containers once all have ended and their files are here, None before."""
        return self._code

    def stop(self) -> None:
        """Ends the containers on all nodes at once, brings their files home, and returns."""
        self._stopping.set()
        self._thread.join()
        if self._code is None:
            self._halt([node for node in self._nodes if not node.ended])
            self._finish()

    def close(self) -> None:
        try:
            self.stop()
        finally:
            os.close(self.descriptor)
            os.close(self._bell)

    def _follow(self) -> None:
        try:
            while not self._stopping.wait(TICK_S):
                self._look()
                if self.lost is not None or all(node.ended for node in self._nodes):
                    self._halt([node for node in self._nodes if not node.ended])
                    self._finish()
                    return
                self._end_the_gang()
        except BaseException as error:  # noqa: BLE001 - a thread's error must end the cell, not vanish
            self.lost = f"{type(error).__name__}: {error}"
            self._finish()

    def _look(self) -> None:
        def look(remote: Remote) -> docker.ContainerState | Problem:
            node = self._of(remote)
            node.mirror(until_end=False)
            done = remote.run(docker.inspect_argv(str(node.launch.container)), timeout_s=COMMAND_LIMIT_S)
            return docker.read_inspect(done.stdout)

        for name, found in self._pool.settle(look, nodes=self._names(), limit_s=COMMAND_LIMIT_S).items():
            if isinstance(found, Nx8Error):
                self.lost = str(found.problems[0].message) if found.problems else str(found)
            elif isinstance(found, Problem):
                self.lost = f"{name}: {found.message}"
            else:
                self._node(name).state = found

    def _end_the_gang(self) -> None:
        """When one node's ranks have ended badly and the others go on, they are stopped."""
        bad = [node for node in self._nodes if node.ended and node.state and node.state.exit_code != 0]
        if not bad:
            return
        self._failed_s = self._failed_s or time.monotonic()
        if time.monotonic() - self._failed_s > GANG_LIMIT_S:
            self._halt([node for node in self._nodes if not node.ended])

    def _halt(self, nodes: list[OnNode]) -> None:
        names = [node.launch.node for node in nodes]

        def halt(remote: Remote) -> None:
            argv = docker.stop_argv(str(self._of(remote).launch.container), timeout_s=STOP_TIMEOUT_S)
            remote.run(argv, timeout_s=STOP_TIMEOUT_S + COMMAND_LIMIT_S)

        if names:
            self._pool.settle(halt, nodes=names, limit_s=STOP_TIMEOUT_S + COMMAND_LIMIT_S + 5)
            self._look()

    def _finish(self) -> None:
        """The monitors end, every file is drained and compared, and the worst exit code is known."""

        def drain(remote: Remote) -> list[str]:
            node = self._of(remote)
            if node.monitor is not None:
                _end(remote, node.monitor)
            node.mirror(until_end=True)
            return node.differing()

        self.ended_s = time.monotonic()
        try:
            heard = self._pool.settle(drain, nodes=self._names(), limit_s=COMMAND_LIMIT_S * 4)
            for name, found in heard.items():
                if isinstance(found, Nx8Error):
                    self.lost = self.lost or f"{name}: its files could not be brought home: {found}"
                elif found:
                    self.lost = self.lost or f"{name}: copies differ from the node's: {', '.join(found)}"
        except Exception as error:  # noqa: BLE001 - a full disk here, say: whoever waits must still be woken
            self.lost = self.lost or f"{type(error).__name__}: {error}"
        finally:
            codes = [node.state.exit_code if node.state else None for node in self._nodes]
            self._code = max((255 if code is None else code for code in codes), default=255)
            os.write(self._bell, b"!")

    def _names(self) -> list[str]:
        return [node.launch.node for node in self._nodes]

    def _node(self, name: str) -> OnNode:
        return next(node for node in self._nodes if node.launch.node == name)

    def _of(self, remote: Remote) -> OnNode:
        return self._node(remote.name)


def _end(remote: Remote, process: Spawned) -> None:
    """Asks a monitor to write its last line and waits until it has gone; then insists."""
    deadline = time.monotonic() + COMMAND_LIMIT_S
    remote.signal(process, signal.SIGTERM)
    pause = threading.Event()
    while remote.signal(process, 0):
        if time.monotonic() > deadline:
            remote.signal(process, signal.SIGKILL)
            return
        pause.wait(0.05)


@contextmanager
def started(
    pool: Pool, cell: Cell, files: CellFolder, *, work_dir: str, limit_s: float
) -> Iterator[Containers]:
    """The cell's containers, running on every node. Raises PreflightError (E236) naming every node that could
    not start its own; then none is left anywhere.
    """
    nodes = [
        OnNode(launch=launch, remote=pool[launch.node], host_output=files.node(launch.node_rank).path)
        for launch in cell.launches
    ]
    names = [node.launch.node for node in nodes]
    by_name = {node.launch.node: node for node in nodes}
    containers: Containers | None = None
    try:
        pool.each(lambda remote: _prepare(by_name[remote.name], cell, work_dir), nodes=names)
        if cell.probe is not None:
            pool.each(lambda remote: _monitor(by_name[remote.name], cell, limit_s), nodes=names)
        started_s = time.monotonic()
        pool.each(lambda remote: _start(by_name[remote.name]), nodes=names)
        containers = Containers(nodes, pool, started_s=started_s)
        yield containers
    finally:
        try:
            if containers is not None:
                containers.close()
        finally:
            # Whatever happened, also half-way through starting: nothing of ours stays on any node.
            pool.settle(lambda remote: _remove(by_name[remote.name], work_dir), nodes=names)


def _prepare(node: OnNode, cell: Cell, work_dir: str) -> None:
    runs = f"{work_dir}/runs"
    node.remote.make_dirs(runs, marker=True)
    node.remote.make_dirs(str(node.launch.node_job_dir), node.node_output)
    node.remote.write(f"{node.launch.node_job_dir}/job.json", to_json(cell.job).encode("utf-8"))


def _monitor(node: OnNode, cell: Cell, limit_s: float) -> None:
    """Starts the vendor's probe beside the job."""
    assert cell.probe is not None
    folder = str(node.launch.node_job_dir)
    config = {
        "argv": cell.probe.argv,
        "interval_s": cell.probe.interval_s,
        "timeout_s": cell.probe.limit_s,
        "limit_s": limit_s,
        "output": f"{node.node_output}/{MONITOR}",
    }
    source = Path(__file__).with_name("node") / "monitor.py"
    node.remote.write(f"{folder}/monitor.py", source.read_bytes())
    node.remote.write(f"{folder}/monitor.json", json.dumps(config).encode("utf-8"))
    node.monitor = node.remote.spawn(
        ("python3", f"{folder}/monitor.py", f"{folder}/monitor.json"),
        stdout=f"{folder}/monitor.out",
        stderr=f"{folder}/monitor.err",
    )


def _start(node: OnNode) -> None:
    done = node.remote.run(node.launch.argv, timeout_s=COMMAND_LIMIT_S * 4)
    if done.rc != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = "".join(char for char in said[-1][:400] if char.isprintable()) if said else f"exit {done.rc}"
        raise PreflightError(
            Problem(code="E236", message=f"{node.launch.node}: the container did not start: {last}")
        )


def _remove(node: OnNode, work_dir: str) -> None:
    remote = node.remote
    if node.monitor is not None and remote.signal(node.monitor, 0):
        _end(remote, node.monitor)
    remote.run(docker.remove_argv(str(node.launch.container)), timeout_s=COMMAND_LIMIT_S * 2)
    remote.remove_tree(str(node.launch.node_job_dir), root=f"{work_dir}/runs")
