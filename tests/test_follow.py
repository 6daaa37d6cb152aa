"""follow.py: slow is not hung, hung is noticed, and no clock but the given one decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.follow import Pace, Tail

if TYPE_CHECKING:
    from pathlib import Path


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
