"""probe: a vendor's output → samples, whatever the output is; and back again for stand-ins."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.linear import compiled, complaint
from orchestrator.load import load
from orchestrator.probe import FACTORS, MAX_BYTES, Sample, read_probe, render_probe, stand_in
from orchestrator.vendorcheck import document
from orchestrator.vendors import Vendor

ROOT = Path(__file__).parents[1]
VENDORS = {
    path.parent.name: load(path, Vendor) for path in sorted((ROOT / "dockerfiles").glob("*/vendor.yaml"))
}
PROBED = sorted(name for name, vendor in VENDORS.items() if vendor.probe is not None)
FIXTURES = sorted((ROOT / "tests" / "data" / "probes").glob("*.txt"))
GIB = 1024**3


def probe_of(name):
    probe = VENDORS[name].probe
    assert probe is not None
    return probe


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_every_sample_reads_as_its_json_says(path):
    wanted = json.loads(path.with_suffix(".json").read_text())
    capacity = wanted.pop("capacity_bytes", None)
    reading = read_probe(path.read_bytes(), probe_of(path.stem.split("-")[0]), capacity_bytes=capacity)
    assert document(reading) == wanted


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_carriage_returns_and_bytes_that_are_no_text_change_nothing_but_the_count(path):
    wanted = json.loads(path.with_suffix(".json").read_text())
    capacity = wanted.pop("capacity_bytes", None)
    raw = path.read_bytes().replace(b"\n", b"\r\n") + b"\xff\xfe\x1b[31m\r\n"
    reading = read_probe(raw, probe_of(path.stem.split("-")[0]), capacity_bytes=capacity)
    assert document(reading)["samples"] == wanted["samples"]
    assert all(line.isprintable() for line in reading.unread)


def test_every_vendor_with_a_probe_has_a_sample():
    assert {path.stem.split("-")[0] for path in FIXTURES} == set(PROBED)


def maybe(strategy):
    return st.none() | strategy


amounts = st.integers(min_value=0, max_value=1024 * GIB)


def sample_of(memory_total_bytes, part, **others):
    used = None if part is None or memory_total_bytes is None else round(memory_total_bytes * part / 100)
    return Sample(memory_total_bytes=memory_total_bytes, memory_used_bytes=used, **others)


some_samples = st.lists(
    st.builds(
        sample_of,
        index=st.integers(0, 15),
        temperature_c=maybe(st.integers(0, 120).map(float)),
        power_w=maybe(st.integers(0, 2000).map(float)),
        part=maybe(st.integers(0, 100)),
        memory_total_bytes=maybe(amounts),
        utilisation=maybe(st.integers(0, 100).map(lambda percent: percent / 100)),
    ),
    max_size=16,
    unique_by=lambda sample: sample.index,
)


@pytest.mark.parametrize("name", PROBED)
@settings(max_examples=30, deadline=None)
@given(samples=some_samples)
def test_what_a_stand_in_prints_reads_back_as_it_was(name, samples):
    probe = probe_of(name)
    reading = read_probe(render_probe(samples, probe).encode(), probe, capacity_bytes=64 * GIB)
    by_ordinal = probe.parser.kind == "csv" and "index" not in probe.parser.columns
    ordered = samples if by_ordinal else sorted(samples, key=lambda sample: sample.index)
    assert len(reading.samples) == len(samples)
    for ordinal, (was, read) in enumerate(zip(ordered, reading.samples, strict=True)):
        assert read.index == (ordinal if by_ordinal else was.index)
        assert read.temperature_c == was.temperature_c
        assert read.power_w == was.power_w
        assert read.utilisation == pytest.approx(was.utilisation) if was.utilisation is not None else True
        column = probe.quantities["memory_used"]
        if column.unit != "percent_of_capacity":
            for one, other in (
                (was.memory_used_bytes, read.memory_used_bytes),
                (was.memory_total_bytes, read.memory_total_bytes),
            ):
                assert (one is None) == (other is None)
                if one is not None:
                    assert abs(one - other) <= FACTORS[column.unit] * 0.5 / 10**column.decimals
    assert reading.num_unread == 0


def test_memory_in_per_cent_of_a_capacity_needs_the_capacity():
    raw = (ROOT / "tests" / "data" / "probes" / "hygon-two_devices.txt").read_bytes()
    blind = read_probe(raw, probe_of("hygon"))
    assert [sample.memory_used_bytes for sample in blind.samples] == [None, None]
    seen = read_probe(raw, probe_of("hygon"), capacity_bytes=100)
    assert [sample.memory_used_bytes for sample in seen.samples] == [0, 83]


@pytest.mark.parametrize("name", PROBED)
@settings(max_examples=30, deadline=None)
@given(raw=st.binary(max_size=2000))
def test_no_bytes_make_a_reader_raise(name, raw):
    reading = read_probe(raw, probe_of(name))
    assert reading.num_unread >= len(reading.unread)


@pytest.mark.parametrize("name", PROBED)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_damaged_output_gives_fewer_devices_and_no_exception(name, data):
    path = next(path for path in FIXTURES if path.stem.startswith(f"{name}-"))
    lines = path.read_text().splitlines()
    kept = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    text = "\n".join(line for line, keep in zip(lines, kept, strict=True) if keep)
    reading = read_probe(text.encode(), probe_of(name), capacity_bytes=64 * GIB)
    assert len(reading.samples) <= len(read_probe(path.read_bytes(), probe_of(name)).samples)


def test_a_device_that_stands_twice_is_one_and_said():
    reading = read_probe(b"0, 31, 57, 15, 40536, 0\n0, 99, 57, 15, 40536, 0\n", probe_of("nvidia"))
    assert [sample.temperature_c for sample in reading.samples] == [31]
    assert reading.unread == ("device 0 once more",)


@pytest.mark.parametrize(
    "line", ["0, 31, -5, 15, 40536, 0", "0, 31, nan, 15, 40536, 0", "0, 31, 1e9, 15, 40536, 0"]
)
def test_a_figure_that_cannot_be_is_none_and_counted(line):
    reading = read_probe(line.encode(), probe_of("nvidia"))
    assert reading.samples[0].power_w is None
    assert reading.num_unread == 1


def test_a_flood_is_read_to_the_limit_in_little_time():
    started = time.monotonic()
    for name in PROBED:
        read_probe(b"| 0 " + b" " * MAX_BYTES * 2, probe_of(name))
        read_probe((b"| 0   0C 0 W/ 0 W |" + b"|" * 900 + b"\n") * 1500, probe_of(name))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "regex",
    [
        "(a+)+$",
        "(a?)*b",
        "(a*)*b",
        "((ab)+)+c",
        "(a*b*)*c",
        "(a*)?b",
        "(a|a)*b",
        "a*a*b",
        r"\s*\s+x",
        "(.*),(.*)",
        r"(?=a)b",
        r"(a)\1",
        "(?i)a",
        "a*?b",
        "a{1000}",
        "(",
        r"\bx",
    ],
)
def test_an_expression_that_could_be_slow_is_refused(regex):
    assert complaint(regex) is not None
    with pytest.raises(ValueError, match=r"regular expression|two|not offered|flags|repeats"):
        compiled(regex)


@pytest.mark.parametrize(
    "regex",
    [r"^\|\s*(\d+)\s+[^|\s][^|]*\|$", "(CN|Card)", r"a{2,4}b", "(ab?){2,3}c", "a*b*c*$", "(a|b|)c", "é+[^é]"],
)
def test_an_expression_with_one_way_to_go_on_is_taken(regex):
    assert complaint(regex) is None


@pytest.mark.parametrize("regex", [r"^\|\s*(\d+)\s+[^|\s][^|]*\|$", "a*b*c*d*$", "(ab?){2,3}c", "(a|b)*c"])
def test_what_is_taken_is_fast_on_a_long_line(regex):
    started = time.monotonic()
    for letter in ("a", "ab", "| 1 ", "| 1 " + "x" * 50, "b"):
        compiled(regex).match(letter * 20_000)
    assert time.monotonic() - started < 20


def test_a_stand_in_gets_plain_data_only():
    for name in PROBED:
        assert json.loads(json.dumps(stand_in(probe_of(name)))) == stand_in(probe_of(name))
