"""The training itself: every engine and every way of sharding trains the same model on the same sequences."""

import math
import os
import socket
import statistics

import pytest

pytestmark = pytest.mark.trainer

# Measured in float32 over 12 steps: below 3e-7 for the loss and for the gradient norm.
TOLERANCE = 1e-5


def losses(result):
    """The loss of every step, averaged over the ranks."""
    ranks = result.status["ranks"]
    curves = [[r["loss"] for r in result.records(rank["rank"], "step")] for rank in ranks]
    return [statistics.fmean(step) for step in zip(*curves, strict=True)]


def norms(result):
    return [r["grad_norm"] for r in result.records(0, "step")]


def assert_same_training(result, reference, tolerance=TOLERANCE):
    assert result.code == 0, result.explain()
    worst = max(abs(a / b - 1) for a, b in zip(losses(result), losses(reference), strict=True))
    print("loss, largest relative difference:", worst)
    assert losses(result) == pytest.approx(losses(reference), rel=tolerance)
    if norms(result)[0] is not None:
        worst = max(abs(a / b - 1) for a, b in zip(norms(result), norms(reference), strict=True))
        print("gradient norm, largest relative difference:", worst)
        assert norms(result) == pytest.approx(norms(reference), rel=tolerance * 10)


def test_the_reference_learns(reference):
    curve = losses(reference)
    assert curve[0] == pytest.approx(math.log(256), abs=0.1)  # a random model knows nothing
    assert curve[-1] < curve[0] - 0.2


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_of_deepspeed_train_as_one_rank_does(bench, reference, stage):
    result = bench.run(bench.job(zero__stage=stage))
    assert_same_training(result, reference)
    assert (norms(result)[0] is None) == (stage == 0)  # DeepSpeed does not tell it there
    assert result.records(0, "ready")[0]["zero_stage"] == stage
    assert (
        result.records(0, "ready")[0]["num_parameters"] == 2 * 256 * 32 + 2 * (3 * 1024 + 3 * 2560 + 64) + 32
    )


def test_two_ranks_of_ddp_train_as_one_rank_does(bench, reference):
    assert_same_training(bench.run(bench.job(engine="ddp")), reference)


@pytest.mark.parametrize("engine", ["deepspeed", "ddp"])
def test_accumulating_two_micro_batches_changes_nothing(bench, reference, engine):
    job = bench.job(engine=engine, batch__micro_batch_size=1, batch__gradient_accumulation_steps=2)
    assert_same_training(bench.run(job), reference)


@pytest.mark.parametrize("engine", ["deepspeed", "ddp"])
def test_recomputing_activations_changes_nothing(bench, reference, engine):
    assert_same_training(bench.run(bench.job(engine=engine, recompute="full")), reference)


def test_torchrun_does_what_fork_does(bench, reference):
    result = bench.run(bench.job(), launcher="torchrun")
    assert_same_training(result, reference)
    assert result.status["launcher"] == "torchrun"
    assert [r["pid"] for r in result.status["ranks"]] == [
        result.records(k, "hello")[0]["pid"] for k in (0, 1)
    ]
    assert all(r["end_count"] == 15 and r["exit_code"] == 0 for r in result.status["ranks"])


def test_two_nodes_share_out_the_sequences_by_global_rank(bench, reference):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = bench.job(engine="ddp")
    nodes = [bench.start(job, node_rank=n, num_nodes=2, port=port) for n in (0, 1)]
    results = [node.wait() for node in nodes]
    assert [r.code for r in results] == [0, 0], "\n".join(r.explain() for r in results)
    curves = [[s["loss"] for s in r.records(k, "step")] for k, r in enumerate(results)]
    # Nodes that read the same shard would report the same loss, and their mean would not be the reference's.
    assert curves[0] != curves[1]
    assert [statistics.fmean(x) for x in zip(*curves, strict=True)] == pytest.approx(
        losses(reference), rel=TOLERANCE
    )
    assert [r.records(k, "hello")[0]["local_rank"] for k, r in enumerate(results)] == [0, 0]


@pytest.mark.parametrize(("engine", "mechanism"), [("deepspeed", "engine"), ("ddp", "autocast")])
def test_bfloat16_trains(bench, reference, engine, mechanism):
    job = bench.job(engine=engine, precision__compute_dtype="bf16", precision__mechanism=mechanism)
    result = bench.run(job)
    assert result.code == 0, result.explain()
    assert losses(result) == pytest.approx(losses(reference), rel=2e-2)
    assert losses(result) != losses(reference)
    assert result.records(0, "ready")[0]["compute_dtype"] == "bf16"


def test_bfloat16_means_the_same_at_every_stage(bench):
    # Positions past 256 are not bfloat16 numbers: rotation angles made in that dtype would show here.
    changes = {
        "precision__compute_dtype": "bf16",
        "precision__mechanism": "engine",
        "batch__sequence_length": 512,
        "steps__measured_steps": 1,
        "steps__warmup_steps": 1,
    }
    runs = [bench.run(bench.job(zero__stage=stage, **changes)) for stage in (2, 3)]
    assert [r.code for r in runs] == [0, 0], runs[0].explain() + runs[1].explain()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)


def test_float16_trains_with_ddp_and_its_loss_scale(bench, reference):
    result = bench.run(
        bench.job(engine="ddp", precision__compute_dtype="fp16", precision__mechanism="autocast")
    )
    if result.code != 0:
        message = result.records(0, "fail")[0]["message"]
        assert "autocast" in message, result.explain()
        pytest.skip(f"this torch has no float16 autocast on a CPU: {message}")
    assert losses(result) == pytest.approx(losses(reference), rel=5e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision__compute_dtype": "fp16", "precision__mechanism": "engine"}, "fp16"),
        ({"precision__compute_dtype": "bf16", "precision__mechanism": "autocast"}, "autocast"),
    ],
)
def test_what_deepspeed_cannot_do_here_is_refused_not_replaced(bench, changes, message):
    result = bench.run(bench.job(batch__world_size=1, **changes))
    assert result.code == 1
    assert message in result.records(0, "fail")[0]["message"]
    assert result.records(0, "step") == []


def test_no_op_is_compiled_while_training(bench, tmp_path):
    extensions = tmp_path / "extensions"
    extensions.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {
        "PATH": str(empty),
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "CC": "/nonexistent",
        "CXX": "/nonexistent",
        "HOME": str(empty),
    }
    result = bench.run(bench.job(), environment=environment)
    assert result.code == 0, result.explain()
    assert list(extensions.rglob("*")) == []
    assert not (empty / ".cache" / "torch_extensions").exists()


def test_the_model_is_hugging_faces_llama(tools, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
    import torch

    monkeypatch.syspath_prepend(str(tools.trainer))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    llama, job = tools.load("llama"), tools.load("job")
    for tied in (False, True):
        config = job.Model("llama", 64, 3, 4, 2, 176, 256, 1e-5, 10000.0, 0.1, tied)
        ours = llama.Llama(config, recompute=False, seed=3)
        theirs = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=176,
                vocab_size=256,
                rms_norm_eps=1e-5,
                tie_word_embeddings=tied,
                attn_implementation="sdpa",
            )
        )
        missing = theirs.load_state_dict(ours.state_dict(), strict=False)
        assert missing.unexpected_keys == []
        assert missing.missing_keys == (["lm_head.weight"] if tied else [])
        theirs.tie_weights()
        ids = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            difference = (ours.logits(ids) - theirs(input_ids=ids).logits).abs().max().item()
            scale = ours.logits(ids).abs().max().item()
        print("logits, largest difference:", difference, "of", scale)
        assert difference <= 1e-5 * scale
