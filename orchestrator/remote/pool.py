"""All nodes of a plan at once. Every one is heard before one error lists all that failed or were silent."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Self, TypeVar

from orchestrator.errors import Nx8Error, PreflightError
from orchestrator.remote.connection import Settings
from orchestrator.remote.errors import GivenUp, OverTime
from orchestrator.remote.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from orchestrator.cluster import Cluster, Node

T = TypeVar("T")
WORKERS = 64
#: How long, in seconds, the others of a gang may go on after the first has failed.
GANG_S = 20.0


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
        gang: bool = False,
    ) -> dict[str, T]:
        """What `function` returns for each node. Raises one error with the problems of all that failed."""
        found = self.settle(function, nodes=nodes, limit_s=limit_s, gang=gang)
        failed = failures(found)
        if failed:
            raise together(failed)
        return found  # type: ignore[return-value]

    def settle(
        self,
        function: Callable[[Remote], T],
        *,
        nodes: Iterable[str] | None = None,
        limit_s: float | None = None,
        gang: bool = False,
    ) -> dict[str, T | Nx8Error]:
        """What became of each node, in the order asked: a value, or the error. A node not heard of within
        `limit_s` (for each wave of 64) is cut off and has an E213. In a `gang` the first failure is that of
        all, and who is not done GANG_S later is cut off too. A bug in `function` is raised.
        """
        names = list(self.remotes if nodes is None else nodes)
        return in_parallel(
            lambda name: function(self.remotes[name]),
            names,
            limit_s=limit_s,
            gang_s=GANG_S if gang else None,
            silent=self.silent,
            given_up=self.given_up,
        )

    def given_up(self, name: str, failed: str) -> Nx8Error:
        """Ends what `name` still does."""
        remote = self.remotes[name]
        remote.link.close()
        return GivenUp.of(
            "E213",
            f"not waited for: {failed} had failed",
            node=name,
            phase=remote.link.phase,
            help=f"what {failed} says comes first",
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
    gang_s: float | None = None,
    silent: Callable[[str, float], Nx8Error] | None = None,
    given_up: Callable[[str, str], Nx8Error] | None = None,
) -> dict[str, T | Nx8Error]:
    """What `function` returned or raised for each name, in their order; 64 at a time. After `limit_s` for
    each wave, who was not heard has `silent`'s error, and its thread is left behind; so has, `gang_s` after
    the first failure, `given_up`'s. A bug is raised. Whoever leaves early, also by Ctrl-C, leaves nobody at
    work: no further function begins, and those that run are cut off.
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
    first_failed: str | None = None
    try:
        while len(found) < len(names):
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                name, value = heard.get(timeout=left_s)
            except queue.Empty:
                break
            if isinstance(value, BaseException) and not isinstance(value, Nx8Error):
                raise value
            found[name] = value
            if gang_s is not None and first_failed is None and isinstance(value, Nx8Error):
                first_failed, end = name, time.monotonic() + gang_s
                deadline = end if deadline is None else min(deadline, end)
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                work.get_nowait()
        if sys.exception() is not None and silent is not None:
            for name in set(names) - found.keys():
                silent(name, 0.0)
    for name in names:
        if name not in found and first_failed is not None and given_up is not None:
            found[name] = given_up(name, first_failed)
        elif name not in found:
            found[name] = (silent or was_silent)(name, limit_s or 0.0)
    return {name: found[name] for name in names}


def failures(found: Mapping[str, object]) -> dict[str, Nx8Error]:
    """Of what became of each node the errors; that one was given up is none beside what failed."""
    failed = {name: value for name, value in found.items() if isinstance(value, Nx8Error)}
    own = {name: error for name, error in failed.items() if not isinstance(error, GivenUp)}
    return own or failed


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
