"""launch.py and signals.py: what was started is stopped, whatever happens in between."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import PreflightError, Stopped
from orchestrator.launch import launched
from orchestrator.plan import Launch
from orchestrator.signals import Signals

DEADLINE_S = 120.0


def launch(tmp_path: Path, code: str) -> Launch:
    return Launch(
        node="localhost",
        node_rank=0,
        ranks=(0,),
        argv=(sys.executable, "-c", code),
        environment={"NX8_TEST": "told"},
        host_output=str(tmp_path / "node0"),
    )


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(happened: object) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)


def test_a_launcher_gets_the_planned_environment_and_its_output_is_kept(tmp_path: Path) -> None:
    code = "import os; print(os.environ['NX8_TEST'], 'RANK' in os.environ)"
    os.environ["RANK"] = "7"
    with launched(launch(tmp_path, code), working_directory=tmp_path) as one:
        until(lambda: one.exit_code() is not None)
    assert one.exit_code() == 0
    assert one.wall_s > 0
    assert (tmp_path / "node0" / "launcher.log").read_text("utf-8") == "told False\n"


def test_leaving_the_with_ends_the_launcher_and_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pid = os.fork()\n"
        "if pid: print(os.getpid(), pid, flush=True)\n"
        "sys.stdin.read() if pid else signal.pause()\n"
    )
    log = tmp_path / "node0" / "launcher.log"
    with launched(launch(tmp_path, code), working_directory=tmp_path):
        until(lambda: log.read_text("utf-8").endswith("\n"))
    assert all(gone(int(pid)) for pid in log.read_text("utf-8").split())


def test_a_launcher_ended_by_a_signal_counts_as_128_and_its_number(tmp_path: Path) -> None:
    code = "import os; os.kill(os.getpid(), 9)"
    with launched(launch(tmp_path, code), working_directory=tmp_path) as one:
        until(lambda: one.exit_code() is not None)
    assert one.exit_code() == 137


@pytest.mark.parametrize("what", ["examine", "stop"])
def test_a_launcher_that_ends_just_before_it_is_told_something_has_its_exit_code(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with launched(launch(tmp_path, "raise SystemExit(7)"), working_directory=tmp_path) as one:
        assert select.select([one.descriptor], [], [], DEADLINE_S)[0]
        with monkeypatch.context() as before:
            # As if it had been asked a moment earlier.
            before.setattr(type(one), "exit_code", lambda _: None)
            getattr(one, what)()
        assert one.exit_code() == 7


def test_a_program_that_cannot_be_started_is_a_preflight_error(tmp_path: Path) -> None:
    bad = Launch(
        node="localhost",
        node_rank=0,
        ranks=(0,),
        argv=(str(tmp_path / "nothing"),),
        environment={},
        host_output=str(tmp_path / "node0"),
    )
    with (
        pytest.raises(PreflightError, match=r"E301.*cannot be started"),
        launched(bad, working_directory=tmp_path),
    ):
        pass


def test_a_signal_raises_where_the_program_stands() -> None:
    with pytest.raises(Stopped, match="SIGTERM"), Signals():
        signal.raise_signal(signal.SIGTERM)


def test_held_signals_only_wake_who_waits_however_often_they_come() -> None:
    with Signals() as signals:
        signals.held = True
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(signum)
        assert signals.caught is signal.SIGTERM
        assert signals.wait(timeout_s=DEADLINE_S) is False


def test_what_a_signal_unwinds_is_not_broken_off_by_the_next_one() -> None:
    cleaned = []
    with pytest.raises(Stopped, match="SIGINT"), Signals():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            cleaned.append("all")
    assert cleaned == ["all"]


def test_a_stretch_of_held_work_can_be_broken_off_also_by_a_signal_that_came_before_it() -> None:
    reached = []
    with pytest.raises(Stopped, match="SIGTERM"), Signals() as signals:
        signals.held = True
        with signals.interruptible():
            reached.append("inside")
        signal.raise_signal(signal.SIGTERM)
        reached.append("held")
        with signals.interruptible():
            reached.append("never")
    assert reached == ["inside", "held"]
    assert signals.held


def test_an_ignored_signal_stays_ignored_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.caught is None
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert signal.getsignal(signal.SIGTERM) is before
