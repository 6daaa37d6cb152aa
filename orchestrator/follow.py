"""Watches a cell until it has ended, hangs, is out of time or is asked to stop. Verdicts are made later,
from the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from orchestrator.monitor import MAX_LINE_BYTES, read_monitor
from orchestrator.parse.events import EventReader
from orchestrator.parse.program import IterationReader
from orchestrator.parse.records import Answered, End, Fail, Step
from orchestrator.plan import Cell
from orchestrator.stall import Tempo
from orchestrator.verdict import HostSeen
from orchestrator.verdict.evidence import Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestrator.plan import Launch
    from orchestrator.probe import Sample
    from orchestrator.signals import Signals
    from orchestrator.vendors import Probe

#: How often the files are looked at while nothing else wakes us, in seconds.
TICK_S = 0.2
#: How often it is shown what was seen, and the monitors' files are looked at.
SHOW_S = 1.0
#: A node whose ranks made no step for so long, and for so many steps of theirs, is shown as quiet.
QUIET_S = 10.0
QUIET_STEPS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSight:
    """What can be shown of one node. Of its devices the fullest, the hottest, and the power of all together;
    null is what its probe does not say, or did not say yet. Step, loss and speed are its own ranks'.
    """

    node: str
    state: str
    step: int
    loss: float | None
    tokens_per_second_per_device: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None


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
    nodes: tuple[NodeSight, ...] = ()

    @property
    def slowest(self) -> NodeSight | None:
        """The node that is furthest behind; among those of the same step, the one with the longest one."""
        return min(
            self.nodes,
            key=lambda one: (one.step, one.tokens_per_second_per_device or 0.0),
            default=None,
        )


class Running(Protocol):
    """What was started and can be waited for: a local launcher, or the containers on nodes.

    `descriptor` becomes readable when it ends; `lost` says why its end cannot be known, or is None;
    `started_s` is time.monotonic() when it was started, `oom_killed` the nodes of which docker says so.
    `examine` keeps where its ranks stand.
    """

    descriptor: int
    lost: str | None
    started_s: float

    @property
    def odd_end(self) -> str | None:
        """What ended it that was neither its ranks nor their launcher; None where nothing did."""
        ...

    @property
    def wall_s(self) -> float | None: ...
    @property
    def oom_killed(self) -> tuple[str, ...]: ...
    def exit_code(self) -> int | None: ...
    def examine(self) -> None: ...
    def stop(self) -> None: ...
    def record(self) -> dict[str, Any]: ...


class Watcher(Protocol):
    def __call__(self, sight: Sight) -> None: ...


class Tail:
    """Reads what was appended to a file since the last look; a file that is not there yet has nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> bytes:
        try:
            # Asked first: most looks find nothing new, and there may be hundreds of files.
            if self._path.stat().st_size <= self._offset:
                return b""
            with self._path.open("rb") as file:
                file.seek(self._offset)
                chunk = file.read()
        except FileNotFoundError:
            return b""
        self._offset += len(chunk)
        return chunk


class Gauge:
    """The newest that a node's monitor wrote: only what is new is read, and of it only the last record."""

    def __init__(self, path: Path, probe: Probe, *, capacity_bytes: int | None) -> None:
        self._tail = Tail(path)
        self._probe = probe
        self._capacity_bytes = capacity_bytes
        self._pending = b""
        self.samples: tuple[Sample, ...] = ()

    def look(self) -> None:
        *lines, self._pending = (self._pending + self._tail.read()).split(b"\n")
        if len(self._pending) > MAX_LINE_BYTES:
            self._pending = b""
        for line in reversed(lines):
            observed = read_monitor([line], self._probe, capacity_bytes=self._capacity_bytes).observed
            if observed:
                self.samples = observed[-1].samples
                return


class Stopped(NamedTuple):
    """Why a cell was stopped from outside, and what had been seen by then."""

    why: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Pace:
    """Decides from the times of steps whether a cell still moves. Pure: the clock's readings are arguments,
    in seconds. `stall_limit_s` is the most that may pass; less is learned from the steps themselves.
    `total` is the last planned step: what comes after it has no rhythm.
    """

    started_s: float
    startup_limit_s: float
    stall_limit_s: float
    time_limit_s: float | None
    world_size: int
    first_rank: int = 0
    total: int | None = None
    last_step: dict[int, int] = field(default_factory=dict)
    last_news_s: float | None = None
    tempo: Tempo = field(init=False)
    _ended_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tempo = Tempo(ceiling_s=self.stall_limit_s)

    def saw_step(self, rank: int, step: int, now_s: float, *, end_s: float | None = None) -> None:
        """`end_s`: when the step ended by the rank's own clock."""
        if step <= self.last_step.get(rank, 0):
            return
        if end_s is not None:
            if step == self.last_step.get(rank, 0) + 1 and rank in self._ended_s:
                self.tempo.saw(step=step, interval_s=end_s - self._ended_s[rank])
            self._ended_s[rank] = end_s
        self.last_step[rank] = step
        self.last_news_s = now_s

    @property
    def limit_s(self) -> float:
        """How long no step may come now."""
        ending = self.total is not None and max(self.last_step.values(), default=0) >= self.total
        return self.stall_limit_s if ending else self.tempo.limit_s

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
        elif now_s - self.last_news_s > self.limit_s:
            return Stopped("stall", f"no step for {self.limit_s:.4g} s; {self.seen()}")
        return None

    def seen(self) -> str:
        steps = (
            f"rank {rank}: {self.last_step[rank]}" if rank in self.last_step else f"rank {rank}: none"
            for rank in range(self.first_rank, self.first_rank + self.world_size)
        )
        return "last steps: " + ", ".join(steps)


@dataclass(slots=True, kw_only=True)
class Onlooker:
    """Reads what the ranks and the monitors report as it appears; shows the newest and keeps the pace.

    `gauges` are by node_rank; `news_s` is when a rank's newest step was seen.
    """

    cell: Cell
    pace: Pace
    tails: dict[int, tuple[Tail, EventReader | IterationReader]]
    gauges: dict[int, Gauge] = field(default_factory=dict)
    newest: dict[int, Step] = field(default_factory=dict)
    news_s: dict[int, float] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    shown_s: float | None = None
    #: By rank: (step, when) of the first and the last look that saw one; of a look the newest step.
    first_seen: dict[int, tuple[int, float]] = field(default_factory=dict)
    last_seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def look(self, now_s: float, watcher: Watcher, *, last: bool = False) -> None:
        """Reads what is new, and shows it, though not at every look unless it is the `last`."""
        for rank, (tail, reader) in self.tails.items():
            for record in reader.feed(tail.read()):
                if record.nonce != self.cell.job.nonce:
                    continue
                if isinstance(record, Step):
                    self.newest[rank], self.news_s[rank] = record, now_s
                    self.pace.saw_step(rank, record.step, now_s, end_s=record.end_s)
                elif isinstance(record, Answered):
                    self.pace.last_news_s = now_s  # after the last step, the only sign of life
                elif isinstance(record, End):
                    self.ended.add(rank)
                elif isinstance(record, Fail):
                    self.failed.add(rank)
            if rank in self.newest and self.news_s[rank] == now_s:
                self.last_seen[rank] = self.newest[rank].step, now_s
                self.first_seen.setdefault(rank, self.last_seen[rank])
        if last or self.shown_s is None or now_s - self.shown_s >= SHOW_S:
            self.shown_s = now_s
            for gauge in self.gauges.values():
                gauge.look()
            watcher(self._sight(now_s))

    def sighted(self, started_s: float) -> tuple[Sighting, ...]:
        """What the host's own clock says of the steps; `started_s` is when the launcher was started."""
        looks = {
            (rank, *look): Sighting(rank=rank, step=look[0], after_s=round(look[1] - started_s, 6))
            for looks in (self.first_seen, self.last_seen)
            for rank, look in looks.items()
        }
        return tuple(looks[key] for key in sorted(looks))

    def _sight(self, now_s: float) -> Sight:
        steps = list(self.newest.values())
        return Sight(
            step=_last_of_all(steps, len(self.tails)),
            total=self.cell.job.steps.total,
            loss=_mean_loss(steps),
            tokens_per_second_per_device=self._speed(steps),
            reported=len(steps),
            world_size=self.cell.world_size,
            nodes=tuple(self._node(launch, now_s) for launch in self.cell.launches),
        )

    def _node(self, launch: Launch, now_s: float) -> NodeSight:
        steps = [self.newest[rank] for rank in launch.ranks if rank in self.newest]
        gauge = self.gauges.get(launch.node_rank)
        samples = gauge.samples if gauge else ()
        fullest = max((one for one in samples if one.memory_used_bytes is not None), key=_used, default=None)
        powers = [one.power_w for one in samples if one.power_w is not None]
        heats = [one.temperature_c for one in samples if one.temperature_c is not None]
        return NodeSight(
            node=launch.node,
            state=self._state(launch, steps, now_s),
            step=_last_of_all(steps, len(launch.ranks)),
            loss=_mean_loss(steps),
            tokens_per_second_per_device=self._speed(steps),
            memory_used_bytes=fullest.memory_used_bytes if fullest else None,
            memory_total_bytes=fullest.memory_total_bytes if fullest else None,
            temperature_c=max(heats, default=None),
            # Of some of the devices it would look like the power of all.
            power_w=sum(powers) if samples and len(powers) == len(samples) else None,
        )

    def _state(self, launch: Launch, steps: list[Step], now_s: float) -> str:
        if self.failed & set(launch.ranks):
            return "failed"
        if self.ended >= set(launch.ranks):
            return "ended"
        if len(steps) < len(launch.ranks):
            return "starting"
        quiet_s = now_s - max(self.news_s[rank] for rank in launch.ranks)
        slow_s = max(step.duration_s for step in steps) * QUIET_STEPS
        return f"quiet {quiet_s:.0f} s" if quiet_s > max(QUIET_S, slow_s) else "training"

    def _speed(self, steps: list[Step]) -> float | None:
        """tokens/s of a device by the longest of these steps."""
        batch = self.cell.job.batch
        tokens = batch.global_batch_size * batch.sequence_length / batch.world_size
        slowest_s = max((step.duration_s for step in steps), default=0.0)
        return tokens / slowest_s if slowest_s > 0 else None


def onlooker(cell: Cell, pace: Pace, *, events: Mapping[int, Path], monitors: Mapping[int, Path]) -> Onlooker:
    """`events` are the ranks' files, by rank, `monitors` those of the nodes' monitors, by node_rank."""
    return Onlooker(
        cell=cell,
        pace=pace,
        tails={rank: (Tail(path), _reader(cell, rank)) for rank, path in events.items()},
        gauges={
            node_rank: Gauge(path, cell.probe, capacity_bytes=cell.device_memory_bytes)
            for node_rank, path in monitors.items()
            if cell.probe is not None
        },
    )


def _reader(cell: Cell, rank: int) -> EventReader | IterationReader:
    if cell.job.program is None:
        return EventReader(rank)
    return IterationReader(rank, cell.job.nonce, dialect=cell.job.program.dialect)


def _last_of_all(steps: list[Step], num_ranks: int) -> int:
    """The step that every rank has made, 0 before the first."""
    return min((step.step for step in steps), default=0) if len(steps) == num_ranks else 0


def _mean_loss(steps: list[Step]) -> float | None:
    losses = [step.loss for step in steps if step.loss is not None]
    return sum(losses) / len(losses) if losses else None


def _used(sample: Sample) -> float:
    return (sample.memory_used_bytes or 0) / (sample.memory_total_bytes or 1)


def follow(
    launcher: Running,
    cell: Cell,
    *,
    events: Mapping[int, Path],
    monitors: Mapping[int, Path],
    time_limit_s: float | None,
    clock: Callable[[], float],
    signals: Signals,
    watcher: Watcher,
) -> HostSeen:
    """Follows until the launcher has ended; stops it when a limit is passed or a signal came.

    `events` and `monitors` are as `onlooker` has them; `time_limit_s` is what is left of the run's own limit.
    """
    pace = Pace(
        started_s=clock(),
        startup_limit_s=cell.limits.startup_s,
        stall_limit_s=cell.limits.stall_s,
        time_limit_s=time_limit_s,
        world_size=len(events),
        first_rank=min(events, default=0),
        total=cell.job.steps.total,
    )
    eyes = onlooker(cell, pace, events=events, monitors=monitors)
    stopped: Stopped | None = None
    while stopped is None and launcher.exit_code() is None:
        signals.wait(launcher.descriptor, timeout_s=TICK_S)
        eyes.look(clock(), watcher)
        if signals.caught is not None:
            stopped = Stopped(
                f"signal:{signals.caught.name}", f"stopped by {signals.caught.name}; {pace.seen()}"
            )
        elif launcher.exit_code() is None:
            stopped = pace.overdue(clock())
            if stopped is not None and stopped.why != "time_limit":
                launcher.examine()  # what stands still is looked at before it is ended
    launcher.stop()
    eyes.look(clock(), watcher, last=True)
    if launcher.lost is not None:
        stopped = stopped or Stopped("node_lost", launcher.lost)
    elif launcher.odd_end is not None:
        stopped = stopped or Stopped("container", launcher.odd_end)
    return HostSeen(
        started=True,
        not_run_reason=None,
        launcher_exit=launcher.exit_code(),
        launcher_wall_s=launcher.wall_s,
        stopped=stopped.why if stopped else None,
        detail=stopped.detail if stopped else "",
        sighted=eyes.sighted(launcher.started_s),
        oom_killed=launcher.oom_killed,
    )
