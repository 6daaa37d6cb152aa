"""status.json of one node → NodeStatus: how the launcher saw its ranks end (docs/contract.md)."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.parse.strict import Fields, Misread, strict_object

MAX_STATUS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """`dropped_bytes`: of its standard output and error, of which only both ends are kept beyond a limit.
    `ended_s`: the node's monotonic clock. `killed`: the launcher stopped it, a consequence and never the
    cause. `pid` and `ended_s` are None for a rank that never started or never ended.
    """

    rank: int
    local_rank: int
    pid: int | None
    exit_code: int | None
    signal: str | None
    ended_s: float | None
    killed: bool
    end_count: int | None
    end_sha256: str | None
    dropped_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """Times are seconds of the node's own monotonic clock: comparable within a node, never between nodes."""

    nonce: str
    node_rank: int
    launcher: str
    master_port: int | None
    started_s: float
    ended_s: float
    wall_s: float
    stopped_by: str | None
    ranks: tuple[RankStatus, ...]

    def rank(self, rank: int) -> RankStatus | None:
        return next((status for status in self.ranks if status.rank == rank), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusProblem:
    """Why there is no status to read."""

    reason: str


def read_status(data: bytes) -> NodeStatus | StatusProblem:
    """The status in `data`, or why it is none. Never raises; unknown keys are ignored."""
    if len(data) > MAX_STATUS_BYTES:
        return StatusProblem(reason=f"{len(data)} bytes long, {MAX_STATUS_BYTES} at most")
    try:
        return _status(strict_object(data))
    except Misread as problem:
        return StatusProblem(reason=str(problem))


def _status(fields: Fields) -> NodeStatus:
    if (contract := fields.integer("contract")) != 1:
        raise Misread(f"contract {contract}, not 1")
    return NodeStatus(
        nonce=fields.text("nonce", limit=64),
        node_rank=fields.integer("node_rank"),
        launcher=fields.text("launcher", limit=64),
        master_port=fields.optional_integer("master_port"),
        started_s=fields.number("started_s"),
        ended_s=fields.number("ended_s"),
        wall_s=fields.number("wall_s"),
        stopped_by=fields.optional_text("stopped_by", limit=64),
        ranks=tuple(_rank(rank) for rank in fields.objects("ranks")),
    )


def _rank(fields: Fields) -> RankStatus:
    return RankStatus(
        rank=fields.integer("rank"),
        local_rank=fields.integer("local_rank"),
        pid=fields.optional_integer("pid"),
        exit_code=fields.optional_integer("exit_code"),
        signal=fields.optional_text("signal", limit=64),
        ended_s=fields.optional_number("ended_s"),
        killed=fields.flag("killed"),
        end_count=fields.optional_integer("end_count"),
        end_sha256=fields.optional_text("end_sha256", limit=128),
        dropped_bytes=fields.optional_integer("dropped_bytes"),
    )
