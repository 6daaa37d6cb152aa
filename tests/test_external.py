"""The external program engine: a stand-in for FlagScale under real torchrun, from plan to table; whatever of
it does not agree with the plan, its own log or our clock is never MEASURED.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.derive import derive
from orchestrator.load import read_stored
from orchestrator.plan import Plan
from orchestrator.results import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[1]
DEADLINE_S = 300.0
RANKS = 4
CLUSTER = f"""\
schema: 1
description: stand-ins on this machine
vendor: nvidia
device: H800
transport: local
devices_per_node: {RANKS}
rehearsal: true
nodes: [{{name: localhost}}]
"""
HEADING = "| 配置 | precision | parallel | fix_hp | token/p/s | loss | mem | MFU |"


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def cell(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text("utf-8"))["cells"][0]

    def printed(self, rank: int) -> Path:
        (found,) = self.folder.glob(f"cells/*/node0/rank{rank}/stdout.log")
        return found


FULL = pytest.mark.slow


def home_in(folder: Path) -> Path:
    for noun in ("cases", "dockerfiles", "cluster"):
        shutil.copytree(ROOT / noun, folder / noun, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cluster" / "rehearsal.yaml").write_text(CLUSTER, "utf-8")
    return folder


def nx8(home: Path, *words: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    environment = {**os.environ, "STAND_IN_FAULT": fault}
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, env=environment)


def rehearsed(home: Path, *words: str, fault: str = "") -> Done:
    argv = ("run", "llama2_70b:1-fp32", "--cluster", "rehearsal", "--set", "engine=megatron", "--steps", "4")
    done = nx8(home, *argv, *words, fault=fault)
    folder = Path(done.stdout.splitlines()[-1]) if done.stdout else home
    return Done(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_in(tmp_path_factory.mktemp("external"))


@pytest.fixture(scope="module")
def measured(home: Path) -> Done:
    done = rehearsed(home)
    assert done.code == 0, done.stdout + done.stderr
    return done


def held(cell: dict[str, Any]) -> dict[str, bool]:
    return {proof["name"]: proof["held"] for proof in cell["proofs"]}


def test_a_rehearsal_of_the_program_is_measured_and_gives_the_published_columns(measured: Done) -> None:
    cell = measured.cell
    assert (cell["verdict"], cell["engine"], cell["parallel"]["label"]) == (
        "MEASURED",
        "megatron",
        "TP2PP2DP1",
    )
    assert cell["rehearsal"]
    assert HEADING in re.sub(" +", " ", measured.stdout)
    assert "TP2PP2DP1" in measured.stdout
    assert all(held(cell).values())
    assert {
        "program",
        "program_data",
        "output_intact",
        "log_settings",
        "consumed_samples",
        "step_times",
    } <= set(held(cell))


def test_speed_is_by_our_clock_and_loss_by_its_log(measured: Done) -> None:
    lines = [
        line for line in measured.printed(RANKS - 1).read_text("utf-8").splitlines() if "iteration" in line
    ]
    losses = [float(found) for line in lines for found in re.findall(r"lm loss: (\S+)", line)]
    assert len(lines) == 9
    assert losses[-1] < losses[0]  # it really learns from the data's own tokens
    metrics = measured.cell["metrics"]
    assert metrics["loss"]["value"] == pytest.approx(sum(losses[5:]) / 4)
    (events,) = measured.folder.glob(f"cells/*/node0/rank{RANKS - 1}/events.jsonl")
    records = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    assert [one["event"] for one in records[:2]] == ["hello", "program"]
    assert [one["event"] for one in records[-2:]] == ["output_end", "end"]
    came = []  # when each whole line of the log had come
    for record in records:
        came += [record["t_s"]] * (record.get("lines", 0) - len(came)) if record["event"] == "output" else []
    first = len(came) - 9  # the last nine lines are the iterations
    steps = sorted(
        after - before for before, after in zip(came[first + 4 :], came[first + 5 :], strict=False)
    )
    middle = (steps[1] + steps[2]) / 2
    assert metrics["step_time_p50_s"]["value"] == pytest.approx(middle, rel=1e-3)


def test_a_stored_run_gives_the_same_result_again(home: Path, measured: Done) -> None:
    assert nx8(home, "parse", measured.folder.name).returncode == 0


def test_its_output_can_be_read_like_any_training_log(home: Path, measured: Done) -> None:
    done = nx8(home, "parse", str(measured.printed(RANKS - 1)), "--json")
    (log,) = json.loads(done.stdout)["logs"]
    assert log["dialect"] == "megatron"
    assert log["lines"]["steps"] == 9


# What was changed afterwards ---------------------------------------------------------------------


def one_digit(cell: Path) -> None:
    path = cell / f"node0/rank{RANKS - 1}/stdout.log"
    path.write_text(re.sub(r"lm loss: (\d)", r"lm loss: 1\1", path.read_text("utf-8"), count=1), "utf-8")


def a_line_of_another_rank(cell: Path) -> None:
    lines = (cell / f"node0/rank{RANKS - 1}/stdout.log").read_text("utf-8").splitlines(keepends=True)
    with (cell / "node0/rank1/stdout.log").open("a") as file:
        file.write(lines[-1])


def a_cut_log(cell: Path) -> None:
    path = cell / f"node0/rank{RANKS - 1}/stdout.log"
    path.write_bytes(path.read_bytes()[:-40])


def no_log(cell: Path) -> None:
    (cell / f"node0/rank{RANKS - 1}/stdout.log").unlink()


def other_times(cell: Path) -> None:
    """An edited record fails its own CRC."""
    path = cell / f"node0/rank{RANKS - 1}/events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"bytes":', b'"bytes":1', 1))


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (one_digit, "output_intact"),
        (a_line_of_another_rank, "log_whole"),
        (a_cut_log, "output_intact"),
        (no_log, "output_intact"),
        (other_times, "records_intact"),
    ],
)
def test_what_was_changed_afterwards_is_invalid(
    measured: Done, tmp_path: Path, change: Callable[[Path], None], broken: str
) -> None:
    copy = tmp_path / measured.folder.name
    shutil.copytree(measured.folder, copy)
    folder = RunFolder(path=copy)
    plan = read_stored(folder.plan, Plan)
    change(folder.cell(plan.cells[0].cell_id).path)
    (cell,) = derive(folder, plan)["cells"]  # type: ignore[misc]
    assert cell["verdict"] == "INVALID"
    assert not held(cell)[broken]
    assert cell["metrics"]["tokens_per_second_per_device"]["value"] is None


@FULL
def test_a_window_that_no_clock_can_tell_is_invalid(home: Path) -> None:
    done = rehearsed(home, "--steps", "1")
    assert done.code == 4, done.stdout + done.stderr
    assert not held(done.cell)["step_times"]


# What the program itself does --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "verdict", "broken"),
    [
        ("exit@3", "FAILED", "exit_codes"),
        ("times", "INVALID", "step_times"),
        pytest.param("bursts", "INVALID", "step_times", marks=FULL),
        pytest.param("nan@7", "INVALID", "losses_finite", marks=FULL),
        pytest.param("uncounted", "INVALID", "losses_finite", marks=FULL),
        pytest.param("skip_line@7", "INVALID", "steps_reached", marks=FULL),
        pytest.param("consumed@7", "INVALID", "consumed_samples", marks=FULL),
        pytest.param("batch", "INVALID", "log_settings", marks=FULL),
        pytest.param("silent_end", "INVALID", "log_whole", marks=FULL),
    ],
)
def test_a_program_that_does_otherwise_is_never_measured(
    home: Path, fault: str, verdict: str, broken: str
) -> None:
    done = rehearsed(home, fault=fault)
    assert done.code == 4, done.stdout + done.stderr
    assert done.cell["verdict"] == verdict
    assert not held(done.cell)[broken]
    if fault == "exit@3":
        assert done.cell["cause_rank"] == RANKS - 1
        assert "exited with code 3" in done.cell["reasons"][0]


@pytest.mark.slow
def test_a_program_that_hangs_is_stopped_and_leaves_nothing(home: Path) -> None:
    done = rehearsed(home, "--stall-limit", "10", fault="hang@3")
    assert (done.code, done.cell["verdict"]) == (4, "FAILED")
    assert done.cell["reasons"][0].startswith("hung: no step for 10 s")
    left = subprocess.run(("pgrep", "-f", str(home)), capture_output=True, text=True)
    assert left.stdout == ""


@pytest.mark.slow
def test_an_argument_that_the_program_does_not_know_ends_the_cell_with_its_own_words(tmp_path: Path) -> None:
    home = home_in(tmp_path / "home")
    case = home / "cases" / "llama2_70b" / "case.yaml"
    case.write_text(case.read_text("utf-8").replace("[--multiple-of,", "[--multiple-off,"), "utf-8")
    done = rehearsed(home)
    assert (done.code, done.cell["verdict"]) == (4, "FAILED")
    (said,) = done.folder.glob("cells/*/node0/rank0/stderr.log")
    assert "unrecognized arguments: --multiple-off" in said.read_text("utf-8")


@pytest.mark.slow
def test_data_that_is_not_the_planned_is_never_read(home: Path, tmp_path: Path) -> None:
    """Between plan and start: the observer of the first rank looks before the program begins."""
    mine = home_in(tmp_path / "home")
    shutil.copytree(home / "results" / "data", mine / "results" / "data")
    launch = mine / "cases" / "trainer" / "launch.py"
    index = mine / "results" / "data" / "python-library-document.idx"
    launch.write_text(
        launch.read_text("utf-8").replace(
            "    started_s = time.monotonic()\n",
            f"    started_s = time.monotonic()\n    open({str(index)!r}, 'ab').write(b'x')\n",
            1,
        ),
        "utf-8",
    )
    done = rehearsed(mine)
    assert (done.code, done.cell["verdict"]) == (4, "FAILED")
    assert "SHA-256" in done.cell["reasons"][0]
