"""Links break, controllers die, people press Ctrl-C: nothing is lost, nothing is left behind, and nothing
that was not measured counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import failpoints
from orchestrator.lab import faults
from tests.lab.oracle import undisturbed
from tests.lab.test_rehearsal import VENDOR, nx8
from tests.starting import hear_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Labs = Callable[..., Any]

pytestmark = pytest.mark.lab

DEADLINE_S = 600.0
LEASE_S = 10.0
#: Of docker's stop, as the keeper gives it, and what the promise adds.
GRACE_S, MARGIN_S = 10.0, 10.0
SMALL = ((r"num_layers: 5", "num_layers: 2"), (r"warmup_steps: 10", "warmup_steps: 2"))


@pytest.fixture
def bed(labs: Labs) -> Iterator[Any]:
    """Two nodes with one device each, a small proxy and a short lease."""
    yield prepared(labs(VENDOR, nodes=2, devices=1))


def prepared(bed: Any, *, lease_s: float = LEASE_S) -> Any:
    case = bed.workspace.home / "cases" / "llama2_7b" / "case.yaml"
    before, proxy, after = case.read_text("utf-8").partition("\nproxy:")
    for old, new in SMALL:
        after = re.sub(old, new, after)
    case.write_text(before + proxy + after, "utf-8")
    cluster = bed.workspace.clusters / "lab.yaml"
    text = re.sub(r"lease_s: .*\n", "", cluster.read_text("utf-8"))
    cluster.write_text(text.replace("rehearsal: true\n", f"rehearsal: true\nlease_s: {lease_s:g}\n"), "utf-8")
    if not (bed.workspace.home / "warm").exists():
        done = nx8(bed.workspace.home, "run", "llama2_7b", "--cluster", "lab", "--steps", "5")
        assert done.returncode == 0, done.stderr
        (bed.workspace.home / "warm").touch()
    return bed


@dataclass
class Controller:
    """`nx8` at work on a bed, in a process of its own."""

    bed: Any
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def folder(self) -> Path:
        return (self.bed.workspace.home / "results" / "runs" / "latest").resolve()

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait(self, limit_s: float = DEADLINE_S) -> int:
        try:
            return self.process.wait(limit_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def until(self, what: Callable[[], Any], *, of: str) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := what()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline, f"no {of}: {self.said()}"
            time.sleep(0.05)
        return found

    def until_step(self, step: int) -> None:
        def reached() -> bool:
            files = sorted(self.folder.glob("cells/*/node*/rank*/events.jsonl"))
            return len(files) >= 2 and all(f'"step":{step},' in one.read_text("utf-8") for one in files)

        self.until(reached, of=f"step {step}")

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text("utf-8"))

    @property
    def cell(self) -> dict[str, Any]:
        return self.result["cells"][0]

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(one) for one in (self.folder / "journal.jsonl").read_text("utf-8").splitlines()]

    def containers(self) -> dict[str, Any]:
        host = json.loads((self.folder / "host.json").read_text("utf-8"))
        return next(iter(host["containers"].values()))

    def drops(self) -> int:
        return sum(one["link_drops"] for one in self.containers().values())


def start(bed: Any, *words: str, verb: str = "run", failpoint: str | None = None) -> Controller:
    home = bed.workspace.home
    log = home / f"nx8-{time.monotonic_ns()}.log"
    argv = [sys.executable, "-m", "orchestrator", "--home", str(home), verb]
    argv += ["llama2_7b", "--cluster", "lab", *words] if verb == "run" else list(words)
    environment = {**os.environ, **({"NX8_FAILPOINT": failpoint} if failpoint else {})}
    latest = home / "results" / "runs" / "latest"
    before = latest.resolve()
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdout=output,
            stderr=output,
            cwd=home,
            env=environment,
            preexec_fn=hear_signals,  # noqa: PLW1509 - one thread here
        )
    controller = Controller(bed, process, log)
    if verb == "run":
        deadline = time.monotonic() + DEADLINE_S
        while latest.resolve() == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    return controller


def steps(bed: Any, folder: Path) -> dict[str, list[float]]:
    """The losses that each rank wrote: the same for every run of one plan."""
    return {
        path.parent.name: [
            one["loss"]
            for one in map(json.loads, path.read_text("utf-8").splitlines())
            if one["event"] == "step"
        ]
        for path in sorted(folder.glob("cells/*/node*/rank*/events.jsonl"))
    }


def standing(bed: Any, node: Any) -> list[str]:
    """Containers of ours and the lock, past the node's sshd."""
    look = "docker ps -aq --filter label=nx8.run && { ls -d /tmp/nx8.lock 2>/dev/null || true; }"
    argv = bed.lab.inside(node, "sh", "-c", look)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split()


def gone_after(bed: Any, nodes: Any, *, limit_s: float) -> float:
    """Seconds until nothing of ours stands on these nodes."""
    began = time.monotonic()
    while left := [(node.name, standing(bed, node)) for node in nodes if standing(bed, node)]:
        assert time.monotonic() - began < limit_s, left
        time.sleep(0.2)
    return time.monotonic() - began


@pytest.mark.parametrize(("nodes", "kills"), [(2, 6), pytest.param(4, 100, marks=pytest.mark.slow)])
def test_sessions_that_are_killed_cost_no_byte(nodes: int, kills: int, labs: Labs) -> None:
    bed = prepared(labs(VENDOR, nodes=nodes, devices=1), lease_s=60 if nodes > 2 else LEASE_S)
    chance = random.Random(7)
    killed = runs = 0
    with undisturbed(bed):
        while killed < kills:
            before, runs = killed, runs + 1
            run = start(bed, "--steps", "60")
            run.until_step(1)
            while killed < kills and run.process.poll() is None:
                killed += faults.kill_sessions(chance.choice(bed.nodes))
                time.sleep(chance.uniform(0.05, 0.4))
            assert run.wait() == 0, run.said()
            assert run.cell["verdict"] == "MEASURED"
            assert 0 < run.drops() <= killed - before
            assert run.cell["link_drops"] == run.drops()
            print(
                f"\n{killed - before} sessions killed, {run.drops()} connections made anew: MEASURED",
                flush=True,
            )
    print(f"{killed} sessions killed on {nodes} nodes in {runs} runs: all MEASURED, copies equal by SHA-256")


@pytest.mark.parametrize(
    ("cut_s", "lease_s"), [(3.0, LEASE_S), pytest.param(30.0, 60.0, marks=pytest.mark.slow)]
)
def test_a_link_that_is_cut_for_less_than_the_lease_costs_nothing(
    cut_s: float, lease_s: float, bed: Any
) -> None:
    prepared(bed, lease_s=lease_s)
    with undisturbed(bed):
        run = start(bed, "--steps", "60")
        run.until_step(2)
        faults.cut_link(bed.nodes[1])
        try:
            time.sleep(cut_s)
        finally:
            faults.mend_link(bed.nodes[1])
        assert run.wait() == 0, run.said()
    assert run.cell["verdict"] == "MEASURED"
    print(f"\ncut for {cut_s:g} s of a lease of {lease_s:g} s: MEASURED, {run.drops()} drops")


def test_a_cut_beyond_the_lease_ends_the_node_s_part_and_the_cell_is_lost(bed: Any) -> None:
    node = bed.nodes[1]
    with undisturbed(bed):
        run = start(bed, "--steps", "900")
        run.until_step(2)
        faults.cut_link(node)
        try:
            took_s = gone_after(bed, [node], limit_s=LEASE_S + GRACE_S + MARGIN_S)
            code = run.wait()
        finally:
            faults.mend_link(node)
        assert code == 4, run.said()
        assert nx8(bed.workspace.home, "clean", "--cluster", "lab").returncode == 0
    assert run.cell["verdict"] == "FAILED"
    assert run.cell["reasons"][0].startswith("lost: ")
    print(f"\nlease {LEASE_S:g} s: gone from the cut node after {took_s:.1f} s; {run.cell['reasons'][0]}")


#: Where nothing can be gone on with, as nothing was taken yet, or nothing is left to do.
BEFORE, AFTER = {"run.opened"}, {"swept", "unlocked"}


@pytest.mark.parametrize(
    "point",
    [
        name
        if name in ("container.created", "cell.look", "cell.ended")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in failpoints.POINTS
    ],
)
def test_a_run_is_gone_on_with_wherever_its_controller_was_killed(point: str, bed: Any) -> None:
    prepared(bed, lease_s=30)
    with undisturbed(bed):
        run = start(bed, "--steps", "30", failpoint=f"{point}@3" if point == "cell.look" else point)
        assert run.wait() == -signal.SIGKILL, run.said()
        on = start(bed, "latest", verb="resume")
        code = on.wait()
        if point in AFTER:
            assert code == 2, on.said()
            assert "E254" in on.said()
            gone_after(bed, bed.nodes, limit_s=30 + GRACE_S + MARGIN_S)
            nx8(bed.workspace.home, "clean", "--cluster", "lab")
        else:
            assert code == 0, run.said() + on.said()
    assert run.cell["verdict"] == "MEASURED"
    assert steps(bed, run.folder) == undisturbed_steps(bed)
    ours = {one["container"] for one in run.containers().values()}
    assert len(ours) == len(bed.nodes)
    print(f"\nkilled at {point}: gone on with, MEASURED, the same losses", flush=True)


_STEPS: dict[str, Any] = {}


def undisturbed_steps(bed: Any) -> dict[str, list[float]]:
    """What the same run comes to when nobody disturbs it."""
    key = str(bed.workspace.home)
    if key not in _STEPS:
        run = start(bed, "--steps", "30")
        assert run.wait() == 0, run.said()
        _STEPS[key] = steps(bed, run.folder)
    return _STEPS[key]


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_controller_that_is_killed_leaves_nothing_once_its_leases_have_ended(rounds: int, bed: Any) -> None:
    chance = random.Random(11)
    slowest = 0.0
    with undisturbed(bed):
        for _ in range(rounds):
            run = start(bed, "--steps", "900")
            time.sleep(chance.uniform(0.5, 12.0))
            run.process.kill()
            assert run.wait() == -signal.SIGKILL, run.said()
            took_s = gone_after(bed, bed.nodes, limit_s=LEASE_S + GRACE_S + MARGIN_S)
            slowest = max(slowest, took_s)
            print(f"\nnothing left after {took_s:.1f} s", flush=True)
            refused = nx8(bed.workspace.home, "resume", run.folder.name)
            assert refused.returncode in (2, 3), refused.stderr
        assert nx8(bed.workspace.home, "clean", "--cluster", "lab").returncode == 0
    print(f"\n{rounds} controllers killed: nothing left after {slowest:.1f} s at most")


def events_here(run: Controller) -> dict[str, str]:
    """SHA-256 of each rank's records, by their path below the run's cells."""
    top = run.folder / "cells"
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.glob("*/node*/rank*/events.jsonl")
    }


def events_there(bed: Any, run: Controller) -> dict[str, str]:
    """The same of those on the nodes."""
    look = f"cd /srv/nx8/runs/{run.folder.name} && find . -name events.jsonl | xargs sha256sum"
    lines = [line for node in bed.nodes for line in bed.on(node, look).splitlines()]
    return {path.removeprefix("./"): digest for digest, path in map(str.split, lines)}


@pytest.mark.slow
def test_what_lay_on_nodes_only_comes_home_with_a_resume_that_comes_too_late(bed: Any) -> None:
    with undisturbed(bed):
        run = start(bed, "--steps", "900")
        run.until_step(2)
        run.process.kill()
        assert run.wait() == -signal.SIGKILL, run.said()
        gone_after(bed, bed.nodes, limit_s=LEASE_S + GRACE_S + MARGIN_S)
        there = events_there(bed, run)
        assert len(there) == len(bed.nodes)
        # The ranks went on for a whole lease.
        assert not there.items() & events_here(run).items()
        on = start(bed, "latest", verb="resume")
        assert on.wait() == 3, on.said()
        assert "E251" in on.said()
        assert events_here(run) == there == events_there(bed, run)
        assert nx8(bed.workspace.home, "clean", "--cluster", "lab").returncode == 0
    assert run.cell["verdict"] == "FAILED"
    assert run.cell["reasons"][0].startswith("lost: ")
    assert {one["kind"] for one in run.cell["endings"].values()} == {"lost"}


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_moment_ends_it_everywhere(rounds: int, bed: Any) -> None:
    chance = random.Random(13)
    slowest = 0.0
    for number in range(rounds):
        with undisturbed(bed):
            run = start(bed, "--steps", "900")
            if number == 0:
                run.until_step(1)
            else:
                time.sleep(chance.uniform(0.0, 14.0))
            began = time.monotonic()
            run.process.send_signal(signal.SIGINT)
            assert run.wait() == 130, run.said()
            took_s = time.monotonic() - began
            slowest = max(slowest, took_s)
            print(f"\n130 after {took_s:.1f} s", flush=True)
    print(f"\n{rounds} times Ctrl-C: 130, {slowest:.1f} s at most, nothing left")


def test_the_third_ctrl_c_leaves_at_once_and_says_what_remains(bed: Any) -> None:
    prepared(bed, lease_s=60)
    with undisturbed(bed):
        run = start(bed, "--steps", "30")
        run.until_step(1)
        for _ in range(3):
            run.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert run.wait() == 130, run.said()
        assert f"nx8 resume {run.folder.name}" in run.said()
        assert re.search(r"node1: /tmp/nx8.lock .* ends them in \d+ s", run.said())
        shown = nx8(bed.workspace.home, "ps")
        assert re.search(rf"{run.folder.name} +left", shown.stdout), shown.stdout
        on = start(bed, "latest", verb="stop")
        assert on.wait() == 0, on.said()


@pytest.mark.slow
def test_of_16_runs_that_want_the_same_nodes_one_gets_them(bed: Any) -> None:
    with undisturbed(bed):
        runs = [start(bed, "--steps", "5") for _ in range(16)]
        codes = [one.wait() for one in runs]
    assert sorted(set(codes)) in ([0], [0, 6])
    assert codes.count(0) >= 1
    assert all(
        re.search(r"E601.* is busy: run \S+ of \S+ on", one.said()) for one in runs if one.process.returncode
    )
