"""How a run talks while it works: a live view on a terminal, plain stamped lines everywhere else. On
stderr; results are not its matter.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from rich.console import RenderableType
    from rich.live import Live as Screen
    from rich.progress import Progress

    from orchestrator.follow import NodeSight, Sight

#: In plain mode a cell that trains says so this often, in seconds, and no oftener.
HEARTBEAT_S = 30.0
#: A terminal is drawn anew no oftener: a large table takes milliseconds, which ranks on this machine lack.
REDRAW_S = 1.0
#: Lines of a terminal that are not the table's rows.
AROUND_TABLE = 6


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


def tolerate_any_reader() -> None:
    """A terminal that cannot show a character shows `?`, and one that has gone hears no more; neither ends
    the run, whose result and exit code do not depend on who looks.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    sys.stdout, sys.stderr = cast("TextIO", Steady(sys.stdout)), cast("TextIO", Steady(sys.stderr))


class Steady:
    """A stream whose reader may go away: what is written after that goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._mute()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._mute()

    def _mute(self) -> None:
        """The descriptor itself, so that what is still buffered does not fail at the interpreter's end."""
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, self._stream.fileno())
        finally:
            os.close(null)


def view(
    stream: TextIO | None = None, environment: Mapping[str, str] | None = None, *, quiet: bool = False
) -> Plain | Live:
    stream = stream or sys.stderr
    if quiet:
        return Quiet(stream)
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


def slowest(sight: Sight) -> str:
    """Which node is furthest behind, where there is more than one and the ranks have begun."""
    one = sight.slowest
    if one is None or len(sight.nodes) < 2 or not sight.reported:
        return ""
    speed = one.tokens_per_second_per_device
    return f"  slowest {one.node}: step {one.step}" + ("" if speed is None else f", {speed:.0f} token/p/s")


def row(one: NodeSight) -> tuple[str, ...]:
    """A node's line of the table; `/` is what is not known."""

    def shown(value: float | None, form: str, unit: str = "") -> str:
        return "/" if value is None else f"{value:{form}}{unit}"

    gib = 1024**3
    used, total = one.memory_used_bytes, one.memory_total_bytes
    return (
        one.node,
        str(one.step) if one.step else "/",
        shown(one.tokens_per_second_per_device, ".0f"),
        shown(one.loss, ".4g"),
        "/" if used is None else f"{used / gib:.1f}/{shown(total and total / gib, '.1f')} GiB",
        shown(one.temperature_c, ".0f", " °C"),
        shown(one.power_w, ".0f", " W"),
        one.state,
    )


def shown_nodes(nodes: tuple[NodeSight, ...], *, room: int) -> tuple[NodeSight, ...]:
    """The nodes that have room in the table, in their order; of too many those that are furthest behind."""
    if len(nodes) <= room:
        return nodes
    behind = sorted(nodes, key=lambda one: (one.step, one.tokens_per_second_per_device or 0.0))
    kept = {one.node for one in behind[: max(1, room)]}
    return tuple(one for one in nodes if one.node in kept)


class Plain:
    """One stamped line per change of phase, and a heartbeat while a cell trains."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._cell = ""
        self._said_s = 0.0
        self._step = 0

    def phase(self, name: str, detail: str = "") -> None:
        self._say(f"{name:<9} {detail}".rstrip())

    @contextmanager
    def training(self, cell_id: str) -> Iterator[None]:
        self._cell, self._said_s, self._step = cell_id, self._clock(), 0
        yield

    def sight(self, sight: Sight) -> None:
        news = sight.step > 0 and (self._step == 0 or sight.step == sight.total) and sight.step != self._step
        if news or (sight.step != self._step and self._clock() - self._said_s >= HEARTBEAT_S):
            self._step, self._said_s = sight.step, self._clock()
            self._say(f"{'train':<9} {self._cell}  {summary(sight)}{slowest(sight)}")

    def _say(self, text: str) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        print(f"{stamp} {text}", file=self._stream, flush=True)


class Quiet(Plain):
    """Says nothing: of a run that was asked to be quiet, only errors and the result are heard."""

    def _say(self, text: str) -> None:
        pass


class Live:
    """A progress bar with the time left and a line for each node, redrawn in place."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console

        self._clock = clock
        self._console = Console(file=stream, highlight=False)
        self._screen: Screen | None = None
        self._progress: Progress | None = None
        self._drawn_s: float | None = None

    def phase(self, name: str, detail: str = "") -> None:
        from rich.text import Text

        self._console.print(Text.assemble((f"{name:<9}", "bold"), " ", detail))

    @contextmanager
    def training(self, cell_id: str) -> Iterator[None]:
        from rich.live import Live as Screen
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[seen]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        progress.add_task(f"{'train':<9} {cell_id}", total=None, seen="starting ranks")
        with Screen(progress, console=self._console, auto_refresh=False, transient=True) as screen:
            self._screen, self._progress, self._drawn_s = screen, progress, None
            try:
                yield
            finally:
                self._screen = self._progress = None

    def sight(self, sight: Sight) -> None:
        now_s = self._clock()
        if self._screen is None or self._progress is None:
            return
        if self._drawn_s is not None and now_s - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now_s
        if sight.step:
            task = self._progress.task_ids[0]
            self._progress.update(task, total=sight.total, completed=sight.step, seen=summary(sight))
        self._screen.update(self._drawn(self._progress, sight), refresh=True)

    def _drawn(self, progress: Progress, sight: Sight) -> RenderableType:
        """The bar; below it the nodes, where they say more than the bar does."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if len(sight.nodes) < 2 and all(one.memory_used_bytes is None for one in sight.nodes):
            return progress
        table = Table(box=None, pad_edge=False, header_style="bold")
        headings = ("node", "step", "token/p/s", "loss", "memory", "temp", "power", "state")
        for number, heading in enumerate(headings):
            table.add_column(
                heading, justify="right" if 0 < number < len(headings) - 1 else "left", no_wrap=True
            )
        nodes = shown_nodes(sight.nodes, room=self._console.height - AROUND_TABLE)
        for one in nodes:
            # As text: a name with brackets is no markup.
            table.add_row(*(Text(word) for word in row(one)))
        hidden = len(sight.nodes) - len(nodes)
        more = [Text(f"and {hidden} further ahead")] if hidden else []
        return Group(progress, table, *more)
