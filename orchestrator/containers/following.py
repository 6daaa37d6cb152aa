"""Follows the running containers of a cell; to others it looks like a local launcher."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from orchestrator import docker, failpoints
from orchestrator.containers.ending import ODD_ENDS
from orchestrator.containers.examining import examine
from orchestrator.containers.onnode import COMMAND_LIMIT_S, MONITOR_END_S, Gone, OnNode, said
from orchestrator.errors import Nx8Error
from orchestrator.remote.patience import pauses

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote

#: How often the nodes' files are looked at, in seconds.
TICK_S = 0.5
#: A node that could not be looked at for this long is lost. Longer than a look may take by its own limits (a
#: read and a question to docker), so that one slow look alone never costs a cell.
SILENT_LIMIT_S = 120.0
#: Once one node's ranks have ended badly the others get this long to notice by themselves.
GANG_LIMIT_S = 20.0
STOP_TIMEOUT_S = 10
KILL_LIMIT_S = 15.0
#: What bringing the files home may take: this, and the time that their bytes need at the slowest line and
#: disk that are worth waiting for.
DRAIN_LIMIT_S = 120.0
LEAST_LINE_BYTES_PER_S = 1 << 20
LEAST_DISK_BYTES_PER_S = 20 << 20


class Containers:
    """Looks at each node from a thread of its own, so that a slow one delays no other; one more thread
    decides when all is over, stops what still runs and brings the files home.
    """

    def __init__(
        self,
        nodes: list[OnNode],
        pool: Pool,
        *,
        started_s: float,
        insisted: Callable[[], bool] = lambda: False,
    ) -> None:
        """`insisted`: whether somebody asked a second time, and no more grace is given."""
        self._insisted = insisted
        self._nodes = {node.launch.node: node for node in nodes}
        self._pool = pool
        self._stopping = False
        self._quiet = threading.Event()
        self._news = threading.Event()
        self._code: int | None = None
        self.lost: str | None = None
        self.started_s = started_s
        self.ended_s: float | None = None
        self.descriptor, self._bell = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._follow, name="nx8-follow", daemon=True)
        self._thread.start()

    @property
    def odd_end(self) -> str | None:
        """What ended a container from outside, or a process in it unseen: the first that is told."""
        found = ((name, node.ending()) for name, node in self._nodes.items())
        return next((f"{name}: {end['text']}" for name, end in found if end["kind"] in ODD_ENDS), None)

    @property
    def wall_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.started_s

    @property
    def oom_killed(self) -> tuple[str, ...]:
        """The nodes on which the kernel killed something in the container for want of memory."""
        return tuple(name for name, node in self._nodes.items() if node.state and node.state.oom_killed)

    def exit_code(self) -> int | None:
        """The worst exit code of the containers once all have ended and their files are here, None before."""
        return self._code

    def record(self) -> dict[str, Any]:
        """By node, for host.json."""
        return {name: node.record() for name, node in self._nodes.items()}

    def examine(self) -> None:
        """Keeps where the ranks stand, while they still do."""
        examine(self._nodes.values(), self._pool)

    def stop(self) -> None:
        """Ends the containers on all nodes at once, brings their files home, and returns."""
        self._stopping = True
        for node in self._nodes.values():
            if node.lease is not None and not self._quiet.is_set():
                node.lease.hurry()
        self._news.set()
        self._thread.join()

    def close(self) -> None:
        try:
            self.stop()
        finally:
            os.close(self.descriptor)
            os.close(self._bell)

    def _follow(self) -> None:
        watchers = [
            threading.Thread(target=self._watch, args=(node,), name=f"nx8-look-{name}", daemon=True)
            for name, node in self._nodes.items()
        ]
        for watcher in watchers:
            watcher.start()
        try:
            self._await_end()
            self._quiet.set()
            self._halt([node for node in self._nodes.values() if not node.ended])
            self.ended_s = time.monotonic()
            failpoints.passed("cell.halted")
            self._bring_home()
            failpoints.passed("cell.home")
        except BaseException as error:  # noqa: BLE001 - a thread's error must end the cell, not vanish
            self._lose(f"{type(error).__name__}: {error}")
        finally:
            self._quiet.set()
            self.ended_s = self.ended_s or time.monotonic()
            codes = [node.state.exit_code if node.state else None for node in self._nodes.values()]
            self._code = max((255 if code is None else code for code in codes), default=255)
            os.write(self._bell, b"!")

    def _await_end(self) -> None:
        """Returns when all have ended, one is lost, one's bad end was not followed by the others' in time, or
        somebody asks us to stop.
        """
        failed_s: float | None = None
        while not (self._stopping or self.lost or all(node.ended for node in self._nodes.values())):
            self._news.wait(TICK_S)
            self._news.clear()
            if any(node.ended and node.state and node.state.exit_code for node in self._nodes.values()):
                failed_s = failed_s or time.monotonic()
                if time.monotonic() - failed_s > GANG_LIMIT_S:
                    return

    def _watch(self, node: OnNode) -> None:
        """Looks again and again until its container has ended. A look that fails, also because the link
        broke, is noted and tried again; the node is lost with its lease, its container, or when no look
        succeeds for too long.
        """
        seen_s, pause, wait_s = time.monotonic(), pauses(), TICK_S
        try:
            while not node.ended and not self._quiet.wait(wait_s):
                if lost := node.lost():
                    return self._lose(lost)
                try:
                    node.look()
                    seen_s, pause, wait_s = time.monotonic(), pauses(), TICK_S
                    failpoints.passed("cell.look")
                except Gone as gone:
                    return self._lose(node.hold_lost() or said(gone))
                except Nx8Error as error:
                    node.missed += 1
                    wait_s = pause()
                    if time.monotonic() - seen_s > SILENT_LIMIT_S:
                        return self._lose(f"no look succeeded for {SILENT_LIMIT_S:g} s: {said(error)}")
            self._news.set()
        except Nx8Error as error:
            self._lose(said(error))
        except BaseException as error:  # noqa: BLE001 - as in _follow
            self._lose(f"{node.launch.node}: {type(error).__name__}: {error}")

    def _lose(self, why: str) -> None:
        """The first reason counts: what is stopped because of it may fail in other ways."""
        self.lost = self.lost or why
        self._news.set()

    def _halt(self, nodes: list[OnNode]) -> None:
        """Stops these containers, all at once; kills them as soon as somebody insists."""

        def halt(remote: Remote) -> None:
            node = self._nodes[remote.name]
            node.halted = True
            name = str(node.launch.container)
            argv = docker.stop_argv(name, timeout_s=STOP_TIMEOUT_S)
            remote.run(argv, timeout_s=STOP_TIMEOUT_S + COMMAND_LIMIT_S, again=True)
            node.inspect()

        names = [node.launch.node for node in nodes]
        halted = threading.Event()
        killer = threading.Thread(target=self._kill, args=(names, halted), name="nx8-kill", daemon=True)
        killer.start()
        heard = self._pool.settle(halt, nodes=names, limit_s=STOP_TIMEOUT_S + 2 * COMMAND_LIMIT_S + 15.0)
        halted.set()
        killer.join()
        for error in heard.values():
            if isinstance(error, Nx8Error):
                self._lose(said(error))

    def _kill(self, names: list[str], halted: threading.Event) -> None:
        def kill(remote: Remote) -> None:
            name = str(self._nodes[remote.name].launch.container)
            remote.run(docker.kill_argv(name), timeout_s=KILL_LIMIT_S, again=True)

        while not halted.wait(0.1):
            if self._insisted():
                self._pool.settle(kill, nodes=names, limit_s=KILL_LIMIT_S)
                return

    def _bring_home(self) -> None:
        """The monitors end, then every file is drained and compared."""

        def end(remote: Remote) -> float:
            node = self._nodes[remote.name]
            if again := node.rebooted():
                self.lost = again  # why whatever else was lost
            node.unwatch()
            return drain_limit_s(*node.sizes())

        def drain(remote: Remote) -> list[str]:
            node = self._nodes[remote.name]
            node.mirror(until_end=True)
            return node.compared(limit_s=limits[remote.name])

        ends = self._pool.settle(end, nodes=self._nodes, limit_s=MONITOR_END_S + 2 * COMMAND_LIMIT_S)
        limits = {name: limit for name, limit in ends.items() if isinstance(limit, float)}
        drained = self._pool.settle(drain, nodes=limits, limit_s=max(limits.values(), default=DRAIN_LIMIT_S))
        for name, found in (*ends.items(), *drained.items()):
            if isinstance(found, Nx8Error):
                self._lose(f"its files could not be brought home: {said(found)}")
            elif isinstance(found, list) and found:
                self._lose(f"{name}: copies differ from the node's: {', '.join(found)}")


def drain_limit_s(unread_bytes: int, all_bytes: int) -> float:
    """What copying the rest of a node's files and hashing all of them may take, in seconds."""
    return DRAIN_LIMIT_S + unread_bytes / LEAST_LINE_BYTES_PER_S + 2 * all_bytes / LEAST_DISK_BYTES_PER_S
