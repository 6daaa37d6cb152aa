"""Is a log that of one run, all of it, with no rank that failed? Pure.

Only what a log itself numbers or says once can be missed: our records have nonces and numbers, other programs
a start or an end.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

from orchestrator.metrics.arithmetic import Check
from orchestrator.parse.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.parse.dialects import Heard, Stated, StepLine

#: What a program says once in a run, or once for each of its stages.
ONCE = (
    "started",
    "train_runtime_s",
    "system_tokens_per_second",
    "tokens_per_second_per_device",
    "peak_tflops",
    "tokens_per_tflops",
    "mfu",
)
TWO_RUNS = "a restart, or two logs in one file"


def check_whole(heard: Sequence[Heard]) -> tuple[Check, ...]:
    found = (_one_run(heard), _no_failure(heard), _every_record(heard), _said_once(heard), _one_bar(heard))
    return tuple(check for check in found if check is not None)


def _one_run(heard: Sequence[Heard]) -> Check | None:
    nonces: dict[str | None, int] = {}
    for one in _numbered(heard):
        nonces.setdefault(one.run, one.line)
    if len(nonces) < 2:
        return None
    said = ", ".join(f"{visible(str(run), limit=40)} (line {line})" for run, line in nonces.items())
    return Check(name="one_run", held=False, detail=f"records of {len(nonces)} runs: {said}")


def _no_failure(heard: Sequence[Heard]) -> Check | None:
    failed = next((one for said in heard for one in said.stated if one.name == "failed"), None)
    if failed is None:
        return None
    what = visible(str(failed.value), limit=80)
    return Check(
        name="no_failure", held=False, detail=f"rank {failed.rank} failed on line {failed.line}: {what}"
    )


def _every_record(heard: Sequence[Heard]) -> Check | None:
    """Each rank's records are numbered without gaps up to its end record; of record 0, which says where it
    runs, nothing is needed.
    """
    by_rank: dict[int | None, set[int]] = defaultdict(lambda: {0})
    for one in _numbered(heard):
        by_rank[one.rank].add(one.seq or 0)
    ended = {one.rank for said in heard for one in said.stated if one.name == "ended" and one.seq is not None}
    for rank, numbers in by_rank.items():
        missing = next((due for due, number in enumerate(sorted(numbers)) if due != number), None)
        if missing is not None:
            return _incomplete(f"record {missing} of rank {rank} is missing or cannot be read")
        if ended and rank not in ended:
            return _incomplete(f"rank {rank} has no end record, others have")
    return None


def _incomplete(detail: str) -> Check:
    return Check(name="every_record", held=False, detail=detail)


def _numbered(heard: Sequence[Heard]) -> list[StepLine | Stated]:
    """Records of our own, by line."""
    found: list[StepLine | Stated] = [one for said in heard for one in said.steps if one.seq is not None]
    found += [one for said in heard for one in said.stated if one.seq is not None]
    return sorted(found, key=lambda one: one.line)


def _said_once(heard: Sequence[Heard]) -> Check | None:
    for said in heard:
        stage: str | None = None
        lines: dict[tuple[str, int | None, str | None, str], int] = {}
        for one in said.stated:
            if one.name == "stage":
                stage = str(one.value)
            elif one.name in ONCE:
                earlier = lines.setdefault((one.source, one.rank, stage, one.name), one.line)
                if earlier != one.line:
                    detail = f"{one.name} stands on line {earlier} and again on line {one.line}: {TWO_RUNS}"
                    return Check(name="said_once", held=False, detail=detail)
    return None


def _one_bar(heard: Sequence[Heard]) -> Check | None:
    """A bar goes on and never back, and so does its clock."""
    bars: dict[tuple[str, int | None, int | None], list[StepLine]] = defaultdict(list)
    for one in (one for said in heard for one in said.steps if one.elapsed_s is not None):
        bars[one.source, one.rank, one.total_steps].append(one)
    for drawn in bars.values():
        for before, after in itertools.pairwise(drawn):
            if (after.step or 0) < (before.step or 0) and (after.elapsed_s or 0) < (before.elapsed_s or 0):
                detail = (
                    f"the bar is at step {before.step} on line {before.line} "
                    f"and at step {after.step} on line {after.line}: {TWO_RUNS}"
                )
                return Check(name="one_bar", held=False, detail=detail)
    return None
