"""What the host makes of ranks that share out one model: proven when all is well, and who it was when not."""

import json
import os
import signal
from dataclasses import replace

import pytest

from orchestrator.metrics import summarize
from orchestrator.parse.status import read_status
from orchestrator.plan import BatchPlan, DataPlan, ParallelPlan, PrecisionPlan, to_json
from orchestrator.verdict import Verdict, judge
from tests.cellmaker import NONCE, SEEN, make_cell, numbered, read

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(600)]

WORDS = {
    1: "rank 1: tensor group 0–1, pipeline stage 0, data rank 0",
    2: "rank 2: tensor group 2–3, pipeline stage 0, data rank 1",
    4: "rank 4: tensor group 4–5, pipeline stage 1, data rank 0",
    7: "rank 7: tensor group 6–7, pipeline stage 1, data rank 1",
}


def cell_of(bench, **changes):
    """A plan's cell of eight ranks: two each of tensor, pipeline and data."""
    tokens = bench.job()["data"]  # writes the file
    cell = make_cell(per_node=8, device_type="cpu", warmup=2, measured=changes.pop("measured", 6))
    model = replace(
        cell.job.model,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        ffn_hidden_size=80,
        vocab_size=256,
    )
    parallel = ParallelPlan(
        tensor_parallel_size=2,
        pipeline_parallel_size=2,
        virtual_pipeline_size=1,
        pipeline_layers=None,
        sequence_parallel=True,
        shard_optimizer=True,
        overlap=True,
    )
    job = replace(
        cell.job,
        engine="native",
        device=replace(cell.job.device, deepspeed_accelerator=None, **changes),
        model=model,
        data=DataPlan(**tokens),
        batch=BatchPlan(
            sequence_length=32,
            micro_batch_size=1,
            gradient_accumulation_steps=4,
            data_parallel_size=2,
            world_size=8,
            global_batch_size=8,
        ),
        precision=PrecisionPlan(label="fp32", compute_dtype="fp32", mechanism="none"),
        zero=replace(cell.job.zero, stage=0),
        parallel=parallel,
    )
    return replace(cell, job=job, devices_per_node=8)


def seen_of(cell, result, **host):
    """(judgement, logs) of what the ranks left."""
    logs = {
        rank: read((result.output / f"rank{rank}" / "events.jsonl").read_bytes(), rank)
        for rank in range(8)
        if (result.output / f"rank{rank}" / "events.jsonl").exists()
    }
    status = read_status((result.output / "status.json").read_bytes())
    host = replace(SEEN, launcher_exit=result.code, **host)
    return judge(cell, logs, {0: status}, host), logs


@pytest.fixture(scope="module")
def measured(shared_bench):
    cell = cell_of(shared_bench)
    result = shared_bench.run(to_json(cell.job))
    assert result.code == 0, result.explain()
    return cell, result


def test_a_run_is_measured_with_its_proofs(measured):
    cell, result = measured
    judgement, logs = seen_of(cell, result)
    assert judgement.verdict is Verdict.MEASURED, judgement.reasons
    details = {proof.name: proof.detail for proof in judgement.proofs}
    assert details["places"].startswith("8 ranks on the planned grid, tensor 2 pipeline 2 data 2")
    assert details["agreement"] == "one loss a data rank and one gradient norm in each of 8 steps"
    assert f"{cell.job.model.num_parameters} parameters" in details["model"]
    # 8 sequences of 32 tokens a step, whatever number of ranks took part in them.
    speed = summarize(cell, logs)["tokens_per_second_per_device"]
    time_s = sorted(max(logs[r].steps[n].duration_s for r in range(8)) for n in range(2, 8))
    assert 8 * 32 / time_s[-1] / 8 <= speed.value <= 8 * 32 / time_s[0] / 8


def forged(measured, rank, event, **values):
    """The judgement after `rank` had said something else in its records of one kind."""
    cell, result = measured
    logs = seen_of(cell, result)[1]
    status = json.loads((result.output / "status.json").read_text())
    text = (result.output / f"rank{rank}" / "events.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        if record["event"] == event:
            record.update(values)
        for key in ("crc32", "v", "nonce", "rank", "seq", "sha256", "count"):
            record.pop(key, None)
    lines = numbered(records, rank=rank, nonce=NONCE)
    end = json.loads(lines[-1])
    status["ranks"][rank].update(end_count=end["count"], end_sha256=end["sha256"])
    logs[rank] = read(b"".join(lines), rank)
    return judge(cell, logs, {0: read_status(json.dumps(status).encode())}, SEEN)


def test_untouched_records_stay_measured_when_written_again(measured):
    assert forged(measured, 5, "ready").verdict is Verdict.MEASURED


@pytest.mark.parametrize(
    ("event", "values", "reason"),
    [
        ("ready", {"tensor_rank": 0}, "places: rank 5: ready says tensor_rank 0, planned 1"),
        (
            "ready",
            {"pipeline_rank": 0, "data_rank": 1},
            "places: rank 5: ready says pipeline_rank 0, planned 1",
        ),
        ("ready", {"tensor_parallel_size": None}, "places: rank 5"),
        ("ready", {"num_local_parameters": 1}, "places: rank 5: ready says num_local_parameters 1"),
        ("ready", {"virtual_pipeline_size": 2}, "places: rank 5: ready says virtual_pipeline_size 2"),
        ("ready", {"sequence_parallel": False}, "places: rank 5: ready says sequence_parallel False"),
        ("ready", {"num_optimizer_parameters": 1}, "places: rank 5: ready says num_optimizer_parameters 1"),
        ("ready", {"num_parameters": 45000}, "model: rank 5"),
        ("step", {"loss": 2.5}, "agreement: step 1: loss is"),
        ("step", {"grad_norm": 2.5}, "agreement: step 1: grad_norm is"),
        ("step", {"tokens": 64}, "batch: rank 5"),
    ],
)
def test_a_rank_that_claims_something_else_makes_it_invalid(measured, event, values, reason):
    judgement = forged(measured, 5, event, **values)
    assert judgement.verdict is Verdict.INVALID
    assert judgement.reasons[0].startswith(reason)


# What a rank computes becomes NaN in its third step: an activation, or the gradient of a weight alone.
FAULTY = """
import os, stage, torch
real, seen = stage.SplitMLP.forward, []
def forward(self, x):
    out = real(self, x)
    seen.append(1)
    if os.environ["RANK"] == "{rank}" and len(seen) == 17:  # two layers, four micro-batches a step
        {fault}
    return out
stage.SplitMLP.forward = forward
"""
FAULTS = {
    "activation": "out = out * float('nan')",
    "gradient": "self.down_proj.weight.register_hook(lambda g: g * float('nan'))",
}


@pytest.mark.parametrize(
    ("rank", "fault"),
    [
        pytest.param(rank, fault, marks=() if (rank, fault) == (4, "activation") else pytest.mark.slow)
        for rank in WORDS
        for fault in FAULTS
    ],
)
def test_the_rank_whose_numbers_first_were_not_finite_is_named(bench, rank, fault):
    cell = cell_of(bench, plugin="fault_plugin")
    faulty = bench.plugin(FAULTY.format(rank=rank, fault=FAULTS[fault]))
    judgement, _ = seen_of(cell, bench.run(to_json(cell.job), environment=faulty))
    assert judgement.verdict is Verdict.FAILED
    assert judgement.cause_rank == rank
    assert judgement.reasons[0].startswith(f"rank {rank} raised NonFiniteError: rank {rank} (")
    assert "after step 2" in judgement.reasons[0]
    assert sum("raised NonFiniteError" in reason for reason in judgement.reasons) == 1
    assert judgement.reasons[0].endswith(f"({WORDS[rank]})")


@pytest.mark.parametrize("rank", [pytest.param(r, marks=() if r == 2 else pytest.mark.slow) for r in WORDS])
def test_a_rank_that_is_killed_is_named_with_its_groups(bench, rank):
    cell = cell_of(bench, measured=5000)
    running = bench.start(to_json(cell.job))
    pid = running.await_record(rank, "hello")["pid"]
    running.await_record(rank, "step", step=3)
    os.kill(pid, signal.SIGKILL)
    judgement, _ = seen_of(cell, running.wait())
    assert judgement.verdict is Verdict.FAILED
    assert judgement.cause_rank == rank
    assert judgement.reasons[0].startswith(f"rank {rank} was ended by SIGKILL, not by its launcher")
    assert judgement.reasons[0].endswith(f"({WORDS[rank]})")


@pytest.mark.parametrize("rank", [pytest.param(r, marks=() if r == 1 else pytest.mark.slow) for r in WORDS])
def test_a_rank_that_stands_still_is_named_with_its_groups(bench, rank):
    cell = cell_of(bench, measured=5000)
    # Ranks that do hear SIGTERM end within a tenth of a second; a busy machine has a hundred times as long.
    running = bench.start(to_json(cell.job), options=("--grace", "15"))
    pid = running.await_record(rank, "hello")["pid"]
    running.await_record(rank, "step", step=3)
    os.kill(pid, signal.SIGSTOP)
    last = running.records(rank, "step")[-1]["step"]
    for other in set(range(8)) - {rank}:  # all come as far as the one that stands still
        running.await_record(other, "step", step=last)
    running.process.terminate()  # what follow.py does when no step comes any more
    judgement, _ = seen_of(cell, running.wait(), stopped="stall")
    assert judgement.verdict is Verdict.FAILED
    assert judgement.cause_rank == rank
    assert judgement.reasons[0].startswith("hung")
    assert judgement.reasons[0].endswith(f"({WORDS[rank]})")
