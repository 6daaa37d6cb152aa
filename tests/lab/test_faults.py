"""`nx8 lab fault`: each fault really happens on a real node, `heal` undoes all, and a run names them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cli.lab_verb import FAULTS
from orchestrator.errors import ConfigError, PreflightError
from orchestrator.lab import injecting
from tests.lab.test_rehearsal import left_on, nx8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.lab.state import LabNode

pytestmark = pytest.mark.lab

DEADLINE_S = 600.0
SETTINGS = injecting.Settings()


def test_the_verb_offers_exactly_the_faults_there_are() -> None:
    assert set(FAULTS) == set(injecting.KINDS)


@pytest.fixture
def node(lab: Any) -> Iterator[LabNode]:
    """A node of the lab, healthy again afterwards, whatever was done to it."""
    yield lab.nodes[1]
    injecting.heal(lab.lab, lab.nodes[1])
    wait_for(lambda: answers(lab, lab.nodes[1], "docker", "version"))


def answers(bed: Any, node: LabNode, *command: str) -> str | None:
    """What a command says over ssh, None where it cannot be run."""
    done = subprocess.run(bed.lab.ssh(node, *command), capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else None


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def make(bed: Any, node: LabNode, kind: str, **settings: Any) -> str:
    return injecting.make(bed.lab, node, kind, injecting.Settings(**settings))


@pytest.mark.parametrize("kind", ["link", "sshd"])
def test_a_node_that_cannot_be_reached_is_reached_again(lab: Any, node: LabNode, kind: str) -> None:
    assert answers(lab, node, "true") is not None
    make(lab, node, kind)
    assert answers(lab, node, "true") is None
    injecting.heal(lab.lab, node)
    wait_for(lambda: answers(lab, node, "true") is not None)


def test_sessions_are_killed_and_new_ones_are_let_in(lab: Any, node: LabNode) -> None:
    argv = lab.lab.ssh(node, "echo up; sleep 600")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        assert make(lab, node, "sessions").startswith("1 ssh sessions")
        assert session.wait(timeout=60) == 255
    assert answers(lab, node, "true") is not None


def test_dockerd_and_containers_are_killed(lab: Any, node: LabNode) -> None:
    named = ("docker", "run", "-d", "--label", "nx8.run=test", "--name", "victim", "nx8-lab/base")
    lab.on(node, *named, "sleep", "600")
    lab.on(node, "docker", "run", "-d", "--name", "bystander", "nx8-lab/base", "sleep", "600")
    try:
        assert make(lab, node, "containers") == "1 containers killed"
        assert lab.on(node, "docker", "ps", "--format", "'{{.Names}}'").split() == ["bystander"]
        make(lab, node, "dockerd")
        assert answers(lab, node, "docker", "version") is None
        injecting.heal(lab.lab, node)
        wait_for(lambda: answers(lab, node, "docker", "version"))
    finally:
        lab.on(node, "docker", "rm", "-f", "victim", "bystander")


def test_the_disk_is_full_and_has_room_again(lab: Any, node: LabNode) -> None:
    before = lab.on(node, "ls", "/srv")
    make(lab, node, "disk")
    assert answers(lab, node, "echo", "x", ">", "/srv/x") is None
    injecting.heal(lab.lab, node)
    assert lab.on(node, "ls", "/srv") == before
    lab.on(node, "touch", "/srv/x", "&&", "rm", "/srv/x")


def test_the_clock_is_wrong_and_right_again(lab: Any, node: LabNode) -> None:
    def off() -> tuple[float, float]:
        said = lab.on(node, "date +%s; python3 -I -S -c 'import time; print(time.time())'").split()
        return float(said[0]) - time.time(), float(said[1]) - time.time()

    make(lab, node, "clock", skew_s=-7200.0)
    assert all(abs(one + 7200) < 120 for one in off())
    injecting.heal(lab.lab, node)
    assert all(abs(one) < 120 for one in off())


def test_a_node_is_slow_and_loses_packets(lab: Any, node: LabNode) -> None:
    def processor_share() -> float:
        said = lab.on(
            node,
            "python3 -c 'import time; a=time.monotonic(); c=time.process_time()\n"
            "while time.process_time()-c < 0.3: pass\nprint(0.3/(time.monotonic()-a))'",
        )
        return float(said)

    make(lab, node, "slow", cpu=0.05)
    assert processor_share() < 0.3
    injecting.heal(lab.lab, node)
    make(lab, node, "loss", loss=1.0)
    assert answers(lab, node, "true") is None
    injecting.heal(lab.lab, node)
    assert answers(lab, node, "true") is not None


def test_a_delay_is_made_or_the_kernel_s_want_of_netem_is_said(lab: Any, node: LabNode) -> None:
    try:
        make(lab, node, "delay", delay_ms=200.0)
    except PreflightError as error:
        assert error.problems[0].code == "E271"
        assert "netem" in str(error)
    else:
        began = time.monotonic()
        lab.on(node, "true")
        assert time.monotonic() - began > 0.4


def test_another_boot_id_and_the_real_one_again(lab: Any, node: LabNode) -> None:
    place = "/proc/sys/kernel/random/boot_id"
    before = lab.on(node, "cat", place)
    for _ in range(2):
        make(lab, node, "reboot")
        wait_for(lambda: answers(lab, node, "true") is not None)
    assert lab.on(node, "cat", place).strip() == injecting.REBOOTED
    injecting.heal(lab.lab, node)
    assert lab.on(node, "cat", place) == before


def test_a_rank_that_does_not_run_there_is_said_with_those_that_do(lab: Any, node: LabNode) -> None:
    for kind in ("kill-rank", "freeze-rank"):
        with pytest.raises(PreflightError, match="running: none") as caught:
            make(lab, node, kind, rank=3)
        assert caught.value.problems[0].code == "E270"


def test_an_unknown_node_is_refused_with_those_there_are(lab: Any) -> None:
    with pytest.raises(ConfigError, match="no node 'node9'") as caught:
        injecting.node_of(lab.lab, "node9")
    assert "node1, node2" in str(caught.value)


def test_a_fault_for_a_time_is_undone_also_when_it_is_interrupted(lab: Any, node: LabNode) -> None:
    home = str(lab.workspace.home)
    argv = (sys.executable, "-m", "orchestrator", "--home", home, "lab", "fault", node.name, "link")
    for words, ends in (("0.5", None), ("600", signal.SIGTERM)):
        with subprocess.Popen([*argv, "--for", words], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            assert "link cut" in running.stdout.readline()
            if ends is not None:
                running.send_signal(ends)
            assert running.wait(timeout=120) == (0 if ends is None else 128 + ends)
            assert "healed" in running.stdout.read()
        wait_for(lambda: answers(lab, node, "true") is not None)


# --- what a run makes of them


def while_training(bed: Any, *words: str) -> subprocess.Popen[str]:
    """A run on the lab that goes on until something ends it, past its third step."""
    home = bed.workspace.home
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), "run", "llama2_7b", "--cluster", "lab")
    before = set(bed.workspace.runs.glob("2*"))
    process = subprocess.Popen(
        [*argv, "--steps", "400", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
    )

    def third_step() -> bool:
        assert process.poll() is None, process.communicate()
        new = set(bed.workspace.runs.glob("2*")) - before
        files = [path for run in new for path in run.glob("cells/*/node*/rank*/events.jsonl")]
        return len(files) == 4 and all(b'"step":3,' in path.read_bytes() for path in files)

    deadline = time.monotonic() + DEADLINE_S
    while not third_step():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def ended(bed: Any, process: subprocess.Popen[str]) -> tuple[Path, dict[str, Any]]:
    output, _ = process.communicate(timeout=DEADLINE_S)
    folder = (bed.workspace.runs / "latest").resolve()
    assert process.returncode == 4, output
    (cell,) = json.loads((folder / "result.json").read_text("utf-8"))["cells"]
    return folder / "cells" / cell["cell_id"], cell


def test_a_frozen_rank_of_a_node_is_named_and_what_was_seen_of_it_is_kept(lab: Any, node: LabNode) -> None:
    process = while_training(lab, "--stall-limit", "40")
    assert make(lab, node, "freeze-rank", rank=2) == "rank 2 frozen"
    folder, cell = ended(lab, process)
    assert cell["verdict"] == "FAILED"
    assert cell["reasons"][0].startswith("hung: rank 2 did not arrive: is stopped (state T"), cell["reasons"]
    assert cell["cause_rank"] == 2
    for name in ("node0", "node1"):
        stood = json.loads((folder / name / "stacks.json").read_text("utf-8"))["ranks"]
        assert len(stood) == 2
        assert all(one["stack"] for one in stood if one["rank"] != 2)
        assert (folder / name / "dmesg.txt").exists()
        assert (folder / name / "probe.txt").stat().st_size > 0
    assert left_on(lab) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("kill-rank", ("rank 3 was ended by SIGKILL",)),
        ("containers", ("launcher exited with code 137", "no status")),
        ("reboot", ("rebooted: its boot id was", "lost")),
    ],
)
def test_what_happens_to_a_node_is_what_the_result_says(
    lab: Any, node: LabNode, kind: str, words: tuple[str, ...]
) -> None:
    process = while_training(lab, "--stall-limit", "60")
    make(lab, node, kind)
    _, cell = ended(lab, process)
    assert cell["verdict"] == "FAILED"
    assert any(one in " ".join(cell["reasons"]) for one in words), cell["reasons"]


def while_dockerd_is_down(bed: Any, node: LabNode) -> None:
    make(bed, node, "dockerd")
    assert answers(bed, node, "docker", "version") is None


@pytest.mark.slow
def test_a_dockerd_that_starts_again_is_why_a_container_ended(lab: Any, node: LabNode) -> None:
    process = while_training(lab, "--stall-limit", "60")
    while_dockerd_is_down(lab, node)
    injecting.heal(lab.lab, node)
    _, cell = ended(lab, process)
    assert cell["verdict"] == "FAILED"
    assert "dockerd" in " ".join(cell["reasons"]), cell["reasons"]
    assert left_on(lab) == []


@pytest.mark.slow
def test_a_dockerd_that_stays_away_loses_its_node_and_nothing_stays_once_it_is_back(
    lab: Any, node: LabNode
) -> None:
    process = while_training(lab, "--stall-limit", "60")
    while_dockerd_is_down(lab, node)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 4, output
    folder = (lab.workspace.runs / "latest").resolve()
    (cell,) = json.loads((folder / "result.json").read_text("utf-8"))["cells"]
    assert cell["verdict"] == "FAILED"
    reason = cell["reasons"][0]
    assert reason.startswith("lost: "), reason
    assert f"{node.name}: docker says" in reason
    assert f"{node.name}: a container of run {folder.name} may still be there" in output
    assert f"{node.name} is let go by its own lease" in output
    injecting.heal(lab.lab, node)
    wait_for(lambda: answers(lab, node, "docker", "version"))

    def cleaned() -> bool:
        """Nothing of a run goes whose lease still holds."""
        done = nx8(lab.workspace.home, "clean", "--cluster", "lab")
        assert done.returncode == 0, done.stdout + done.stderr
        return left_on(lab) == []

    wait_for(cleaned)


@pytest.mark.slow
def test_a_slow_node_is_flagged_and_its_result_kept(lab: Any, node: LabNode) -> None:
    make(lab, node, "slow", cpu=0.3)
    # ZeRO-3 waits for other ranks all through its forward, so nothing of it is judged.
    case = lab.workspace.case_file("llama2_7b")
    stages = case.read_text("utf-8")
    case.write_text(stages.replace("stage: 3", "stage: 2"), "utf-8")
    try:
        done = nx8(lab.workspace.home, "run", "llama2_7b", "--cluster", "lab")
    finally:
        case.write_text(stages, "utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((lab.workspace.runs / "latest" / "result.json").read_text("utf-8"))
    (cell,) = result["cells"]
    assert cell["verdict"] == "MEASURED"
    assert cell["degraded"], "the slow node was not seen"
    assert {one["node"] for one in cell["degraded"]} == {node.name}
    assert "degraded" in done.stdout
