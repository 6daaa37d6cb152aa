"""Watches a cell until it has ended, hangs, is out of time or is asked to stop. Verdicts are made later,
from the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from orchestrator.parse.events import EventReader
from orchestrator.parse.records import Step
from orchestrator.plan import Cell
from orchestrator.verdict import HostSeen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestrator.signals import Signals

#: How often the files are looked at while nothing else wakes us, in seconds.
TICK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What can be shown of a running cell. `tokens_per_second_per_device` is of the last step, for the eye
    only.
    """

    step: int
    total: int
    loss: float | None
    tokens_per_second_per_device: float | None
    reported: int
    world_size: int


class Running(Protocol):
    """What was started and can be waited for: a local launcher, or the containers on nodes.

    `descriptor` becomes readable when it ends; `lost` says why its end cannot be known, or is None.
    """

    descriptor: int
    lost: str | None

    @property
    def wall_s(self) -> float | None: ...
    def exit_code(self) -> int | None: ...
    def stop(self) -> None: ...


class Watcher(Protocol):
    def __call__(self, sight: Sight) -> None: ...


class Tail:
    """Reads what was appended to a file since the last look; a file that is not there yet has nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                chunk = file.read()
        except FileNotFoundError:
            return b""
        self._offset += len(chunk)
        return chunk


class Stopped(NamedTuple):
    """Why a cell was stopped from outside, and what had been seen by then."""

    why: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Pace:
    """Decides from the times of steps whether a cell still moves. Pure: the clock's readings are arguments,
    in seconds.
    """

    started_s: float
    startup_limit_s: float
    stall_limit_s: float
    time_limit_s: float | None
    world_size: int
    last_step: dict[int, int] = field(default_factory=dict)
    last_news_s: float | None = None

    def saw_step(self, rank: int, step: int, now_s: float) -> None:
        if step > self.last_step.get(rank, 0):
            self.last_step[rank] = step
            self.last_news_s = now_s

    def overdue(self, now_s: float) -> Stopped | None:
        """Why to stop once a limit is passed, None before."""
        if self.time_limit_s is not None and now_s - self.started_s > self.time_limit_s:
            return Stopped(
                "time_limit", f"the run's time limit of {self.time_limit_s:g} s was used up; {self.seen()}"
            )
        if self.last_news_s is None or len(self.last_step) < self.world_size:
            if now_s - self.started_s > self.startup_limit_s:
                return Stopped(
                    "startup_limit", f"no first step within {self.startup_limit_s:g} s; {self.seen()}"
                )
        elif now_s - self.last_news_s > self.stall_limit_s:
            return Stopped("stall", f"no step for {self.stall_limit_s:g} s; {self.seen()}")
        return None

    def seen(self) -> str:
        steps = (
            f"rank {rank}: {self.last_step[rank]}" if rank in self.last_step else f"rank {rank}: none"
            for rank in range(self.world_size)
        )
        return "last steps: " + ", ".join(steps)


@dataclass(slots=True, kw_only=True)
class Onlooker:
    """Reads what the ranks report as it appears; shows the newest step and keeps the pace."""

    cell: Cell
    pace: Pace
    tails: dict[int, tuple[Tail, EventReader]]
    newest: dict[int, Step] = field(default_factory=dict)

    def look(self, now_s: float, watcher: Watcher) -> None:
        for rank, (tail, reader) in self.tails.items():
            for record in reader.feed(tail.read()):
                if isinstance(record, Step) and record.nonce == self.cell.job.nonce:
                    self.newest[rank] = record
                    self.pace.saw_step(rank, record.step, now_s)
        watcher(self._sight())

    def _sight(self) -> Sight:
        steps = self.newest.values()
        losses = [step.loss for step in steps if step.loss is not None]
        slowest_s = max((step.duration_s for step in steps), default=0.0)
        batch = self.cell.job.batch
        tokens = batch.global_batch_size * batch.sequence_length / batch.world_size
        return Sight(
            step=min((step.step for step in steps), default=0) if len(steps) == self.cell.world_size else 0,
            total=self.cell.job.steps.total,
            loss=sum(losses) / len(losses) if losses else None,
            tokens_per_second_per_device=tokens / slowest_s if slowest_s > 0 else None,
            reported=len(steps),
            world_size=self.cell.world_size,
        )


def follow(
    launcher: Running,
    cell: Cell,
    *,
    events: Mapping[int, Path],
    time_limit_s: float | None,
    clock: Callable[[], float],
    signals: Signals,
    watcher: Watcher,
) -> HostSeen:
    """Follows until the launcher has ended; stops it when a limit is passed or a signal came.

    `events` are the ranks' files; `time_limit_s` is what is left of the run's own limit.
    """
    pace = Pace(
        started_s=clock(),
        startup_limit_s=cell.limits.startup_s,
        stall_limit_s=cell.limits.stall_s,
        time_limit_s=time_limit_s,
        world_size=cell.world_size,
    )
    onlooker = Onlooker(
        cell=cell, pace=pace, tails={rank: (Tail(path), EventReader(rank)) for rank, path in events.items()}
    )
    stopped: Stopped | None = None
    while stopped is None and launcher.exit_code() is None:
        signals.wait(launcher.descriptor, timeout_s=TICK_S)
        onlooker.look(clock(), watcher)
        if signals.caught is not None:
            stopped = Stopped(
                f"signal:{signals.caught.name}", f"stopped by {signals.caught.name}; {pace.seen()}"
            )
        elif launcher.exit_code() is None:
            stopped = pace.overdue(clock())
    launcher.stop()
    onlooker.look(clock(), watcher)
    if launcher.lost is not None:
        stopped = stopped or Stopped("node_lost", launcher.lost)
    return HostSeen(
        started=True,
        not_run_reason=None,
        launcher_exit=launcher.exit_code(),
        launcher_wall_s=launcher.wall_s,
        stopped=stopped.why if stopped else None,
        detail=stopped.detail if stopped else "",
    )
