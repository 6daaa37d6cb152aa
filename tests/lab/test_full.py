"""The whole cluster of the published tables, rehearsed: 4 nodes with 8 devices each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.test_rehearsal import left_on, run

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_two_ranks_on_four_nodes_are_measured(labs: Callable[..., Any]) -> None:
    bed = labs("mthreads", nodes=4, devices=8)
    # 32 ranks share what this machine has: a step may take its time, and nobody is to call that a stall.
    done = run(bed, "--steps", "5", "--stall-limit", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((bed.workspace.runs / "latest" / "result.json").read_text("utf-8"))
    (cell,) = result["cells"]
    assert cell["verdict"] == "MEASURED"
    assert len(cell["ranks"]) == 32
    assert cell["metrics"]["memory_used_bytes"]["value"] > 0
    assert left_on(bed) == []
