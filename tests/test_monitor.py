"""monitor.py: the vendor's own format becomes samples, and nothing in the file can break the reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.load import load
from orchestrator.monitor import read_monitor
from orchestrator.probe import Sample, render_probe
from orchestrator.vendors import Probe, Vendor

ROOT = Path(__file__).parents[1]
GIB = 1024**3
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
def test_the_fullest_device_of_all_times_is_found_in_every_vendor_s_format(vendor: str) -> None:
    probe = probe_of(vendor)
    if probe is None:
        return  # a vendor may have none, and says why in its file
    times = ((1.0, (10, 12)), (6.0, (44, 13)), (11.0, (2, 2)))
    lines = [line(t_s, printed(probe, *used)) for t_s, used in times]
    log = read_monitor(
        [*lines, b'{"t_s": 12, "end": "asked to", "samples": 3}'], probe, capacity_bytes=48 * GIB
    )
    fullest = log.fullest()
    assert fullest is not None
    assert fullest.index == 0
    assert fullest.memory_used_bytes / GIB == pytest.approx(44, abs=0.6)
    assert fullest.memory_total_bytes / GIB == pytest.approx(48, abs=0.6)
    assert (log.num_probes, log.num_failed, log.num_unread, log.ended, log.cost_s) == (3, 0, 0, True, 0.25)


def test_a_probe_that_failed_is_counted_and_gives_no_sample() -> None:
    probe = probe_of("mthreads")
    log = read_monitor([line(1.0, "", rc=1), line(2.0, "", rc=None)], probe)
    assert (log.num_probes, log.num_failed, log.fullest(), log.ended) == (2, 2, None, False)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: line(1.0, text)), max_size=8))
def test_no_bytes_break_the_reader(lines: list[bytes]) -> None:
    log = read_monitor(lines, probe_of("mthreads"))
    assert log.num_probes <= len(lines)
