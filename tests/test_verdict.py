"""No proof, no number: an honest cell is MEASURED, and everything else is not and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.parse.strict import Fields
from orchestrator.plan import PrecisionPlan
from orchestrator.verdict import Judgement, Verdict, judge
from orchestrator.verdict.evidence import HostSeen, host_seen
from tests.cellmaker import (
    NONCE,
    OTHER_NONCE,
    SEEN,
    UNKNOWN_PEAK,
    Made,
    ended_as,
    honest,
    make_cell,
    make_records,
    not_run,
    numbered,
    sealed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PROOFS = (
    "all_ranks_reported",
    "records_intact",
    "nonce",
    "end_records",
    "exit_codes",
    "steps_reached",
    "window_complete",
    "losses_finite",
    "job",
    "model",
    "world_size",
    "batch",
    "data",
    "wall_clock",
    "window_covered",
    "mfu_possible",
)


def broken(judgement: Judgement) -> set[str]:
    return {proof.name for proof in judgement.proofs if not proof.held}


def detail(judgement: Judgement, name: str) -> str:
    return next(proof.detail for proof in judgement.proofs if proof.name == name)


def resealed(made: Made, rank: int, index: int, **changes: Any) -> None:
    """Changes a line and makes its CRC right again, but not what the end record says of it."""
    record = {key: value for key, value in json.loads(made.lines[rank][index]).items() if key != "crc32"}
    made.lines[rank][index] = sealed(record | changes)


def lied(**changes: Any) -> Callable[[Made], None]:
    """A trainer that states something else at step 5 on rank 1, everything else consistent."""

    def forge(made: Made) -> None:
        made.records[1][1 + 5].update(changes)
        made.seal()

    return forge


def lied_in(index: int, **changes: Any) -> Callable[[Made], None]:
    def forge(made: Made) -> None:
        made.records[1][index].update(changes)
        made.seal()

    return forge


def stated(**changes: Any) -> Callable[[Made], None]:
    def forge(made: Made) -> None:
        made.statuses[0].update(changes)

    return forge


def edited_byte(made: Made) -> None:
    made.lines[1][6] = made.lines[1][6].replace(b'"tokens":8192', b'"tokens":8193')


def dropped_line(made: Made) -> None:
    del made.lines[1][6]


def reordered(made: Made) -> None:
    made.lines[1][6], made.lines[1][7] = made.lines[1][7], made.lines[1][6]


def duplicated(made: Made) -> None:
    made.lines[1].insert(6, made.lines[1][6])


def truncated(made: Made) -> None:
    made.lines[1][-1] = made.lines[1][-1][:-20]


def cut_before_end(made: Made) -> None:
    del made.lines[1][-1]


def replayed(made: Made) -> None:
    made.lines[1] = numbered(make_records(made.cell, 1), rank=1, nonce=OTHER_NONCE)
    last = json.loads(made.lines[1][-1])
    made.rank_status(1).update(end_count=last["count"], end_sha256=last["sha256"])


def one_record_replayed(made: Made) -> None:
    made.lines[1][6] = numbered(make_records(made.cell, 1), rank=1, nonce=OTHER_NONCE)[6]


def swapped(made: Made) -> None:
    made.lines[0], made.lines[1] = made.lines[1], made.lines[0]


def missing_file(made: Made) -> None:
    del made.lines[1]


def empty_file(made: Made) -> None:
    made.lines[1] = []


def unplanned_file(made: Made) -> None:
    made.lines[2] = numbered(make_records(made.cell, 2), rank=2)


def no_end_record(made: Made) -> None:
    del made.records[1][-1]
    made.seal()


def wrong_count(made: Made) -> None:
    resealed(made, 1, -1, count=3)
    made.rank_status(1)["end_count"] = 3


def wrong_sha256(made: Made) -> None:
    resealed(made, 1, -1, sha256="0" * 64)
    made.rank_status(1)["end_sha256"] = "0" * 64


def edited_and_resealed(made: Made) -> None:
    resealed(made, 1, 6, loss=0.1)


def status_repeats_nothing(made: Made) -> None:
    made.rank_status(1).update(end_count=None, end_sha256=None)


def status_repeats_another(made: Made) -> None:
    made.rank_status(1)["end_sha256"] = made.rank_status(0)["end_sha256"][::-1]


def rank_not_in_status(made: Made) -> None:
    del made.statuses[0]["ranks"][1]


def rank_twice_in_status(made: Made) -> None:
    made.statuses[0]["ranks"].append(made.statuses[0]["ranks"][0])


def no_status(made: Made) -> None:
    made.statuses.clear()


def step_number_twice(made: Made) -> None:
    made.records[1][1 + 5]["step"] = 4
    made.seal()


def fewer_steps(made: Made) -> None:
    made.records = {rank: make_records(made.cell, rank, steps=11) for rank in (0, 1)}
    made.seal()


def more_steps(made: Made) -> None:
    made.records = {rank: make_records(made.cell, rank, steps=13) for rank in (0, 1)}
    made.seal()


def overlapping(made: Made) -> None:
    made.records[1][1 + 6]["start_s"] = made.records[1][1 + 5]["end_s"] - 0.5
    made.seal()


def stretched(made: Made) -> None:
    made.statuses[0].update(wall_s=20.0, ended_s=1020.0)


def short_for_the_host(made: Made) -> None:
    made.host = replace(SEEN, launcher_wall_s=20.0)


def timed_too_short(made: Made) -> None:
    """Every step ends a hundred times too early, as where nobody waited for the device."""
    for records in made.records.values():
        for record in records:
            if record["event"] == "step":
                record["end_s"] = record["start_s"] + (record["end_s"] - record["start_s"]) / 100
    made.seal()


def before_the_launcher(made: Made) -> None:
    for records in made.records.values():
        for record in records:
            if record["event"] == "step":
                record.update(start_s=record["start_s"] - 1e6, end_s=record["end_s"] - 1e6)
    made.seal()


def older_than_the_host_saw(made: Made) -> None:
    made.statuses[0].update(started_s=-1e6, wall_s=5910.0 + 1e6)


def unseen_by_the_host(made: Made) -> None:
    made.host = replace(SEEN, launcher_wall_s=None)


def impossible_speed(made: Made) -> None:
    made.records = {rank: make_records(made.cell, rank, step_s=0.001) for rank in (0, 1)}
    made.seal()


#: name → (what is done to an honest cell, a proof that must name it)
FORGERIES: dict[str, tuple[Callable[[Made], None], str]] = {
    "edited byte": (edited_byte, "records_intact"),
    "dropped line": (dropped_line, "records_intact"),
    "reordered lines": (reordered, "records_intact"),
    "duplicated line": (duplicated, "records_intact"),
    "truncated in its last line": (truncated, "records_intact"),
    "cut before the end record": (cut_before_end, "end_records"),
    "replayed from another run": (replayed, "nonce"),
    "one record of another run": (one_record_replayed, "nonce"),
    "ranks swapped": (swapped, "records_intact"),
    "file missing": (missing_file, "all_ranks_reported"),
    "file empty": (empty_file, "all_ranks_reported"),
    "file of an unplanned rank": (unplanned_file, "records_intact"),
    "no end record": (no_end_record, "end_records"),
    "end record counts wrongly": (wrong_count, "end_records"),
    "end record with another SHA-256": (wrong_sha256, "end_records"),
    "edited with a right CRC": (edited_and_resealed, "end_records"),
    "status does not repeat the end": (status_repeats_nothing, "end_records"),
    "status repeats another end": (status_repeats_another, "end_records"),
    "status lacks a rank": (rank_not_in_status, "exit_codes"),
    "status has a rank twice": (rank_twice_in_status, "exit_codes"),
    "status of another run": (stated(nonce=OTHER_NONCE), "nonce"),
    "status of another node": (stated(node_rank=3), "exit_codes"),
    "status of another contract": (stated(contract=2), "exit_codes"),
    "no status": (no_status, "exit_codes"),
    "another end of steps": (lied_in(-1, steps=11), "end_records"),
    "step number twice": (step_number_twice, "steps_reached"),
    "a step too few": (fewer_steps, "steps_reached"),
    "a step too many": (more_steps, "steps_reached"),
    "overlapping steps": (overlapping, "window_complete"),
    "step of no duration": (lied(end_s=1050.0, start_s=1050.0), "window_complete"),
    "step that ends before it starts": (lied(end_s=1040.0, start_s=1050.0), "window_complete"),
    "NaN loss": (lied(loss=None, loss_nonfinite="nan"), "losses_finite"),
    "infinite loss": (lied(loss=None, loss_nonfinite="inf"), "losses_finite"),
    "loss that is null": (lied(loss=None), "losses_finite"),
    "a finite loss that says it is not": (lied(loss_nonfinite="nan"), "losses_finite"),
    "tokens wrong": (lied(tokens=16384), "batch"),
    "samples wrong": (lied(samples=4), "batch"),
    "micro batch wrong": (lied_in(1, micro_batch_size=2), "batch"),
    "sequence length wrong": (lied_in(1, sequence_length=2048), "batch"),
    "world size wrong in hello": (lied_in(0, world_size=1), "world_size"),
    "world size wrong in ready": (lied_in(1, world_size=1), "world_size"),
    "another backend": (lied_in(0, backend="gloo"), "world_size"),
    "another device type": (lied_in(0, device_type="cpu"), "world_size"),
    "another engine": (lied_in(0, engine="ddp"), "world_size"),
    "another dtype": (lied_in(1, compute_dtype="fp16"), "world_size"),
    "another seed": (lied_in(0, seed=1), "world_size"),
    "another kernel in the model": (lied_in(1, attention="flash_attn_2"), "world_size"),
    "compiled": (lied_in(1, compiled=True), "world_size"),
    "a loss scale": (lied_in(1, loss_scaling="dynamic"), "world_size"),
    "products rounded to TF32": (lied_in(1, tf32=True), "world_size"),
    "another job": (lied_in(0, job_sha256="0" * 64), "job"),
    "another learning rate": (lied(learning_rate=0.0), "job"),
    "a smaller model": (lied_in(1, num_parameters=7), "model"),
    "another embedding": (lied_in(1, num_embedding_parameters=7), "model"),
    "negative memory": (lied_in(-2, peak_rss_bytes=-5), "records_intact"),
    "negative loss": (lied(loss=-1.0), "records_intact"),
    "steps timed too short": (timed_too_short, "window_covered"),
    "steps before the launcher lived": (before_the_launcher, "wall_clock"),
    "a launcher older than the host saw": (older_than_the_host_saw, "wall_clock"),
    "a launcher that nobody saw": (unseen_by_the_host, "wall_clock"),
    "another data set": (lied_in(1, data_sha256="0" * 64), "data"),
    "less data": (lied_in(1, data_num_tokens=5), "data"),
    "wall clock shorter than the steps": (stretched, "wall_clock"),
    "wall clock that contradicts itself": (stated(wall_s=6000.0), "wall_clock"),
    "host saw a shorter life": (short_for_the_host, "wall_clock"),
    "MFU beyond 100 %": (impossible_speed, "mfu_possible"),
    "ready that is missing": (lambda made: (made.records[1].pop(1), made.seal())[0], "data"),
}


def test_an_honest_cell_is_measured_with_every_proof() -> None:
    judgement = honest().judge()
    assert judgement.verdict is Verdict.MEASURED
    assert judgement.reasons == ()
    assert tuple(proof.name for proof in judgement.proofs) == PROOFS
    assert all(proof.held and proof.detail for proof in judgement.proofs)
    assert detail(judgement, "all_ranks_reported") == "2 of 2 planned ranks wrote a hello"
    assert detail(judgement, "wall_clock") == (
        "24 s of steps at most in 4910 s of the launcher, 5000 s seen by the host"
    )


def test_an_honest_cell_on_several_nodes_is_measured() -> None:
    assert honest(make_cell(num_nodes=3, per_node=4)).judge().verdict is Verdict.MEASURED


def test_an_unknown_event_of_a_later_trainer_is_no_fault() -> None:
    made = honest()
    made.records[0].insert(3, {"event": "heartbeat"})
    judgement = made.seal().judge()
    assert judgement.verdict is Verdict.MEASURED
    assert "1 of events unknown" in detail(judgement, "records_intact")


def test_an_unknown_peak_is_said_and_no_fault() -> None:
    judgement = honest(make_cell(peak=UNKNOWN_PEAK)).judge()
    assert judgement.verdict is Verdict.MEASURED
    assert detail(judgement, "mfu_possible") == "no bf16 peak is known: the vendor publishes none"


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_is_measured_and_each_names_its_proof(name: str) -> None:
    forge, proof = FORGERIES[name]
    made = honest()
    forge(made)
    judgement = made.judge()
    assert judgement.verdict in (Verdict.INVALID, Verdict.FAILED)
    assert proof in broken(judgement)
    assert judgement.reasons
    if judgement.verdict is Verdict.INVALID:
        assert any(reason.startswith(f"{proof}: ") for reason in judgement.reasons)


def test_everything_else_still_holds_where_one_thing_is_forged() -> None:
    made = honest()
    lied(tokens=16384)(made)
    assert broken(made.judge()) == {"batch"}
    made = honest()
    overlapping(made)
    assert broken(made.judge()) == {"window_complete"}


def test_a_cell_that_never_started_is_not_run() -> None:
    made = honest()
    made.host = not_run("the run was stopped by SIGINT")
    judgement = made.judge()
    assert judgement.verdict is Verdict.NOT_RUN
    assert judgement.reasons == ("the run was stopped by SIGINT",)
    assert broken(judgement) == set(PROOFS)


def raised(made: Made, rank: int, *, after_s: float, message: str = "boom", kind: str = "ValueError") -> None:
    """`rank` raises after step 4 and exits 1."""
    made.records[rank] = [
        *made.records[rank][: 2 + 4],
        {"event": "fail", "type": kind, "message": message, "traceback": f"Traceback\n{kind}: {message}"},
    ]
    made.lines[rank] = numbered(made.records[rank], rank=rank)
    ended_as(made, rank, after_s=after_s, exit_code=1)


def killed(made: Made, rank: int, *, after_s: float) -> None:
    made.lines[rank] = made.lines[rank][: 2 + 4]
    ended_as(made, rank, after_s=after_s, exit_code=None, signal="SIGTERM", killed=True)


def failed(made: Made) -> None:
    made.statuses[0]["stopped_by"] = "rank_failed"
    made.host = replace(SEEN, launcher_exit=1)


def test_the_first_rank_that_raised_is_on_top_and_the_rest_follow() -> None:
    made = honest(make_cell(per_node=4))
    raised(made, 2, after_s=50.0, message="bad\x1b[31m\nnews")
    raised(made, 0, after_s=51.0, kind="RuntimeError", message="Connection closed by peer")
    killed(made, 1, after_s=53.0)
    killed(made, 3, after_s=53.0)
    failed(made)
    judgement = made.judge()
    assert judgement.verdict is Verdict.FAILED
    assert judgement.reasons == (
        "rank 2 raised ValueError: bad\\x1b[31m\\x0anews, after step 4",
        "then rank 0 raised RuntimeError: Connection closed by peer, after step 4",
        "stopped by the launcher as a consequence: ranks 1, 3",
        "node 0: its launcher was stopped by rank_failed",
        "the launcher exited with code 1",
    )
    assert judgement.cause_rank == 2
    assert judgement.traceback == "Traceback\nValueError: bad\x1b[31m\nnews"


def test_a_signal_is_named_and_the_killed_ranks_are_no_cause() -> None:
    made = honest()
    killed(made, 0, after_s=49.0)  # reaped first, but the launcher stopped it
    made.lines[1] = made.lines[1][: 2 + 3]
    ended_as(made, 1, after_s=50.0, exit_code=None, signal="SIGKILL")
    failed(made)
    judgement = made.judge()
    assert judgement.reasons[0] == "rank 1 was ended by SIGKILL, not by its launcher, after step 3"
    assert judgement.cause_rank == 1
    assert judgement.traceback is None


def test_a_rank_that_left_with_0_before_its_end_is_the_cause_though_others_failed() -> None:
    made = honest()
    made.lines[1] = made.lines[1][: 2 + 3]
    ended_as(made, 1, after_s=50.02, exit_code=0)
    raised(made, 0, after_s=50.0, kind="RuntimeError", message="Connection closed by peer")
    failed(made)
    judgement = made.judge()
    assert judgement.verdict is Verdict.FAILED
    assert judgement.reasons[0] == (
        "rank 1 exited with code 0 before its end record, while others went on, after step 3"
    )
    assert judgement.reasons[1].startswith("then rank 0 raised RuntimeError")
    assert judgement.cause_rank == 1


def test_the_first_failure_of_several_nodes_is_by_time_since_each_launchers_own_start() -> None:
    made = honest(make_cell(num_nodes=2, per_node=1))
    made.statuses[1].update(started_s=900_000.0, ended_s=904_910.0)  # another machine, another clock
    raised(made, 0, after_s=60.0)
    raised(made, 1, after_s=0.0)
    made.rank_status(1)["ended_s"] = 900_050.0
    made.host = replace(SEEN, launcher_exit=1)
    assert made.judge().cause_rank == 1


def test_a_rank_that_lost_another_is_a_consequence_whatever_the_nodes_clocks_say() -> None:
    made = honest(make_cell(num_nodes=2, per_node=1))
    made.statuses[1].update(started_s=900_000.0, ended_s=904_910.0)
    raised(
        made,
        0,
        after_s=50.0,
        kind="RuntimeError",
        message="[pair.cc:553] Connection closed by peer [1.2.3.4]",
    )
    raised(made, 1, after_s=0.0, message="asked 2 GiB")
    made.rank_status(1)["ended_s"] = 900_060.0  # its launcher was started earlier, so this reads as later
    made.host = replace(SEEN, launcher_exit=1)
    judgement = made.judge()
    assert judgement.cause_rank == 1
    assert judgement.reasons[0].startswith("rank 1 raised ValueError: asked 2 GiB")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("stopped", "word"), [("node_lost", "lost"), ("container", "container")])
def test_a_rank_that_lost_another_is_no_cause_where_a_node_was_lost_and_one_that_raised_by_itself_is(
    stopped: str, word: str, own: bool
) -> None:
    made = honest(make_cell(num_nodes=2, per_node=1))
    raised(made, 0, after_s=50.0, kind="RuntimeError", message="Connection closed by peer [1.2.3.4]")
    if own:
        raised(made, 1, after_s=51.0)
    else:
        killed(made, 1, after_s=51.0)
    made.host = replace(SEEN, launcher_exit=None, stopped=stopped, detail="node-1: the lease expired")
    judgement = made.judge()
    lost, peer = f"{word}: node-1: the lease expired", "rank 0 raised RuntimeError: Connection closed by peer"
    if own:
        assert judgement.reasons[0].startswith("rank 1 raised ValueError")
        assert judgement.reasons[1] == lost
        assert judgement.reasons[2].startswith(f"then {peer}")
    else:
        assert judgement.reasons[0] == lost
        assert judgement.reasons[1].startswith(peer)
    assert judgement.cause_rank == (1 if own else None)


def test_a_hung_cell_says_which_rank_had_come_how_far() -> None:
    made = honest(make_cell(per_node=4))
    for rank, steps in enumerate((5, 4, 5, 5)):
        killed(made, rank, after_s=110.0)
        made.lines[rank] = numbered(make_records(made.cell, rank)[: 2 + steps], rank=rank)
    made.host = replace(SEEN, launcher_exit=75, stopped="stall", detail="no step for 60 s")
    made.statuses[0]["stopped_by"] = "signal:SIGTERM"
    judgement = made.judge()
    assert judgement.verdict is Verdict.FAILED
    assert judgement.reasons[:4] == (
        "hung: rank 1 did not arrive: last step 4, others 5; no step for 60 s",
        "last step 4: rank 1",
        "last step 5: ranks 0, 2, 3",
        "stopped by the launcher as a consequence: ranks 0-3",
    )
    assert judgement.cause_rank == 1


def test_a_cell_that_never_got_going_says_who_was_not_ready() -> None:
    made = honest()
    made.lines = {0: made.lines[0][:2], 1: made.lines[1][:1]}
    made.host = replace(SEEN, launcher_exit=75, stopped="startup_limit")
    reasons = made.judge().reasons
    assert reasons[-4:-1] == (
        "start-up limit: rank 1 did not arrive: not ready; not every rank was under way after 600 s",
        "not ready: rank 1",
        "ready, no step yet: rank 0",
    )


def test_a_signal_to_the_run_is_on_top_though_ranks_fell_of_it() -> None:
    made = honest()
    raised(made, 0, after_s=50.0, kind="KeyboardInterrupt", message="")
    made.host = replace(SEEN, launcher_exit=75, stopped="signal:SIGINT")
    judgement = made.judge()
    assert judgement.reasons[0] == "stopped: stopped by SIGINT"
    assert judgement.cause_rank is None


def test_no_record_at_all_is_a_failure() -> None:
    made = honest()
    made.lines.clear()
    judgement = made.judge()
    assert judgement.verdict is Verdict.FAILED
    assert "no record at all: ranks 0, 1" in judgement.reasons


def test_a_launcher_that_vanished_is_a_failure() -> None:
    made = honest()
    no_status(made)
    made.host = replace(SEEN, launcher_exit=None)
    judgement = made.judge()
    assert judgement.verdict is Verdict.FAILED
    assert judgement.reasons == ("the launcher's exit was never seen",)


def test_a_rank_that_raised_is_the_cause_though_its_launcher_wrote_no_status() -> None:
    made = honest()
    raised(made, 1, after_s=5.0)
    no_status(made)
    made.host = replace(SEEN, launcher_exit=137)
    assert made.judge().reasons[0] == "rank 1 raised ValueError: boom, after step 4"


def test_a_rank_that_left_without_a_word_before_any_record() -> None:
    made = honest()
    made.lines[0] = []
    ended_as(made, 0, after_s=2.0, exit_code=3)
    failed(made)
    assert made.judge().reasons[0] == "rank 0 exited with code 3 and left no fail record, before any record"


def test_everything_empty_never_raises() -> None:
    judgement = judge(make_cell(), {}, {}, SEEN)
    assert judgement.verdict is Verdict.FAILED
    assert broken(judgement) == set(PROOFS)


def test_absurd_numbers_never_raise() -> None:
    made = honest()
    lied(start_s=-1e300, end_s=1e300, tokens=10**299, samples=-(10**299))(made)
    made.statuses[0].update(wall_s=-1e300, started_s=1e300)
    assert made.judge().verdict is Verdict.INVALID


def test_what_the_host_saw_is_checked() -> None:
    with pytest.raises(ValueError, match="stopped is 'bored'"):
        replace(SEEN, stopped="bored")
    with pytest.raises(ValueError, match="stopped is 'signal:SIGNOTHING'"):
        replace(SEEN, stopped="signal:SIGNOTHING")
    told = {name: getattr(SEEN, name) for name in HostSeen.__dataclass_fields__}
    assert host_seen(Fields(told)) == SEEN


def test_reasons_and_details_are_printable_whatever_the_files_hold() -> None:
    made = honest()
    ugly = "\x1b]0;owned\x07\u202e\n| <script>"
    lied_in(0, backend=ugly, hostname=ugly)(made)
    made.lines[0][4] = ugly.encode() + b"\n"
    made.statuses[0].update(nonce=ugly, stopped_by=ugly)
    judgement = made.judge()
    for text in (*judgement.reasons, *(proof.detail for proof in judgement.proofs)):
        assert text.isprintable(), text


def test_the_nonce_is_this_runs() -> None:
    assert NONCE in detail(honest().judge(), "nonce")


def in_fp16() -> Made:
    cell = make_cell()
    precision = PrecisionPlan(label="fp16", compute_dtype="fp16", mechanism="engine")
    return honest(replace(cell, job=replace(cell.job, precision=precision)))


def scaled(updates: Callable[[int], dict[str, Any]]) -> Judgement:
    """A cell in fp16 of 10 measured steps, whose step records get `updates` of the step's number."""
    made = in_fp16()
    for records in made.records.values():
        for record in records:
            if record["event"] == "step":
                record.update(updates(record["step"]))
    return made.seal().judge()


def test_a_scaled_loss_may_skip_one_update_of_a_few_and_no_more() -> None:
    total = make_cell().job.steps.total

    def skipping(*numbers: int) -> Judgement:
        return scaled(lambda step: {"loss_scale": 65536.0, "updated": step not in numbers})

    assert skipping().verdict is Verdict.MEASURED
    assert skipping(1, 2, total).verdict is Verdict.MEASURED
    assert "1 of 10 measured steps" in detail(skipping(1, 2, total), "updated")
    for wrong in (skipping(total - 1, total), skipping(*range(1, total + 1)), scaled(lambda _: {})):
        assert wrong.verdict is Verdict.INVALID
        assert broken(wrong) == {"updated"}


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_scaled_loss_that_never_came_to_a_measured_step_is_failed(steps: int) -> None:
    made = in_fp16()
    for rank in (0, 1):
        killed(made, rank, after_s=50.0)
        made.lines[rank] = made.lines[rank][: 2 + steps]
    made.host = replace(SEEN, launcher_exit=75, stopped="stall")
    judgement = made.judge()
    assert judgement.verdict is Verdict.FAILED
    assert detail(judgement, "updated") == "rank 0: no measured step; rank 1: no measured step"
