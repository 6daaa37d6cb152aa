"""How a run talks while it works: a live view on a terminal, plain stamped lines everywhere else. On
stderr; results are not its matter.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from rich.progress import Progress

    from orchestrator.follow import Sight

#: In plain mode a cell that trains says so at least this often, in seconds.
HEARTBEAT_S = 10.0


class View(Protocol):
    """What the stages of a run report to."""

    def phase(self, name: str, detail: str = "") -> None: ...
    def training(self, cell_id: str) -> AbstractContextManager[None]: ...
    def sight(self, sight: Sight) -> None: ...


def is_live(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """A live view only where a person looks: a terminal that can redraw, outside CI, without NO_COLOR."""
    if environment.get("CI") or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream.isatty()


def tolerate_any_encoding() -> None:
    """A terminal that cannot show a character shows `?` instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def view(stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> Plain | Live:
    stream = stream or sys.stderr
    return Live(stream) if is_live(stream, environment or os.environ) else Plain(stream)


def summary(sight: Sight) -> str:
    """One line of what a running cell shows: step, loss, throughput of the last step."""
    parts = [f"step {sight.step}/{sight.total}"]
    if sight.loss is not None:
        parts.append(f"loss {sight.loss:.4g}")
    if sight.tokens_per_second_per_device is not None:
        parts.append(f"{sight.tokens_per_second_per_device:.0f} token/p/s")
    if sight.reported < sight.world_size:
        parts.append(f"{sight.reported}/{sight.world_size} ranks")
    return "  ".join(parts)


class Plain:
    """One stamped line per change of phase, and a heartbeat while a cell trains."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._cell = ""
        self._said_s = 0.0
        self._step = 0

    def phase(self, name: str, detail: str = "") -> None:
        self._say(f"{name:<9} {detail}".rstrip())

    @contextmanager
    def training(self, cell_id: str) -> Iterator[None]:
        self._cell, self._said_s, self._step = cell_id, time.monotonic(), 0
        yield

    def sight(self, sight: Sight) -> None:
        news = sight.step > 0 and (self._step == 0 or sight.step == sight.total) and sight.step != self._step
        if news or (sight.step != self._step and time.monotonic() - self._said_s >= HEARTBEAT_S):
            self._step, self._said_s = sight.step, time.monotonic()
            self._say(f"{'train':<9} {self._cell}  {summary(sight)}")

    def _say(self, text: str) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        print(f"{stamp} {text}", file=self._stream, flush=True)


class Live:
    """A progress bar with the time left, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._progress: Progress | None = None

    def phase(self, name: str, detail: str = "") -> None:
        from rich.text import Text

        self._console.print(Text.assemble((f"{name:<9}", "bold"), " ", detail))

    @contextmanager
    def training(self, cell_id: str) -> Iterator[None]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[seen]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        ) as progress:
            progress.add_task(f"{'train':<9} {cell_id}", total=None, seen="starting ranks")
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    def sight(self, sight: Sight) -> None:
        if self._progress is not None and sight.step:
            task = self._progress.task_ids[0]
            self._progress.update(task, total=sight.total, completed=sight.step, seen=summary(sight))
