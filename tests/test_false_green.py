"""No fault of the records ends MEASURED, and each is refused for its own reason: the fast part of the
campaign, on copies of one real run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.false_green import processes, records
from tests.false_green.undisturbed import slow_steps
from tests.test_run import Done, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.trainer

FAULTS = list(records.faults())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Done]:
    """A run with steps of two seconds, whose copies are tampered with, and a quick one to replay from."""
    folder = tmp_path_factory.mktemp("runs")
    done = []
    for name, slow in (("home", True), ("other", False)):
        home = processes.home_in(folder / name)
        done.append(run(slow_steps(home) if slow else home))
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
