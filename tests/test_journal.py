"""What a run did is on disk before its next step, whoever reads it; who follows it is known to the kernel."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import facts, failpoints
from orchestrator.errors import BusyError
from orchestrator.follow import Tail
from orchestrator.journal import Journal, Past, controller, followed, moment_s, read
from orchestrator.logs import Source, printable
from orchestrator.results import RunFolder
from orchestrator.runs import ask_to_stop


def test_what_was_added_is_read_again_by_whoever_comes_next(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal.open(path) as one:
        one.add("locked", node="a")
        one.add("cell", cell="c")
        one.add("started", cell="c")
    with Journal.open(path) as other:
        other.add("started", cell="c")
        other.add("drop", node="a", why="x")
    entries = read(path)
    assert [one["n"] for one in entries] == list(range(7))
    past = Past.of(entries)
    assert (past.locked, past.controllers, past.drops, past.closed) == (frozenset("a"), 2, 1, None)
    # When its ranks began is what the first of its controllers says.
    assert past.started["c"]["n"] == 3


def test_a_line_that_a_crash_has_torn_counts_as_not_done(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal.open(path) as one:
        one.add("locked", node="a")
    with path.open("ab") as file:
        file.write(b'{"n": 2, "event": "prep')
    assert [one["event"] for one in read(path)] == ["controller", "locked"]
    with Journal.open(path) as one:
        one.add("locked", node="b")
    assert [one["event"] for one in read(path)] == ["controller", "locked", "controller", "locked"]
    assert Past.of(read(path)).locked == {"a", "b"}


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_what_could_not_be_written_whole_is_not_there_and_later_entries_are(
    part: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "journal.jsonl", os.write
    with Journal.open(path) as one:
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda fd, data: write(fd, data[: int(len(data) * part)]))
            if part == 1.0:
                full.setattr(os, "fsync", no_room)
            one.add("locked", node="a")
        assert one.trouble is not None
        assert str(path) in one.trouble
        one.add("locked", node="b")
    assert [(entry["n"], entry["event"]) for entry in read(path)] == [(0, "controller"), (1, "locked")]
    assert Past.of(read(path)).locked == {"b"}


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_journal_s_name_is_as_durable_as_its_entries_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    synced: list[Path] = []
    monkeypatch.setattr("orchestrator.journal.sync_folder", synced.append)
    Journal.open(path).close()
    assert synced == [tmp_path]
    monkeypatch.setattr("orchestrator.journal.sync_folder", no_room)
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="No space left"):
        Journal.open(path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert not followed(path)


def test_a_run_has_one_controller_and_a_dead_one_is_known_as_dead_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        "import sys, pathlib, time; from orchestrator.journal import Journal;"
        f"Journal.open(pathlib.Path({str(path)!r})); print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert followed(path)
        who = controller(path)
        assert who is not None
        assert (who.pid, who.alive, who.start) == (process.pid, True, facts.process_start(process.pid))
        with pytest.raises(BusyError, match="E253"):
            Journal.open(path)
        process.kill()
        process.wait(60)
    assert not followed(path)
    assert controller(path) is not None
    Journal.open(path).close()


@pytest.mark.parametrize("at_the", [1, 2])
def test_a_controller_that_ends_by_itself_while_it_is_stopped_has_been_stopped(
    at_the: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked, send = RunFolder(path=tmp_path), [], os.kill
    program = (
        "import signal, pathlib, time; from orchestrator.journal import Journal;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"Journal.open(pathlib.Path({str(folder.journal)!r})); print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()

        def kill(pid: int, number: int) -> None:
            asked.append(number)
            if len(asked) == at_the:
                send(pid, signal.SIGKILL)
                process.wait(60)
                raise ProcessLookupError

        try:
            monkeypatch.setattr(os, "kill", kill)
            assert ask_to_stop(folder, insist=True)
        finally:
            monkeypatch.undo()
            process.kill()
    assert asked == [signal.SIGTERM] * at_the


def test_a_moment_of_an_earlier_boot_is_told_by_the_wall_clock() -> None:
    now = {"boot_id": facts.boot_id(), "monotonic_s": 12.5, "utc": "2020-01-01T00:00:00+00:00"}
    assert moment_s(now) == 12.5
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    before = moment_s({"boot_id": "other", "monotonic_s": 1e9, "utc": an_hour_ago})
    assert before == pytest.approx(time.monotonic() - 3600, abs=60)


def test_a_failpoint_kills_at_the_turn_that_was_asked_for_and_only_there() -> None:
    program = (
        "from orchestrator.failpoints import passed\n"
        "for _ in range(3):\n    passed('cell.look'); print(1, flush=True)"
    )
    argv = [sys.executable, "-c", program]
    for wanted, lines, code in (
        ("cell.look@3", 2, -signal.SIGKILL),
        ("cell.ended", 3, 0),
        ("cell.look=raise", 0, 1),
    ):
        environment = {**os.environ, "NX8_FAILPOINT": wanted}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
        assert (done.stdout.count("1"), done.returncode) == (lines, code)


def test_every_failpoint_is_passed_somewhere_and_every_one_that_is_passed_is_listed() -> None:
    root = Path(failpoints.__file__).parent
    used = {
        name
        for path in root.rglob("*.py")
        for name in re.findall(r'failpoints\.passed\("([a-z.]+)"\)', path.read_text("utf-8"))
    }
    assert used == set(failpoints.POINTS)


def test_a_character_is_never_split_whatever_the_pieces_are(tmp_path: Path) -> None:
    text = "步 1\nloss 2.5 €\n" + json.dumps({"x": "é"})
    path = tmp_path / "stdout.log"
    source, lines = Source("x", Tail(path)), []
    for byte in text.encode():
        with path.open("ab") as file:
            file.write(bytes([byte]))
        lines += source.lines()
    lines += source.lines(last=True)
    assert lines == text.split("\n")


def test_what_would_drive_a_terminal_is_shown_and_not_done() -> None:
    assert printable("\x1b]0;title\x07step 1\r") == "\ufffd]0;title\ufffdstep 1"
