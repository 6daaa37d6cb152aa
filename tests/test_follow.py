"""follow.py: slow is not hung, hung is noticed, and no clock but the given one decides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.follow import Gauge, Pace, Tail, onlooker
from orchestrator.load import load
from orchestrator.vendors import Vendor
from tests.cellmaker import OTHER_NONCE, honest, make_cell, numbered

if TYPE_CHECKING:
    from orchestrator.follow import Sight
    from orchestrator.vendors import Probe

ROOT = Path(__file__).parents[1]


def pace(**changes: object) -> Pace:
    values = {
        "started_s": 100.0,
        "startup_limit_s": 60.0,
        "stall_limit_s": 10.0,
        "time_limit_s": None,
        "world_size": 2,
    }
    return Pace(**{**values, **changes})


def why(one: Pace, now_s: float) -> str | None:
    stopped = one.overdue(now_s)
    return stopped.why if stopped else None


def test_the_start_has_its_own_longer_limit() -> None:
    one = pace()
    assert why(one, 159.9) is None
    assert why(one, 160.1) == "startup_limit"


def test_a_start_is_over_only_when_every_rank_has_made_a_step() -> None:
    one = pace()
    one.saw_step(0, 1, 110.0)
    assert why(one, 125.0) is None
    assert why(one, 161.0) == "startup_limit"
    assert "rank 1: none" in one.overdue(161.0).detail


def test_a_rank_that_still_moves_keeps_the_cell_alive_and_silence_ends_it() -> None:
    one = pace()
    for now_s, step in ((110.0, 1), (119.0, 2)):
        one.saw_step(0, step, now_s)
        one.saw_step(1, step, now_s)
    assert why(one, 128.9) is None
    assert why(one, 129.1) == "stall"
    assert "rank 0: 2, rank 1: 2" in one.overdue(129.1).detail


def test_a_record_seen_again_is_no_sign_of_life() -> None:
    one = pace()
    for rank in (0, 1):
        one.saw_step(rank, 1, 110.0)
        one.saw_step(rank, 1, 119.0)
    assert why(one, 120.5) == "stall"


def test_the_time_limit_comes_first() -> None:
    assert why(pace(time_limit_s=5.0), 106.0) == "time_limit"


def test_a_tail_reads_each_byte_once_and_waits_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == b""
    path.write_bytes(b"ab")
    assert tail.read() == b"ab"
    assert tail.read() == b""
    with path.open("ab") as file:
        file.write(b"cd")
    assert tail.read() == b"cd"


def probe() -> Probe:
    found = load(ROOT / "dockerfiles" / "nvidia" / "vendor.yaml", Vendor).probe
    assert found is not None
    return found


def probed(*lines: str, rc: int = 0) -> bytes:
    """A record of node/monitor.py."""
    record = {"t_s": 1.0, "took_s": 0.1, "rc": rc, "out": "\n".join(lines), "err": ""}
    return json.dumps(record).encode() + b"\n"


def test_a_gauge_shows_the_newest_whole_record_and_reads_no_byte_twice(tmp_path: Path) -> None:
    path = tmp_path / "monitor.jsonl"
    gauge = Gauge(path, probe(), capacity_bytes=None)
    gauge.look()
    assert gauge.samples == ()
    whole = probed("0, 40, 100.00, 10, 100, 1") + probed("0, 50, 200.00, 20, 100, 1")
    path.write_bytes(whole[:-20])
    gauge.look()
    assert [one.temperature_c for one in gauge.samples] == [40.0]
    with path.open("ab") as file:
        file.write(whole[-20:])
    gauge.look()
    assert [one.temperature_c for one in gauge.samples] == [50.0]
    with path.open("ab") as file:
        file.write(probed("broken", rc=9) + b'not json\n{"t_s": 9.0, "end": "asked to", "samples": 3}\n')
    gauge.look()
    assert [one.temperature_c for one in gauge.samples] == [50.0]
    # What was read once is not read again, whatever becomes of it.
    path.write_bytes(b"x" * path.stat().st_size)
    gauge.look()
    assert [one.temperature_c for one in gauge.samples] == [50.0]


class Bed:
    """A cell of two nodes with two devices each, and the files that its nodes send."""

    def __init__(self, folder: Path) -> None:
        self.cell = dataclasses.replace(make_cell(num_nodes=2, per_node=2), probe=probe())
        self.folder = folder
        self.made = honest(self.cell)
        self.sights: list[Sight] = []
        self.pace = pace(world_size=4)
        self.eyes = onlooker(
            self.cell,
            self.pace,
            events={rank: folder / f"rank{rank}" for rank in range(4)},
            monitors={node: folder / f"monitor{node}" for node in range(2)},
        )

    def writes(self, rank: int, *, begin: int, end: int) -> None:
        with (self.folder / f"rank{rank}").open("ab") as file:
            file.writelines(self.made.lines[rank][begin:end])

    def look(self, now_s: float) -> Sight:
        self.eyes.look(now_s, self.sights.append)
        return self.sights[-1]


def test_each_node_is_seen_by_its_own_ranks_and_its_own_probe(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    first = bed.look(100.0)
    assert [(one.node, one.state, one.step) for one in first.nodes] == [
        ("node-0", "starting", 0),
        ("node-1", "starting", 0),
    ]
    for rank in range(4):
        bed.writes(rank, begin=0, end=5 if rank < 2 else 4)  # hello, ready, then steps
    (tmp_path / "monitor0").write_bytes(probed("0, 40, 100.00, 10, 40, 1", "1, 60, 150.00, 30, 40, 1"))
    (tmp_path / "monitor1").write_bytes(probed("0, 41, [N/A], 10, 40, 1", "1, 42, 90.00, 5, 40, 1"))
    left, right = bed.look(101.0).nodes
    assert (left.state, left.step, right.step) == ("training", 3, 2)
    assert left.loss == pytest.approx(4.98)
    assert left.tokens_per_second_per_device == pytest.approx(2 * 4096 / 2.0)
    mib = 1024**2
    assert (left.memory_used_bytes, left.memory_total_bytes) == (30 * mib, 40 * mib)
    assert (left.temperature_c, left.power_w) == (60.0, 250.0)
    # One device's power is not known, so that of the node is not.
    assert (right.temperature_c, right.power_w) == (42.0, None)
    assert bed.sights[-1].step == 2
    assert bed.sights[-1].slowest == right


def test_a_node_that_stopped_moving_is_shown_as_quiet_and_one_that_ended_as_ended(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    for rank in range(4):
        bed.writes(rank, begin=0, end=5)
    assert [one.state for one in bed.look(100.0).nodes] == ["training", "training"]
    for rank in (0, 1):
        bed.writes(rank, begin=5, end=len(bed.made.lines[rank]))
    assert [one.state for one in bed.look(140.0).nodes] == ["ended", "quiet 40 s"]


def test_a_node_whose_rank_raised_is_shown_as_failed(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    bed.made.records[3][3:] = [{"event": "fail", "type": "E", "message": "m", "traceback": "t"}]
    bed.made.seal()
    for rank in range(4):
        bed.writes(rank, begin=0, end=5)
    assert [one.state for one in bed.look(100.0).nodes] == ["training", "failed"]


def test_records_of_another_run_are_not_shown(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    lines = numbered(bed.made.records[0], rank=0, nonce=OTHER_NONCE)
    (tmp_path / "rank0").write_bytes(b"".join(lines))
    assert bed.look(100.0).reported == 0
