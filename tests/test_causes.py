"""Memory, disks and clocks: what the host knows beside the ranks' own words, and what it makes of both."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.derive import derive, render
from orchestrator.parse.stacks import Frame, Stand
from orchestrator.verdict import Verdict, judge
from orchestrator.verdict.evidence import HostSeen, Sighting
from tests.cellmaker import SEEN, Made, ended_as, honest, make_cell, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.verdict import Judgement


def broken(judgement: Judgement) -> dict[str, str]:
    return {proof.name: proof.detail for proof in judgement.proofs if not proof.held}


def judged(made: Made, **seen: Any) -> Judgement:
    made.host = replace(SEEN, **seen)
    return made.judge()


def test_a_kill_that_docker_calls_want_of_memory_is_told_so_and_another_is_not() -> None:
    for nodes, due in ((("node-0",), "out of memory (host): the kernel killed rank 1"), ((), "rank 1 was")):
        made = honest()
        ended_as(made, 1, after_s=30.0, exit_code=None, signal="SIGKILL")
        made.statuses[0]["stopped_by"] = "rank_failed"
        judgement = judged(made, launcher_exit=1, oom_killed=nodes)
        assert judgement.verdict is Verdict.FAILED
        assert judgement.reasons[0].startswith(due)
        assert judgement.cause_rank == 1


def test_want_of_memory_beside_exit_0_disproves_the_exit_codes() -> None:
    judgement = judged(honest(), oom_killed=("node-0",))
    assert judgement.verdict is not Verdict.MEASURED
    assert "OOMKilled" in broken(judgement)["exit_codes"]


def test_ranks_and_launchers_without_room_say_disk_full() -> None:
    made = honest()
    ended_as(made, 0, after_s=30.0, exit_code=73)
    made.statuses[0]["stopped_by"] = "rank_failed"
    judgement = judged(made, launcher_exit=1)
    assert judgement.reasons[0].startswith("disk full: rank 0 had no room for its records")
    made = honest()
    made.statuses.clear()
    judgement = judged(made, launcher_exit=73)
    assert judgement.verdict is Verdict.FAILED
    assert any("disk full: the launcher had no room" in one for one in judgement.reasons)


@pytest.mark.parametrize(
    ("after_s", "held"), [(1e4, True), (40.0, True), (14.5, True), (5.0, False), (0.0, False)]
)
def test_a_step_that_was_seen_before_it_was_recorded_disproves(after_s: float, held: bool) -> None:
    made = honest()
    step = next(record for record in made.records[1] if record.get("step") == 1)
    assert step["end_s"] == 1012.0, "twelve seconds after its launcher's start"
    judgement = judged(made, sighted=(Sighting(rank=1, step=1, after_s=after_s),))
    assert ("wall_clock" not in broken(judgement)) is held
    if not held:
        assert "rank 1: the host saw step 1" in broken(judgement)["wall_clock"]


def test_sightings_of_what_is_not_there_are_left_to_other_proofs() -> None:
    sighted = tuple(Sighting(rank=rank, step=99, after_s=0.0) for rank in (0, 1, 7))
    assert judged(honest(), sighted=sighted).verdict is Verdict.MEASURED


@pytest.mark.parametrize(("late_s", "held"), [(1.0, True), (14.0, True), (17.0, False), (4000.0, False)])
def test_an_exit_long_after_every_end_record_disproves(late_s: float, held: bool) -> None:
    """Ten seconds and a quarter of 24 s of steps."""
    made = honest()
    for rank in (0, 1):
        end = json.loads(made.lines[rank][-1])
        made.rank_status(rank)["ended_s"] = end["t_s"] + late_s
    assert ("wall_clock" not in broken(judged(made))) is held


def test_one_rank_that_left_in_time_is_enough() -> None:
    """The others may wait for whom they like."""
    made = honest()
    made.rank_status(0)["ended_s"] = 5900.0
    assert judged(made).verdict is Verdict.MEASURED


def test_who_did_not_arrive_is_the_cause_and_where_it_stood_is_shown() -> None:
    made = honest(make_cell(per_node=2))
    for rank in (0, 1):
        made.lines[rank] = made.lines[rank][:6]
        ended_as(made, rank, after_s=100.0, exit_code=None, signal="SIGTERM", killed=True)
    made.statuses[0]["stopped_by"] = "signal:SIGTERM"
    host = replace(SEEN, launcher_exit=75, stopped="stall", detail="no step for 60 s")
    frames = (Frame(file="/nx8/trainer/data.py", line=7, function="micro_batches"),)
    waits = (Frame(file="/x/torch/distributed/distributed_c10d.py", line=9, function="all_reduce"),)
    stands = {
        0: Stand(rank=0, pid=1, state="S", waits_in=None, cpu_share=0.0, frames=waits, text="waits"),
        1: Stand(rank=1, pid=2, state="S", waits_in=None, cpu_share=0.0, frames=frames, text="a stack"),
    }
    judgement = judge(made.cell, made.logs(), made.read_statuses(), host, stands=stands)
    assert judgement.reasons[0] == (
        "hung: rank 1 did not arrive: in micro_batches (data.py:7); rank 0 waits for others; no step for 60 s"
    )
    assert judgement.cause_rank == 1
    assert judgement.traceback is not None
    assert judgement.traceback.endswith("a stack")


@pytest.mark.parametrize(("deaf", "named"), [((1,), True), ((1, 2), False), ((0, 1, 2), False), ((), False)])
def test_the_only_one_that_did_not_hear_sigterm_is_the_cause(deaf: tuple[int, ...], named: bool) -> None:
    """Where nobody could be asked, and all had come equally far."""
    made = honest(make_cell(per_node=3))
    for rank in (0, 1, 2):
        made.lines[rank] = made.lines[rank][:6]
        ended = "SIGKILL" if rank in deaf else "SIGTERM"
        ended_as(made, rank, after_s=100.0, exit_code=None, signal=ended, killed=True)
    judgement = judged(made, launcher_exit=75, stopped="stall", detail="no step for 60 s")
    assert judgement.cause_rank == (1 if named else None)
    blamed = "rank 1 did not arrive: did not end at SIGTERM, as others did; " if named else ""
    assert judgement.reasons[0] == f"hung: {blamed}no step for 60 s"


def with_waits(made: Made, waits_s: list[float]) -> Made:
    for rank, wait_s in enumerate(waits_s):
        for record in made.records[rank]:
            if record["event"] == "step":
                record["comm_wait_s"] = wait_s
    return made.seal()


def test_a_straggler_marks_the_result_and_changes_no_figure(tmp_path: Path) -> None:
    documents = []
    for number, waits_s in enumerate(([0.1, 0.1], [0.8, 0.1])):
        folder, plan = write_run(tmp_path / str(number), with_waits(honest(), waits_s))
        document = json.loads(render(derive(folder, plan)))
        documents.append(document["cells"][0])
    healthy, slow = documents
    assert "degraded" not in healthy
    assert slow["verdict"] == "MEASURED"
    assert slow["degraded"] == [{"what": "rank", "node": "node-0", "rank": 1, "factor": pytest.approx(1.583)}]
    for name in ("tokens_per_second_per_device", "loss", "mfu_published", "step_time_s"):
        if name in healthy["metrics"]:
            assert slow["metrics"][name] == healthy["metrics"][name]


def test_a_straggler_stands_under_the_table_in_both_languages(tmp_path: Path) -> None:
    from orchestrator.report.markdown import table_text

    folder, plan = write_run(tmp_path, with_waits(honest(), [0.8, 0.1]))
    document = json.loads(render(derive(folder, plan)))
    assert "degraded: the result stands" in table_text(document, "en")
    assert "rank 1 (node-0) computed 1.58 times" in table_text(document, "en")
    assert "degraded：结果保留" in table_text(document, "zh")


def test_what_the_host_saw_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = honest()
    made.host = replace(SEEN, sighted=(Sighting(rank=0, step=2, after_s=20.5),), oom_killed=())
    folder, plan = write_run(tmp_path, made)
    (cell,) = json.loads(render(derive(folder, plan)))["cells"]
    assert cell["host_seen"]["sighted"] == [{"rank": 0, "step": 2, "after_s": 20.5}]
    assert "oom_killed" not in cell["host_seen"]
    assert isinstance(made.host, HostSeen)
