"""LLaVA in the trainer: what a stage trains, what it begins with and leaves, and the answers at its end."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from orchestrator import multimodal, weights

pytestmark = pytest.mark.trainer
DEADLINE_S = 240
VISION = {
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 2,
    "ffn_hidden_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "norm_eps": 1e-5,
    "init_std": 0.02,
    "feature_layer": -2,
}
PRETRAIN, FINETUNE = ["multi_modal_projector"], ["multi_modal_projector", "language_model"]


@pytest.fixture(scope="module")
def proxies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxies")
    for name in multimodal.PROXIES:
        multimodal.prepare_proxy(name, folder=folder)
    return folder


def llava_job(bench, proxies, stage, **changes):
    """A job of one stage on the proxy's data, float32, two ranks unless said otherwise."""
    name = f"llava-proxy-{stage}"
    manifest = json.loads((proxies / name / "manifest.json").read_text())
    settings = {
        "engine": "ddp",
        "batch__sequence_length": manifest["model_max_length"],
        "steps__warmup_steps": 1,
        "steps__measured_steps": 3,
        "optimizer__schedule": {"shape": "cosine", "warmup_steps": 1},
    }
    job = bench.job(**{**settings, **changes})
    job["model"].update(architecture="llava", vision=VISION)
    job["data"] = {
        **planned(proxies / name),
        "num_tokens": manifest["num_tokens"],
        "dtype": "int32",
        "samples": {
            "num_samples": manifest["num_samples"],
            "order": "shuffled" if stage == "pretrain" else "grouped",
            "images": None,
        },
    }
    job.update(stage=stage, trainable=PRETRAIN if stage == "pretrain" else FINETUNE)
    return job


def planned(folder):
    path = folder / "manifest.json"
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def questions(proxies):
    return {**planned(proxies / "mmmu-proxy"), "num_questions": 60, "max_new_tokens": 3}


CHANGED = """
import dataclasses, json, os, sys
import torch, torch.distributed as dist
import job as jobs
from data import Fed, make_feed
from device import Device
from engine import make_engine
from initial import build_model
from weights import whole

job = jobs.load_job(sys.argv[1])
dist.init_process_group("gloo")
device = Device(job.device, 0)

def snapshot(model):
    found = {}
    for name, parameter in model.named_parameters():
        with whole([parameter], changed=False):
            found[name] = parameter.detach().clone()
    return found

with make_feed(job, rank=0) as feed:
    engine = make_engine(job, device, lambda: build_model(job))
    before = snapshot(engine.model)
    for step in range(job.steps.planned):
        engine.set_learning_rate(1e-2)
        engine.step(Fed(feed.micro_batches(step, device.device)))
    after = snapshot(engine.model)
changed = [name for name in before if not torch.equal(before[name], after[name])]
print("RESULT " + json.dumps({"changed": changed, "all": list(before)}))
"""


def script(bench, tools, job, text, name):
    """What `text`, run as the only rank with this job, prints after RESULT."""
    path = bench.folder / f"{name}.json"
    path.write_text(json.dumps(job))
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    with socket_port() as port:
        place["MASTER_PORT"] = str(port)
    done = subprocess.run(
        [sys.executable, "-c", text, str(path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={
            **os.environ,
            **place,
            "PYTHONPATH": str(tools.trainer),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(one for one in done.stdout.splitlines() if one.startswith("RESULT "))[7:])


def socket_port():
    import contextlib
    import socket

    @contextlib.contextmanager
    def free():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        yield port

    return free()


@pytest.mark.parametrize(
    ("stage", "engine", "zero"),
    [("pretrain", "deepspeed", 2), ("pretrain", "ddp", 0), ("finetune", "deepspeed", 3)],
)
def test_exactly_what_a_stage_trains_changes(bench, tools, proxies, stage, engine, zero):
    job = llava_job(bench, proxies, stage, engine=engine, batch__world_size=1, zero__stage=zero)
    found = script(bench, tools, job, CHANGED, f"{stage}-{engine}")
    learning = tuple(f"{name}." for name in job["trainable"])
    assert set(found["changed"]) == {name for name in found["all"] if name.startswith(learning)}
    assert any(name.startswith("vision_tower.") for name in found["all"])


@pytest.fixture(scope="module")
def stages(shared_bench, proxies):
    """Both stages as a run has them, pretrain with ZeRO-2 and finetune with ZeRO-3, two ranks each."""
    nonce = shared_bench.job()["nonce"]
    first = llava_job(shared_bench, proxies, "pretrain", engine="deepspeed", zero__stage=2)
    first["save"] = f"projector-{nonce}"
    pretrain = shared_bench.run(first)
    assert pretrain.code == 0, pretrain.explain()
    second = llava_job(shared_bench, proxies, "finetune", engine="deepspeed", zero__stage=3)
    second["initial"] = {
        "folders": [],
        "manifests": [],
        "projector": str(pretrain.output / first["save"]),
    }
    second["questions"] = questions(proxies)
    finetune = shared_bench.run(second)
    assert finetune.code == 0, finetune.explain()
    return pretrain, finetune


def test_the_second_stage_begins_with_the_projector_of_the_first(stages):
    pretrain, finetune = stages
    (saved,) = pretrain.records(0, "saved")
    assert pretrain.records(1, "saved") == []
    content = (pretrain.output / saved["file"]).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (saved["bytes"], saved["sha256"])
    assert {finetune.records(rank, "ready")[0]["projector_sha256"] for rank in (0, 1)} == {saved["sha256"]}
    (ready,) = pretrain.records(0, "ready")
    hidden, tower = 32, VISION["hidden_size"]
    assert ready["num_trainable_parameters"] == hidden * (tower + hidden + 2)


def test_real_tokens_padding_and_waiting_are_counted_apart(stages):
    for result in stages:
        for rank in (0, 1):
            for step in result.records(rank, "step"):
                assert 0 < step["labelled_tokens"] < step["real_tokens"] <= step["tokens"]
                assert 0 <= step["data_wait_s"] < step["end_s"] - step["start_s"]
    pretrain, _ = stages
    assert {step["images"] for step in pretrain.records(0, "step")} == {2}


def test_the_learning_rate_goes_up_then_down_half_a_cosine(stages):
    rates = [step["learning_rate"] for step in stages[1].records(0, "step")]
    assert rates == pytest.approx([0.0, 2e-3, 1.5e-3, 0.5e-3])


def test_every_question_is_answered_once_by_one_rank_after_the_last_step(stages):
    _, finetune = stages
    asked = [one["question"] for rank in (0, 1) for one in finetune.records(rank, "answer")]
    assert len(asked) == len(set(asked)) == 60
    for rank in (0, 1):
        (evaluation,) = finetune.records(rank, "evaluation")
        assert evaluation["start_s"] >= finetune.records(rank, "step")[-1]["end_s"]
        assert evaluation["answered"] == 30
        assert all(len(one["tokens"]) <= 3 for one in finetune.records(rank, "answer"))


def test_both_engines_train_and_answer_alike(stages, shared_bench, proxies):
    pretrain, finetune = stages
    job = llava_job(shared_bench, proxies, "finetune")
    job["initial"] = {
        "folders": [],
        "manifests": [],
        "projector": str(pretrain.output / f"projector-{job['nonce']}"),
    }
    job["questions"] = questions(proxies)
    other = shared_bench.run(job)
    assert other.code == 0, other.explain()
    for rank in (0, 1):
        for key in ("loss", "grad_norm"):
            ours = [step[key] for step in finetune.records(rank, "step")]
            assert ours == pytest.approx([step[key] for step in other.records(rank, "step")], rel=1e-3)
        said = [(one["question"], one["tokens"]) for one in finetune.records(rank, "answer")]
        assert said == [(one["question"], one["tokens"]) for one in other.records(rank, "answer")]


LOADED = """
import json, sys
import torch, torch.distributed as dist
import job as jobs
from initial import build_model
from tensorfile import read_folder, read_tensor

job = jobs.load_job(sys.argv[1])
dist.init_process_group("gloo")
model, problems, same, seen = build_model(job), [], [], 0
parameters = dict(model.named_parameters())
for folder in job.initial.folders:
    for name, stored in read_folder(folder, problems).items():
        seen += 1
        same.append(torch.equal(parameters[name], read_tensor(stored, {})))
fresh = dict(build_model(jobs.dataclasses.replace(job, initial=None)).named_parameters())
name, head = "multi_modal_projector.linear_1.weight", "language_model.lm_head.weight"
print("RESULT " + json.dumps({
    "seen": seen, "same": all(same), "problems": problems,
    "projector": torch.equal(parameters[name], fresh[name]),
    "language": torch.equal(parameters[head], fresh[head]),
}))
"""
STORED = """
import dataclasses, json, os, sys
import job as jobs
import weights
from initial import build_model

job = jobs.load_job(sys.argv[1])
model = build_model(dataclasses.replace(job, seed=99, initial=None))
for prefix in ("language_model.", "vision_tower."):
    folder = os.path.join(os.path.dirname(sys.argv[1]), prefix.strip("."))
    os.makedirs(folder)
    weights.save(model, os.path.join(folder, "model.safetensors"), prefix=prefix)
print("RESULT {}")
"""


def test_published_weights_are_what_the_model_begins_with_and_are_held_against_their_list(
    bench, tools, proxies
):
    job = llava_job(bench, proxies, "pretrain", batch__world_size=1)
    script(bench, tools, job, STORED, "stored")
    names = ("language_model", "vision_tower")
    lists = [weights.prepare(bench.folder, name) for name in names]
    job["initial"] = {
        "folders": [str(bench.folder / name) for name in names],
        "manifests": [hashlib.sha256(path.read_bytes()).hexdigest() for path in lists],
        "projector": None,
    }
    found = script(bench, tools, job, LOADED, "loaded")
    assert found["seen"] > 20
    assert found == {**found, "same": True, "problems": [], "projector": True, "language": False}

    file = bench.folder / "vision_tower" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = bench.run(job)
    assert result.code == 1
    (fail,) = result.records(0, "fail")
    assert fail["type"] == "WeightsError"
    assert "vision_tower/model.safetensors: SHA-256 is" in fail["message"]


def test_a_projector_of_another_run_is_refused_by_its_name(bench, proxies):
    job = llava_job(bench, proxies, "finetune", batch__world_size=1)
    job["initial"] = {
        "folders": [],
        "manifests": [],
        "projector": str(bench.folder / "projector-yesterday"),
    }
    result = bench.run(job)
    assert result.code == 1
    assert "initial.projector: is not of this run" in result.explain()


def test_a_missing_image_ends_the_run_and_is_named_with_its_sample(bench, proxies):
    copy = bench.folder / "sets"
    shutil.copytree(proxies, copy)
    for image in sorted((copy / "llava-proxy-pretrain" / "images").iterdir()):
        image.unlink()
    job = llava_job(bench, copy, "pretrain", batch__world_size=1)
    result = bench.run(job)
    assert result.code == 1
    (fail,) = result.records(0, "fail")
    assert fail["type"] == "SampleError"
    assert "sample " in fail["message"]
    assert "No such file" in fail["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainable": None}, "trainable: goes with llava"),
        ({"trainable": ["vision_tower"]}, "trainable: 'vision_tower' is none of"),
        ({"save": "projector-x"}, "save: is not of this run"),
        ({"questions": {"file": "x"}}, "questions.sha256: missing"),
    ],
)
def test_a_job_of_a_stage_that_does_not_hold_together_is_refused(bench, proxies, change, message):
    job = {**llava_job(bench, proxies, "finetune", batch__world_size=1), **change}
    result = bench.run(job)
    assert result.code == 1
    assert message in result.explain()
