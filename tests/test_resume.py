"""A run that lost its controller is gone on with, or ends as lost with all that it had by then."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import PreflightError, Problem
from orchestrator.journal import Journal, Past, read
from orchestrator.resume import lost
from orchestrator.run import Going, Phases, executed, reported
from orchestrator.signals import Signals
from tests.cellmaker import Made, honest, make_cell, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Goings = Callable[..., Going]

LAPSED = PreflightError(Problem(code="E251", message="run r cannot be resumed: node-0: the lease expired"))


class Silent:
    """Shows nothing."""

    def phase(self, *_: str) -> None:
        pass

    def sight(self, _: object) -> None:
        pass

    def training(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()


class Standing:
    """A launcher whose ranks go on until it is stopped."""

    lost = odd_end = None
    oom_killed = ()

    def __init__(self) -> None:
        self.descriptor, self._bell = os.pipe()
        self.started_s = time.monotonic()
        self._code: int | None = None

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started_s

    def exit_code(self) -> int | None:
        return self._code

    def record(self) -> dict[str, Any]:
        return {}

    def examine(self) -> None:
        pass

    def stop(self) -> None:
        self._code = 143

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._bell)


class Runner:
    """Where every cell stands already, and goes on."""

    @contextmanager
    def launched(self, *_: object) -> Iterator[Standing]:
        one = Standing()
        try:
            yield one
        finally:
            one.close()


@pytest.fixture
def going(tmp_path: Path) -> Iterator[Goings]:
    """A run of which its first controller left these entries, and a second one begins."""
    exits = ExitStack()

    def make(*mades: Made, entries: tuple[dict[str, Any], ...] = (), **planning: Any) -> Going:
        folder, planned = write_run(tmp_path, *mades)
        journal = exits.enter_context(Journal.open(folder.journal))
        for entry in entries:
            journal.add(**entry)
        return Going(
            planned=replace(planned, **planning),
            folder=folder,
            runner=Runner(),  # type: ignore[arg-type]
            journal=journal,
            about=json.loads(folder.host.read_bytes()),
            phases=Phases(seconds={}),
            view=Silent(),  # type: ignore[arg-type]
            signals=exits.enter_context(Signals()),
            past=Past.of(read(folder.journal)),
        )

    with exits:
        yield make


def test_a_stored_result_stays_when_the_lease_has_expired_since(going: Goings) -> None:
    one = going(honest())
    reported(one.folder, one.planned, dict(one.about), one.phases)
    stored = {path: path.read_bytes() for path in (one.folder.result, one.folder.host, one.folder.report)}
    assert json.loads(stored[one.folder.result])["cells"][0]["verdict"] == "MEASURED"
    one.folder.report.unlink()
    with pytest.raises(PreflightError, match="E251"), lost(one):
        raise LAPSED
    assert {path: path.read_bytes() for path in stored} == stored


def test_the_time_limit_goes_on_from_where_the_first_controller_began(going: Goings) -> None:
    begun = {"event": "cell", "cell": "a", "monotonic_s": time.monotonic() - 600}
    cells = [honest(make_cell(cell_id=name)) for name in ("a", "b")]
    seen = executed(going(*cells, entries=(begun,), time_limit_s=500.0))
    # What has begun is followed to its end, though that is here.
    assert (seen["a"].started, seen["a"].stopped, seen["a"].launcher_exit) == (True, "time_limit", 143)
    assert (seen["b"].started, seen["b"].not_run_reason) == (
        False,
        "the run's time limit of 500 s was used up",
    )
