"""A run that lost its controller is gone on with, or ends as lost with all that it had by then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import PreflightError, Problem
from orchestrator.journal import Journal, Past, read
from orchestrator.resume import lost
from orchestrator.run import Going, Phases, reported
from orchestrator.signals import Signals
from tests.cellmaker import Made, honest, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Goings = Callable[..., Going]

LAPSED = PreflightError(Problem(code="E251", message="run r cannot be resumed: node-0: the lease expired"))


class Silent:
    """Shows nothing."""

    def phase(self, *_: str) -> None:
        pass


@pytest.fixture
def going(tmp_path: Path) -> Iterator[Goings]:
    """A run of which its first controller left these entries, and a second one begins."""
    journals: list[Journal] = []

    def make(made: Made, *entries: dict[str, Any]) -> Going:
        folder, planned = write_run(tmp_path, made)
        journal = Journal.open(folder.journal)
        journals.append(journal)
        for entry in entries:
            journal.add(**entry)
        return Going(
            planned=planned,
            folder=folder,
            runner=None,  # type: ignore[arg-type]
            journal=journal,
            about=json.loads(folder.host.read_bytes()),
            phases=Phases(seconds={}),
            view=Silent(),  # type: ignore[arg-type]
            signals=Signals(),
            past=Past.of(read(folder.journal)),
        )

    yield make
    for journal in journals:
        journal.close()


def test_a_stored_result_stays_when_the_lease_has_expired_since(going: Goings) -> None:
    made = honest()
    one = going(made)
    reported(one.folder, one.planned, dict(one.about), one.phases)
    stored = {path: path.read_bytes() for path in (one.folder.result, one.folder.host, one.folder.report)}
    assert json.loads(stored[one.folder.result])["cells"][0]["verdict"] == "MEASURED"
    one.folder.report.unlink()
    with pytest.raises(PreflightError, match="E251"), lost(one):
        raise LAPSED
    assert {path: path.read_bytes() for path in stored} == stored
