"""All nodes of a plan at once. Every one is heard before one error lists all that failed or were silent."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Self, TypeVar

from orchestrator.errors import Nx8Error, PreflightError
from orchestrator.remote.connection import Settings
from orchestrator.remote.errors import OverTime
from orchestrator.remote.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from orchestrator.cluster import Cluster, Node

T = TypeVar("T")
WORKERS = 64


class Pool:
    """`with Pool.open(…) as pool:` connects to all nodes, or raises one error about all that fail."""

    def __init__(self, settings: Settings, nodes: Sequence[Node]) -> None:
        self.settings = settings
        self.remotes = {node.name: Remote(settings, node) for node in nodes}

    @classmethod
    def open(cls, cluster: Cluster, nodes: Sequence[Node], known_hosts: Path) -> Self:
        """Connected when this returns, all in parallel. Raises PreflightError naming every bad node."""
        pool = cls(Settings.of(cluster, known_hosts), nodes)
        limit_s = cluster.ssh.connect_limit_s + cluster.ssh.auth_limit_s
        try:
            pool.each(lambda remote: remote.connect(limit_s=limit_s - 0.5), limit_s=limit_s)
        except BaseException:
            pool.close()
            raise
        return pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Remote:
        return self.remotes[name]

    def close(self) -> None:
        for remote in self.remotes.values():
            remote.close()
        for gateway in self.settings.gateways.values():
            gateway.close()

    def each(
        self,
        function: Callable[[Remote], T],
        *,
        nodes: Iterable[str] | None = None,
        limit_s: float | None = None,
    ) -> dict[str, T]:
        """What `function` returns for each node. Raises one error with the problems of all that failed."""
        found = self.settle(function, nodes=nodes, limit_s=limit_s)
        failed = {name: value for name, value in found.items() if isinstance(value, Nx8Error)}
        if failed:
            raise together(failed)
        return found  # type: ignore[return-value]

    def settle(
        self,
        function: Callable[[Remote], T],
        *,
        nodes: Iterable[str] | None = None,
        limit_s: float | None = None,
    ) -> dict[str, T | Nx8Error]:
        """What became of each node, in the order asked: a value, or the error. A node not heard of within
        `limit_s` (for each wave of 64) is cut off and has an E213. A bug in `function` is raised.
        """
        names = list(self.remotes if nodes is None else nodes)
        return in_parallel(
            lambda name: function(self.remotes[name]), names, limit_s=limit_s, silent=self.silent
        )

    def silent(self, name: str, limit_s: float) -> Nx8Error:
        remote = self.remotes[name]
        remote.link.close()
        return OverTime.of(
            "E213",
            f"silent for {limit_s:g} s ({remote.where}, {remote.link.phase})",
            node=name,
            phase=remote.link.phase,
            help="log in by hand and look at its load, disks and network",
        )


def in_parallel(
    function: Callable[[str], T],
    names: Sequence[str],
    *,
    limit_s: float | None = None,
    silent: Callable[[str, float], Nx8Error] | None = None,
) -> dict[str, T | Nx8Error]:
    """What `function` returned or raised for each name, in their order; 64 at a time. After `limit_s` for
    each wave, who was not heard has `silent`'s error, and its thread is left behind. A bug is raised.
    """
    work: queue.SimpleQueue[str] = queue.SimpleQueue()
    heard: queue.SimpleQueue[tuple[str, T | BaseException]] = queue.SimpleQueue()
    for name in names:
        work.put(name)

    def serve() -> None:
        while True:
            try:
                name = work.get_nowait()
            except queue.Empty:
                return
            try:
                heard.put((name, function(name)))
            except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
                heard.put((name, error))

    waves = -(-len(names) // WORKERS)
    deadline = None if limit_s is None else time.monotonic() + limit_s * waves
    for number in range(min(WORKERS, len(names))):
        threading.Thread(target=serve, name=f"nx8-node-{number}", daemon=True).start()
    found: dict[str, T | Nx8Error] = {}
    while len(found) < len(names):
        try:
            name, value = heard.get(
                timeout=None if deadline is None else max(0.0, deadline - time.monotonic())
            )
        except queue.Empty:
            break
        if isinstance(value, BaseException) and not isinstance(value, Nx8Error):
            raise value
        found[name] = value
    for name in names:
        if name not in found:
            found[name] = (silent or was_silent)(name, limit_s or 0.0)
    return {name: found[name] for name in names}


def was_silent(name: str, limit_s: float) -> Nx8Error:
    return OverTime.of(
        "E213",
        f"silent for {limit_s:g} s",
        node=name,
        phase="connect",
        help="log in by hand and look at its load, disks and network",
    )


def together(failed: Mapping[str, Nx8Error]) -> Nx8Error:
    """One error of the kind all of them are, else PreflightError, with every problem in the nodes' order."""
    problems = [problem for error in failed.values() for problem in error.problems]
    kinds = {type(error) for error in failed.values()}
    base = next(iter(kinds)) if len(kinds) == 1 else PreflightError
    codes = {error.exit_code for error in failed.values()}
    if len(kinds) > 1 and len(codes) == 1:
        base = next(kind for kind in next(iter(kinds)).__mro__ if kind.__module__ == "orchestrator.errors")
    return base(problems)
