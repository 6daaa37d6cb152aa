"""llama2_70b on two nodes of four stand-ins: a tensor group inside a node, the pipeline across them; our own
engine, and a stand-in for FlagScale in its image.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Labs = Callable[..., Any]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1500)]

DEADLINE_S = 700.0


def run(home: Path, *words: str) -> tuple[Path, dict[str, Any]]:
    argv = (
        sys.executable,
        "-m",
        "orchestrator",
        "--home",
        str(home),
        "run",
        "llama2_70b",
        "--cluster",
        "lab",
    )
    done = subprocess.run(
        (*argv, "--steps", "6", *words), capture_output=True, text=True, timeout=DEADLINE_S, cwd=home
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    (cell,) = json.loads((folder / "result.json").read_text("utf-8"))["cells"]
    return folder, cell


def test_our_own_engine_is_measured_with_the_pipeline_across_two_nodes(labs: Labs) -> None:
    folder, cell = run(labs("nvidia", nodes=2, devices=4).workspace.home)
    assert (cell["verdict"], cell["engine"], cell["parallel"]["label"]) == ("MEASURED", "native", "TP2PP2DP2")
    for rank in range(8):
        (events,) = folder.glob(f"cells/*/node{rank // 4}/rank{rank}/events.jsonl")
        records = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
        ready = next(one for one in records if one["event"] == "ready")
        # The tensor group is two neighbours of a node; the node is the stage.
        assert (ready["tensor_rank"], ready["data_rank"], ready["pipeline_rank"]) == (
            rank % 2,
            rank // 2 % 2,
            rank // 4,
        )


def test_the_external_program_is_measured_from_the_logs_of_both_nodes(labs: Labs) -> None:
    folder, cell = run(labs("nvidia", nodes=2, devices=4).workspace.home, "--set", "engine=megatron")
    assert (cell["verdict"], cell["engine"], cell["parallel"]["label"]) == (
        "MEASURED",
        "megatron",
        "TP2PP2DP2",
    )
    assert cell["metrics"]["memory_used_bytes"]["value"] > 0  # what the stand-in probe saw on both nodes
    (first,) = folder.glob("cells/*/node0/rank0/stdout.log")
    (last,) = folder.glob("cells/*/node1/rank7/stdout.log")
    assert "using world size: 8" in first.read_text("utf-8")
    assert last.read_text("utf-8").count("elapsed time per iteration") == 11
    plan = json.loads((folder / "plan.json").read_text("utf-8"))
    assert plan["cells"][0]["job"]["program"]["directory"] == "/workspace/FlagScale"
