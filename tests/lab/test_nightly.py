"""A nightly on real nodes: nobody is disturbed, a bad node is replaced, an ended night leaves nothing."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.lab import box, faults
from tests.lab.test_rehearsal import nx8
from tests.lab.test_survival import GRACE_S, LEASE_S, MARGIN_S, gone_after, prepared
from tests.starting import begun, ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Labs = Callable[..., Any]

pytestmark = pytest.mark.lab

DEADLINE_S = 600.0
VENDOR = "mthreads"
SUITE = """\
schema: 1
description: one short rehearsal
cells:
  - case: llama2_7b
    steps: 5
gate: {rehearse: true, metrics: [tokens_per_second_per_device]}
"""


def nightly(bed: Any, cluster: str = "lab", *words: str) -> subprocess.Popen[str]:
    home = bed.workspace.home
    (home / "cases/suites/tests.yaml").write_text(SUITE)
    return begun(home, "nightly", "tests", "--cluster", cluster, *words)


def nights(bed: Any) -> list[Path]:
    return sorted((bed.workspace.results / "nightly/tests").glob("2*"))


def left_on(bed: Any) -> list[str]:
    """Containers, run folders and locks of ours that stand on the nodes."""
    look = (
        "docker ps -aq --filter label=nx8.run &&"
        " { ls -d /srv/nx8/runs/* /tmp/nx8.lock* 2>/dev/null || true; }"
    )
    return [f"{node.name}: {one}" for node in bed.nodes for one in bed.on(node, look).split()]


def test_a_cluster_that_somebody_uses_is_skipped_and_nothing_is_touched(labs: Labs) -> None:
    bed = labs(VENDOR)
    last = bed.nodes[-1]
    owner = json.dumps({"token": "t", "run": "theirs", "user": "ann", "host": "h", "pid": 1, "since": "noon"})
    bed.on(last, "mkdir -p /tmp/nx8.lock && cat > /tmp/nx8.lock/owner.json", stdin=owner.encode())
    runs = len(list(bed.workspace.runs.glob("2*")))
    try:
        code, stdout, stderr = ended(nightly(bed, "lab", "--quiet"), limit_s=DEADLINE_S)
        assert code == 6, stdout + stderr
        assert stdout == ""
        code, stdout, _ = ended(nightly(bed, "lab", "--quiet"), limit_s=DEADLINE_S)
        assert code == 6
        assert stdout.startswith("BUSY 2 nights in a row")
        assert "theirs" in stdout
        assert json.loads(bed.on(last, "cat /tmp/nx8.lock/owner.json"))["run"] == "theirs"
    finally:
        bed.on(last, "rm -r /tmp/nx8.lock")
    assert len(list(bed.workspace.runs.glob("2*"))) == runs
    assert left_on(bed) == []


@pytest.mark.slow
def test_a_bad_node_is_replaced_by_the_spare_and_the_result_says_so(labs: Labs) -> None:
    bed = labs(VENDOR, nodes=3, devices=1)
    home = bed.workspace.home
    file = home / "cluster/lab.yaml"
    whole = file.read_text("utf-8")
    # The last of the lab's nodes becomes the cluster's spare.
    head, nodes = re.split(r"^nodes:\n", whole, flags=re.MULTILINE)
    ones = re.findall(r"^  - .*\n(?:    .*\n)*", nodes, re.MULTILINE)
    rest = nodes[len("".join(ones)) :]
    file.write_text(f"{head}nodes:\n{''.join(ones[:2])}spares:\n{ones[2]}{rest}", "utf-8")
    try:
        faults.stop_daemon(bed.nodes[1], "dockerd")
        code, stdout, stderr = ended(nightly(bed), limit_s=DEADLINE_S)
    finally:
        faults.start_daemons(bed.nodes[1])
        box.await_ready(bed.lab, bed.nodes[1])
        file.write_text(whole, "utf-8")
    assert code == 0, stdout + stderr
    names = [node.name for node in bed.nodes]
    assert f"{names[1]} replaced by {names[2]}" in stdout
    (run,) = [path for path in bed.workspace.runs.glob("2*") if (path / "result.json").is_file()]
    result = json.loads((run / "result.json").read_bytes())
    assert result["run"]["staffing"]["replaced"] == {names[1]: names[2]}
    assert set(result["environment"]["nodes"]) == {names[0], names[2]}
    assert result["cells"][0]["verdict"] == "MEASURED"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nights_ended_at_ten_random_moments_leave_a_report_and_no_container(labs: Labs) -> None:
    bed = prepared(labs(VENDOR))
    assert ended(nightly(bed), limit_s=DEADLINE_S)[0] == 0  # the image is on the nodes
    rng = random.Random(20261121)
    # Some with a word that can be heard, some with one that cannot: those the leases end.
    hows = [signal.SIGTERM, signal.SIGINT, *[signal.SIGKILL] * 3] * 2
    rng.shuffle(hows)
    for how in hows:
        before = len(nights(bed))
        process = nightly(bed)
        deadline = time.monotonic() + DEADLINE_S
        while len(nights(bed)) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0, 40))
        process.send_signal(how)
        code, _, stderr = ended(process, limit_s=DEADLINE_S)
        assert code in ({-how, 0} if how == signal.SIGKILL else {128 + how, 0}), stderr
        night = json.loads((nights(bed)[-1] / "night.json").read_bytes())
        if code < 0:
            took_s = gone_after(bed, bed.nodes, limit_s=LEASE_S + GRACE_S + MARGIN_S)
            print(f"\nkilled: no container after {took_s:.1f} s", flush=True)
            cleaned = nx8(
                bed.workspace.home, "clean", "--cluster", "lab"
            )  # its folders stay until somebody asks
            assert cleaned.returncode == 0, cleaned.stderr
            assert night["state"] in ("running", "stopped", "done")
        else:
            assert (night["state"], night["exit_code"]) in (("stopped", code), ("done", 0))
        assert left_on(bed) == []
        assert (nights(bed)[-1] / "report.txt").is_file()
