"""The whole path with real ranks: what is measured is proven, what is disturbed is never MEASURED, and
nothing is left behind.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.starting import begun, ended

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.trainer

ROOT = Path(__file__).parents[1]
DEADLINE_S = 150.0
HEADING = "| 配置 | fix_hp | token/p/s | loss | mem | MFU |"
#: A smaller proxy than the shipped one: the tests here are about ends, not about learning.
SMALL = (
    (r"num_layers: 5", "num_layers: 2"),
    (r"warmup_steps: 10", "warmup_steps: 2"),
    (r"measured_steps: 60", "measured_steps: 6"),
)


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text("utf-8"))

    @property
    def cell(self) -> dict[str, Any]:
        return self.result["cells"][0]

    @property
    def rank_dirs(self) -> list[Path]:
        return sorted(self.folder.glob("cells/*/node0/rank*"))


def squeezed(text: str) -> str:
    """Without the padding that aligns columns."""
    return re.sub(" +", " ", text)


def small(home: Path) -> Path:
    """Makes the proxy of `home` tiny."""
    case = home / "cases" / "llama2_7b" / "case.yaml"
    text = case.read_text("utf-8")
    before, proxy, after = text.partition("\nproxy:")
    for old, new in SMALL:
        assert re.search(old, after), old
        after = re.sub(old, new, after)
    case.write_text(before + proxy + after, "utf-8")
    return home


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    return begun(home, "run", "llama2_7b", "--cluster", "local", *words)


def finish(process: subprocess.Popen[str], home: Path) -> Done:
    return Done(*ended(process, limit_s=DEADLINE_S), newest(home))


def newest(home: Path) -> Path:
    return max((home / "results" / "runs").glob("2*"), key=lambda path: path.stat().st_mtime_ns, default=home)


def run(home: Path, *words: str) -> Done:
    return finish(start(home, *words), home)


def parse(home: Path, run_id: str = "latest") -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), "parse", run_id)
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)


def reparsed(done: Done) -> dict[str, Any]:
    """The cell as `nx8 parse` sees it after somebody touched the raw files."""
    return json.loads(next(done.folder.glob("reparse/*/result.json")).read_text("utf-8"))["cells"][0]


def records(home: Path, rank: int) -> list[dict[str, Any]]:
    """What a rank has written so far; an unfinished last line is not there yet."""
    try:
        text = next(newest(home).glob(f"cells/*/node0/rank{rank}/events.jsonl")).read_text("utf-8")
    except StopIteration:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def until_step(home: Path, process: subprocess.Popen[str], step: int, rank: int = 1) -> dict[str, Any]:
    """Waits until a rank has reported this step; its hello record."""
    descriptor = os.pidfd_open(process.pid)
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            seen = records(home, rank)
            if any(record["event"] == "step" and record["step"] >= step for record in seen):
                return seen[0]
            if select.select([descriptor], [], [], 0.02)[0]:
                raise AssertionError(f"the run ended before step {step}: {process.communicate()}")
    finally:
        os.close(descriptor)
    raise AssertionError(f"no step {step} within {DEADLINE_S} s")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(home: Path) -> list[int]:
    return [seen[0]["pid"] for rank in (0, 1) if (seen := records(home, rank))]


def assert_no_number(cell: dict[str, Any], verdict: str, reason: str) -> None:
    """Not MEASURED, says why, and carries no number anywhere."""
    assert cell["verdict"] == verdict, cell
    assert any(re.search(reason, one) for one in cell["reasons"]), cell["reasons"]
    assert all(metric["value"] is None and metric["reason"] for metric in cell["metrics"].values())


def patch_trainer(home: Path, code: str) -> None:
    """Adds `code` to the copy's event writer: it runs in every rank, with the class EventWriter in sight."""
    with (home / "cases" / "trainer" / "events.py").open("a", encoding="utf-8") as file:
        file.write("\n\n" + code)


ON_STEP = """
import os
_write = EventWriter.write
def _patched(self, event, **fields):
    _write(self, event, **fields)
    if event == "step" and fields["step"] == 3 and os.environ["RANK"] == "1":
        {action}
EventWriter.write = _patched
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """One undisturbed run of the small proxy; tests that change it work on a copy."""
    home = tmp_path_factory.mktemp("good") / "home"
    for noun in ("cases", "dockerfiles", "cluster"):
        shutil.copytree(ROOT / noun, home / noun, ignore=shutil.ignore_patterns("__pycache__"))
    return small(home), run(home)


@pytest.fixture
def stored(good: tuple[Path, Done], tmp_path: Path) -> Iterator[tuple[Path, Done]]:
    """A copy of the good run whose files a test may touch."""
    home, done = good
    copy = tmp_path / "home"
    shutil.copytree(home, copy, symlinks=True)
    yield copy, Done(done.code, done.stdout, done.stderr, copy / done.folder.relative_to(home))


def test_the_default_job_is_measured_proven_and_learns(tmp_path: Path, home: Path) -> None:
    done = run(home)
    assert done.code == 0, done.stderr
    cell = done.cell
    assert cell["verdict"] == "MEASURED"
    assert cell["proxy"]
    assert all(proof["held"] for proof in cell["proofs"])
    metrics = cell["metrics"]
    speed = metrics["tokens_per_second_per_device"]
    assert speed["value"] > 0
    assert speed["details"]["n"] >= 30
    steps = [record for record in records(home, 0) if record["event"] == "step"][10:]
    fifth = len(steps) // 5
    first, last = ([one["loss"] for one in part] for part in (steps[:fifth], steps[-fifth:]))
    assert sum(last) <= 0.9 * sum(first)
    assert metrics["mfu_published"]["value"] is None
    assert "peak" in metrics["mfu_published"]["reason"]
    assert metrics["memory_used_bytes"]["value"] <= 4 * 2**30
    assert "（proxy）" in done.stdout
    assert HEADING in squeezed(done.stdout)
    assert done.stdout.rstrip().endswith(str(done.folder))
    assert {"start", "plan", "train", "report"} <= {phase["name"] for phase in done.result["phases"]}
    assert done.folder.stat().st_mode & 0o777 == 0o700


def test_parse_reproduces_the_result_byte_for_byte(stored: tuple[Path, Done]) -> None:
    home, done = stored
    before = (done.folder / "result.json").read_bytes()
    again = parse(home)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (done.folder / "result.json").read_bytes() == before
    assert not list(done.folder.glob("reparse/*"))


def test_a_run_whose_result_was_never_written_is_judged_from_its_raw_files(stored: tuple[Path, Done]) -> None:
    home, done = stored
    result = done.folder / "result.json"
    before = result.read_bytes()
    result.unlink()
    again = parse(home)
    assert again.returncode == 0, again.stderr
    assert result.read_bytes() == before


def test_two_runs_of_the_same_plan_train_the_same_losses(good: tuple[Path, Done], tmp_path: Path) -> None:
    home, done = good
    other = tmp_path / "home"
    shutil.copytree(home, other, ignore=shutil.ignore_patterns("runs"))
    again = run(other)
    assert again.cell["config_hash"] == done.cell["config_hash"]
    assert [r["loss"] for r in records(other, 0) if r["event"] == "step"] == [
        r["loss"] for r in records(home, 0) if r["event"] == "step"
    ]


@pytest.mark.parametrize(
    ("form", "lang", "text"),
    [
        ("md", "zh", HEADING),
        ("md", "en", "proxy"),
        ("csv", "zh", "token/p/s"),
        ("json", "en", '"verdict": "MEASURED"'),
    ],
)
def test_a_stored_run_is_reported_in_every_form(
    good: tuple[Path, Done], form: str, lang: str, text: str
) -> None:
    home, done = good
    argv = (
        sys.executable,
        "-m",
        "orchestrator",
        "--home",
        str(home),
        "report",
        done.folder.name,
        "--format",
        form,
        "--lang",
        lang,
    )
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
    assert shown.returncode == 0, shown.stderr
    assert text in squeezed(shown.stdout)


def test_a_rank_killed_at_step_3_ends_the_run_and_is_named(home: Path) -> None:
    small(home)
    process = start(home, "--steps", "100")
    os.kill(until_step(home, process, 3)["pid"], signal.SIGKILL)
    done = finish(process, home)
    assert done.code == 4
    assert_no_number(done.cell, "FAILED", r"rank 1.*SIGKILL")
    assert "SIGKILL" in done.cell["reasons"][0]
    assert "–" in done.stdout
    assert not any(alive(pid) for pid in pids(home))


def test_a_rank_that_raises_is_named_with_its_traceback_on_top(home: Path) -> None:
    patch_trainer(small(home), ON_STEP.format(action="raise MemoryError('asked 2 GiB')"))
    done = run(home)
    assert done.code == 4
    assert_no_number(done.cell, "FAILED", "rank 1.*MemoryError")
    assert "asked 2 GiB" in done.cell["reasons"][0]
    assert "Traceback" in (done.folder / "report.md").read_text("utf-8")


def test_a_rank_that_leaves_early_with_exit_0_is_the_cause(home: Path) -> None:
    patch_trainer(small(home), ON_STEP.format(action="os._exit(0)"))
    done = run(home)
    assert done.code == 4
    assert_no_number(done.cell, "FAILED", "rank 1 exited with code 0 before its end record")
    assert "rank 1" in done.cell["reasons"][0]


def test_a_rank_that_sleeps_in_python_is_named_with_its_stack(home: Path) -> None:
    patch_trainer(small(home), ON_STEP.format(action="__import__('time').sleep(600)"))
    done = run(home, "--steps", "100", "--stall-limit", "4")
    assert_no_number(done.cell, "FAILED", "no step for 4 s")
    assert done.cell["reasons"][0].startswith("hung: rank 1 did not arrive: in _patched (events.py:")
    assert "_patched" in done.cell["traceback"]


def test_a_frozen_rank_ends_at_the_stall_limit(home: Path) -> None:
    small(home)
    process = start(home, "--steps", "100", "--stall-limit", "4")
    os.kill(until_step(home, process, 3)["pid"], signal.SIGSTOP)
    done = finish(process, home)
    assert done.code == 4
    assert_no_number(done.cell, "FAILED", "no step for 4 s")
    assert done.cell["reasons"][0].startswith("hung: rank 1 did not arrive: is stopped (state T")
    assert done.cell["cause_rank"] == 1
    assert "cannot write its own" in done.cell["traceback"]
    stood = json.loads(next(done.folder.glob("cells/*/node0/stacks.json")).read_text("utf-8"))["ranks"]
    assert "train.py" in stood[0]["stack"], "the rank that waited said where"
    assert (done.folder / "cells" / done.cell["cell_id"] / "node0" / "dmesg.txt").exists()
    assert not any(alive(pid) for pid in pids(home))


def test_a_rank_that_never_starts_ends_at_the_startup_limit(home: Path) -> None:
    patch_trainer(
        small(home), "import signal\nimport os\nif os.environ.get('RANK') == '1':\n    signal.pause()\n"
    )
    with (home / "cases" / "trainer" / "train.py").open("r+", encoding="utf-8") as file:
        text = file.read().replace(
            "def train(job", "def train(*_):\n    import signal\n    signal.pause()\n\n\ndef unused(job"
        )
        file.seek(0)
        file.write(text)
    done = run(home, "--startup-limit", "8")
    assert done.code == 4
    assert_no_number(done.cell, "FAILED", "no first step within 8 s")


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_the_ranks_keeps_what_was_logged_and_exits_with_its_code(
    home: Path, signum: signal.Signals, code: int
) -> None:
    small(home)
    process = start(home, "--steps", "200")
    until_step(home, process, 3)
    seen = pids(home)
    process.send_signal(signum)
    done = finish(process, home)
    assert done.code == code, done.stderr
    assert_no_number(done.cell, "FAILED", signum.name)
    assert str(done.folder) in done.stdout + done.stderr
    assert len(records(home, 0)) >= 4
    assert len(seen) == 2
    assert not any(alive(pid) for pid in seen)


def test_the_time_limit_exits_124_with_what_was_logged(home: Path) -> None:
    small(home)
    done = run(home, "--steps", "900", "--time-limit", "12")
    assert done.code == 124
    assert_no_number(done.cell, "FAILED", "time limit of 12 s")


def test_a_killed_controller_leaves_no_rank_behind(home: Path) -> None:
    small(home)
    process = start(home, "--steps", "200")
    until_step(home, process, 3)
    seen = pids(home)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + DEADLINE_S
    while any(alive(pid) for pid in seen) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    assert not any(alive(pid) for pid in seen)


def test_a_missing_plug_in_is_exit_3_before_anything_starts(home: Path) -> None:
    vendor = small(home) / "dockerfiles" / "cpu" / "vendor.yaml"
    vendor.write_text(
        vendor.read_text("utf-8").replace("  backend: gloo", "  backend: gloo\n  plugin: torch_acme"), "utf-8"
    )
    done = run(home)
    assert done.code == 3
    assert "E302" in done.stderr
    assert "torch_acme" in done.stderr
    assert not (home / "results" / "runs").exists()


def test_a_changed_data_file_is_refused_before_anything_starts(stored: tuple[Path, Done]) -> None:
    home, _ = stored
    tokens = home / "results" / "data" / "python-library-bytes.tokens"
    tokens.write_bytes(b"X" + tokens.read_bytes()[1:])
    done = run(home)
    assert done.code == 2
    assert "E715" in done.stderr


def test_a_program_that_only_prints_look_alike_lines_measures_nothing(stored: tuple[Path, Done]) -> None:
    home, done = stored
    lines = (done.rank_dirs[0] / "events.jsonl").read_text("utf-8")
    script = f"import sys\nsys.stdout.write({lines!r})\nsys.stdout.flush()\n"
    (home / "cases" / "trainer" / "train.py").write_text(script + "def main(*_): return 0\n", "utf-8")
    forged = run(home)
    assert forged.code == 4
    assert forged.cell["verdict"] in {"FAILED", "INVALID"}
    assert_no_number(forged.cell, forged.cell["verdict"], "no record at all: ranks 0, 1")


def test_a_look_alike_line_on_stdout_of_a_good_run_changes_nothing(home: Path) -> None:
    patch_trainer(
        small(home),
        ON_STEP.format(action='print(\'{"v":1,"event":"step","step":99,"tokens":1e12}\', flush=True)'),
    )
    done = run(home)
    assert done.code == 0
    assert done.cell["verdict"] == "MEASURED"
    assert "1e12" in (done.rank_dirs[1] / "stdout.log").read_text("utf-8")


def edit_one_digit(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b'"tokens":') + len(b'"tokens":')
    path.write_bytes(data[:at] + (b"9" if data[at : at + 1] != b"9" else b"8") + data[at + 1 :])


@pytest.mark.parametrize(
    ("what", "proof"),
    [
        ("delete", "all_ranks_reported"),
        ("edit", "records_intact"),
        ("truncate", "end_records"),
        ("swap", "records_intact"),
        ("status", "exit_codes"),
    ],
)
def test_touched_raw_files_are_found_out_by_parse(stored: tuple[Path, Done], what: str, proof: str) -> None:
    home, done = stored
    one, two = (folder / "events.jsonl" for folder in done.rank_dirs)
    if what == "delete":
        two.unlink()
    elif what == "edit":
        edit_one_digit(two)
    elif what == "truncate":
        two.write_bytes(b"".join(two.read_bytes().splitlines(keepends=True)[:-1]))
    elif what == "swap":
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    else:
        next(done.folder.glob("cells/*/node0/status.json")).unlink()
    again = parse(home)
    assert again.returncode == 4
    cell = reparsed(done)
    assert cell["verdict"] in {"INVALID", "FAILED"}
    assert proof in [one["name"] for one in cell["proofs"] if not one["held"]]
    assert_no_number(cell, cell["verdict"], ".")


def test_another_run_s_records_are_found_out(stored: tuple[Path, Done], good: tuple[Path, Done]) -> None:
    home, done = stored
    other = run(home)
    for folder in other.rank_dirs:
        shutil.copy(folder / "events.jsonl", done.folder / folder.relative_to(other.folder) / "events.jsonl")
    shutil.copy(
        next(other.folder.glob("cells/*/node0/status.json")),
        next(done.folder.glob("cells/*/node0/status.json")),
    )
    assert parse(home, done.folder.name).returncode == 4
    cell = reparsed(done)
    assert cell["verdict"] == "INVALID"
    assert "nonce" in [one["name"] for one in cell["proofs"] if not one["held"]]


def test_a_run_nobody_reads_ends_as_it_would_have(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), "run", "llama2_7b", "--steps", "2")
    try:
        done = subprocess.run(argv, stdout=writing, stderr=writing, timeout=DEADLINE_S)
    finally:
        os.close(writing)
    assert done.returncode == 0
    result = json.loads((newest(home) / "result.json").read_text("utf-8"))
    assert [cell["verdict"] for cell in result["cells"]] == ["MEASURED"]
