"""A reference loss curve: a CSV file with a heading line that names step and loss."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.parse.dialects.record import real, whole
from orchestrator.parse.strict import Misread
from orchestrator.parse.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 64 << 20
STEP_NAMES = ("step", "iteration")
LOSS_NAMES = ("loss", "lm loss")
MAX_PROBLEMS = 5


def read_curve(path: Path) -> dict[int, float]:
    """step → loss. Raises ConfigError: E810 a file that cannot be read, E813 with the first rows that are
    wrong.
    """
    shown = visible(str(path))
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise ConfigError(
            Problem(code="E810", message=f"{shown} cannot be read: {error.strerror}", help="name a CSV file")
        ) from error
    if data is None:
        raise ConfigError(Problem(code="E813", message=f"{shown} is larger than 64 MiB: no loss curve"))
    try:
        rows = list(csv.reader(data.decode("utf-8-sig", "replace").splitlines()))
    except csv.Error as error:
        raise ConfigError(Problem(code="E813", message=f"{shown} is no CSV file: {error}")) from error
    heading = [name.strip().lower() for name in rows[0]] if rows else []
    step_at = next((heading.index(name) for name in STEP_NAMES if name in heading), None)
    loss_at = next((heading.index(name) for name in LOSS_NAMES if name in heading), None)
    if step_at is None or loss_at is None:
        raise ConfigError(
            Problem(
                code="E813",
                message=f"{shown}: its first line names no columns step and loss",
                help="write the heading line `step,loss`",
            )
        )
    return _curve(rows[1:], step_at=step_at, loss_at=loss_at, shown=shown)


def _curve(rows: list[list[str]], *, step_at: int, loss_at: int, shown: str) -> dict[int, float]:
    losses: dict[int, float] = {}
    problems = []
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        try:
            step, loss = _row(row, step_at=step_at, loss_at=loss_at)
            if step in losses:
                raise Misread(f"step {step} a second time")
            losses[step] = loss
        except Misread as wrong:
            problems.append(Problem(code="E813", message=visible(str(wrong)), file=shown, line=number))
    if not losses and not problems:
        problems = [Problem(code="E813", message=f"{shown} has no rows")]
    if problems:
        raise ConfigError(problems[:MAX_PROBLEMS])
    return losses


def _row(row: list[str], *, step_at: int, loss_at: int) -> tuple[int, float]:
    if len(row) <= max(step_at, loss_at):
        raise Misread("too few fields")
    step, loss = whole(row[step_at], "step"), real(row[loss_at], "loss")
    if isinstance(loss, str):
        raise Misread(f"the loss of step {step} is {loss}")
    return step, loss
