"""A run's hold on its nodes: each one's lock is taken, its counter kept changing, and let go again.

Where the counter stands still the node ends the run's containers and gives the lock free by itself
(orchestrator.node.keeper). So the host counts a node as lost when no renewal has reached it for that long.
"""

from __future__ import annotations

import getpass
import os
import platform
import threading
import time
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Nx8Error
from orchestrator.node import keeper_source
from orchestrator.remote.patience import is_lost, patiently, pauses

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.remote.remote import Locked, Remote

#: Of the node, not of a `work_dir`: two cluster files that name the same node with other folders must meet
#: here. A file system that a restart empties, so that the lock of a run that died with the node is gone too.
LOCK = "/tmp/nx8.lock"  # noqa: S108 - made by rename, which fails on whatever stands there
#: The file in a job's folder whose text the launcher in the container watches.
COUNTER = "lease"
#: Renewals in the time of one lease; all of them have to fail before a node is lost.
RENEWALS = 6
#: What a container may take to stop when the lease has ended it, in seconds: docker's own limit.
GRACE_S = 10.0
#: How long a broken link may still be mended once somebody asked for the end.
HURRY_S = 10.0
RENEW_LIMIT_S = 10.0


def owner_of(*, token: str, run_id: str, since: str, lease_s: float, runs: str) -> dict[str, Any]:
    """Who holds a node, for everyone there to read. `token` tells an owner from another, `since` is a time
    for people, `runs` the folder of runs on the node.
    """
    return {
        "token": token,
        "run": run_id,
        "user": getpass.getuser(),
        "host": platform.node(),
        "pid": os.getpid(),
        "since": since,
        "lease_s": lease_s,
        "grace_s": GRACE_S,
        "runs": runs,
    }


class Lease:
    """Our hold on one node. `lost` says why there is none any more."""

    def __init__(
        self, remote: Remote, owner: dict[str, Any], *, lease_s: float, tell: Callable[..., None]
    ) -> None:
        self.remote = remote
        self.owner = owner
        self.lease_s = lease_s
        self.lost: str | None = None
        self.files: tuple[str, ...] = ()
        self._tell = tell
        self._counter = 0
        self._renewed_s = time.monotonic()
        self._hurry_s: float | None = None
        self._ending = threading.Event()
        self._busy = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def ends_in_s(self) -> float:
        """Seconds until the node ends our part by itself unless a renewal reaches it."""
        return max(0.0, self._renewed_s + self.lease_s - time.monotonic())

    def hopeful(self) -> bool:
        """Whether it is worth looking for the way to the node again."""
        now_s = time.monotonic()
        in_time = self._hurry_s is None or now_s < self._hurry_s
        return in_time and self.lost is None and self.ends_in_s > 0

    def hurry(self) -> None:
        """From now on a broken link has HURRY_S to mend, until something else begins."""
        self._hurry_s = self._hurry_s or time.monotonic() + HURRY_S

    def ease(self) -> None:
        """From now on a broken link has the whole lease again: what was to end quickly has ended."""
        self._hurry_s = None

    def take(self) -> Locked:
        """Takes the node's lock, or finds that it is ours already; begins to renew. Raises RemoteError."""
        sent_s = self._renewed_s = time.monotonic()
        self.remote.hopeful = self.hopeful
        locked = self.remote.lock_dir(LOCK, self.owner, keeper=keeper_source())
        if locked.won:
            self._renewed_s = sent_s
            self._begin()
        return locked

    def resume(self) -> str | None:
        """Goes on with a lock that our run took before. Why that is not possible, or None."""
        patiently(self.renew, hopeful=self.hopeful)
        if self.lost is None:
            self._begin()
        return self.lost

    def watch(self, *files: str) -> None:
        """The files in jobs' folders whose text changes with the counter; made now. Raises RemoteError."""
        self.files = files
        patiently(self.renew, hopeful=self.hopeful)

    def renew(self) -> None:
        """One renewal, now. Raises RemoteError."""
        with self._busy:
            sent_s = time.monotonic()
            # Of a later controller too: the counter only has to change.
            self._counter = max(self._counter + 1, int(time.time() * 1000))
            why = self.remote.renew(
                LOCK, self.owner, counter=self._counter, files=self.files, timeout_s=RENEW_LIMIT_S
            )
            if why is not None:
                self._lose(f"{self.remote.name}: {why}: it has ended its part of the run by itself")
            else:
                self._renewed_s = sent_s

    def pause(self) -> None:
        """Stops renewing; what is on the node ends with its lease."""
        self._ending.set()
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _begin(self) -> None:
        with self._starting:
            if self._thread is not None or self._ending.is_set():
                return
            self.remote.hopeful = self.hopeful
            name = f"nx8-lease-{self.remote.name}"
            self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
            self._thread.start()

    def _keep(self) -> None:
        every_s = self.lease_s / RENEWALS
        wait_s, pause, broken = every_s, pauses(), False
        while not self._ending.wait(wait_s):
            try:
                self.renew()
            except Nx8Error as error:
                if not broken:
                    self._tell("drop", node=self.remote.name, why=str(error.problems[0].message))
                broken, wait_s = True, min(every_s, pause())
                if self.ends_in_s <= 0:
                    silent = "the link was down" if is_lost(error) else "the node did not answer"
                    self._lose(
                        f"{self.remote.name}: {silent} for longer than its lease of {self.lease_s:g} s: "
                        "it has ended its part of the run by itself"
                    )
            else:
                if broken:
                    self._tell("reconnected", node=self.remote.name)
                wait_s, pause, broken = every_s, pauses(), False
            if self.lost is not None:
                return

    def _lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
            self._tell("lost", node=self.remote.name, why=why)
