"""Runs that nothing disturbs: every one of them has to be MEASURED, or the proofs refuse what is true."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.false_green import Line
from tests.false_green.processes import home_in
from tests.test_run import run

if TYPE_CHECKING:
    from pathlib import Path

STEP = "        loss, norm = engine.step(fed)\n"
#: In every other run steps vary fivefold and more, as on a machine that others use too.
NOISE = "        time.sleep(0.05 if step % 4 else 0.4)\n"


def slow_steps(home: Path) -> Path:
    """Makes every step of the copy's trainer two seconds long, inside its timed part: what a tenth of the
    time leaves over is then more than a start or an exit may take.
    """
    return with_line(home, "        time.sleep(2.0)\n")


def with_line(home: Path, line: str) -> Path:
    path = home / "cases" / "trainer" / "train.py"
    text = path.read_text("utf-8")
    assert text.count(STEP) == 1
    path.write_text(text.replace(STEP, line + STEP), "utf-8")
    return home


def undisturbed(folder: Path, number: int) -> Line:
    """One run; every other one with steps of very different length."""
    home = home_in(folder)
    noisy = number % 2 == 1
    done = run(with_line(home, NOISE) if noisy else home)
    cell = done.cell
    shutil.rmtree(folder, ignore_errors=True)
    measured = done.code == 0 and cell["verdict"] == "MEASURED"
    return Line(
        group="undisturbed",
        fault=f"run {number + 1}" + (", noisy steps" if noisy else ""),
        due="MEASURED",
        verdict=cell["verdict"],
        missing=None if measured else f"exit {done.code}: {cell['reasons'][:2]}",
    )
