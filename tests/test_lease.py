"""A run's hold on its nodes as its controllers see it: taken up again on all of them or on none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import PreflightError
from orchestrator.fleet import resumed
from orchestrator.journal import Journal, Past, read
from orchestrator.lease import Lease
from orchestrator.remote.errors import LinkLost, Refused
from orchestrator.remote.pool import in_parallel
from orchestrator.results import RunFolder
from orchestrator.resume import refuse
from orchestrator.run import closing
from tests.cellmaker import make_cell, make_plan

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 120.0


@dataclass
class Node:
    """A node's answer to a renewal: None (renewed), why it is not, or an error."""

    name: str
    answer: Callable[[], str | None]
    hopeful: Any = None
    asked: int = 0

    def renew(self, *_: Any, **__: Any) -> str | None:
        self.asked += 1
        return self.answer()


@dataclass
class Pool:
    nodes: dict[str, Node] = field(default_factory=dict)

    def settle(self, function: Callable[[Node], Any], *, nodes: Any) -> dict[str, Any]:
        return in_parallel(lambda name: function(self.nodes[name]), list(nodes), limit_s=DEADLINE_S)


def held(lease_s: float = DEADLINE_S, **answers: Callable[[], str | None]) -> tuple[Pool, dict[str, Lease]]:
    pool = Pool({name: Node(name, answer) for name, answer in answers.items()})
    leases = {
        name: Lease(node, {}, lease_s=lease_s, tell=lambda *_, **__: None)  # type: ignore[arg-type]
        for name, node in pool.nodes.items()
    }
    return pool, leases


def renewing() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("nx8-lease-")]


def refused() -> str | None:
    raise Refused.of("E205", "the login was refused", node="b", phase="auth", help="")


def test_all_nodes_are_asked_at_once() -> None:
    together = threading.Barrier(2, timeout=DEADLINE_S)

    def answer() -> None:
        together.wait()

    pool, leases = held(a=answer, b=answer)
    resumed(pool, leases, "r")  # type: ignore[arg-type]
    try:
        assert sorted(renewing()) == ["nx8-lease-a", "nx8-lease-b"]
    finally:
        together.abort()
        for lease in leases.values():
            lease.pause()


def test_a_lease_that_has_expired_is_named_and_no_other_is_renewed_any_more() -> None:
    pool, leases = held(a=lambda: None, b=lambda: "the lease expired", c=refused)
    with pytest.raises(PreflightError) as caught:
        resumed(pool, leases, "r")  # type: ignore[arg-type]
    assert [one.code for one in caught.value.problems] == ["E251"]
    assert "b: the lease expired" in str(caught.value)
    assert renewing() == []


def test_a_node_that_was_silent_for_a_whole_lease_has_ended_its_part() -> None:
    def silent() -> str | None:
        raise LinkLost.of("E209", "the connection was lost", node="a", phase="command", help="")

    pool, leases = held(lease_s=0.5, a=silent)
    with pytest.raises(PreflightError, match=r"E251.*a: the connection was lost.*lease of 0\.5 s"):
        resumed(pool, leases, "r")  # type: ignore[arg-type]
    assert pool.nodes["a"].asked > 1


def test_a_run_whose_node_cannot_be_asked_can_be_tried_again(tmp_path: Path) -> None:
    pool, leases = held(a=lambda: None, b=refused)
    folder = RunFolder(path=tmp_path)
    with Journal.open(folder.journal) as journal:
        going = SimpleNamespace(journal=journal, signals=SimpleNamespace())
        with pytest.raises(PreflightError, match=r"E260.*the login was refused"), closing(going):  # type: ignore[arg-type]
            resumed(pool, leases, "r")  # type: ignore[arg-type]
    assert renewing() == []
    past = Past.of(read(folder.journal))
    assert past.closed == "left"
    refuse(replace(make_plan(make_cell()), transport="ssh"), folder, past)


def test_a_bug_leaves_no_renewal_behind() -> None:
    def bug() -> str | None:
        deadline = time.monotonic() + DEADLINE_S
        while not renewing() and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        raise ZeroDivisionError

    pool, leases = held(a=lambda: None, b=bug)
    with pytest.raises(ZeroDivisionError):
        resumed(pool, leases, "r")  # type: ignore[arg-type]
    assert renewing() == []
