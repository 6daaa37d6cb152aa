"""Our own engine: however tensor, pipeline and data parallelism share it out, it is one training."""

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


def ladder_job(bench, tensor=1, pipeline=1, data=1, accumulation=4, **changes):
    """20 steps of a model of four layers on the same 8 sequences a step."""
    block = {k[10:]: changes.pop(k) for k in list(changes) if k.startswith("parallel__")}
    return bench.job(
        engine="native",
        parallel=parallel(tensor, pipeline, **block),
        model__num_layers=4,
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


LADDER = [
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (2, 2, 1),
    (1, 1, 2),
    (2, 1, 2),
    (1, 2, 2),
    (1, 4, 2),
    (2, 2, 2),
]


@pytest.mark.parametrize(("tensor", "pipeline", "data"), LADDER)
def test_every_grid_trains_as_one_process_does(bench, alone, tensor, pipeline, data):
    assert_same(bench.run(ladder_job(bench, tensor, pipeline, data)), alone)


VARIANTS = [
    pytest.param((2, 2, 2), {"recompute": "full"}, id="recompute-full"),
    pytest.param((2, 2, 2), {"recompute": "selective"}, id="recompute-selective"),
    pytest.param((2, 2, 2), {"parallel__shard_optimizer": True}, id="sharded"),
    pytest.param((1, 1, 4), {"parallel__shard_optimizer": True, "accumulation": 2}, id="sharded-4"),
    pytest.param((2, 1, 2), {"parallel__shard_optimizer": True, "accumulation": 1}, id="gas-1"),
    pytest.param((2, 2, 1), {"accumulation": 1}, id="gas-1-pipeline"),
    pytest.param((4, 1, 1), {"model__num_kv_heads": 4}, id="tensor-4"),
    pytest.param((2, 2, 2), {"parallel__sequence_parallel": True}, id="sequence"),
    pytest.param(
        (2, 2, 2),
        {"parallel__sequence_parallel": True, "recompute": "full", "parallel__shard_optimizer": True},
        id="sequence-recompute-sharded",
    ),
    pytest.param((1, 2, 1), {"parallel__virtual_pipeline_size": 2}, id="interleaved"),
    pytest.param((1, 2, 1), {"parallel__virtual_pipeline_size": 2, "accumulation": 2}, id="interleaved-few"),
    pytest.param(
        (2, 2, 2),
        {"parallel__virtual_pipeline_size": 2, "parallel__sequence_parallel": True},
        id="interleaved-sequence",
    ),
    pytest.param((1, 3, 1), {"parallel__pipeline_layers": [1, 2, 1]}, id="uneven"),
    pytest.param(
        (1, 2, 1),
        {"parallel__virtual_pipeline_size": 2, "parallel__pipeline_layers": [1, 1, 1, 1]},
        id="uneven-interleaved",
    ),
    pytest.param((2, 2, 2), {"parallel__overlap": False}, id="no-overlap"),
    pytest.param((2, 1, 1), {"model__tie_embeddings": True}, id="tied"),
]


@pytest.mark.parametrize(("grid", "changes"), VARIANTS)
def test_every_way_trains_as_the_plain_one_does(bench, alone, grid, changes):
    if any(key.startswith("model__") for key in changes):
        plain = {k: v for k, v in changes.items() if k.startswith("model__")}
        alone = curves(bench.run(ladder_job(bench, **plain)))
    assert_same(bench.run(ladder_job(bench, *grid, **changes)), alone)
