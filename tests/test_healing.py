"""Healing a node of the lab tries every undoing, whatever becomes of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import PreflightError, Problem
from orchestrator.lab import faults, injecting

UNDOINGS = (
    "delay_packets",
    "lose_packets",
    "mend_link",
    "limit_cpu",
    "resume_stopped",
    "free_disk",
    "skew_clock",
    "reboot_id",
    "start_daemons",
)


@pytest.mark.parametrize("bad", UNDOINGS)
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PreflightError(Problem(code="E282", message="no room"))]
)
def test_what_goes_wrong_with_one_undoing_keeps_no_other_from_being_tried(
    bad: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def undoing(name: str) -> Any:
        def undo(*_: object) -> None:
            tried.append(name)
            if name == bad:
                raise error

        return undo

    for name in UNDOINGS:
        monkeypatch.setattr(faults, name, undoing(name))
    with pytest.raises(PreflightError, match=r"E282.*(No space left|no room)"):
        injecting.heal(None, SimpleNamespace(name="node1"))  # type: ignore[arg-type]
    assert tried == list(UNDOINGS)
