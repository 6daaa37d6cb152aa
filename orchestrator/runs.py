"""Runs as they stand: who follows one, where it is, what it left on nodes; and how one is ended or cleared
away by somebody else than its controller.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator import docker, facts
from orchestrator.containers.clearing import Left, swept
from orchestrator.containers.onnode import COMMAND_LIMIT_S
from orchestrator.errors import Nx8Error, PreflightError, Problem
from orchestrator.journal import Controller, Past, controller, followed, read
from orchestrator.lease import LOCK
from orchestrator.load import read_stored
from orchestrator.plan import Plan
from orchestrator.remote.remote import LeaseState
from orchestrator.results import RunFolder

if TYPE_CHECKING:
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote
    from orchestrator.workspace import Workspace

#: running: somebody follows it. orphaned: nobody does, and it has no end: its nodes hold it by their leases
#: for so long, and `nx8 resume` goes on with it. left: the same, because its controller was told to go.
State = Literal["running", "orphaned", "left", "stopped", "failed", "lost", "finished", "unknown"]

STOP_LIMIT_S = 120.0
LOOK_S = 0.1
LIST_LIMIT_S = 20.0
CLEAN_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where one run stands. `cell` is the one at work, `step` what its slowest rank has reached."""

    run_id: str
    state: State
    cluster: str
    nodes: tuple[str, ...]
    cells: str
    drops: int
    controller: Controller | None
    folder: str


def stand_of(folder: RunFolder) -> Stand:
    """Raises ConfigError for a plan that cannot be read."""
    planned = read_stored(folder.plan, Plan)
    past = Past.of(read(folder.journal))
    who = controller(folder.journal)
    done = len(past.ended)
    return Stand(
        run_id=folder.run_id,
        state=_state(folder, past, who, here=planned.transport == "local"),
        cluster=planned.cluster,
        nodes=tuple(dict.fromkeys(one.node for cell in planned.cells for one in cell.launches)),
        cells=f"{done}/{len(planned.cells)}",
        drops=past.drops,
        controller=who,
        folder=str(folder.path),
    )


def _state(folder: RunFolder, past: Past, who: Controller | None, *, here: bool) -> State:
    """`here`: on this machine alone, where ranks end with their controller."""
    if who is None:
        return "finished" if folder.result.is_file() else "unknown"
    if who.alive:
        return "running"
    ends: tuple[State, ...] = ("finished", "stopped", "failed", "lost", "left")
    return next((state for state in ends if state == past.closed), "lost" if here else "orphaned")


def stands(workspace: Workspace) -> tuple[Stand, ...]:
    """Every run whose plan can be read, the newest last."""
    found = []
    for folder in RunFolder.all(workspace.runs):
        try:
            found.append(stand_of(folder))
        except Nx8Error:
            continue
    return tuple(found)


def ask_to_stop(folder: RunFolder, *, insist: bool) -> bool:
    """Sends SIGTERM to the run's controller, twice to `insist`, and waits for its end. False where nobody
    follows the run. Raises PreflightError (E256) for a controller of another machine, or one that stays.
    """
    who = controller(folder.journal)
    if who is None or not who.alive:
        return False
    if who.host != platform.node() or facts.process_start(who.pid) != who.start:
        message = (
            f"run {folder.run_id} is followed by process {who.pid} on {who.host}, which is not ours to end"
        )
        raise PreflightError(Problem(code="E256", message=message, help="stop it there"))
    pause, deadline = threading.Event(), time.monotonic() + STOP_LIMIT_S
    # It may have ended by itself since we looked.
    with suppress(ProcessLookupError):
        os.kill(who.pid, signal.SIGTERM)
        if insist:
            pause.wait(LOOK_S)
            os.kill(who.pid, signal.SIGTERM)
    while followed(folder.journal):
        if time.monotonic() > deadline:
            message = f"run {folder.run_id}: its controller (process {who.pid}) does not end"
            raise PreflightError(Problem(code="E256", message=message, help="nx8 stop --kill"))
        pause.wait(LOOK_S)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class OnNodes:
    """What stands on one node that carries our labels: the lock, containers and folders by run."""

    node: str
    lease: LeaseState | None
    containers: dict[str, int]
    folders: tuple[str, ...]

    @property
    def holder(self) -> str | None:
        """The run whose lease still holds the node."""
        alive = self.lease is not None and not self.lease.expired and self.lease.owner is not None
        return str(self.lease.owner.get("run")) if alive and self.lease and self.lease.owner else None

    @property
    def dead(self) -> tuple[str, ...]:
        """The runs that left something here and hold the node no more."""
        return tuple(sorted({*self.containers, *self.folders} - {self.holder}))


def seen_on(pool: Pool, work_dir: str) -> dict[str, OnNodes | Nx8Error]:
    return pool.settle(lambda remote: _seen(remote, work_dir), limit_s=LIST_LIMIT_S + COMMAND_LIMIT_S)


def _seen(remote: Remote, work_dir: str) -> OnNodes:
    # The lock last: a run takes it before it makes anything, so what was listed before and is not
    # the holder's is of a run that holds nothing any more.
    argv = docker.list_runs_argv()
    done = remote.run(argv, timeout_s=COMMAND_LIMIT_S, again=True)
    if done.rc != 0:
        message = (
            f"{remote.name}: docker does not list containers: {docker.last_words(done.stderr, rc=done.rc)}"
        )
        raise PreflightError(Problem(code="E233", message=message))
    containers: dict[str, int] = {}
    for run in docker.read_runs(done.stdout):
        containers[run] = containers.get(run, 0) + 1
    folders = tuple(remote.folders(f"{work_dir}/runs"))
    return OnNodes(node=remote.name, lease=remote.lease(LOCK), containers=containers, folders=folders)


def clean(
    pool: Pool, work_dir: str, *, dry_run: bool
) -> dict[str, tuple[OnNodes, tuple[Left, ...]] | Nx8Error]:
    """Of every node what stood there, and what of it could not be removed. Removed is what carries our labels
    and is of a run that holds the node no more, and a lock whose lease expired and whose keeper is gone.
    """

    def work(remote: Remote) -> tuple[OnNodes, tuple[Left, ...]]:
        seen = _seen(remote, work_dir)
        if dry_run:
            return seen, ()
        left = [one for run in seen.dead for one in swept(remote, run, root=f"{work_dir}/runs")]
        lease = seen.lease
        forsaken = lease is not None and lease.expired and not lease.keeper
        if lease and forsaken and lease.owner is not None and not any(one.container for one in left):
            remote.unlock_dir(LOCK, lease.owner)
        return seen, tuple(left)

    return pool.settle(work, limit_s=CLEAN_LIMIT_S)
