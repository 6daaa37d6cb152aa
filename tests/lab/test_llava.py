"""LLaVA's two stages and MMMU on two real nodes: prepared sets are handed out, the projector goes from one
stage to the next over the host, answers come home and are scored there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cluster import Cluster
from orchestrator.load import load

if TYPE_CHECKING:
    from collections.abc import Callable

    Labs = Callable[..., Any]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1200)]

DEADLINE_S = 900.0


def nx8(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, cwd=home)


def test_both_stages_are_measured_over_two_nodes_and_nothing_of_them_stays_there(labs: Labs) -> None:
    bed = labs("cambricon")
    home = bed.workspace.home
    done = nx8(home, "run", "llava1.5_13b", "--cluster", "lab", "--steps", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    result = json.loads((folder / "result.json").read_text("utf-8"))
    pretrain, finetune = result["cells"]
    assert [cell["verdict"] for cell in result["cells"]] == ["MEASURED", "MEASURED"]
    assert [cell["stage"] for cell in result["cells"]] == ["pretrain", "finetune"]
    assert len(finetune["ranks"]) == 4
    assert "acc_mmmu" not in pretrain["metrics"]
    assert finetune["metrics"]["acc_mmmu"]["details"]["n"] == 60
    assert nx8(home, "parse", folder.name).returncode == 0

    left = [bed.on(node, "ls -d /srv/nx8/runs/*/* 2>/dev/null || true") for node in bed.nodes]
    assert [one.strip() for one in left] == ["", ""]
    # The questions are there, the answers are the host's alone.
    look = "find {} -name manifest.json -path '*/mmmu-proxy/*' -o -name '*.key.json'"
    held = [bed.on(node, look.format(data_dir(bed))) for node in bed.nodes]
    assert [one.strip() for one in held] == [f"{data_dir(bed)}/mmmu-proxy/manifest.json"] * 2


def test_a_set_that_was_changed_on_a_node_is_named_and_nothing_starts(labs: Labs) -> None:
    bed = labs("cambricon")
    home = bed.workspace.home
    made = nx8(home, "data", "prepare", "mmmu-proxy") if not has_set(home) else None
    assert made is None or made.returncode == 0, made.stderr
    pushed = nx8(home, "data", "push", "mmmu-proxy", "--cluster", "lab")
    assert pushed.returncode == 0, pushed.stderr
    last = bed.nodes[-1]
    where = f"{data_dir(bed)}/mmmu-proxy/tokens.i32"
    bed.on(last, f"printf x >> {where}")
    try:
        again = nx8(home, "data", "push", "mmmu-proxy", "--cluster", "lab")
    finally:
        bed.on(last, f"truncate -s -1 {where}")
    assert again.returncode == 3, again.stderr
    assert "E237" in again.stderr
    assert "mmmu-proxy/tokens.i32" in again.stderr
    assert last.name in again.stderr


def data_dir(bed: Any) -> str:
    return load(bed.workspace.cluster_file("lab"), Cluster).data_dir


def has_set(home: Path) -> bool:
    return (home / "results" / "data" / "mmmu-proxy" / "manifest.json").is_file()
