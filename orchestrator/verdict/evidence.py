"""What a verdict is judged from: plan, the ranks' records, the launchers' statuses, the host's own view."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.metrics.window import planned_ranks
from orchestrator.parse.events import RankLog
from orchestrator.parse.program import ProgramLog, reporting_rank
from orchestrator.parse.records import Saved
from orchestrator.parse.stacks import Stand
from orchestrator.parse.status import NodeStatus, StatusProblem
from orchestrator.plan import Cell
from orchestrator.verdict.order import Lists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.parse.records import Hello, Ready, Step
    from orchestrator.parse.status import RankStatus
    from orchestrator.parse.strict import Fields

#: Why the host itself stopped a cell, besides "signal:<NAME>".
STOPS = ("stall", "startup_limit", "time_limit", "node_lost", "container")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The host read the record of `step` of a rank `after_s` seconds after it had started the launcher, by
    its own clock: by then it had been written.
    """

    rank: int
    step: int
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """How the host saw one cell end.

    `launcher_exit` is the worst exit code of the cell's launchers (128 + n for signal n), None when none
    was seen. `launcher_wall_s` is the life of the launcher process in seconds of the host's clock.
    `stopped` says why the host ended the cell: None, one of STOPS, or `signal:SIGINT` and the like.
    `sighted` has the first and the last look at which each rank's steps were seen, `oom_killed` the nodes
    on whose container docker says that the kernel killed something for want of memory.
    """

    started: bool
    not_run_reason: str | None
    launcher_exit: int | None
    launcher_wall_s: float | None
    stopped: str | None
    detail: str
    sighted: tuple[Sighting, ...] = ()
    oom_killed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stopped is not None and self.stopped not in STOPS and self.stop_signal is None:
            raise ValueError(f"stopped is {self.stopped!r}, none of {', '.join(STOPS)}, signal:<NAME>")

    @property
    def stop_signal(self) -> signal.Signals | None:
        """The signal that stopped the run, if one did."""
        name = (self.stopped or "").removeprefix("signal:")
        if name == self.stopped:
            return None
        return signal.Signals.__members__.get(name)


NOT_SEEN = HostSeen(
    started=False,
    not_run_reason="the host left no word about this cell",
    launcher_exit=None,
    launcher_wall_s=None,
    stopped=None,
    detail="",
)


def host_seen(fields: Fields) -> HostSeen:
    """The HostSeen that `dataclasses.asdict` made. Raises Misread or ValueError for anything else."""
    return HostSeen(
        started=fields.flag("started"),
        not_run_reason=fields.optional_text("not_run_reason"),
        launcher_exit=fields.optional_integer("launcher_exit"),
        launcher_wall_s=fields.optional_number("launcher_wall_s"),
        stopped=fields.optional_text("stopped"),
        detail=fields.text("detail"),
        sighted=tuple(_sighting(one) for one in fields.objects("sighted")) if "sighted" in fields else (),
        oom_killed=fields.strings("oom_killed", limit=200) if "oom_killed" in fields else (),
    )


def _sighting(fields: Fields) -> Sighting:
    return Sighting(
        rank=fields.integer("rank"), step=fields.integer("step"), after_s=fields.number("after_s")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything about one cell. A file that does not exist is absent from its mapping.

    `lists` is what the host kept of the cell's prepared set; `before` what the first rank of the stage before
    this one says it left; `programs` what the ranks of an external program printed; `stands` where the ranks
    of a cell that hung stood, of those that were asked.
    """

    cell: Cell
    logs: Mapping[int, RankLog]
    statuses: Mapping[int, NodeStatus | StatusProblem]
    host: HostSeen
    lists: Lists | None = None
    before: Saved | None = None
    programs: Mapping[int, ProgramLog] = field(default_factory=dict)
    stands: Mapping[int, Stand] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The planned ranks: a silent one is seen because the plan has it."""
        return planned_ranks(self.cell)

    @property
    def stepping(self) -> tuple[int, ...]:
        """The ranks whose steps are their own word: of an external program only one reports any, and every
        other rank has a copy.
        """
        return self.ranks if self.cell.job.program is None else (reporting_rank(self.cell),)

    @property
    def stepping_text(self) -> str:
        if self.cell.job.program is None:
            return f"on {len(self.ranks)} ranks"
        return f"by the log of rank {reporting_rank(self.cell)}"

    @property
    def nodes(self) -> tuple[int, ...]:
        return tuple(launch.node_rank for launch in self.cell.launches)

    def node_of(self, rank: int) -> int:
        return next(launch.node_rank for launch in self.cell.launches if rank in launch.ranks)

    def status(self, node: int) -> NodeStatus | None:
        """The node's status if one could be read."""
        found = self.statuses.get(node)
        return found if isinstance(found, NodeStatus) else None

    def no_status(self, node: int) -> str:
        """Why `status(node)` is None."""
        found = self.statuses.get(node)
        return found.reason if isinstance(found, StatusProblem) else "there is no status.json"

    def rank_status(self, rank: int) -> RankStatus | None:
        status = self.status(self.node_of(rank))
        return status.rank(rank) if status else None

    def planned_logs(self) -> Iterator[tuple[int, RankLog]]:
        """The logs there are, of planned ranks only."""
        return ((rank, self.logs[rank]) for rank in self.ranks if rank in self.logs)

    def hello(self, rank: int) -> Hello | None:
        return self.logs[rank].hello if rank in self.logs else None

    def ready(self, rank: int) -> Ready | None:
        return self.logs[rank].ready if rank in self.logs else None

    def steps(self, rank: int) -> tuple[Step, ...]:
        return self.logs[rank].steps if rank in self.logs else ()
