"""Why a cell did not run to its end: the first rank that failed on top, what followed from it below. Pure."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.parse.visible import ranks_text, visible
from orchestrator.verdict.blame import Blame, blame, stood
from orchestrator.verdict.labels import NO_ROOM, label

if TYPE_CHECKING:
    from orchestrator.parse.events import RankLog
    from orchestrator.parse.status import RankStatus
    from orchestrator.verdict.evidence import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`reasons`: the cause first. `rank`: the rank that failed first of itself, None when the host ended a
    cell whose ranks were all alive and none could be blamed. `traceback`: that rank's own, as it wrote it, or
    where it stood; escape it where it is shown.
    """

    reasons: tuple[str, ...]
    rank: int | None
    traceback: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fall:
    """A rank that ended badly of itself, `after_s` seconds after its own launcher started."""

    rank: int
    after_s: float
    early_exit: bool
    lost_peer: bool
    text: str


#: What a rank says that lost another one in the middle of a collective: gloo, NCCL and its kin, sockets.
LOST_PEER = re.compile(
    r"connection (was )?(closed|reset)|closed by peer|remote (worker|process)|peer (exited|has (left|closed))"
    r"|broken pipe|socket (timeout|closed)",
    re.IGNORECASE,
)


#: What a rank raises that only learned of another one's trouble.
FOLLOWS = ("NonFiniteElsewhereError",)


def failure(evidence: Evidence) -> Failure | None:
    """Why the cell failed, or None when every rank ran to its end and exited by itself."""
    # No peer's failure makes a rank leave with 0 before its end, so such a rank comes first whoever was
    # reaped first. One that says it lost another comes last: between nodes no clock tells who was first.
    falls = sorted(
        _falls(evidence), key=lambda fall: (not fall.early_exit, fall.lost_peer, fall.after_s, fall.rank)
    )
    found = _blamed(evidence)
    stop = _stop(evidence, found)
    silent = [rank for rank in evidence.ranks if not _has_lines(evidence, rank)]
    launchers = _launchers(evidence)
    if not (falls or stop or silent or launchers):
        return None
    causes = [fall.text if n == 0 else f"then {fall.text}" for n, fall in enumerate(falls)]
    # A signal ends everything at once: ranks that fell did so because of it. A limit is hit because a rank
    # fell. A node that is lost, or a container that is ended from outside, takes ranks with it, and others
    # lose these as their peers.
    own = len(falls)
    if evidence.host.stop_signal:
        own = 0
    elif evidence.host.stopped in ("node_lost", "container"):
        own = sum(not fall.lost_peer for fall in falls)
    first = [*causes[:own], *stop, *causes[own:]]
    reasons = [
        *first,
        *(_progress(evidence) if stop else ()),
        *([f"no record at all: {ranks_text(silent)}"] if silent else ()),
        *_consequences(evidence),
        *launchers,
    ]
    rank = falls[0].rank if own else None
    if rank is None and found is not None:
        stand = evidence.stands.get(found.rank)
        return Failure(reasons=tuple(reasons), rank=found.rank, traceback=stood(stand) if stand else None)
    fail = log.fail if rank is not None and (log := evidence.logs.get(rank)) else None
    return Failure(reasons=tuple(reasons), rank=rank, traceback=fail.traceback if fail else None)


def _falls(evidence: Evidence) -> list[_Fall]:
    found = {rank: (evidence.rank_status(rank), evidence.logs.get(rank)) for rank in evidence.ranks}
    # An exit 0 without an end record is a cause only where the cell was cut short; where all ranks left that
    # way and nobody was stopped, the cell ran to its end and its proofs say what is missing.
    cut_short = evidence.host.stopped is not None or any(
        (status is None or status.exit_code != 0) for status, _ in found.values()
    )
    falls = []
    for rank, (status, log) in found.items():
        node = _name_of(evidence, rank)
        starved = node if node in evidence.host.oom_killed else None
        text = _fall_text(rank, status, log, cut_short=cut_short, starved=starved)
        if text is not None:
            falls.append(
                _Fall(
                    rank=rank,
                    after_s=_after_s(evidence, rank),
                    early_exit=status is not None and status.exit_code == 0,
                    lost_peer=log is not None
                    and log.fail is not None
                    and (log.fail.type in FOLLOWS or LOST_PEER.search(log.fail.message[:4096]) is not None),
                    text=text,
                )
            )
    return falls


def _name_of(evidence: Evidence, rank: int) -> str:
    return next(launch.node for launch in evidence.cell.launches if rank in launch.ranks)


def _fall_text(
    rank: int, status: RankStatus | None, log: RankLog | None, *, cut_short: bool, starved: str | None
) -> str | None:
    """How this rank ended badly of itself; None when it did not, or was stopped by the launcher. `starved` is
    its node where docker says that the kernel killed something for want of memory.
    """
    if status is not None and status.killed:
        return None
    if log is not None and log.fail is not None:
        name, message = visible(log.fail.type, limit=100), visible(log.fail.message)
        kind = label(log.fail.type, log.fail.message)
        return f"{kind}: " * (kind is not None) + f"rank {rank} raised {name}: {message}{_at_step(log)}"
    if status is None:
        return None
    if status.signal == "SIGKILL" and starved:
        return (
            f"out of memory (host): the kernel killed rank {rank}, docker says so of {visible(starved)}"
            f"{_at_step(log)}"
        )
    if status.signal is not None:
        return (
            f"rank {rank} was ended by {visible(status.signal, limit=40)}, not by its launcher{_at_step(log)}"
        )
    if status.exit_code is None:
        return f"rank {rank} had not ended when its launcher did{_at_step(log)}"
    if status.exit_code == NO_ROOM:
        return f"disk full: rank {rank} had no room for its records (exit code {NO_ROOM}){_at_step(log)}"
    if status.exit_code != 0:
        return f"rank {rank} exited with code {status.exit_code} and left no fail record{_at_step(log)}"
    if cut_short and status.end_count is None and (log is None or log.end is None):
        return f"rank {rank} exited with code 0 before its end record, while others went on{_at_step(log)}"
    return None


def _at_step(log: RankLog | None) -> str:
    if log is None or not log.num_records:
        return ", before any record"
    if log.last_step is not None:
        return f", after step {log.last_step}"
    if log.program is not None:
        return f", after {log.outputs[-1].lines if log.outputs else 0} lines of its output"
    return ", before its first step" if log.ready else ", before it was ready"


def _after_s(evidence: Evidence, rank: int) -> float:
    """When the rank ended, in seconds since its own launcher started: clocks of two nodes share no zero."""
    node, status = evidence.status(evidence.node_of(rank)), evidence.rank_status(rank)
    if node is None or status is None or status.ended_s is None:
        return math.inf
    return status.ended_s - node.started_s


def _blamed(evidence: Evidence) -> Blame | None:
    """Whom the others wait for, where the cell hung."""
    if evidence.host.stopped not in ("stall", "startup_limit"):
        return None
    found = blame(evidence.stands, {rank: _reached(evidence, rank) for rank in evidence.ranks})
    return found or (_deaf(evidence) if evidence.host.stopped == "stall" else None)


def _deaf(evidence: Evidence) -> Blame | None:
    """The only rank that did not hear SIGTERM: it was stopped, while the others waited for it."""
    told = [status for rank in evidence.ranks if (status := evidence.rank_status(rank)) and status.killed]
    deaf = [status.rank for status in told if status.signal == "SIGKILL"]
    if len(deaf) != 1 or not any(status.signal == "SIGTERM" for status in told):
        return None
    return Blame(ranks=(deaf[0],), why="did not end at SIGTERM, as others did")


def _reached(evidence: Evidence, rank: int) -> int:
    """The last step of a rank; 0 before the first, -1 when it was not ready."""
    log = evidence.logs.get(rank)
    if log is None or not log.num_records:
        return -1
    return log.last_step if log.last_step is not None else 0 if log.ready else -1


def _stop(evidence: Evidence, found: Blame | None) -> list[str]:
    host, limits = evidence.host, evidence.cell.limits
    if host.stopped is None:
        return []
    words = {
        "stall": ("hung", f"no new step for {limits.stall_s:g} s"),
        "startup_limit": ("start-up limit", f"not every rank was under way after {limits.startup_s:g} s"),
        "time_limit": ("time limit", "the run's time limit was used up"),
        "node_lost": ("lost", "what became of the ranks is not known"),
        "container": ("container", "a container did not end by itself"),
    }
    signal = host.stopped.removeprefix("signal:")
    label, text = words.get(host.stopped, ("stopped", f"stopped by {signal}"))
    said = visible(host.detail) or text
    return [f"{label}: {found.text}; {said}" if found else f"{label}: {said}"]


def _progress(evidence: Evidence) -> list[str]:
    """Which ranks had got how far, the furthest behind first."""
    groups: dict[int, list[int]] = defaultdict(list)
    for rank in evidence.ranks:
        log = evidence.logs.get(rank)
        if log is not None and log.num_records:
            groups[_reached(evidence, rank)].append(rank)
    words = {-1: "not ready", 0: "ready, no step yet"}
    return [f"{words.get(step, f'last step {step}')}: {ranks_text(groups[step])}" for step in sorted(groups)]


def _consequences(evidence: Evidence) -> list[str]:
    killed = [rank for rank in evidence.ranks if (s := evidence.rank_status(rank)) and s.killed]
    return [f"stopped by the launcher as a consequence: {ranks_text(killed)}"] if killed else []


def _launchers(evidence: Evidence) -> list[str]:
    """What the launchers themselves say was wrong; with no other trouble this alone fails the cell."""
    words = [
        f"node {node}: its launcher was stopped by {visible(status.stopped_by, limit=40)}"
        for node in evidence.nodes
        if (status := evidence.status(node)) and status.stopped_by is not None
    ]
    words += [
        f"{visible(node, limit=60)}: docker says that the kernel killed something for want of memory"
        for node in evidence.host.oom_killed
    ]
    if evidence.host.launcher_exit == NO_ROOM:
        words.append(f"disk full: the launcher had no room for its status (exit code {NO_ROOM})")
    elif evidence.host.launcher_exit != 0:
        code = evidence.host.launcher_exit
        words.append(
            "the launcher's exit was never seen" if code is None else f"the launcher exited with code {code}"
        )
    return words


def _has_lines(evidence: Evidence, rank: int) -> bool:
    log = evidence.logs.get(rank)
    return log is not None and log.num_lines > 0
