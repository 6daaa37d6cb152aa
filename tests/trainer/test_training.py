"""The training itself: every engine and every way of sharding trains the same model on the same sequences."""

import itertools
import math
import os
import socket
import statistics

import pytest

pytestmark = pytest.mark.trainer

# Measured in float32 over 12 steps: below 3e-7 for the loss and for the gradient norm.
TOLERANCE = 1e-5
# Of the small job: embedding and output, two layers, the last norm.
NUM_PARAMETERS = 2 * 256 * 32 + 2 * (3 * 1024 + 3 * 2560 + 64) + 32


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
    worst = max(abs(a / b - 1) for a, b in zip(norms(result), norms(reference), strict=True))
    print("gradient norm, largest relative difference:", worst)
    assert norms(result) == pytest.approx(norms(reference), rel=tolerance * 10)


def test_the_reference_learns(reference):
    curve = losses(reference)
    assert curve[0] == pytest.approx(math.log(256), abs=0.1)  # a random model knows nothing
    assert curve[-1] < curve[0] - 0.2


def matrix_job(bench, engine, ranks, recompute, accumulation):
    """20 steps on the same 16 sequences a step, however they are shared out."""
    return bench.job(
        engine="ddp" if engine == "ddp" else "deepspeed",
        recompute=recompute,
        zero__stage=0 if engine == "ddp" else int(engine[-1]),
        batch__world_size=ranks,
        batch__micro_batch_size=16 // (ranks * accumulation),
        batch__gradient_accumulation_steps=accumulation,
        steps__measured_steps=18,
    )


@pytest.fixture(scope="module")
def one_process(shared_bench):
    """The whole global batch on one rank in float32, in one piece."""
    result = shared_bench.run(matrix_job(shared_bench, "ddp", 1, "none", 1))
    assert result.code == 0, result.explain()
    assert len(losses(result)) == 20
    return result


@pytest.fixture(scope="module")
def farthest(request):
    """The largest relative differences that were seen, told at the end."""
    seen = {"loss": 0.0, "gradient norm": 0.0}
    yield seen
    told = ", ".join(f"{name} {value:.1e}" for name, value in seen.items())
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfarthest from one process in float32, relative: {told}")


ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3")
DIAGONAL = (
    ("ddp", 4, "full", 4),
    ("zero0", 2, "full", 4),
    ("zero1", 4, "none", 1),
    ("zero2", 2, "none", 4),
    ("zero3", 4, "full", 1),
)
MATRIX = [
    pytest.param(*one, id="-".join(map(str, one)), marks=() if one in DIAGONAL else pytest.mark.slow)
    for one in itertools.product(ENGINES, (2, 4), ("none", "full"), (1, 4))
]


@pytest.mark.parametrize(("engine", "ranks", "recompute", "accumulation"), MATRIX)
def test_every_way_of_sharing_out_trains_as_one_process_does(
    bench, one_process, farthest, engine, ranks, recompute, accumulation
):
    result = bench.run(matrix_job(bench, engine, ranks, recompute, accumulation))
    assert_same_training(result, one_process)
    for name, curve in (("loss", losses), ("gradient norm", norms)):
        differences = [abs(a / b - 1) for a, b in zip(curve(result), curve(one_process), strict=True)]
        farthest[name] = max(farthest[name], *differences)
    ready = result.records(0, "ready")[0]
    assert ready["zero_stage"] == (0 if engine == "ddp" else int(engine[-1]))
    assert ready["recompute"] == recompute
    assert ready["num_parameters"] == NUM_PARAMETERS


def test_what_stands_is_said_by_the_model_itself(one_process):
    ready = one_process.records(0, "ready")[0]
    counted = NUM_PARAMETERS - 256 * 32
    assert ready["flops_per_token"] == 6 * counted + 12 * 2 * 32 * 32
    assert (ready["attention"], ready["compiled"]) == ("sdpa", False)
    assert (ready["compute_dtype"], ready["loss_scaling"], ready["tf32"]) == ("fp32", "none", None)


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


def steps_of(result, rank, *names):
    """One list for each name: its value in every step record of the rank."""
    return ([step[name] for step in result.records(rank, "step")] for name in names)


def test_float16_trains_with_ddp_and_its_loss_scale(bench, reference):
    result = bench.run(
        bench.job(
            engine="ddp",
            precision__compute_dtype="fp16",
            precision__mechanism="autocast",
            precision__loss_scale_window=4,
        )
    )
    if result.code != 0:
        message = result.records(0, "fail")[0]["message"]
        assert "autocast" in message, result.explain()
        pytest.skip(f"this torch has no float16 autocast on a CPU: {message}")
    assert losses(result) == pytest.approx(losses(reference), rel=5e-2)
    ready = result.records(0, "ready")[0]
    assert (ready["compute_dtype"], ready["loss_scaling"]) == ("fp16", "dynamic")
    scales, updated = steps_of(result, 0, "loss_scale", "updated")
    assert scales[:5] == [2.0**16] * 4 + [2.0**17]
    assert all(updated[:4])


OVERFLOWING = """
import engine
engine.LossScaler.__init__.__kwdefaults__["scale"] = 2.0**26
"""


def test_a_step_that_overflowed_updates_nothing_and_says_so(bench):
    job = bench.job(engine="ddp", precision__compute_dtype="fp16", precision__mechanism="autocast")
    job["device"]["plugin"] = "fault_plugin"
    result = bench.run(job, environment=bench.plugin(OVERFLOWING))
    if result.code != 0 and "autocast" in (message := result.records(0, "fail")[0]["message"]):
        pytest.skip(f"this torch has no float16 autocast on a CPU: {message}")
    assert result.code == 0, result.explain()
    scales, updated, told = steps_of(result, 0, "loss_scale", "updated", "grad_norm")
    skipped = updated.index(True)
    assert skipped > 0
    assert scales[: skipped + 1] == [2.0 ** (26 - step) for step in range(skipped + 1)]
    assert told[:skipped] == [None] * skipped
    assert [r["updated"] for r in result.records(1, "step")] == updated


# DeepSpeed's accelerator for the CPU says that it has no float16; the arithmetic is there.
FLOAT16_ON_A_CPU = """
import torch
from deepspeed.accelerator import get_accelerator
accelerator = get_accelerator()
accelerator.is_fp16_supported = lambda: True
accelerator.supported_dtypes = lambda: [torch.float32, torch.bfloat16, torch.float16]
"""


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_amp_of_deepspeed_is_float16_with_a_dynamic_loss_scale(bench, reference, stage):
    precision = {"label": "amp", "compute_dtype": "fp16", "mechanism": "engine", "loss_scale_window": 2}
    job = bench.job(precision=precision, zero__stage=stage)
    job["device"]["plugin"] = "fault_plugin"
    result = bench.run(job, environment=bench.plugin(FLOAT16_ON_A_CPU))
    assert result.code == 0, result.explain()
    assert losses(result) == pytest.approx(losses(reference), rel=5e-2)
    ready = result.records(0, "ready")[0]
    assert (ready["compute_dtype"], ready["loss_scaling"]) == ("fp16", "dynamic")
    scales, updated = steps_of(result, 0, "loss_scale", "updated")
    assert scales[0] == 2.0**16
    assert max(scales) > 2.0**16
    assert True in updated


def test_tf32_is_refused_where_torch_has_no_switch_for_it(bench):
    result = bench.run(bench.job(engine="ddp", batch__world_size=1, precision__compute_dtype="tf32"))
    assert result.code == 1
    assert "tf32" in result.records(0, "fail")[0]["message"]
    assert result.records(0, "step") == []


SLOW_RANK_1 = """
import os, time
import torch.nn.functional as F
if os.environ["RANK"] == "1":
    real = F.cross_entropy
    def slow(*arguments, **options):
        time.sleep(0.3)
        return real(*arguments, **options)
    F.cross_entropy = slow
"""


def test_the_time_spent_waiting_is_told_apart(bench):
    job = bench.job(engine="ddp", steps__measured_steps=4)
    job["device"]["plugin"] = "fault_plugin"
    result = bench.run(job, environment=bench.plugin(SLOW_RANK_1))
    assert result.code == 0, result.explain()
    for rank in (0, 1):
        for step in result.records(rank, "step"):
            whole_s = step["end_s"] - step["start_s"]
            assert 0 < step["data_wait_s"] < whole_s
            assert 0 <= step["comm_wait_s"] < whole_s
    (waits,) = steps_of(result, 0, "comm_wait_s")
    assert statistics.median(waits) > 0.15  # half of what the other is late


def test_deepspeed_does_not_say_how_long_it_waited(bench):
    result = bench.run(bench.job(batch__world_size=1, steps__measured_steps=1))
    assert result.code == 0, result.explain()
    assert [s["comm_wait_s"] for s in result.records(0, "step")] == [None] * 3
    assert all(s["data_wait_s"] > 0 for s in result.records(0, "step"))


def test_weights_differ_between_seeds_and_repeat_with_one(tools, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(tools.trainer))
    normal = tools.load("llama").normal
    one, again, *others = (normal("w", (64,), std=1.0, seed=s) for s in (1, 1, 2, 1 + 2**32, 1 << 32))
    assert torch.equal(one, again)
    assert not any(torch.equal(one, other) for other in others)
    assert not torch.equal(one, normal("v", (64,), std=1.0, seed=1))


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
