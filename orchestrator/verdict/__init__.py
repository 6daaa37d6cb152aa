"""Is this number proven? MEASURED, INVALID, FAILED or NOT_RUN, with every proof and what was seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.grid import place
from orchestrator.verdict.causes import Failure, failure
from orchestrator.verdict.evidence import Evidence, HostSeen
from orchestrator.verdict.proofs import Proof, examine, unproven

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.parse.events import RankLog
    from orchestrator.parse.program import ProgramLog
    from orchestrator.parse.records import Saved
    from orchestrator.parse.stacks import Stand
    from orchestrator.parse.status import NodeStatus, StatusProblem
    from orchestrator.plan import Cell
    from orchestrator.verdict.order import Lists

__all__ = ["HostSeen", "Judgement", "Proof", "Verdict", "judge"]


class Verdict(StrEnum):
    """NOT_RUN: never started. FAILED: did not run to its end. INVALID: it did, but a proof does not hold."""

    MEASURED = "MEASURED"
    INVALID = "INVALID"
    FAILED = "FAILED"
    NOT_RUN = "NOT_RUN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`reasons` is empty for MEASURED alone; its first line is the cause, safe to print.

    `cause_rank` and `traceback` are the first failing rank's; the traceback is text from a log, to be
    escaped.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    proofs: tuple[Proof, ...]
    cause_rank: int | None = None
    traceback: str | None = None


def judge(
    cell: Cell,
    logs: Mapping[int, RankLog],
    statuses: Mapping[int, NodeStatus | StatusProblem],
    host: HostSeen,
    *,
    lists: Lists | None = None,
    before: Saved | None = None,
    programs: Mapping[int, ProgramLog] | None = None,
    stands: Mapping[int, Stand] | None = None,
) -> Judgement:
    """The verdict on `cell`. `logs` by rank, `statuses` by node rank; a missing file is absent from them.
    `lists`, `before`, `programs` and `stands` are as Evidence has them.

    Never raises on what ranks and launchers wrote.
    """
    if not host.started:
        reason = host.not_run_reason or "never started"
        proofs = unproven("the cell was not run", cell=cell)
        return Judgement(verdict=Verdict.NOT_RUN, reasons=(reason,), proofs=proofs)
    evidence = Evidence(
        cell=cell,
        logs=logs,
        statuses=statuses,
        host=host,
        lists=lists,
        before=before,
        programs=programs or {},
        stands=stands or {},
    )
    proofs = examine(evidence)
    failed = failure(evidence)
    if failed is not None:
        return Judgement(
            verdict=Verdict.FAILED,
            reasons=located(failed, evidence),
            proofs=proofs,
            cause_rank=failed.rank,
            traceback=failed.traceback,
        )
    broken = tuple(f"{proof.name}: {proof.detail}" for proof in proofs if not proof.held)
    return Judgement(verdict=Verdict.INVALID if broken else Verdict.MEASURED, reasons=broken, proofs=proofs)


def located(failed: Failure, evidence: Evidence) -> tuple[str, ...]:
    """The reasons; where the model is shared out among ranks, the first one says where its rank stands."""
    if failed.rank is None or evidence.cell.job.parallel is None:
        return failed.reasons
    first, *others = failed.reasons
    return (f"{first} (rank {failed.rank}: {place(evidence.cell.job, failed.rank)})", *others)
