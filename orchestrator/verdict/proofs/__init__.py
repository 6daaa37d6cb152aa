"""The proofs of docs/contract.md, "What makes a cell MEASURED": each with what was seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.verdict.proofs import external, places, records, stages, training

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.plan import Cell
    from orchestrator.verdict.evidence import Evidence

#: How many faults a detail lists before it only counts them.
MAX_FAULTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`detail` says what was seen, with numbers, whether the proof held or not."""

    name: str
    held: bool
    detail: str


def examine(evidence: Evidence) -> tuple[Proof, ...]:
    """Every proof that the cell needs, in the order of the contract."""
    proofs = _PROOFS if evidence.cell.job.program is None else _OF_PROGRAMS
    return tuple(_proof(name, *proofs[name](evidence)) for name in _needed(evidence.cell))


def unproven(detail: str, *, cell: Cell | None = None) -> tuple[Proof, ...]:
    """Every proof that `cell` needs, without one every proof there is, as not held: nothing can be said."""
    return tuple(Proof(name=name, held=False, detail=detail) for name in _needed(cell))


def _needed(cell: Cell | None) -> list[str]:
    """Only what is trained in stages, or begins with stored weights, has something to prove about them."""
    if cell is None:
        return list({**_PROOFS, **_OF_PROGRAMS})
    if cell.job.program is not None:
        return list(_OF_PROGRAMS)
    absent = set()
    if cell.job.trainable is None:
        absent.add("trained_part")
    if cell.job.initial is None:
        absent.add("initial_weights")
    if cell.job.save is None:
        absent.add("projector_saved")
    if cell.job.parallel is None:
        absent |= {"places", "agreement"}
    if cell.job.precision.compute_dtype != "fp16":
        absent.add("updated")
    return [name for name in _PROOFS if name not in absent]


#: What was found wrong, and what to say when nothing was.
Finding = tuple[list[str], str]
#: name → what finds its faults; the names and their order are the contract's.
_PROOFS: dict[str, Callable[[Evidence], Finding]] = {
    "all_ranks_reported": records.all_ranks_reported,
    "records_intact": records.records_intact,
    "nonce": records.nonce,
    "end_records": records.end_records,
    "exit_codes": records.exit_codes,
    "steps_reached": training.steps_reached,
    "window_complete": training.window_complete,
    "losses_finite": training.losses_finite,
    "updated": training.updated,
    "job": training.job,
    "model": training.model,
    "trained_part": stages.trained_part,
    "initial_weights": stages.initial_weights,
    "projector_saved": stages.projector_saved,
    "world_size": training.world_size,
    "places": places.places,
    "agreement": places.agreement,
    "batch": training.batch,
    "data": training.data,
    "wall_clock": training.wall_clock,
    "window_covered": training.window_covered,
    "mfu_possible": training.mfu_possible,
}

#: Of an external program, which states less: docs/external.md says what each can prove.
_OF_PROGRAMS: dict[str, Callable[[Evidence], Finding]] = {
    "all_ranks_reported": records.all_ranks_reported,
    "records_intact": records.records_intact,
    "nonce": records.nonce,
    "end_records": records.end_records,
    "exit_codes": records.exit_codes,
    "program": external.program,
    "program_data": external.program_data,
    "output_intact": external.output_intact,
    "log_whole": external.log_whole,
    "log_settings": external.log_settings,
    "steps_reached": training.steps_reached,
    "window_complete": training.window_complete,
    "losses_finite": external.losses_finite,
    "consumed_samples": external.consumed_samples,
    "step_times": external.step_times,
    "wall_clock": external.wall_clock,
    "mfu_possible": external.mfu_possible,
}


def _proof(name: str, faults: list[str], seen: str) -> Proof:
    if not faults:
        return Proof(name=name, held=True, detail=seen)
    listed = "; ".join(faults[:MAX_FAULTS])
    more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
    return Proof(name=name, held=False, detail=listed + more)
