"""The whole path on real nodes: SSH, docker build, containers, torchrun's environment over both, monitor, parse, table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
DEADLINE_S = 600.0
CI_VENDORS = ("mthreads", "nvidia")
OTHER_VENDORS = ("kunlunxin", "cambricon")


def nx8(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, cwd=home)


def left_on(nodes: Any) -> list[str]:
    """Containers, run folders and locks of ours that stand on the nodes."""
    found = []
    for node in nodes:
        containers = node.run("docker", "ps", "--all", "--quiet", "--filter", "label=nx8.run").split()
        folders = node.run("sh", "-c", "ls -d /srv/nx8/runs/* /srv/nx8/lock 2>/dev/null || true").split()
        found += [f"{node.name}: {one}" for one in (*containers, *folders)]
    return found


@pytest.mark.parametrize(
    "vendor", [*CI_VENDORS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_VENDORS)]
)
def test_a_rehearsal_is_measured_through_the_vendor_s_own_probe(vendor: str, lab_of: Any) -> None:
    lab = lab_of(vendor)
    done = nx8(lab.home, "run", "llama2_7b", "--cluster", lab.name)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    result = json.loads((folder / "result.json").read_text("utf-8"))
    cell = result["cells"][0]
    assert cell["verdict"] == "MEASURED"
    assert cell["rehearsal"]
    assert cell["proxy"]
    assert len(cell["ranks"]) == 4
    memory = cell["metrics"]["memory_used_bytes"]
    assert memory["details"]["basis"] == "vendor's probe"
    assert 0 < memory["value"] < cell["metrics"]["memory_capacity_bytes"]["value"]
    assert cell["metrics"]["mfu_published"]["value"] is None
    assert "（rehearsal）" in done.stdout
    assert set(result["environment"]["nodes"]) == {node.name for node in lab.nodes}
    assert left_on(lab.nodes) == []
    assert nx8(lab.home, "parse", folder.name).returncode == 0


def test_a_second_run_finds_the_image_and_the_data_where_they_are(lab_of: Any) -> None:
    lab = lab_of(CI_VENDORS[0])
    done = nx8(lab.home, "run", "llama2_7b", "--cluster", lab.name, "--steps", "5")
    assert done.returncode == 0, done.stderr
    assert "on every node already" in done.stderr
    assert not re.search(r"^\S+ (build|data) ", done.stderr, re.MULTILINE)


def test_a_node_that_another_run_holds_is_busy_and_nothing_is_touched(lab_of: Any) -> None:
    lab = lab_of(CI_VENDORS[0])
    last = lab.nodes[-1]
    owner = json.dumps({"token": "t", "run": "theirs", "user": "ann", "host": "h", "pid": 1, "since": "noon"})
    last.run("mkdir", "-p", "/srv/nx8/lock")
    last.write("/srv/nx8/lock/owner.json", owner.encode())
    try:
        done = nx8(lab.home, "run", "llama2_7b", "--cluster", lab.name)
    finally:
        last.run("rm", "-rf", "/srv/nx8/lock")
    assert done.returncode == 6
    assert "E601" in done.stderr
    assert last.name in done.stderr
    assert left_on(lab.nodes) == []


def test_a_build_that_fails_is_exit_5_with_its_last_lines_and_no_container(lab_of: Any) -> None:
    lab = lab_of(CI_VENDORS[0])
    template = lab.home / "dockerfiles" / CI_VENDORS[0] / "Dockerfile.j2"
    text = template.read_text("utf-8")
    template.write_text(text + '\nRUN echo "the wheel is missing" && false\n', "utf-8")
    try:
        done = nx8(lab.home, "run", "llama2_7b", "--cluster", lab.name)
    finally:
        template.write_text(text, "utf-8")
    assert done.returncode == 5, done.stderr
    assert "E311" in done.stderr
    assert "the wheel is missing" in done.stderr
    assert left_on(lab.nodes) == []
