"""Our own engine: however tensor, pipeline and data parallelism share it out, it is one training."""

import json

import pytest

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(600)]


def parallel(tensor=1, pipeline=1, **changes):
    block = {
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "virtual_pipeline_size": 1,
        "pipeline_layers": None,
        "sequence_parallel": False,
        "shard_optimizer": False,
        "overlap": True,
    }
    return {**block, **changes}


def ladder_job(bench, tensor=1, pipeline=1, data=1, accumulation=4, layers=4, **changes):
    """20 steps of a model of four layers on the same 8 sequences a step."""
    block = {k[10:]: changes.pop(k) for k in list(changes) if k.startswith("parallel__")}
    return bench.job(
        engine="native",
        parallel=parallel(tensor, pipeline, **block),
        model__num_layers=layers,
        batch__world_size=tensor * pipeline * data,
        batch__micro_batch_size=8 // (data * accumulation),
        batch__gradient_accumulation_steps=accumulation,
        steps__measured_steps=18,
        **changes,
    )


def curves(result):
    """(loss, gradient norm) of every step: the mean over ranks, and what all of them say."""
    assert result.code == 0, result.explain()
    steps = [result.records(rank["rank"], "step") for rank in result.status["ranks"]]
    norms = [[s["grad_norm"] for s in one] for one in steps]
    assert all(one == norms[0] for one in norms)
    return [sum(s["loss"] for s in one) / len(one) for one in zip(*steps, strict=True)], norms[0]


@pytest.fixture(scope="module")
def alone(shared_bench):
    """The whole global batch on one rank, by torch's own engine."""
    job = ladder_job(shared_bench, accumulation=1)
    job["engine"] = "ddp"
    del job["parallel"]
    return curves(shared_bench.run(job))


def assert_same(result, alone):
    for name, ours, theirs in zip(("loss", "norm"), curves(result), alone, strict=True):
        worst = max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
        print(f"{name}, largest relative difference: {worst:.1e}")
        assert ours == pytest.approx(theirs, rel=1e-4)


LADDER = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2), (2, 1, 2), (1, 2, 2), (1, 4, 2), (2, 2, 2)]


def few(cases, chosen):
    """All of them for `make test-full`, the chosen ones always."""
    return [
        pytest.param(*one, id="-".join(map(str, one)), marks=() if one in chosen else pytest.mark.slow)
        for one in cases
    ]


@pytest.mark.parametrize(("tensor", "pipeline", "data"), few(LADDER, [(2, 2, 2)]))
def test_every_grid_trains_as_one_process_does(bench, alone, tensor, pipeline, data):
    assert_same(bench.run(ladder_job(bench, tensor, pipeline, data)), alone)


SHARDED, SEQUENCE = {"parallel__shard_optimizer": True}, {"parallel__sequence_parallel": True}
VIRTUAL = {"parallel__virtual_pipeline_size": 2}
VARIANTS = {
    "recompute-full": ((2, 2, 2), {"recompute": "full"}),
    "recompute-selective": ((2, 2, 2), {"recompute": "selective"}),
    "sharded": ((2, 2, 2), SHARDED),
    "sharded-4": ((1, 1, 4), {**SHARDED, "accumulation": 2}),
    "gas-1": ((2, 1, 2), {**SHARDED, "accumulation": 1}),
    "gas-1-pipeline": ((2, 2, 1), {"accumulation": 1}),
    "tensor-4": ((4, 1, 1), {"model__num_kv_heads": 4}),
    "sequence": ((2, 2, 2), SEQUENCE),
    "sequence-recompute-sharded": ((2, 2, 2), {**SEQUENCE, **SHARDED, "recompute": "full"}),
    "interleaved": ((1, 2, 1), VIRTUAL),
    "interleaved-gas-2": ((1, 2, 1), {**VIRTUAL, "accumulation": 2}),
    "interleaved-sequence-selective": ((2, 2, 2), {**VIRTUAL, **SEQUENCE, "recompute": "selective"}),
    "uneven": ((1, 3, 1), {"parallel__pipeline_layers": [1, 2, 1]}),
    "uneven-interleaved": ((1, 2, 2), {**VIRTUAL, "parallel__pipeline_layers": [2, 1, 2, 1], "layers": 6}),
    "no-overlap": ((2, 2, 2), {"parallel__overlap": False}),
    "tied": ((2, 1, 1), {"model__tie_embeddings": True}),
    "odd-vocabulary": ((2, 2, 1), {"model__vocab_size": 257}),
}
ALWAYS = ("sequence-recompute-sharded", "interleaved-sequence-selective", "uneven")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.slow) for n in VARIANTS]
)
def test_every_way_trains_as_the_plain_one_does(bench, alone, name):
    grid, changes = VARIANTS[name]
    model = {key: value for key, value in changes.items() if key.startswith("model__") or key == "layers"}
    if model:
        alone = curves(bench.run(ladder_job(bench, **model)))
    job = ladder_job(bench, *grid, **changes)
    result = bench.run(job)
    assert_same(result, alone)
    ready, parallel = result.records(0, "ready")[0], job["parallel"]
    assert ready["recompute"] == job["recompute"]
    assert ready["gradient_accumulation_steps"] == job["batch"]["gradient_accumulation_steps"]
    assert ready["micro_batch_size"] == job["batch"]["micro_batch_size"]
    assert ready["virtual_pipeline_size"] == parallel["virtual_pipeline_size"]
    assert ready["sequence_parallel"] is parallel["sequence_parallel"]
    parts = grid[2] if parallel["shard_optimizer"] else 1
    assert ready["num_optimizer_parameters"] == pytest.approx(ready["num_local_parameters"] / parts, abs=8)


@pytest.mark.slow
def test_a_sharded_optimizer_is_the_replicated_one_to_the_last_bit(bench):
    runs = [bench.run(ladder_job(bench, 2, 2, 2, parallel__shard_optimizer=one)) for one in (False, True)]
    assert curves(runs[0]) == curves(runs[1])


@pytest.mark.slow
def test_torchrun_does_what_fork_does(bench, alone):
    assert_same(bench.run(ladder_job(bench, 2, 1, 1), launcher="torchrun"), alone)


@pytest.mark.parametrize("dtype", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_half_precision_has_float32_master_weights(bench, alone, dtype):
    precision = {"label": "amp", "compute_dtype": dtype, "mechanism": "engine"}
    job = ladder_job(bench, 2, 2, 2, precision=precision, **SHARDED, **SEQUENCE)
    result = bench.run(job)
    losses, _ = curves(result)
    # Seen: 3.3e-4 and 2.9e-5, of weights and activations that are rounded.
    assert losses == pytest.approx(alone[0], rel={"bf16": 1e-3, "fp16": 1e-4}[dtype])
    assert losses != alone[0]
    ready = result.records(0, "ready")[0]
    assert (ready["compute_dtype"], ready["loss_scaling"]) == (dtype, {"fp16": "dynamic"}.get(dtype, "none"))


OVERFLOWING = """
import engine, os
engine.LossScaler.__init__.__kwdefaults__["scale"] = 2.0**13
import stage, torch
real, seen = stage.SplitMLP.forward, []
def forward(self, x):
    out = real(self, x)
    if os.environ["RANK"] == "5" and torch.is_grad_enabled():
        seen.append(1)
        if len(seen) == 10:  # of 8 a step: in the second
            out.register_hook(lambda gradient: gradient * float("inf"))
    return out
stage.SplitMLP.forward = forward
"""


def test_an_overflow_on_one_rank_skips_the_step_on_all(bench):
    precision = {"label": "amp", "compute_dtype": "fp16", "mechanism": "engine"}
    job = ladder_job(bench, 2, 2, 2, precision=precision)
    job["device"]["plugin"] = "fault_plugin"
    result = bench.run(job, environment=bench.plugin(OVERFLOWING))
    assert result.code == 0, result.explain()
    for rank in range(8):
        steps = result.records(rank, "step")
        assert [s["updated"] for s in steps] == [True, False] + [True] * 18
        assert [s["loss_scale"] for s in steps] == [2.0**13] * 2 + [2.0**12] * 18


REFUSED = [
    ({"model__num_heads": 3, "model__hidden_size": 30, "model__num_kv_heads": 1}, "num_heads: 3"),
    ({"model__num_kv_heads": 1}, "num_kv_heads: 1 are not divisible among 2"),
    ({"model__ffn_hidden_size": 81}, "ffn_hidden_size: 81"),
    ({"parallel__sequence_parallel": True, "batch__sequence_length": 31}, "31 positions"),
    ({"layers": 1}, "num_layers: 1 are too few"),
    ({"parallel__pipeline_layers": [1, 2]}, "pipeline_layers"),
    ({"parallel__pipeline_layers": [4, 0]}, "pipeline_layers"),
    ({"parallel__virtual_pipeline_size": 2, "accumulation": 1}, "interleaved stages"),
    ({"zero__stage": 1}, "zero.stage: must be 0 for native"),
    ({"engine": "ddp"}, "parallel: goes with engine native"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_does_not_divide_is_refused_before_any_rank(bench, tools, tmp_path, changes, message):
    job = ladder_job(
        bench, 2, 2, 1, **{k: v for k, v in changes.items() if k not in ("engine", "zero__stage")}
    )
    job["engine"] = changes.get("engine", "native")
    job["zero"]["stage"] = changes.get("zero__stage", 0)
    path = tmp_path / "one.json"
    path.write_text(json.dumps(job))
    jobs = tools.load("job")
    with pytest.raises(jobs.JobError, match=message):
        jobs.load_job(str(path))


def test_what_the_engine_cannot_do_is_said_and_not_replaced(bench):
    job = ladder_job(bench, 1, 2, 1, model__tie_embeddings=True)
    job["precision"] = {"label": "amp", "compute_dtype": "bf16", "mechanism": "autocast"}
    result = bench.run(job)
    assert result.code == 1
    message = result.records(0, "fail")[0]["message"]
    assert "tied embeddings" in message
    assert "autocast" in message
