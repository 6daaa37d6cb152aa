"""A run that lost its controller is gone on with, or ends as lost with all that it had by then."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.containers import nodes_of
from orchestrator.containers.salvaging import salvaged
from orchestrator.errors import ConfigError, PreflightError, Problem
from orchestrator.journal import Journal, Past, read
from orchestrator.lease import LOCK
from orchestrator.remote.errors import LinkLost
from orchestrator.remote.remote import LeaseState
from orchestrator.results import RunFolder
from orchestrator.resume import lost, refuse
from orchestrator.run import Going, Phases, closing, executed, reported
from orchestrator.signals import Signals
from tests.cellmaker import Made, honest, make_cell, write_run
from tests.test_containers import DEADLINE_S, ID, LAUNCH, Machine, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator.containers.onnode import OnNode
    from orchestrator.plan import Cell
    from orchestrator.remote.remote import Piece

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
    """Where every cell stands already, and goes on; on whose nodes lies what `there` writes."""

    def __init__(self, there: Callable[[RunFolder], None]) -> None:
        self._there = there
        self._records: dict[str, Any] = {}

    def salvage(self, cell: Cell, folder: RunFolder) -> None:
        self._there(folder)
        self._records[cell.cell_id] = {
            "node-0": {"link_drops": 0, "ending": {"kind": "lost", "text": "the keeper's word"}}
        }

    def recall(self, cell_id: str, record: dict[str, Any]) -> None:
        self._records[cell_id] = record

    def containers(self) -> dict[str, Any]:
        return self._records

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

    def make(
        *mades: Made,
        entries: tuple[dict[str, Any], ...] = (),
        there: Callable[[RunFolder], None] = lambda _: None,
        **planning: Any,
    ) -> Going:
        folder, planned = write_run(tmp_path, *mades)
        journal = exits.enter_context(Journal.open(folder.journal))
        for entry in entries:
            journal.add(**entry)
        return Going(
            planned=replace(planned, **planning),
            folder=folder,
            runner=Runner(there),  # type: ignore[arg-type]
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


def test_what_lies_on_nodes_only_is_in_the_result_of_a_run_whose_lease_has_expired(going: Goings) -> None:
    whole = honest(make_cell(cell_id="b"))
    bare = Made(cell=whole.cell, records={})
    before = honest(make_cell(cell_id="a"))
    record = {"node-0": {"link_drops": 3, "ending": {"kind": "finished", "text": "exit 0"}}}
    one = going(
        before,
        bare,
        honest(make_cell(cell_id="c")),
        there=whole.write,
        entries=(
            {"event": "cell", "cell": "a"},
            {"event": "ended", "cell": "a", "seen": asdict(before.host), "containers": record},
            {"event": "cell", "cell": "b"},
        ),
    )
    with pytest.raises(PreflightError, match="E251"), lost(one):
        raise LAPSED
    cells = {one["cell_id"]: one for one in json.loads(one.folder.result.read_bytes())["cells"]}
    assert {name: cell["verdict"] for name, cell in cells.items()} == {
        "a": "MEASURED",
        "b": "FAILED",
        "c": "NOT_RUN",
    }
    assert cells["a"]["link_drops"] == 3
    assert cells["b"]["endings"]["node-0"]["kind"] == "lost"
    assert cells["b"]["reasons"][0].startswith("lost: ")
    events = one.folder.cell("b").node(0).rank(1).events
    assert events.read_bytes() == b"".join(whole.lines[1])


CONTAINER = str(LAUNCH.container)
HELD = LeaseState(
    owner={"run": "r"}, lease_s=10.0, age_s=12.0, expired=True, ending="the lease expired", keeper=True
)
TESTIMONY = {
    "why": "lease",
    "containers": [
        {"id": ID, "name": f"/{name}", "state": {"Status": "exited", "Running": False, "ExitCode": code}}
        for name, code in (("nx8-r-another-n0", 0), (CONTAINER, 75))
    ],
}
EVENTS = "/w/runs/r/c/node0/rank0/events.jsonl"


@dataclass
class Left(Machine):
    """A node whose keeper is at work for some looks, and then writes how it found the containers."""

    looks_at_lock: int = 2
    held: LeaseState = HELD
    breaks: bool = False

    def lease(self, path: str) -> LeaseState | None:
        assert path == LOCK
        self.looks_at_lock -= 1
        if self.looks_at_lock > 0:
            return self.held
        self.files[EVENTS] = b"one\ntwo\n"
        self.files["/w/runs/r/lost.json"] = json.dumps(TESTIMONY).encode()
        return None

    def read(self, wanted: Sequence[tuple[str, int, int]]) -> tuple[Piece, ...]:
        if self.breaks:
            raise LinkLost.of("E209", "the connection was lost", node="n", phase="command", help="")
        return super().read(wanted)


def salvage(machine: Left, folder: Path, **given: Any) -> tuple[OnNode, list[str]]:
    cell = replace(make_cell(), launches=(LAUNCH,))
    pool = Pool(machine)
    nodes = nodes_of(pool, cell, RunFolder(path=folder).cell("c"))  # type: ignore[arg-type]
    lines = salvaged(pool, nodes, run_id="r", runs="/w/runs", lease_s=DEADLINE_S, **given)  # type: ignore[arg-type]
    return nodes[LAUNCH.node], lines


def test_files_come_home_once_the_keeper_has_done_its_work_and_its_word_is_kept(tmp_path: Path) -> None:
    here = tmp_path / "cells" / "c" / "node0"
    (here / "rank0").mkdir(parents=True)
    (here / "rank0" / "events.jsonl").write_bytes(b"one\nt")
    machine = Left(files={EVENTS: b"one\n"})
    node, lines = salvage(machine, tmp_path)
    assert lines == []
    assert (here / "rank0" / "events.jsonl").read_bytes() == b"one\ntwo\n"
    assert json.loads((here / "lost.json").read_bytes()) == TESTIMONY
    assert (node.record()["exit_code"], node.record()["brought_bytes"]) == (75, 8)
    assert machine.files.keys() == {EVENTS, "/w/runs/r/lost.json"}


def test_nobody_waits_for_a_keeper_that_is_dead_for_another_run_s_or_once_it_is_enough(
    tmp_path: Path,
) -> None:
    for number, (held, enough) in enumerate(
        (
            (replace(HELD, keeper=False), False),
            (replace(HELD, owner={"run": "another"}), False),
            (HELD, True),
        )
    ):
        machine = Left(files={EVENTS: b"one\n"}, looks_at_lock=10**6, held=held)
        _, lines = salvage(machine, tmp_path / str(number), enough=lambda enough=enough: enough)
        assert lines == []
        assert (tmp_path / str(number) / "cells/c/node0/rank0/events.jsonl").read_bytes() == b"one\n"


def test_what_cannot_be_brought_home_is_said_with_where_it_lies(tmp_path: Path) -> None:
    here = tmp_path / "cells" / "c" / "node0"
    here.mkdir(parents=True)
    (here / "launcher.log").write_bytes(b"kept")
    _, (line,) = salvage(Left(breaks=True), tmp_path)
    assert "the connection was lost" in line
    assert "/w/runs/r/c/node0" in line
    _, (line,) = salvage(Left(files={}), tmp_path)
    assert "copies differ from the node's: launcher.log" in line
    assert (here / "launcher.log").read_bytes() == b"kept"


def test_a_run_that_ends_by_a_bug_of_ours_has_failed_and_is_not_orphaned(going: Goings) -> None:
    one = going(honest())
    with pytest.raises(ZeroDivisionError), closing(one):
        raise ZeroDivisionError
    past = Past.of(read(one.folder.journal))
    assert past.closed == "failed"
    with pytest.raises(ConfigError, match=r"E254.*it is failed"):
        refuse(replace(one.planned, transport="ssh"), one.folder, past)
