"""history/: a cache that is always made again from the run folders, and never in a run's way."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import history
from orchestrator.changes import between
from orchestrator.errors import ConfigError, Problem
from orchestrator.gate import Rule
from orchestrator.history import questions, store
from orchestrator.history.files import read_run
from orchestrator.history.judging import course, findings
from orchestrator.history.record import RunRecord, environment_of, from_line, record_of, to_line
from orchestrator.history.retention import Keep, decide, fates, read_keep, remove
from orchestrator.results import RunFolder
from tests import nightmaker
from tests.nightmaker import (
    FIRST,
    SPEED,
    as_degraded,
    as_failed,
    as_proxy,
    as_rehearsal,
    result,
    run_id,
    stored,
)
from tests.test_run import DEADLINE_S, finish, small, start

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A process that takes up what is there.
REMEMBER = (
    "import sys; from pathlib import Path; from orchestrator import history;"
    "sys.exit(history.remember(Path(sys.argv[1])))"
)
#: One that removes the runs it is given.
REMOVE = (
    "import sys; from pathlib import Path; from orchestrator.history.retention import remove;"
    "[remove(Path(sys.argv[1]), name) for name in sys.argv[2:]]"
)
NOW_S = FIRST.timestamp() + 200 * 86400


def rows(results: Path) -> dict[str, list[Any]]:
    """All that the database says, numbers of its own left away."""
    with history.reading(results) as (connection, note):
        assert note is None
        return all_rows(connection)


def all_rows(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    asked = {
        "run": "SELECT run_id, at_s, cluster, vendor, exit_code, duration_s FROM run ORDER BY run_id",
        "cell": "SELECT run_id, cell_id, verdict, degraded, reason FROM cell ORDER BY run_id, cell_id",
        "value": "SELECT run_id, cell_id, m.name, v.value FROM value v JOIN cell c ON c.id = v.cell"
        " JOIN metric m ON m.id = v.metric ORDER BY run_id, cell_id, m.name",
        "accepted": "SELECT * FROM accepted ORDER BY run_id, at_utc",
        "facts": "SELECT c.run_id, c.cell_id, e.json, w.json FROM cell c JOIN run r ON r.run_id = c.run_id"
        " JOIN fact e ON e.id = r.environment JOIN fact w ON w.id = c.work ORDER BY c.run_id, c.cell_id",
    }
    return {name: connection.execute(query).fetchall() for name, query in asked.items()}


def full(results: Path) -> Path:
    """Ten nights of every kind of cell."""
    for night in range(10):
        stored(results, night, 3000.0 + night)
    stored(results, 10, change=as_proxy)
    stored(results, 11, change=as_failed)
    stored(results, 12, change=as_degraded)
    return results


def nx8(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)


# What is kept -------------------------------------------------------------------------------------


def test_a_result_becomes_rows_and_a_line_of_the_archive_says_the_same() -> None:
    record = record_of(result(3, 2950.0))
    assert from_line(to_line(record)) == record
    (cell,) = record.cells
    assert cell.values[SPEED] == 2950.0
    assert (cell.series.scope, cell.series.scale, cell.series.cluster) == ("full", "1x2", "example")
    assert record.metrics["loss"] == ("nats/token", "lower")
    with pytest.raises(ValueError, match="schema"):
        from_line(to_line(replace(record, schema="other/1")))


def test_only_proven_full_cells_make_a_baseline(tmp_path: Path) -> None:
    results = full(tmp_path)
    stored(results, 13, change=as_rehearsal)
    with history.reading(results) as (connection, _):
        every = questions.all_series(connection)
        assert {one.scope for one in every} == {"full", "proxy", "rehearsal"}
        (one,) = [one for one in every if one.scope == "full"]
        assert [point.value for point in questions.series(connection, one, SPEED)] == [
            3000.0 + night for night in range(10)
        ]
        assert findings(connection, run_id(10), Rule()) == ()
        assert findings(connection, run_id(12), Rule(rehearse=True)) == ()
        assert [one.metric for one in findings(connection, run_id(10), Rule(rehearse=True))] == [
            SPEED,
            "loss",
        ]


def test_steps_and_settings_make_another_series() -> None:
    def of(change: Any) -> Any:
        return record_of(result(1, change=change)).cells[0].series

    plain = of(None)
    assert of(lambda document: document["cells"][0].update(seed=7)) == plain
    for change in (
        {"steps": {"warmup_steps": 2, "measured_steps": 5}},
        {"fix_hp": "LBS=2"},
        {"stage": "finetune"},
        {"num_nodes": 4},
    ):
        assert of(lambda document, change=change: document["cells"][0].update(change)) != plain


def test_what_changes_by_itself_is_no_difference() -> None:
    node = {"name": "n1", "free_bytes": 1, "clock_skew_s": 0.1, "boot_id": "a", "driver": "470"}
    other = {"name": "n1", "free_bytes": 2, "clock_skew_s": 0.3, "boot_id": "b", "driver": "470"}
    assert environment_of({"nodes": {"n1": node}}) == environment_of({"nodes": {"n1": other}})


# What changed -------------------------------------------------------------------------------------


def environment(**nodes: dict[str, Any]) -> dict[str, str]:
    return environment_of(
        {
            "host": {"kernel": "6.1", "python": "3.11"},
            "git": {"commit": "a" * 40},
            "nodes": nodes,
            "images": {"nx8-x:1": {"id": "sha256:" + "1" * 64, "versions": {"torch": "2.1"}}},
        }
    )


def test_differences_are_ranked_and_the_same_on_several_nodes_is_one() -> None:
    before = environment(
        node1={"driver": "470.141", "kernel": "5.15"}, node2={"driver": "470.141", "kernel": "5.15"}
    )
    after = dict(before) | {
        "node/node1/driver": "470.161",
        "node/node2/driver": "470.161",
        "node/node2/kernel": "5.19",
        "image/nx8-x/id": "sha256:" + "2" * 64,
        "image/nx8-x/versions/torch": "2.2",
        "git/commit": "b" * 40,
        "host/python": "3.12",
    }
    found = between(before, after, {"config/seed": "1", "variable/NCCL_ALGO": "Ring"}, {"config/seed": "2"})
    assert [one.text() for one in found] == [
        "driver 470.141 → 470.161 on node1,node2",
        "kernel 5.15 → 5.19 on node2",
        f"image id sha256:{'1' * 12} → sha256:{'2' * 12}",
        "torch 2.1 → 2.2",
        "seed 1 → 2",
        "NCCL_ALGO Ring → (none)",
        "host python 3.11 → 3.12",
        f"commit {'a' * 12} → {'b' * 12}",
    ]


def test_another_node_is_named_and_its_facts_are_not_listed() -> None:
    before = environment(node1={"driver": "1"}, node2={"driver": "1"})
    after = environment(node1={"driver": "1"}, spare1={"driver": "1"})
    assert [one.text() for one in between(before, after)] == ["new: spare1", "no longer used: node2"]


def test_a_regression_comes_with_what_changed_since_the_last_good_run(tmp_path: Path) -> None:
    def with_driver(version: str) -> Any:
        def change(document: dict[str, Any]) -> None:
            document["environment"]["nodes"] = {"node1": {"driver": version}}

        return change

    for night in range(20):
        stored(tmp_path, night, 3000.0 + night % 5, change=with_driver("470.141"))
    for night in (20, 21):
        stored(tmp_path, night, 2800.0, change=with_driver("470.161"))
    with history.reading(tmp_path) as (connection, _):
        (finding,) = [one for one in findings(connection, run_id(21), Rule()) if one.metric == SPEED]
    assert (finding.judged.kind, finding.judged.new) == ("regression", True)
    assert finding.judged.last_good == run_id(19)
    assert [one.text() for one in finding.changes] == ["driver 470.141 → 470.161 on node1"]


# The file -----------------------------------------------------------------------------------------


def test_what_is_stored_meanwhile_is_taken_up(tmp_path: Path) -> None:
    stored(tmp_path, 0)
    assert len(rows(tmp_path)["run"]) == 1
    stored(tmp_path, 1)
    assert len(rows(tmp_path)["run"]) == 2
    assert history.remember(tmp_path) is None
    assert len(rows(tmp_path)["run"]) == 2


def test_a_run_without_or_with_a_damaged_result_is_left_away_and_named(tmp_path: Path) -> None:
    stored(tmp_path, 0)
    (stored(tmp_path, 1) / "result.json").unlink()
    (stored(tmp_path, 2) / "result.json").write_text("{", "utf-8")
    odd = stored(tmp_path, 3)
    (odd / "result.json").write_text('{"schema": "nx8.result/1", "run": 7}', "utf-8")
    made = history.rebuild(tmp_path)
    assert made.runs == 1
    assert [one.run_id for one in made.unread] == [run_id(2), run_id(3)]
    assert history.remember(tmp_path) is None


@pytest.mark.parametrize("how", ["all", "head", "middle", "tail", "empty", "foreign"])
def test_a_damaged_file_is_put_aside_and_made_again_with_every_row(tmp_path: Path, how: str) -> None:
    results = full(tmp_path)
    before = rows(results)
    path = results / "history.sqlite"
    damage(path, how)
    said = history.remember(results)
    assert said is None if how == "empty" else said is not None
    assert "made again from 13 runs" in (said or "made again from 13 runs")
    assert rows(results) == before
    damage(path, how)
    made = history.rebuild(results)
    assert (made.runs, made.cells) == (13, 13)
    assert rows(results) == before


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    noise = random.Random(how).randbytes(len(data))
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    if how == "all":
        data[:] = noise
    elif how == "head":
        data[:200] = noise[:200]
    elif how == "middle":
        data[4096:] = noise[4096:]
    elif how == "tail":
        data[len(data) // 2 :] = noise[len(data) // 2 :]
    elif how == "foreign":
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE theirs (x)")
            other.commit()
        return
    path.write_bytes(b"" if how == "empty" else bytes(data))


def test_a_locked_file_is_waited_for_and_then_left(tmp_path: Path) -> None:
    results = full(tmp_path)
    history.remember(results)
    stored(results, 20)
    with writer(results / "history.sqlite"):
        said = history.remember(results, busy_s=0.2)
        assert said is not None
        assert said.startswith("E731")
        with history.reading(results, busy_s=0.2) as (connection, note):
            # The answer comes from the folders, and is whole.
            assert note is not None
            assert len(all_rows(connection)["run"]) == 14
    assert history.remember(results) is None
    assert len(rows(results)["run"]) == 14


@contextlib.contextmanager
def writer(path: Path) -> Iterator[None]:
    """Another process in the middle of writing."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        (sys.executable, "-c", code, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
    finally:
        process.communicate(timeout=DEADLINE_S)


@contextlib.contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """A file system at `folder` (root, as every rehearsal here)."""
    subprocess.run(("mount", *words, str(folder)), check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True, timeout=60)


@contextlib.contextmanager
def full_disk(results: Path, runs: Path) -> Iterator[None]:
    """`results` on a disk without a byte left; its runs lie elsewhere."""
    results.mkdir(parents=True, exist_ok=True)
    with mounted(results, "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"):
        (results / "runs").symlink_to(runs, target_is_directory=True)
        with contextlib.suppress(OSError), (results / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield


@contextlib.contextmanager
def read_only(results: Path, runs: Path) -> Iterator[None]:
    """`results` read-only, whoever asks; its runs lie elsewhere."""
    results.mkdir(parents=True, exist_ok=True)
    if not (results / "runs").exists():
        (results / "runs").symlink_to(runs, target_is_directory=True)
    with mounted(results, "--bind", str(results)):
        subprocess.run(("mount", "-o", "remount,ro,bind", str(results)), check=True, timeout=60)
        yield


@pytest.mark.parametrize("disk", [full_disk, read_only])
def test_a_disk_that_takes_nothing_is_said_and_answers_come_from_the_folders(
    tmp_path: Path, disk: Any
) -> None:
    full(tmp_path / "kept")
    results = tmp_path / "results"
    with disk(results, tmp_path / "kept" / "runs"):
        said = history.remember(results)
        assert said is not None
        assert said.startswith("E732")
        with history.reading(results) as (connection, note):
            assert note is not None
            assert len(all_rows(connection)["run"]) == 13
        with pytest.raises(store.HistoryError) as refused:
            history.rebuild(results)
        assert refused.value.problems[0].code == "E732"
    assert history.rebuild(tmp_path / "kept").runs == 13


def test_what_goes_wrong_while_reading_is_raised_as_it_is(tmp_path: Path) -> None:
    stored(tmp_path, 0)
    mine = store.HistoryError(Problem(code="E731", message="mine"))
    with pytest.raises(store.HistoryError) as caught, history.reading(tmp_path):
        raise mine
    assert caught.value is mine
    with pytest.raises(store.DamagedError), history.reading(tmp_path) as (connection, _):
        connection.execute("SELECT nothing FROM nowhere")


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    results = full(tmp_path)
    history.remember(results)
    path = results / "history.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    said = history.remember(results)
    assert said is not None
    assert said.startswith("E733")
    with history.reading(results) as (connection, note):
        assert note is not None
        assert len(all_rows(connection)["run"]) == 13
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_an_older_file_is_brought_up_with_what_it_holds(tmp_path: Path) -> None:
    stored(tmp_path, 0)
    before = rows(tmp_path)
    path = tmp_path / "history.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE accepted; DROP INDEX run_by_time; PRAGMA user_version = 1;")
    assert history.remember(tmp_path) is None
    assert rows(tmp_path) == before


def test_a_kill_while_writing_leaves_all_or_nothing(tmp_path: Path) -> None:
    for night in range(60):
        stored(tmp_path, night)
    for attempt in range(4):
        process = subprocess.Popen((sys.executable, "-c", REMEMBER, str(tmp_path)))
        deadline = time.monotonic() + DEADLINE_S
        while (
            not (tmp_path / "history.sqlite").exists()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01 * attempt)
        process.kill()
        process.wait()
    assert len(rows(tmp_path)["run"]) == 60
    with store.opened(tmp_path / "history.sqlite") as connection:
        store.check(connection, tmp_path)


def test_several_at_once_take_every_run_once(tmp_path: Path) -> None:
    for night in range(30):
        stored(tmp_path, night)
    ones = [subprocess.Popen((sys.executable, "-c", REMEMBER, str(tmp_path))) for _ in range(4)]
    assert [one.wait(timeout=DEADLINE_S) for one in ones] == [0] * 4
    assert len(rows(tmp_path)["run"]) == 30


def test_a_network_file_system_is_told_by_its_mount() -> None:
    mounts = (
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 21 0:40 / /srv/a\\040b rw - nfs4 server:/x rw\n"
        "31 30 0:41 / /srv/a\\040b/own rw - ext4 /dev/sdb1 rw\n"
    )
    assert store.on_network(Path("/srv/a b/history.sqlite"), mounts)
    assert not store.on_network(Path("/srv/a b/own/history.sqlite"), mounts)
    assert not store.on_network(Path("/srv/a/history.sqlite"), mounts)
    assert not store.on_network(Path.cwd())


# Retention ----------------------------------------------------------------------------------------


def test_gc_keeps_accepted_runs_and_the_newest_of_every_series(tmp_path: Path) -> None:
    full(tmp_path)
    assert accept(tmp_path, 2).returncode == 0
    before = rows(tmp_path)
    gone = [one.run_id for one in fates(tmp_path, read_keep("90d"), now_s=NOW_S) if one.goes]
    # 9 is the newest full one, 10 the only proxy, 12 the only degraded one.
    assert gone == [run_id(night) for night in (0, 1, 3, 4, 5, 6, 7, 8, 11)]
    for name in gone:
        remove(tmp_path, name)
    history.rebuild(tmp_path)
    assert rows(tmp_path) == before
    lines = (tmp_path / "archive" / "2026-03.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == gone


def accept(results: Path, night: int) -> subprocess.CompletedProcess[str]:
    home = results.parent / "home"
    for noun in ("cases", "dockerfiles", "cluster"):
        (home / noun).mkdir(parents=True, exist_ok=True)
    if not (home / "results").exists():
        (home / "results").symlink_to(results, target_is_directory=True)
    return nx8(home, "accept", run_id(night), "--reason", "new driver")


def test_gc_never_removes_a_result_that_it_cannot_read(tmp_path: Path) -> None:
    damaged, newer, gone = (stored(tmp_path, night) for night in range(3))
    stored(tmp_path, 3)
    (damaged / "result.json").write_text("{", "utf-8")
    (newer / "result.json").write_text('{"schema": "nx8.result/9"}', "utf-8")
    (gone / "result.json").unlink()
    for folder in (damaged, newer, gone):
        os.utime(folder / "plan.json", (0, 0))
    found = fates(tmp_path, read_keep("1d"), now_s=NOW_S)
    assert [one.run_id for one in found if one.goes] == [run_id(2)]
    for one, folder in zip(found, (damaged, newer), strict=False):
        assert one.why.startswith("its result cannot be read: ")
        with pytest.raises(ConfigError, match="E734"):
            remove(tmp_path, one.run_id)
        assert (folder / "result.json").is_file()
    remove(tmp_path, run_id(2))
    assert not gone.exists()


def test_several_gc_at_once_lose_no_line_of_the_archive(tmp_path: Path) -> None:
    ones = [[run_id(night) for night in range(at, 24, 4)] for at in range(4)]
    for night in range(24):
        stored(tmp_path, night)
    both = [[*one, run_id(0)] for one in ones]  # one run that all of them remove
    argv = (sys.executable, "-c", REMOVE, str(tmp_path))
    doing = [subprocess.Popen((*argv, *names)) for names in both]
    assert [one.wait(timeout=DEADLINE_S) for one in doing] == [0] * 4
    assert not RunFolder.all(tmp_path / "runs")
    lines = (tmp_path / "archive" / "2026-03.jsonl").read_bytes().splitlines()
    assert sorted(json.loads(line)["run_id"] for line in lines) == [run_id(night) for night in range(24)]


def test_a_gc_that_finds_the_archive_held_says_so_and_removes_nothing(tmp_path: Path) -> None:
    folder = stored(tmp_path, 0)
    with (
        store.held(tmp_path / "archive", 1.0, exclusive=True),
        pytest.raises(store.HistoryError, match="held by another"),
    ):
        remove(tmp_path, run_id(0), wait_s=0.1)
    assert folder.is_dir()


def test_gc_by_count_keeps_so_many_of_every_series() -> None:
    records = [record_of(result(night)) for night in range(6)] + [record_of(result(6, change=as_proxy))]
    found = decide(records, {"old": 0.0, "new": NOW_S - 60}, Keep(count=2), now_s=NOW_S)
    assert {one.run_id for one in found if one.goes} == {"old", *(run_id(night) for night in range(4))}


@pytest.mark.parametrize("text", ["", "0", "90", "90d", "2y", "x", "-1", "1h"])
def test_what_gc_keeps_is_an_age_or_a_count(text: str) -> None:
    if text in ("90", "90d", "2y"):
        assert read_keep(text) != Keep()
    else:
        with pytest.raises(ConfigError, match="neither an age nor a count"):
            read_keep(text)


# Verbs --------------------------------------------------------------------------------------------


def homed(home: Path, nights: int = 12) -> Path:
    results = home / "results"
    for night in range(nights):
        stored(results, night, 3000.0 + night % 5)
    return home


def test_verbs_list_show_and_accept(home: Path) -> None:
    homed(home, 20)
    for night in (20, 21, 22):
        stored(home / "results", night, 2800.0)
    listed = nx8(home, "history", "-n", "3")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[-1] for line in listed.stdout.splitlines()[1:]] == [run_id(n) for n in (22, 21, 20)]
    trend = nx8(home, "trend")
    assert "regression" in trend.stdout
    assert "▼ 2026-03-22 regression 2800" in trend.stdout
    shown = nx8(home, "show", run_id(22))
    assert "regression: -6.7%" in shown.stdout
    chinese = nx8(home, "trend", "--lang", "zh").stdout
    assert "退化：-6.7%，超出" in chinese
    assert "▼ 2026-03-22 退化 2800" in chinese
    assert "，中位数 " in chinese
    chinese = nx8(home, "show", run_id(22), "--lang", "zh").stdout
    assert "退出码 0" in chinese.splitlines()[0]
    assert f"{SPEED} 2800 tokens/s  退化：-6.7%，超出 20 次的中位数 ±1.5%" in chinese
    assert f"自 {run_id(19)} 以来没有记录到变化" in chinese
    refused = nx8(home, "accept", run_id(22), "--reason", " ")
    assert refused.returncode == 2
    assert "error[E735]" in refused.stderr
    accepted = nx8(home, "accept", run_id(22), "--reason", "driver 470.161.03")
    assert accepted.returncode == 0, accepted.stderr
    assert "driver 470.161.03" in nx8(home, "show", run_id(22)).stdout
    one = json.loads(nx8(home, "trend", "--json").stdout)["series"][0]
    assert one["state"] == "in_band"
    assert one["points"][-1]["kind"] == "accepted"
    assert nx8(home, "history", "rebuild").stdout.startswith("23 runs, 23 cells")


def test_proxies_have_a_trend_of_their_own_and_are_never_mixed(home: Path) -> None:
    for night in range(9):
        stored(home / "results", night, 5000.0, change=as_proxy)
    alone = nx8(home, "trend")
    assert "(proxy)" in alone.stdout
    assert "no full measurement yet" in alone.stderr
    assert "尚无完整测量" in nx8(home, "trend", "--lang", "zh").stderr
    assert "未判定：这是 proxy" in nx8(home, "show", run_id(8), "--lang", "zh").stdout
    stored(home / "results", 20, 3000.0)
    assert "(proxy)" not in nx8(home, "trend").stdout
    both = nx8(home, "trend", "--proxy").stdout
    assert "(proxy)" in both
    assert both.count("last ") == 2


def test_nothing_stored_is_no_error(home: Path) -> None:
    assert nx8(home, "history").stdout == "no run is stored yet\n"
    assert nx8(home, "trend").stdout == "no proven figure is stored yet\n"
    assert nx8(home, "show").returncode == 2
    assert not (home / "results").exists()


def test_gc_says_what_it_would_do_and_does_it(home: Path) -> None:
    homed(home)
    dry = nx8(home, "gc", "--keep", "3", "--dry-run")
    assert dry.stdout.endswith("9 of 12 runs would go\n")
    assert len(RunFolder.all(home / "results" / "runs")) == 12
    assert nx8(home, "gc", "--keep", "3").stdout.endswith("9 of 12 runs removed\n")
    assert len(RunFolder.all(home / "results" / "runs")) == 3
    assert nx8(home, "history", "-n", "99").stdout.count("MEASURED") == 12
    assert "MEASURED" in nx8(home, "show", run_id(0)).stdout


# A year -------------------------------------------------------------------------------------------


def a_year(results: Path, nights: int, cells: int) -> None:
    """Straight into the file: what folders hold is tested elsewhere."""

    def records() -> Iterator[RunRecord]:
        rng = random.Random(3)
        template = result(0, change=lambda document: nightmaker.many_cells(document, cells))
        for night in range(nights):
            other = result(night)
            template["run"] = other["run"]
            for cell in template["cells"]:
                for metric in cell["metrics"].values():
                    if metric["value"] is not None:
                        metric["value"] = rng.uniform(1, 1e10)
                cell["metrics"][SPEED]["value"] = 3000 * (1 + rng.gauss(0, 0.006))
            yield record_of(template)

    results.mkdir(parents=True, exist_ok=True)
    with store.opened(results / "history.sqlite") as connection:
        store.add(connection, records())


def asked_s(results: Path) -> float:
    """The slowest of the questions that `trend` asks of one series, in seconds of CPU, best of three."""
    with store.opened(results / "history.sqlite") as connection:
        one = questions.all_series(connection)[0]
        spent = []
        for _ in range(3):
            before = time.process_time()
            points = questions.series(connection, one, SPEED)
            spent.append(time.process_time() - before)
        assert points
        course(connection, one, SPEED, Rule())
    return min(spent)


@pytest.mark.slow
def test_a_year_of_twenty_cells_stays_small_and_quick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_year(tmp_path, 365, 20)
    size = (tmp_path / "history.sqlite").stat().st_size
    spent_s = asked_s(tmp_path)
    began = time.perf_counter()
    with store.opened(tmp_path / "history.sqlite") as connection:
        for one in questions.all_series(connection):
            questions.series(connection, one, SPEED)
    every_s = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n{size / 1e6:.1f} MB; a trend {1000 * spent_s:.2f} ms, all twenty {1000 * every_s:.1f} ms")
    assert size <= 50e6
    assert spent_s <= 0.1


def test_forty_nights_stay_small_and_quick(tmp_path: Path) -> None:
    a_year(tmp_path, 40, 5)
    assert (tmp_path / "history.sqlite").stat().st_size <= 50e6 * (40 * 5) / (365 * 20) + 200_000
    assert asked_s(tmp_path) <= 0.1


# Runs ---------------------------------------------------------------------------------------------


def spoilt(home: Path, how: str, exits: contextlib.ExitStack, kept: Path) -> None:
    """Makes the history of `home` unusable in one way; where the disk is, its runs lie in `kept`."""
    results = home / "results"
    kept.mkdir()
    if how in ("full", "read-only"):
        for name in ("runs", "data"):
            (kept / name).mkdir()
        results.mkdir()
        if how == "full":
            exits.enter_context(mounted(results, "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"))
        for name in ("runs", "data"):
            (results / name).symlink_to(kept / name, target_is_directory=True)
        if how == "full":
            with contextlib.suppress(OSError), (results / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        else:
            exits.enter_context(mounted(results, "--bind", str(results)))
            subprocess.run(("mount", "-o", "remount,ro,bind", str(results)), check=True, timeout=60)
    else:
        stored(results, 0)
        assert history.remember(results) is None
        path = results / "history.sqlite"
        if how == "random":
            path.write_bytes(random.Random(1).randbytes(path.stat().st_size))
        else:
            exits.enter_context(writer(path))


def run_beside(home: Path, how: str, kept: Path) -> None:
    with contextlib.ExitStack() as exits:
        spoilt(home, how, exits, kept)
        done = finish(start(small(home)), home)
        assert done.code == 0, done.stderr
        assert done.cell["verdict"] == "MEASURED"
        assert "history" in done.stderr
        assert {"random": "made again", "locked": "E731"}.get(how, "E732") in done.stderr
        folder = RunFolder(path=done.folder.resolve())  # while the file system that names it is there
    results = home / "results" if how in ("random", "locked") else kept
    assert history.rebuild(results).runs == (2 if how in ("random", "locked") else 1)
    record = read_run(folder)
    assert isinstance(record, RunRecord)
    assert all_values(results, record.run_id) == record.cells[0].values


def all_values(results: Path, name: str) -> dict[str, float]:
    return {metric: value for run, _, metric, value in rows(results)["value"] if run == name}


@pytest.mark.trainer
def test_a_run_ends_as_it_would_have_beside_a_damaged_history(home: Path, tmp_path: Path) -> None:
    run_beside(home, "random", tmp_path / "kept")


@pytest.mark.slow
@pytest.mark.trainer
@pytest.mark.parametrize("how", ["random", "locked", "full", "read-only"])
def test_a_run_ends_as_it_would_have_whatever_became_of_the_history(
    home: Path, tmp_path: Path, how: str
) -> None:
    run_beside(home, how, tmp_path / "kept")
