"""What an external program printed against the times at which its lines came, without a program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.parse.program import read_program, transcribed
from orchestrator.plan import Cell, ProgramPlan
from orchestrator.verdict.evidence import Evidence
from orchestrator.verdict.proofs import examine, external
from tests.cellmaker import SEEN, make_cell, numbered, read

if TYPE_CHECKING:
    from collections.abc import Sequence


ROOT = Path(__file__).parents[1]
WARMUP, MEASURED = 2, 10
LINE = (
    " [2026-11-21 10:00:00] iteration {:8d}/{:8d} | consumed samples: {:12d} | "
    "elapsed time per iteration (ms): {:.1f} | learning rate: 1.0E-05 | global batch size: {:5d} | "
    "lm loss: 5.000000E+00 | loss scale: 1.0 | grad norm: 1.000 |{}\n"
)
COUNTS = " number of skipped iterations:   0 | number of nan iterations:   0 |"


def cell_of_a_program(measured: int = MEASURED) -> Cell:
    cell = make_cell(warmup=WARMUP, measured=measured)
    program = ProgramPlan(directory="/opt/x", argv=("train.py",), environment={}, dialect="megatron")
    return replace(cell, job=replace(cell.job, engine="megatron", program=program))


def printed(
    claims_s: Sequence[float],
    gaps_s: Sequence[float],
    *,
    counts: str = COUNTS,
    line: str = LINE,
    skipped: Sequence[int] = (),
) -> Evidence:
    """A program of one line an iteration: what it says each measured one took, and what that line came after
    the one before; the warm-up's iterations take as long as the first of each. Of those that it `skipped` it
    prints no loss.
    """
    cell = cell_of_a_program(len(claims_s))
    gbs, total = cell.job.batch.global_batch_size, cell.job.steps.total
    claims_s, gaps_s = [claims_s[0]] * WARMUP + [*claims_s], [gaps_s[0]] * WARMUP + [*gaps_s]
    text, came, records = "", 1010.0, []
    for n, (claim_s, gap_s) in enumerate(zip(claims_s, gaps_s, strict=True), start=1):
        one = line.format(n, total, n * gbs, 1000 * claim_s, gbs, counts)
        if n in skipped:
            one = one.replace(" lm loss: 5.000000E+00 |", "").replace(
                "skipped iterations:   0", "skipped iterations:   1"
            )
        text += one
        came += gap_s
        records.append({"event": "output", "bytes": len(text), "lines": n, "end_s": came})
    last = cell.world_size - 1
    logs = {rank: read(b"".join(numbered(records, rank=rank)), rank) for rank in range(cell.world_size)}
    programs = {last: read_program([text.encode()], rank=last, dialect="megatron")}
    logs = transcribed(cell, logs, programs)
    return Evidence(cell=cell, logs=logs, statuses={}, host=SEEN, programs=programs)


def test_times_that_agree_hold() -> None:
    faults, seen = external.step_times(printed([1.0] * MEASURED, [1.05, 0.95] * (MEASURED // 2)))
    assert faults == []
    assert "typical iteration is 1.000 s, 0.99" in seen


BURSTS: dict[str, Any] = {
    "all at once, then a stall": ([0.02] * 9 + [9.0], 0.918),
    "two at a time": ([0.02, 1.98] * 5, 1.0),
    "five at a time": ([0.02, 0.02, 0.02, 0.02, 4.92] * 2, 1.0),
    "several in the same moment": ([0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 2.0], 1.0),
}


@pytest.mark.parametrize("name", BURSTS)
def test_lines_that_come_in_bursts_are_refused_though_their_sum_is_right(name: str) -> None:
    gaps_s, claim_s = BURSTS[name]
    faults, _ = external.step_times(printed([claim_s] * len(gaps_s), gaps_s))
    assert len(faults) == 1
    assert faults[0].startswith(f"its typical iteration is {claim_s:.3f} s, 0.0")


def test_a_sum_that_is_not_the_clocks_is_refused() -> None:
    faults, _ = external.step_times(printed([0.5] * MEASURED, [1.0] * MEASURED))
    assert [fault.split(" is ")[0].split(" are ")[0] for fault in faults] == [
        "its iterations",
        "its typical iteration",
    ]


def test_steps_that_no_clock_can_tell_are_refused() -> None:
    faults, _ = external.step_times(printed([0.015] * 100, [0.001] * 99 + [1.401]))
    assert len(faults) == 1
    assert "too short to tell" in faults[0]


def test_the_grain_is_the_observers() -> None:
    text = (ROOT / "cases" / "trainer" / "program.py").read_text("utf-8")
    assert f"\nGRAIN_S = {external.GRAIN_S}\n" in text


@pytest.mark.parametrize(
    "said", ["", " number of skipped iterations:   0 |", " number of nan iterations:   0 |"]
)
def test_iterations_that_do_not_count_nan_or_skipped_ones_prove_nothing(said: str) -> None:
    assert external.losses_finite(printed([1.0] * 4, [1.0] * 4))[0] == []
    faults, _ = external.losses_finite(printed([1.0] * 4, [1.0] * 4, counts=said))
    assert faults == ["6 iterations do not count nan and skipped ones, first 1"]


@pytest.mark.parametrize(
    ("dtype", "skipped", "faults"),
    [
        ("fp16", (1, 2), []),
        ("bf16", (1,), ["rank 1: 1 of 6, first null at step 1", "1 skipped iterations"]),
        ("fp16", (2, 3), ["rank 1: 1 of 5, first null at step 3", "1 skipped iterations"]),
    ],
)
def test_only_float16_may_skip_and_only_in_its_warm_up(
    dtype: str, skipped: tuple[int, ...], faults: list[str]
) -> None:
    evidence = printed([1.0] * 4, [1.0] * 4, skipped=skipped)
    precision = replace(evidence.cell.job.precision, compute_dtype=dtype)
    cell = replace(evidence.cell, job=replace(evidence.cell.job, precision=precision))
    found, seen = external.losses_finite(replace(evidence, cell=cell))
    assert found == faults
    assert seen.startswith(f"{6 - len([n for n in skipped if n <= WARMUP and dtype == 'fp16'])} losses")


def test_what_one_log_said_is_counted_once() -> None:
    proofs = {proof.name: proof.detail for proof in examine(printed([1.0] * 4, [1.0] * 4))}
    assert proofs["steps_reached"] == "steps 1 … 6, each once and in order, by the log of rank 1"
    assert proofs["window_complete"].startswith("4 measured steps after 2 of warm-up by the log of rank 1, ")
    assert proofs["losses_finite"] == "6 losses, every one a finite number"


def test_a_learning_rate_that_no_line_says_is_none() -> None:
    evidence = printed([1.0], [1.0])
    assert [step.learning_rate for step in evidence.steps(1)] == [1e-5] * 3
    evidence = printed([1.0], [1.0], line=LINE.replace(" learning rate: 1.0E-05 |", ""))
    assert [step.learning_rate for step in evidence.steps(1)] == [None] * 3
