"""The containers of one cell: all started or none, their files mirrored here, always stopped and removed."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator import data, docker, failpoints
from orchestrator.containers.clearing import LATE_S, cleared
from orchestrator.containers.following import Containers
from orchestrator.containers.onnode import COMMAND_LIMIT_S, Gone, OnNode
from orchestrator.errors import PreflightError, Problem
from orchestrator.lease import COUNTER
from orchestrator.plan import to_json
from orchestrator.remote.errors import RemoteError
from orchestrator.remote.patience import is_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from orchestrator.lease import Lease
    from orchestrator.plan import Cell
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Completed
    from orchestrator.results import CellFolder

__all__ = ["Containers", "monitor_limit_s", "nodes_of", "started"]

#: docker makes the writable layer and, with some runtimes, asks a hook for devices; starting is the same.
CREATE_LIMIT_S = 120.0
CLEAR_LIMIT_S = 180.0
#: For what a stage leaves to the next, tens of megabytes.
HAND_ON_LIMIT_S = 600.0
#: For what is outside a cell's own limits: creating, starting, stopping and draining its containers.
MONITOR_MARGIN_S = 1800.0


def monitor_limit_s(cell: Cell, *, time_limit_s: float | None) -> float:
    """Seconds after which a monitor ends that nobody could end: the longest the cell may take by its own
    limits, or what the run as a whole may take, and a margin.
    """
    longest_s = cell.limits.startup_s + cell.job.steps.total * cell.limits.stall_s
    return min(longest_s, longest_s if time_limit_s is None else time_limit_s) + MONITOR_MARGIN_S


@contextmanager
def started(
    pool: Pool,
    cell: Cell,
    files: CellFolder,
    *,
    images: Mapping[str, str],
    work_dir: str,
    monitor_limit_s: float,
    leases: Mapping[str, Lease],
    insisted: Callable[[], bool],
    begun_s: float | None = None,
) -> Iterator[Containers]:
    """The cell's containers, running on every node; `images` has the identifier of each tag. What another
    controller of this run has left of them is adopted, not made again; `begun_s` is when that one started
    them, on the monotonic clock.

    Raises PreflightError naming every node that could not create or start its own (E236), would run another
    image (E246) or has lost the port (E235); then none is left anywhere.
    """
    nodes = nodes_of(pool, cell, files, leases)
    containers: Containers | None = None
    try:
        run = files.path.parent.parent
        pool.each(lambda remote: _prepare(nodes[remote.name], cell, work_dir, run), nodes=nodes, gang=True)
        pool.each(lambda remote: _create(nodes[remote.name], cell, images), nodes=nodes, gang=True)
        fresh = {name for name, node in nodes.items() if not node.begun}
        if cell.launches[0].node in fresh:
            _look_at_port(nodes[cell.launches[0].node])
        if cell.probe is not None:
            pool.each(lambda remote: nodes[remote.name].watch(cell, limit_s=monitor_limit_s), nodes=fresh)
        started_s = begun_s or time.monotonic()
        pool.each(lambda remote: _start(nodes[remote.name]), nodes=fresh, gang=True)
        failpoints.passed("cell.started")
        for name in nodes.keys() - fresh:
            nodes[name].go_on()
        containers = Containers(list(nodes.values()), pool, started_s=started_s, insisted=insisted)
        yield containers
    finally:
        try:
            if containers is not None:
                containers.close()
        finally:
            for lease in leases.values():
                lease.files = ()
            # Whatever happened, also half-way through starting: nothing of ours stays on any node. What this
            # cannot remove is looked for again, and named, when the run lets the nodes go.
            pool.settle(
                lambda remote: cleared(nodes[remote.name], cell, work_dir), nodes=nodes, limit_s=CLEAR_LIMIT_S
            )
            failpoints.passed("cell.cleared")


def nodes_of(
    pool: Pool, cell: Cell, files: CellFolder, leases: Mapping[str, Lease] | None = None
) -> dict[str, OnNode]:
    """Each node's part of the cell, by the node's name; nothing is asked of any."""
    return {
        launch.node: OnNode(
            launch=launch,
            remote=pool[launch.node],
            host_output=files.node(launch.node_rank).path,
            leaves=(f"{cell.job.save}/model.safetensors",)
            if cell.job.save is not None and 0 in launch.ranks
            else (),
            lease=(leases or {}).get(launch.node),
            drops_before=pool[launch.node].drops,
            probe_argv=tuple(cell.probe.argv) if cell.probe is not None else (),
        )
        for launch in cell.launches
    }


def _prepare(node: OnNode, cell: Cell, work_dir: str, run: Path) -> None:
    """The job's folder, with what the stage before left of the run's folder `run`."""
    folder = str(node.launch.node_job_dir)
    if node.lease is not None:
        node.lease.ease()
    node.remote.make_dirs(f"{work_dir}/runs", marker=True)
    node.remote.make_dirs(folder, node.node_output)
    node.remote.write(f"{folder}/job.json", to_json(cell.job).encode("utf-8"))
    if node.lease is not None:
        node.lease.watch(f"{folder}/{COUNTER}")
    if cell.handed is not None:
        target = f"{folder}/{cell.handed.target}"
        node.remote.make_dirs(target.rpartition("/")[0])
        node.remote.write(target, data.chunks(run / cell.handed.source), timeout_s=HAND_ON_LIMIT_S)
    failpoints.passed("container.prepared")


def _create(node: OnNode, cell: Cell, images: Mapping[str, str]) -> None:
    """Creates the container, as the account that owns the job's folder and of exactly the proven image."""
    account = node.remote.hello(timeout_s=COMMAND_LIMIT_S)
    node.boot_id = account.get("boot_id")
    node.user = f"{account['uid']}:{account['gid']}"
    argv = docker.as_account(node.launch.argv, uid=int(account["uid"]), gid=int(account["gid"]))
    node.unsure = True
    try:
        done = node.remote.run(argv, timeout_s=CREATE_LIMIT_S)
    except RemoteError as error:
        # Nobody knows whether docker heard it. A second one would fail on the name.
        if not is_lost(error) or node.lease is None or not _adopted_late(node, cell):
            raise
    else:
        if not (done.rc != 0 and docker.is_taken(done.stderr) and _adopted(node, cell)):
            _expect(done, node, "created")
            node.inspect()
    node.unsure = False
    failpoints.passed("container.created")
    seen = node.state.image_id if node.state else None
    proven = images.get(cell.image.tag) if cell.image else None
    if seen is None or seen != proven:
        raise PreflightError(_another_image(node, seen, proven))


def _adopted(node: OnNode, cell: Cell) -> bool:
    """Whether the node has the container already: by its name, and by the nonce that only this run knows."""
    try:
        node.inspect()
    except Gone:
        return False
    assert node.state is not None
    node.adopted = node.state.labels.get("nx8.nonce") == cell.job.nonce
    if not node.adopted:
        message = f"{node.launch.node}: {node.launch.container} is the name of a container that is not ours"
        raise PreflightError(Problem(code="E236", message=message, help="rename or remove it"))
    node.halted = node.ended
    return True


def _adopted_late(node: OnNode, cell: Cell) -> bool:
    """As `_adopted`, while docker may still be at it."""
    deadline, pause = time.monotonic() + LATE_S, threading.Event()
    while not _adopted(node, cell):
        if time.monotonic() > deadline:
            return False
        pause.wait(0.5)
    return True


def _another_image(node: OnNode, seen: str | None, proven: str | None) -> Problem:
    return Problem(
        code="E246",
        message=f"{node.launch.node}: its container is of image {seen}; proven on every node was {proven}",
        help="somebody gave the tag to another image meanwhile: run again, and the images are compared anew",
    )


def _look_at_port(node: OnNode) -> None:
    """Once more, as late as can be: since the first look images were built."""
    port = node.launch.master_port
    if node.remote.free_port("0.0.0.0", (port,)) is None:  # noqa: S104 - a probe
        message = f"{node.launch.node}: port {port}, where ranks would meet, is taken"
        raise PreflightError(
            Problem(code="E235", message=message, help="run again: every run takes another port")
        )


def _start(node: OnNode) -> None:
    argv = docker.start_argv(str(node.launch.container))
    while True:
        try:
            _expect(node.remote.run(argv, timeout_s=CREATE_LIMIT_S), node, "started")
            break
        except RemoteError as error:
            # Never a second start of one that has run: its files would be written twice.
            if not is_lost(error) or node.lease is None or not node.lease.hopeful():
                raise
            node.inspect()
            if node.begun:
                break
    failpoints.passed("container.started")


def _expect(done: Completed, node: OnNode, what: str) -> None:
    if done.rc == 0:
        return
    last = docker.last_words(done.stderr, rc=done.rc)
    raise PreflightError(
        Problem(code="E236", message=f"{node.launch.node}: the container was not {what}: {last}")
    )
