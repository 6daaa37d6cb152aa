"""monitor.py: the vendor's own format becomes samples, and nothing in the file can break the reader."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.load import load
from orchestrator.monitor import MonitorEnd, read_monitor
from orchestrator.probe import Sample, render_probe
from orchestrator.vendors import Probe, Vendor

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "orchestrator" / "node" / "monitor.py"
DEADLINE_S = 120.0
GIB = 1024**3
END = b'{"t_s": 12, "end": "asked to", "samples": 3}'
VENDORS = sorted(path.parent.name for path in (ROOT / "dockerfiles").glob("*/vendor.yaml"))


def probe_of(vendor: str) -> Probe | None:
    return load(ROOT / "dockerfiles" / vendor / "vendor.yaml", Vendor).probe


def line(t_s: float, text: str, rc: int | None = 0) -> bytes:
    return json.dumps({"t_s": t_s, "rc": rc, "out": text, "err": "", "took_s": 0.25}).encode()


def printed(probe: Probe, *used_gib: float) -> str:
    samples = tuple(
        Sample(index=number, memory_used_bytes=int(used * GIB), memory_total_bytes=48 * GIB)
        for number, used in enumerate(used_gib)
    )
    return render_probe(samples, probe)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_device_of_every_time_is_read_in_every_vendor_s_format(vendor: str) -> None:
    probe = probe_of(vendor)
    if probe is None:
        return  # a vendor may have none, and says why in its file
    times = ((1.0, (10, 12)), (6.0, (44, 13)), (11.0, (2, 2)))
    lines = [line(t_s, printed(probe, *used)) for t_s, used in times]
    log = read_monitor([*lines, END], probe, capacity_bytes=48 * GIB)
    assert [(one.t_s, one.until_s) for one in log.observed] == [(1.0, 1.25), (6.0, 6.25), (11.0, 11.25)]
    for one, (_, used) in zip(log.observed, times, strict=True):
        assert [sample.index for sample in one.samples] == [0, 1]
        seen = [(sample.memory_used_bytes or 0) / GIB for sample in one.samples]
        assert seen == pytest.approx(used, abs=0.6)
        assert (one.samples[0].memory_total_bytes or 0) / GIB == pytest.approx(48, abs=0.6)
    assert (log.num_probes, log.num_failed, log.num_unread, log.cost_s) == (3, 0, 0, 0.25)
    assert log.end == MonitorEnd(t_s=12.0, reason="asked to")


def test_a_probe_that_failed_is_counted_and_gives_no_sample() -> None:
    probe = probe_of("mthreads")
    log = read_monitor([line(1.0, "", rc=1), line(2.0, "", rc=None)], probe)
    assert (log.num_probes, log.num_failed, log.observed, log.end) == (2, 2, (), None)


@pytest.mark.parametrize(
    "after", [b"{", line(13.0, ""), b'{"end": "asked to"}', b'{"end": 7, "t_s": 12.0}'], ids=str
)
def test_only_a_last_line_that_is_whole_says_that_the_monitor_ended_by_itself(after: bytes) -> None:
    assert read_monitor([END, after], probe_of("mthreads")).end is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: line(1.0, text)), max_size=8))
def test_no_bytes_break_the_reader(lines: list[bytes]) -> None:
    log = read_monitor(lines, probe_of("mthreads"))
    assert log.num_probes <= len(lines)


def test_the_monitor_probes_once_more_when_it_is_asked_to_end(tmp_path: Path) -> None:
    output, config = tmp_path / "monitor.jsonl", tmp_path / "monitor.json"
    settings = {"argv": ["echo", "hello"], "interval_s": 600, "timeout_s": 60, "limit_s": 600}
    config.write_text(json.dumps({**settings, "output": str(output)}), "utf-8")
    monitor = subprocess.Popen([sys.executable, "-I", SOURCE, config])
    deadline = time.monotonic() + DEADLINE_S
    while not (output.is_file() and output.read_bytes().endswith(b"\n")):
        assert time.monotonic() < deadline
        assert monitor.poll() is None
        select.select([], [], [], 0.02)
    monitor.terminate()
    assert monitor.wait(DEADLINE_S) == 0
    *probes, end = [json.loads(text) for text in output.read_text("utf-8").splitlines()]
    assert [(one["rc"], one["out"]) for one in probes] == [(0, "hello\n")] * 2
    assert (end["end"], end["samples"]) == ("asked to", 2)
    assert probes[0]["t_s"] <= probes[1]["t_s"] <= end["t_s"]
