"""Brings home what the containers of a run wrote that nobody followed to its end. Removes nothing from any
node: `nx8 clean` does.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.containers.following import DRAIN_LIMIT_S, drain_limit_s
from orchestrator.containers.onnode import COMMAND_LIMIT_S, said
from orchestrator.errors import CellError, Nx8Error, Problem
from orchestrator.lease import GRACE_S, LOCK
from orchestrator.results.storage import storage_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.containers.onnode import OnNode
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote

#: The keeper's word of how docker said that the containers ended, in the run's folder on the node.
LOST = "lost.json"
MAX_LOST_BYTES = 1 << 20
#: What a keeper may need beyond the lease and its grace, for docker's own commands.
MARGIN_S = 20.0
LOOK_S = 0.5


def salvaged(
    pool: Pool,
    nodes: Mapping[str, OnNode],
    *,
    run_id: str,
    runs: str,
    lease_s: float,
    enough: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Copies the rest of every node's files once the node has ended its part by itself; `runs` is the folder
    of runs there, `enough` says that nobody wants to wait for that end. What is lacking all the same, a line
    each.
    """
    patience_s = lease_s + GRACE_S + MARGIN_S

    def await_end(remote: Remote) -> float:
        _await_end(remote, run_id, patience_s=patience_s, enough=enough)
        node = nodes[remote.name]
        node.halted = True  # by its keeper
        node.go_on()
        return drain_limit_s(*node.sizes())

    def drain(remote: Remote) -> list[str]:
        node = nodes[remote.name]
        try:
            node.mirror(until_end=True)
            _hear(node, f"{runs}/{run_id}/{LOST}")
            return node.compared(limit_s=limits[remote.name])
        except OSError as error:
            raise CellError(storage_problem(error, node.host_output, code="E701")) from error

    ends = pool.settle(await_end, nodes=nodes, limit_s=patience_s + 2 * COMMAND_LIMIT_S)
    limits = {name: limit for name, limit in ends.items() if isinstance(limit, float)}
    drained = pool.settle(drain, nodes=limits, limit_s=max(limits.values(), default=DRAIN_LIMIT_S))
    lines = []
    for name, found in (*ends.items(), *drained.items()):
        if isinstance(found, Nx8Error):
            where = f"until `nx8 clean` they lie in {nodes[name].node_output}"
            lines.append(f"{name}: its files could not be brought home: {said(found)}; {where}")
        elif isinstance(found, list) and found:
            lines.append(f"{name}: copies differ from the node's: {', '.join(found)}")
    return lines


def _await_end(remote: Remote, run_id: str, *, patience_s: float, enough: Callable[[], bool]) -> None:
    """Returns when nobody is at work for the run there any more: its lease has expired, and its keeper has
    ended its containers.
    """
    deadline, pause = time.monotonic() + patience_s, threading.Event()
    while not enough() and time.monotonic() < deadline:
        lease = remote.lease(LOCK)
        ours = lease is not None and lease.owner is not None and lease.owner.get("run") == run_id
        if not (ours and lease is not None and (lease.keeper or not lease.expired)):
            return
        pause.wait(LOOK_S)


def _hear(node: OnNode, path: str) -> None:
    """Keeps the keeper's word, where there is one, and takes how the container ended from it."""
    (piece,) = node.remote.read([(path, 0, MAX_LOST_BYTES)])
    if not piece.data:
        return
    node.keep(LOST, piece.data)
    node.state = _state(piece.data, str(node.launch.container)) or node.state


def _state(testimony: bytes, container: str) -> docker.ContainerState | None:
    try:
        told = json.loads(testimony)["containers"]
        found = [
            {"Id": one["id"], "Name": one["name"], "State": one["state"]}
            for one in told
            if one["name"] == f"/{container}"
        ]
    except (ValueError, LookupError, TypeError):
        return None
    state = docker.read_inspect(json.dumps(found).encode())
    return None if isinstance(state, Problem) else state
