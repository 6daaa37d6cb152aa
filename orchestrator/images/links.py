"""What goes on over a link that is lost and comes back: tried again, for as long as there is hope."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from orchestrator.remote import patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.remote.errors import RemoteError

T = TypeVar("T")

#: From the last byte that came through, in seconds: a switch that restarts is back by then.
LOST_LIMIT_S = 180.0


class Patience:
    """How long to go on after a loss. `moved` says that something came through, and hope begins anew."""

    def __init__(self, *, limit_s: float = LOST_LIMIT_S) -> None:
        self._limit_s = limit_s
        self.moved()

    def moved(self) -> None:
        self._since_s, self._pause = time.monotonic(), patience.pauses()

    def bear(self, error: RemoteError) -> None:
        """Waits a little when `error` is a lost link and there is hope; raises it otherwise."""
        if not patience.is_lost(error) or time.monotonic() - self._since_s > self._limit_s:
            raise error
        time.sleep(self._pause())


def patiently(do: Callable[[], T], *, limit_s: float = LOST_LIMIT_S) -> T:
    """What `do` returns, asked again while the link is away. Only for what may be done twice."""
    until_s = time.monotonic() + limit_s
    return patience.patiently(do, hopeful=lambda: time.monotonic() <= until_s)
