"""The signals that ask a run to end. Caught once, at the edge; whoever waits is woken, whoever works is
interrupted.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from orchestrator.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """While open, the first of SIGINT, SIGTERM, SIGHUP is remembered in `caught` and makes `wait` return at
    once.

    Outside `wait` it raises Stopped where the program stands, unless `held` is set: then the work in hand
    (keeping what was logged, removing what was started) is finished first, however often somebody asks.
    Stopped is raised once: what it unwinds is not broken off by the next one. Whoever is held has limits of
    his own, and gives no more grace once somebody asks a second time (`insisted`). The third time we leave at
    once: `leaving` says what remains, and the process ends.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.held = False
        self.count = 0
        self.leaving: Callable[[], object] | None = None
        self._raised = False
        self._previous: dict[signal.Signals, object] = {}
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        for signum in ENDING:
            # A run started with SIGHUP ignored (nohup) keeps ignoring it.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, *readable: int, timeout_s: float) -> bool:
        """Waits until one of `readable` is ready (True), a signal comes or the time is up (False)."""
        if self.caught is not None:
            ready, _, _ = select.select(readable, [], [], 0)
        else:
            ready, _, _ = select.select([*readable, self._reader], [], [], timeout_s)
        return any(descriptor in ready for descriptor in readable)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stretch of held work that a signal may break off, also one that came before. Raises Stopped."""
        self.held = False
        try:
            if self.caught is not None:
                self._raise(self.caught)
            yield
        finally:
            self.held = True

    def stop(self, signum: signal.Signals, *, insist: bool = False) -> None:
        """As if that signal had come once, or twice."""
        self.held = True
        for _ in range(2 if insist else 1):
            self._on_signal(signum, None)

    def insisted(self) -> bool:
        return self.count > 1

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        self.count += 1
        if self.count > 2 and self.leaving is not None:
            try:
                self.leaving()
            finally:
                os._exit(128 + signum)
        if self.caught is None:
            self.caught = signal.Signals(signum)
            os.write(self._writer, b"!")
        if not self.held:
            self._raise(signum)

    def _raise(self, signum: int) -> None:
        if not self._raised:
            self._raised = True
            raise Stopped(signum)
