"""Clocks that the ranks do not set, beside theirs: the host's, and their launcher's. Pure.

A rank that claims a tenth of its time with all of it consistent has to hide the rest somewhere: before its
steps, then the host saw them before they were; or behind them, then its exit comes long after its last
record. Neither is a matter of the link: what is seen late was never seen early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.verdict.evidence import Evidence

#: Between the host's note of the start and the launcher's own, and for clocks of two machines that drift.
EARLY_TOLERANCE_S, DRIFT = 1.0, 0.002
#: What parting from the other ranks may take at the end, and a share of the steps' time besides.
LEAVING_LIMIT_S, LEAVING_SHARE = 10.0, 0.25


def seen_early(evidence: Evidence) -> list[str]:
    """Steps that the host saw before they were recorded, both counted from the launcher's start."""
    faults = []
    for sighting in evidence.host.sighted:
        status = evidence.status(evidence.node_of(sighting.rank)) if sighting.rank in evidence.ranks else None
        step = next((one for one in evidence.steps(sighting.rank) if one.step == sighting.step), None)
        if status is None or step is None:
            continue  # other proofs say so
        stated_s = step.t_s - status.started_s
        if stated_s > sighting.after_s * (1 + DRIFT) + EARLY_TOLERANCE_S:
            faults.append(
                f"rank {sighting.rank}: the host saw step {sighting.step} {sighting.after_s:.6g} s after the "
                f"start, which by its record was written after {stated_s:.6g} s"
            )
    return faults


def left_late(evidence: Evidence) -> list[str]:
    """Nodes on which even the last rank to finish exited long after its end record, by their own clock."""
    faults = []
    for node in evidence.nodes:
        status = evidence.status(node)
        if status is None:
            continue
        gaps = []
        for one in status.ranks:
            log = evidence.logs.get(one.rank)
            if log is not None and log.end is not None and one.ended_s is not None:
                steps_s = sum(step.duration_s for step in log.steps)
                gaps.append((one.ended_s - log.end.t_s, LEAVING_LIMIT_S + LEAVING_SHARE * steps_s, one.rank))
        if gaps:
            gap_s, limit_s, rank = min(gaps)
            if gap_s > limit_s:
                faults.append(
                    f"node {node}: rank {rank} exited {gap_s:.6g} s after its end record, "
                    f"{limit_s:.6g} s at most"
                )
    return faults
