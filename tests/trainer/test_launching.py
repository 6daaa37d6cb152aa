"""Launchers and records under faults: a cause is told as it was, and nothing stays behind."""

import hashlib
import itertools
import json
import os
import signal
import threading
import time
import zlib

import pytest

pytestmark = pytest.mark.trainer

MANY_STEPS = 100_000


def endless(bench, **changes):
    return bench.job(engine="ddp", steps__measured_steps=MANY_STEPS, **changes)


def pids(running):
    return [running.await_record(rank, "hello")["pid"] for rank in (0, 1)]


def assert_all_gone(tools, ranks):
    tools.until(lambda: not any(tools.alive(pid) for pid in ranks), f"end of the ranks {ranks}")


def verify(path, rank, nonce):
    """Every promise the contract makes about one file, checked from its bytes."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        head, tail = line.split(b',"crc32":"')
        assert tail == b'%08x"}\n' % zlib.crc32(head)
        record = json.loads(line)
        assert list(record)[:6] == ["v", "nonce", "rank", "seq", "t_s", "event"]
        assert (record["v"], record["nonce"], record["rank"], record["seq"]) == (1, nonce, rank, number)
        assert line.startswith(b'{"v":1,"nonce":"')  # compact
    end = json.loads(lines[-1])
    assert (end["event"], end["count"]) == ("end", len(lines) - 1)
    assert end["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return [json.loads(line) for line in lines]


def test_the_files_keep_every_promise_of_the_contract(reference, tools):
    status = reference.status
    assert reference.code == 0
    assert (status["contract"], status["nonce"], status["node_rank"], status["launcher"]) == (
        1,
        tools.nonce,
        0,
        "fork",
    )
    assert status["stopped_by"] is None
    assert status["wall_s"] == pytest.approx(status["ended_s"] - status["started_s"])
    (rank,) = status["ranks"]
    records = verify(reference.output / "rank0" / "events.jsonl", 0, tools.nonce)
    assert (rank["exit_code"], rank["signal"], rank["killed"]) == (0, None, False)
    assert (rank["end_count"], rank["end_sha256"]) == (records[-1]["count"], records[-1]["sha256"])
    assert [r["event"] for r in records] == ["hello", "ready", *["step"] * 12, "memory", "end"]
    steps = [r for r in records if r["event"] == "step"]
    assert [s["step"] for s in steps] == list(range(1, 13))
    assert all(s["samples"] == 4 and s["tokens"] == 4 * 32 for s in steps)
    assert all(a["end_s"] <= b["start_s"] for a, b in itertools.pairwise(steps))
    assert status["wall_s"] >= sum(s["end_s"] - s["start_s"] for s in steps)
    hello = records[0]
    assert (hello["world_size"], hello["local_rank"], hello["backend"]) == (1, 0, "gloo")
    assert (hello["device_type"], hello["engine"], hello["pid"]) == ("cpu", "ddp", rank["pid"])
    memory = records[-2]
    assert memory["peak_rss_bytes"] > 50_000_000
    assert memory["device_peak_allocated_bytes"] is memory["device_peak_reserved_bytes"] is None


def test_a_look_alike_on_standard_output_stays_there(bench, tools):
    fake = json.dumps({"v": 1, "nonce": tools.nonce, "rank": 0, "seq": 99, "event": "step", "loss": 0.0})
    environment = bench.plugin(f"import sys; print({fake!r}); print({fake!r}, file=sys.stderr)\n")
    result = bench.run(bench.job(engine="ddp", device__plugin="fault_plugin"), environment=environment)
    assert result.code == 0, result.explain()
    for rank in (0, 1):
        assert len(verify(result.output / f"rank{rank}" / "events.jsonl", rank, tools.nonce)) == 16
        assert (result.output / f"rank{rank}" / "stdout.log").read_text().strip() == fake
        assert fake in (result.output / f"rank{rank}" / "stderr.log").read_text()


@pytest.mark.parametrize("launcher", ["fork", "torchrun"])
def test_a_killed_rank_is_the_cause_and_the_other_the_consequence(bench, tools, launcher):
    running = bench.start(endless(bench), launcher=launcher)
    ranks = pids(running)
    running.await_record(1, "step", step=3)
    os.kill(ranks[1], signal.SIGKILL)
    result = running.wait()
    assert result.code == 1
    assert result.status["stopped_by"] == "rank_failed"
    first, second = sorted(result.status["ranks"], key=lambda r: r["ended_s"])
    assert (first["rank"], first["signal"], first["exit_code"], first["killed"]) == (
        1,
        "SIGKILL",
        None,
        False,
    )
    assert second["rank"] == 0
    assert second["killed"] or second["exit_code"] == 1  # stopped, or failed itself because its peer was gone
    assert_all_gone(tools, ranks)


def test_an_exception_is_recorded_with_its_traceback(bench, tools):
    environment = bench.plugin(
        "import os, events\n"
        "write = events.EventWriter.write\n"
        "def faulty(self, event, **fields):\n"
        "    if event == 'step' and fields['step'] == 3 and os.environ['RANK'] == '1':\n"
        "        raise ValueError('the planned mishap')\n"
        "    write(self, event, **fields)\n"
        "events.EventWriter.write = faulty\n"
    )
    running = bench.start(endless(bench, device__plugin="fault_plugin"), environment=environment)
    result = running.wait()
    assert result.code == 1
    assert result.status["stopped_by"] == "rank_failed"
    (fail,) = result.records(1, "fail")
    assert (fail["type"], fail["message"]) == ("ValueError", "the planned mishap")
    assert "fault_plugin.py" in fail["traceback"]
    assert "the planned mishap" in (result.output / "rank1" / "stderr.log").read_text()
    first = min(result.status["ranks"], key=lambda r: r["ended_s"])
    assert (first["rank"], first["exit_code"], first["killed"]) == (1, 1, False)
    assert first["end_count"] is first["end_sha256"] is None


def test_a_rank_that_leaves_early_stops_the_others(bench, tools):
    environment = bench.plugin("import os\nif os.environ['RANK'] == '1': os._exit(0)\n")
    job = endless(bench, device__plugin="fault_plugin")
    result = bench.run(job, environment=environment, options=("--early-exit-limit", "0.5"))
    assert result.code == 1
    assert result.status["stopped_by"] == "early_exit"
    zero, one = result.status["ranks"]
    assert (one["exit_code"], one["killed"], one["end_count"]) == (0, False, None)
    assert (zero["signal"], zero["killed"]) == ("SIGTERM", True)


def test_a_rank_deaf_to_sigterm_is_killed_after_the_grace(bench, tools):
    environment = bench.plugin("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n")
    job = endless(bench, device__plugin="fault_plugin")
    running = bench.start(job, environment=environment, options=("--grace", "0.3"))
    running.await_record(0, "step", step=1)
    running.process.terminate()
    result = running.wait()
    assert (result.code, result.status["stopped_by"]) == (75, "signal:SIGTERM")
    assert [(r["signal"], r["killed"]) for r in result.status["ranks"]] == [("SIGKILL", True)] * 2


@pytest.mark.parametrize("launcher", ["fork", "torchrun"])
def test_no_rank_outlives_a_killed_launcher(bench, tools, launcher):
    running = bench.start(endless(bench), launcher=launcher)
    ranks = pids(running)
    running.await_record(0, "step", step=1)
    running.process.kill()
    running.wait()
    assert_all_gone(tools, ranks)
    assert not (running.output / "status.json").exists()


@pytest.mark.parametrize("launcher", ["fork", "torchrun"])
def test_the_ranks_stop_when_the_host_is_gone(bench, tools, launcher):
    running = bench.start(endless(bench), launcher=launcher)
    ranks = pids(running)
    running.process.stdin.close()
    result = running.wait()
    assert (result.code, result.status["stopped_by"]) == (75, "host_gone")
    assert all(r["killed"] for r in result.status["ranks"])
    assert_all_gone(tools, ranks)


def test_a_signal_stops_the_ranks_and_is_named(bench, tools):
    running = bench.start(endless(bench))
    ranks = pids(running)
    running.process.send_signal(signal.SIGINT)
    result = running.wait()
    assert (result.code, result.status["stopped_by"]) == (75, "signal:SIGINT")
    assert [r["signal"] for r in result.status["ranks"]] == ["SIGTERM"] * 2
    assert_all_gone(tools, ranks)


def test_other_data_than_planned_are_refused(bench):
    result = bench.run(bench.job(engine="ddp", data__sha256="0" * 64))
    assert result.code == 1
    (fail,) = result.records(0, "fail") or result.records(1, "fail")
    assert fail["type"] == "DataError"
    assert "SHA-256" in fail["message"]
    assert result.records(0, "step") == []


def test_a_rank_tells_where_it_hangs(bench, tools):
    running = bench.start(endless(bench))
    os.kill(pids(running)[0], signal.SIGUSR1)
    told = running.output / "rank0" / "stacks.log"
    tools.until(lambda: "train.py" in told.read_text(), "stack in stacks.log")
    running.process.stdin.close()
    assert running.wait().code == 75


def test_a_lease_that_nobody_renews_ends_the_ranks_and_says_lost(bench, tools):
    lease, enough = bench.folder / "lease", threading.Event()

    def renew():
        for number in itertools.count():
            lease.write_text(f"{number} {time.monotonic_ns() // 1000}\n")
            if enough.wait(0.2):
                return

    renewing = threading.Thread(target=renew)
    renewing.start()
    running = bench.start(endless(bench), options=("--lease", str(lease), "--lease-limit", "8"))
    try:
        rank = running.await_record(0, "hello")["pid"]
        running.await_record(0, "step", step=3)
    finally:
        enough.set()
        renewing.join()
    result = running.wait()
    assert result.code == 75, result.explain()
    assert result.status["stopped_by"] == "lost"
    assert_all_gone(tools, [rank])
