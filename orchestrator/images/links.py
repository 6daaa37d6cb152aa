"""What goes on over a link that is lost and comes back: tried again, for as long as there is hope."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from orchestrator.remote.errors import LinkLost, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: From the last byte that came through, in seconds: a switch that restarts is back by then.
LOST_LIMIT_S = 180.0
TRIES = 30
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
#: A node that cannot be reached yet: connecting refused or silent, the login cut off, the stream broken.
AWAY = frozenset({"E202", "E203", "E209", "E213"})


class Patience:
    """How long to go on after a loss. `moved` says that something came through, and hope begins anew."""

    def __init__(self, *, limit_s: float = LOST_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._pause = threading.Event()
        self.moved()

    def moved(self) -> None:
        self._tries = 0
        self._since_s = time.monotonic()

    def bear(self, error: RemoteError) -> None:
        """Waits a little when `error` is a lost link and there is hope; raises it otherwise."""
        self._tries += 1
        late = time.monotonic() - self._since_s > self._limit_s
        if not is_away(error) or late or self._tries > TRIES:
            raise error
        self._pause.wait(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 1.6 ** (self._tries - 1)))


def is_away(error: RemoteError) -> bool:
    return isinstance(error, LinkLost) or any(one.code in AWAY for one in error.problems)


def patiently(do: Callable[[], T], *, limit_s: float = LOST_LIMIT_S) -> T:
    """What `do` returns, asked again while the link is away. Only for what may be done twice."""
    patience = Patience(limit_s=limit_s)
    while True:
        try:
            return do()
        except RemoteError as error:
            patience.bear(error)
