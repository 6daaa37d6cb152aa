"""No fault of the records ends MEASURED, and each is refused for its own reason: the fast part of the
campaign, on copies of one real run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.false_green import records
from tests.test_run import Done, run, small

pytestmark = pytest.mark.trainer

ROOT = Path(__file__).parents[1]
FAULTS = list(records.faults())


def slow_steps(home: Path) -> None:
    """Makes every step of the copy's trainer two seconds long, inside its timed part: what a tenth of the
    time leaves over is then more than a start or an exit may take.
    """
    path = home / "cases" / "trainer" / "train.py"
    text = path.read_text("utf-8")
    mark = "        loss, norm = engine.step(fed)\n"
    assert mark in text
    path.write_text(text.replace(mark, f"        time.sleep(2.0)\n{mark}"), "utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Done]:
    """A run with steps of two seconds, whose copies are tampered with, and a quick one to replay from."""
    folder = tmp_path_factory.mktemp("runs")
    done = []
    for name, slow in (("home", True), ("other", False)):
        home = folder / name
        for noun in ("cases", "dockerfiles", "cluster"):
            shutil.copytree(ROOT / noun, home / noun, ignore=shutil.ignore_patterns("__pycache__"))
        small(home)
        if slow:
            slow_steps(home)
        done.append(run(home))
        assert done[-1].code == 0, done[-1].stderr
    return done[0], done[1]


def test_there_are_a_hundred_faults_with_names_of_their_own() -> None:
    names = [(fault.group, fault.name) for fault in FAULTS]
    assert len(names) == len(set(names)) >= 100


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.group}: {fault.name}")
def test_a_fault_of_the_records_is_refused_for_its_own_reason(
    fault: records.Fault, runs: tuple[Done, Done], tmp_path: Path
) -> None:
    line = records.tried(fault, runs[0].folder, runs[1].folder, tmp_path / runs[0].folder.name)
    assert line.missing is None, line


def test_the_run_that_is_tampered_with_was_measured(runs: tuple[Done, Done], tmp_path: Path) -> None:
    copy = records.Copy(runs[0].folder, tmp_path / runs[0].folder.name, runs[1].folder)
    assert copy.judged()["verdict"] == "MEASURED"
    for rank in (0, 1):
        copy.seal(rank, copy.records(rank))
    assert copy.judged()["verdict"] == "MEASURED", "sealing again by itself breaks nothing"
