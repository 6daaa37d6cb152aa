"""Faults of processes, made to real runs on this machine: each starts ranks, breaks something, and looks at
what the run makes of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests import test_external
from tests.false_green import Due, Line
from tests.test_run import ON_STEP, ROOT, Done, finish, newest, patch_trainer, run, small, start, until_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[[Path], Done]


SLOW_CLOCK = """
import time as _time


class time:
    begin = _time.monotonic()

    @classmethod
    def monotonic(cls):
        return cls.begin + (_time.monotonic() - cls.begin) / 10

    time = _time.time
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`make` is given a home folder of its own and returns the run that was disturbed."""

    group: str
    name: str
    due: Due
    make: Make


def home_in(folder: Path) -> Path:
    for noun in ("cases", "dockerfiles", "cluster"):
        shutil.copytree(ROOT / noun, folder / noun, ignore=shutil.ignore_patterns("__pycache__"))
    return small(folder)


def signalled(rank: int, signum: signal.Signals, *words: str) -> Make:
    """A rank gets a signal once it has made its third step."""

    def make(home: Path) -> Done:
        process = start(home, "--steps", "400", *words)
        os.kill(until_step(home, process, 3, rank)["pid"], signum)
        return finish(process, home)

    return make


def patched(code: str, *words: str) -> Make:
    def make(home: Path) -> Done:
        patch_trainer(home, code)
        return run(home, *words)

    return make


def on_step(action: str, *words: str, rank: int = 1) -> Make:
    return patched(ON_STEP.format(action=action).replace('== "1"', f'== "{rank}"'), *words)


def full_disk(home: Path) -> Done:
    """The folder of runs is a file system of 2 MiB, and a rank writes more than that."""
    runs = home / "results" / "runs"
    runs.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(runs)], check=True, timeout=60)
    try:
        # Past the cap on what a rank prints: a file of its own, in its own folder.
        fill = "open(os.environ['NX8_OUTPUT'] + '/filler', 'wb', 0).write(bytes(4 << 20))"
        patch_trainer(home, ON_STEP.format(action=fill))
        done = run(home)
        kept = home / "kept" / done.folder.name
        shutil.copytree(done.folder, kept, symlinks=True)
        return Done(done.code, done.stdout, done.stderr, kept)
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True, timeout=60)


def program(fault: str) -> Make:
    """The stand-in for an external program does otherwise, as it says under this word."""

    def make(home: Path) -> Done:
        _rehearsal(home)
        done = test_external.rehearsed(home, fault=fault)
        return Done(done.code, done.stdout, done.stderr, done.folder)

    return make


def _rehearsal(home: Path) -> None:
    (home / "cluster" / "rehearsal.yaml").write_text(test_external.CLUSTER, "utf-8")


def unsharded(home: Path) -> Done:
    """Two by two ranks share out a model, and every optimizer keeps all of its state."""
    _rehearsal(home)
    for file, old, new in (
        ("llama2_70b/case.yaml", "pipeline_parallel_size: 2\n", "pipeline_parallel_size: 1\n"),
        ("trainer/native.py", "shard=parallel.shard_optimizer,", "shard=False,"),
    ):
        path = home / "cases" / file
        text = path.read_text("utf-8")
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new), "utf-8")
    argv = ("run", "llama2_70b:1-fp32", "--cluster", "rehearsal", "--set", "engine=native", "--steps", "4")
    done = test_external.nx8(home, *argv)
    return Done(done.returncode, done.stdout, done.stderr, newest(home))


def faults() -> Iterator[Fault]:
    """Every fault of processes, in the order of the table."""
    for rank in (0, 1):
        yield Fault(
            group="rank killed",
            name=f"SIGKILL to rank {rank}",
            due=Due(cause=f"rank {rank} was ended by SIGKILL"),
            make=signalled(rank, signal.SIGKILL),
        )
        yield Fault(
            group="rank killed",
            name=f"SIGSEGV in rank {rank}",
            due=Due(cause=f"rank {rank} was ended by SIGSEGV"),
            make=on_step("os.kill(os.getpid(), 11)", rank=rank),
        )
        yield Fault(
            group="rank raised",
            name=f"ValueError in rank {rank}",
            due=Due(cause=f"rank {rank} raised ValueError: planned mishap"),
            make=on_step("raise ValueError('planned mishap')", rank=rank),
        )
        yield Fault(
            group="rank left",
            name=f"rank {rank} exits with 0 at step 3",
            due=Due(cause=f"rank {rank} exited with code 0 before its end record"),
            make=on_step("os._exit(0)", rank=rank),
        )
        yield Fault(
            group="hang",
            name=f"rank {rank} frozen",
            due=Due(cause=rf"hung: rank {rank} did not arrive: is stopped"),
            make=signalled(rank, signal.SIGSTOP, "--stall-limit", "8"),
        )
        yield Fault(
            group="hang",
            name=f"rank {rank} sleeps in Python",
            due=Due(cause=rf"hung: rank {rank} did not arrive: in _patched"),
            make=on_step("__import__('time').sleep(600)", "--stall-limit", "8", rank=rank),
        )
        yield Fault(
            group="hang",
            name=f"rank {rank} computes for ever",
            due=Due(cause=rf"hung: rank {rank} did not arrive: in <module>"),
            make=on_step("exec('while True: pass')", "--stall-limit", "8", rank=rank),
        )
    yield Fault(
        group="rank left",
        name="both ranks exit with 0 at step 3",
        due=Due(proof="steps_reached"),
        make=patched(ON_STEP.format(action="os._exit(0)").replace('== "1"', 'in "01"')),
    )
    yield Fault(
        group="out of memory",
        name="the host's, told as MemoryError",
        due=Due(cause="out of memory.*rank 1 raised MemoryError"),
        make=on_step("raise MemoryError('asked 2 GiB')"),
    )
    yield Fault(
        group="out of memory",
        name="the device's, in torch's words",
        due=Due(cause="out of memory.*rank 1 raised OutOfMemoryError"),
        make=on_step(
            "raise __import__('torch').OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')"
        ),
    )
    yield Fault(
        group="NaN",
        name="a model that diverges",
        due=Due(proof="losses_finite"),
        make=_diverging,
    )
    yield Fault(
        group="disk full",
        name="the controller's, while ranks train",
        due=Due(cause="disk full: rank"),
        make=full_disk,
    )
    yield Fault(
        group="forged on stdout",
        name="a program that only prints records",
        due=Due(cause="no record at all"),
        make=_printer,
    )
    yield Fault(
        group="ten times the speed",
        name="a trainer that divides its step times by ten",
        due=Due(proof="window_covered"),
        make=lambda home: _edited(
            home, "end_s = time.monotonic()", "end_s = start_s + (time.monotonic() - start_s) / 10"
        ),
    )
    yield Fault(
        group="ten times the speed",
        name="a trainer that multiplies its tokens by ten",
        due=Due(proof="batch"),
        make=lambda home: _edited(home, '"tokens": fed.tokens', '"tokens": fed.tokens * 10'),
    )
    yield Fault(
        group="ten times the speed",
        name="a trainer whose clock runs slow",
        due=Due(proof="wall_clock"),
        make=_slow_clock,
    )
    yield Fault(
        group="another training",
        name="a trainer that makes fewer steps",
        due=Due(proof="steps_reached"),
        make=lambda home: _edited(home, "range(1, job.steps.planned + 1)", "range(1, job.steps.planned)"),
    )
    yield Fault(
        group="another training",
        name="a trainer that trains at another rate",
        due=Due(proof="job"),
        make=lambda home: _edited(
            home, "record = step_record(step, rate,", "record = step_record(step, rate / 2,"
        ),
    )
    yield Fault(
        group="stopped",
        name="SIGTERM to nx8",
        due=Due(cause="SIGTERM"),
        make=_told_to_stop,
    )
    yield Fault(
        group="stopped",
        name="a time limit",
        due=Due(cause="time limit"),
        make=lambda home: run(home, "--steps", "400", "--time-limit", "15"),
    )
    yield Fault(
        group="stopped",
        name="no first step",
        due=Due(cause="start-up limit"),
        make=lambda home: _edited(
            home,
            "        loss, norm = engine.step(fed)\n",
            "        time.sleep(600)\n",
            "--startup-limit",
            "20",
        ),
    )
    yield Fault(
        group="another training",
        name="a native engine that shards no optimizer",
        due=Due(proof="places"),
        make=unsharded,
    )
    yield from _external()


def _external() -> Iterator[Fault]:
    """What an external program does, or says of itself."""
    said = {
        "exit@3": ("leaves at its third iteration", Due(cause="rank 3 exited with code 3")),
        "nan@7": ("a loss that is no number", Due(proof="losses_finite")),
        "uncounted": ("nan and skipped iterations not counted", Due(proof="losses_finite")),
        "times": ("iteration times that no clock saw", Due(proof="step_times")),
        "bursts": ("lines held back and printed together", Due(proof="step_times")),
        "skip_line@7": ("an iteration line is missing", Due(proof="steps_reached")),
        "consumed@7": ("samples that do not follow", Due(proof="consumed_samples")),
        "batch": ("another global batch", Due(proof="log_settings")),
        "silent_end": ("never says that it is done", Due(proof="log_whole")),
    }
    for fault, (name, due) in said.items():
        yield Fault(group="external program", name=name, due=due, make=program(fault))


def frozen(number: int) -> Fault:
    """One of many: which rank, and how it stands still, differ."""
    rank, sleeps = number % 2, number % 4 >= 2
    how = "in _patched" if sleeps else "is stopped"
    limit = ("--stall-limit", "8")
    return Fault(
        group="frozen again",
        name=f"rank {rank} {'sleeps' if sleeps else 'frozen'}, {number + 1}",
        due=Due(cause=f"hung: rank {rank} did not arrive: {how}"),
        make=on_step("__import__('time').sleep(600)", *limit, rank=rank)
        if sleeps
        else signalled(rank, signal.SIGSTOP, *limit),
    )


def _edited(home: Path, old: str, new: str, *words: str) -> Done:
    """A run of a trainer in which one piece of train.py is another."""
    path = home / "cases" / "trainer" / "train.py"
    text = path.read_text("utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), "utf-8")
    return run(home, *words)


def _diverging(home: Path) -> Done:
    return _edited(
        home,
        "        loss, norm = engine.step(fed)\n",
        "        loss, norm = engine.step(fed)\n        loss = loss * float('nan') if step == 5 else loss\n",
    )


def _slow_clock(home: Path) -> Done:
    """Two seconds a step, and a clock that says two tenths: all that the ranks record agrees with itself."""
    events = home / "cases" / "trainer" / "events.py"
    for path in (events, events.with_name("train.py")):
        text = path.read_text("utf-8")
        assert text.count("\nimport time\n") == 1
        path.write_text(text.replace("\nimport time\n", "\nfrom slow import time\n"), "utf-8")
    events.with_name("slow.py").write_text(SLOW_CLOCK, "utf-8")
    return _edited(
        home,
        "        loss, norm = engine.step(fed)\n",
        "        __import__('time').sleep(2.5)\n        loss, norm = engine.step(fed)\n",
    )


def _printer(home: Path) -> Done:
    good = run(home)
    lines = next(good.folder.glob("cells/*/node0/rank0/events.jsonl")).read_text("utf-8")
    train = home / "cases" / "trainer" / "train.py"
    train.write_text(f"import sys\nsys.stdout.write({lines!r})\ndef main(*_): return 0\n", "utf-8")
    return run(home)


def _told_to_stop(home: Path) -> Done:
    process = start(home, "--steps", "400")
    until_step(home, process, 3)
    process.send_signal(signal.SIGTERM)
    return finish(process, home)


def tried(fault: Fault, folder: Path) -> Line:
    """Makes the fault in a home folder of its own, and removes that."""
    try:
        done = fault.make(home_in(folder))
        cell = _cell(done)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        # It could not be made: that is no proof of anything, and the rest goes on.
        why = f"not made: {type(error).__name__}: {str(error)[:300]}"
        return Line(group=fault.group, fault=fault.name, due=fault.due.text, verdict="–", missing=why)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missing = fault.due.found_in(cell)
    if missing is None and done.code == 0:
        missing = "nx8 exited with 0"
    return Line(
        group=fault.group, fault=fault.name, due=fault.due.text, verdict=cell["verdict"], missing=missing
    )


def _cell(done: Done) -> dict[str, Any]:
    """The result's only cell; where none could be written, what nx8 said instead."""
    path = done.folder / "result.json"
    if path.is_file():
        (cell,) = json.loads(path.read_text("utf-8"))["cells"]
        return dict(cell)
    said = done.stderr.splitlines()[-6:]
    return {"verdict": "no result", "reasons": [" ".join(said)], "proofs": [], "metrics": {}}
