"""Removes what a run left on a node, and says what could not be removed."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import docker, failpoints
from orchestrator.containers.onnode import COMMAND_LIMIT_S, OnNode, said
from orchestrator.errors import BusyError, Nx8Error, PreflightError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.plan import Cell
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote

REMOVE_LIMIT_S = 60.0
#: For everything of a run on one node.
SWEEP_LIMIT_S = 150.0
#: How long docker may still be making a container whose creation was not heard of to its end.
LATE_S = 15.0
#: How long removing is tried again before it counts as impossible: what is being removed is listed meanwhile.
AGAIN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Something of a run that may still be on a node, why, and how to remove it by hand. `container`: a node
    where this is must not be given to the next run.
    """

    what: str
    why: str
    by_hand: str
    container: bool = False

    def __str__(self) -> str:
        return f"{self.what} may still be there ({self.why}); to remove it there: {self.by_hand}"

    @classmethod
    def containers(cls, run_id: str, why: str) -> Left:
        return cls(
            what=f"a container of run {run_id}",
            why=why,
            by_hand=f"docker rm --force --volumes $(docker ps -aq --filter label=nx8.run={run_id})",
            container=True,
        )

    @classmethod
    def folder(cls, path: str, why: str) -> Left:
        return cls(what=f"the folder {path}", why=why, by_hand=f"rm -r {path}")

    @classmethod
    def unknown(cls, run_id: str, root: str, error: Nx8Error) -> Left:
        """Of a node that did not answer: whatever the run put there."""
        path = f"{root}/{run_id}"
        why = error.problems[0].message if error.problems else str(error)
        one, two = cls.containers(run_id, why), cls.folder(path, why)
        return cls(
            what=f"{one.what}, or {two.what},",
            why=why,
            by_hand=f"{one.by_hand}; {two.by_hand}",
            container=True,
        )


def cleared(node: OnNode, cell: Cell, work_dir: str) -> None:
    """Ends the monitor, removes the cell's containers and folder. What fails does not keep the rest from
    being tried, and is left to `swept`.
    """
    remote, labels = node.remote, {"nx8.run": cell.job.run_id, "nx8.cell": cell.cell_id}
    with contextlib.suppress(Nx8Error):
        node.unwatch()
    with contextlib.suppress(Nx8Error):
        remote.run(docker.remove_argv(str(node.launch.container)), timeout_s=REMOVE_LIMIT_S, again=True)
        if node.unsure:
            _await_late(remote, labels)
        _removed(remote, labels, again_s=0.0)
    with contextlib.suppress(Nx8Error):
        remote.remove_tree(str(node.launch.node_job_dir), root=f"{work_dir}/runs")
    failpoints.passed("container.cleared")


def swept(remote: Remote, run_id: str, *, root: str) -> tuple[Left, ...]:
    """Removes every container and the folder of a run; returns what may be left all the same."""
    left: list[Left] = []
    try:
        if still := _removed(remote, {"nx8.run": run_id}, again_s=AGAIN_S):
            left.append(Left.containers(run_id, f"docker lists {', '.join(one[:12] for one in still)}"))
    except Nx8Error as error:
        left.append(Left.containers(run_id, said(error)))
    path = f"{root}/{run_id}"
    try:
        if remote.stat(path)[0].get("exists") is not False and (kept := remote.remove_tree(path, root=root)):
            left.append(Left.folder(path, "; ".join(kept[:3])))
    except Nx8Error as error:
        left.append(Left.folder(path, said(error)))
    return tuple(left)


def swept_over(remote: Remote, over: Mapping[str, Any], *, root: str) -> None:
    """Removes what a dead run left whose lock was taken over; `over` was its record, `root` the folder of
    runs where that does not say it. Raises BusyError (E259) where a container of it stays.
    """
    runs = str(over.get("runs") or root)
    if left := [one for one in swept(remote, str(over.get("run")), root=runs) if one.container]:
        raise BusyError(Problem(code="E259", message=f"{remote.name}: {left[0]}"))


def swept_everywhere(
    pool: Pool, run_id: str, *, nodes: Iterable[str], root: str
) -> dict[str, tuple[Left, ...]]:
    """What may be left of the run on each of these nodes after a sweep of all at once; on a node that did not
    answer that may be anything.
    """
    found = pool.settle(lambda remote: swept(remote, run_id, root=root), nodes=nodes, limit_s=SWEEP_LIMIT_S)
    return {
        name: (Left.unknown(run_id, root, value),) if isinstance(value, Nx8Error) else value
        for name, value in found.items()
    }


def _removed(remote: Remote, labels: dict[str, str], *, again_s: float) -> tuple[str, ...]:
    """Removes the containers with these labels, whatever their names; returns those that stay."""
    deadline = time.monotonic() + again_s
    pause = threading.Event()
    found = _listed(remote, labels)
    while found:
        for one in found:
            remote.run(docker.remove_argv(one), timeout_s=REMOVE_LIMIT_S, again=True)
        found = _listed(remote, labels)
        if time.monotonic() > deadline:
            break
        pause.wait(0.2)
    return found


def _await_late(remote: Remote, labels: dict[str, str]) -> None:
    """docker goes on with what it was asked, also when nobody listens any more."""
    deadline = time.monotonic() + LATE_S
    pause = threading.Event()
    while not _listed(remote, labels) and time.monotonic() < deadline:
        pause.wait(0.5)


def _listed(remote: Remote, labels: dict[str, str]) -> tuple[str, ...]:
    """Raises PreflightError when docker does not say: an empty answer would be no proof then."""
    done = remote.run(docker.list_argv(labels), timeout_s=COMMAND_LIMIT_S, again=True)
    if done.rc != 0:
        message = (
            f"{remote.name}: docker does not list containers: {docker.last_words(done.stderr, rc=done.rc)}"
        )
        raise PreflightError(Problem(code="E233", message=message))
    return docker.read_list(done.stdout)
