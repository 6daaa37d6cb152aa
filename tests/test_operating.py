"""A run on this machine as others see it while it works: listed, read and stopped from another terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.test_run import DEADLINE_S, newest, small, start

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.trainer


def nx8(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)


def test_a_run_is_listed_followed_and_stopped_from_another_terminal(home: Path) -> None:
    process = start(small(home), "--steps", "900")
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not list(home.glob("results/runs/2*/cells/*/node0/rank*/events.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run_id = newest(home).name
        (listed,) = json.loads(nx8(home, "ps", "--json").stdout)["runs"]
        assert (listed["run_id"], listed["state"], listed["cluster"]) == (run_id, "running", "local")
        assert listed["controller"]["pid"] == process.pid
        busy = nx8(home, "resume", run_id)
        assert busy.returncode == 2, busy.stderr
        assert "E254" in busy.stderr
        shown = nx8(home, "logs", run_id, "--stream", "launcher")
        assert re.search(r"starting 2 ranks", shown.stdout)
        assert "E257" in nx8(home, "logs", run_id, "--rank", "9").stderr
        stopped = nx8(home, "stop", run_id)
        assert stopped.returncode == 0, stopped.stderr
        assert stopped.stdout.endswith(f"{run_id}: stopped\n")
        assert process.wait(DEADLINE_S) == 143
    finally:
        process.kill()
        process.communicate()
    assert nx8(home, "ps").stdout == ""
    assert "stopped" in nx8(home, "ps", "--all").stdout
    assert json.loads((newest(home) / "result.json").read_text("utf-8"))["exit_code"] == 143
    assert "E254" in nx8(home, "stop", run_id).stderr
