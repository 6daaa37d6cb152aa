"""A device type that nobody has is driven by what vendor.yaml says of it, and by nothing else.

The plug-in of standin/ registers it with torch: memory of its own, a namespace, a process-group backend.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.trainer

ROOT = Path(__file__).parents[2]
STANDIN = Path(__file__).parent / "standin"
LIMIT_S = 240
NOBODY = {"type": "nobody", "plugin": "torch_nobody", "backend": "nobodyccl", "deepspeed_accelerator": None}
VENDOR = {"device_type": "nobody", "plugin": "torch_nobody", "backend": "nobodyccl"}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A folder with the plug-in and its library, compiled against the torch that is installed."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: the stand-in device cannot be built")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("nobody")
    include = Path(torch.__file__).parent / "include"
    libraries = Path(torch.__file__).parent / "lib"
    argv = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", "-DAT_PER_OPERATOR_HEADERS"]
    argv += [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    argv += [str(STANDIN / "nobody.cpp"), "-o", str(folder / "libnobody.so")]
    argv += [f"-L{libraries}", "-ltorch_cpu", "-lc10"]
    built = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)
    assert built.returncode == 0, built.stderr[-3000:]
    shutil.copy(STANDIN / "torch_nobody.py", folder)
    return folder


@pytest.fixture
def train(bench, plugin):
    def run(**changes):
        job = bench.job(engine="ddp", device=dict(NOBODY), **changes)
        return bench.run(job, environment={"PYTHONPATH": str(plugin)})

    return run


def calls(rank_dir):
    return (rank_dir / "calls.log").read_text().splitlines()


def test_it_trains_as_a_cpu_does(train, reference):
    result = train()
    assert result.code == 0, result.explain()
    for rank in (0, 1):
        hello, ready = result.records(rank, "hello")[0], result.records(rank, "ready")[0]
        assert (hello["device_type"], hello["backend"]) == ("nobody", "nobodyccl")
        assert hello["device_name"] == f"Nobody's device {rank}"
        assert hello["versions"]["torch_nobody"] == "0.1"
        assert (ready["compute_dtype"], ready["tf32"]) == ("fp32", False)  # on until it was switched off
        memory = result.records(rank, "memory")[0]
        assert memory["device_peak_allocated_bytes"] > 4 * 4 * ready["num_parameters"]  # AdamW's four
        assert memory["device_peak_reserved_bytes"] is None  # it has no such statistic
        made = calls(result.output / f"rank{rank}")
        assert f"set_device {rank}" in made
        assert "manual_seed_all 7" in made
        assert made.count("synchronize") == 2 * 12  # before and after each step
        # The plug-in's collectives, timed by nobody: torch has no clock for this device.
        assert {s["comm_wait_s"] for s in result.records(rank, "step")} == {None}
    means = [
        (a["loss"] + b["loss"]) / 2
        for a, b in zip(result.records(0, "step"), result.records(1, "step"), strict=True)
    ]
    assert means == pytest.approx([s["loss"] for s in reference.records(0, "step")], rel=1e-5)


def test_its_own_switch_makes_float32_tf32(train):
    result = train(precision__compute_dtype="tf32", precision__label="tf32", steps__measured_steps=1)
    assert result.code == 0, result.explain()
    ready = result.records(0, "ready")[0]
    assert (ready["compute_dtype"], ready["tf32"]) == ("tf32", True)


def test_a_dtype_that_it_cannot_autocast_to_is_refused_not_replaced(train):
    result = train(precision__compute_dtype="bf16", precision__mechanism="autocast")
    assert result.code == 1
    failures = [fail["message"] for rank in (0, 1) for fail in result.records(rank, "fail")]
    assert any("autocast to torch.bfloat16 gives torch.float32 on nobody" in one for one in failures)
    assert result.records(0, "step") == []


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"plugin": "torch_that_is_not_there"}, "device.plugin torch_that_is_not_there"),
        ({"plugin": None}, "has no torch.nobody"),
        ({"type": "nobodys"}, "has no torch.nobodys"),
    ],
)
def test_what_is_missing_is_named(bench, plugin, device, message):
    job = bench.job(engine="ddp", batch__world_size=1, device={**NOBODY, **device})
    result = bench.run(job, environment={"PYTHONPATH": str(plugin)})
    assert result.code == 1
    assert message in result.records(0, "fail")[0]["message"]


def test_deepspeed_gets_the_accelerator_that_the_job_names(bench):
    job = bench.job(batch__world_size=1)
    job["device"]["deepspeed_accelerator"] = "nobody"
    result = bench.run(job)
    assert result.code == 1
    assert '"nobody" is not supported' in result.stderr  # DeepSpeed's own words: it took no other


def test_a_whole_run_on_it_is_measured(home, plugin):
    words = yaml.safe_load((home / "dockerfiles" / "cpu" / "vendor.yaml").read_text())
    words.update(display_name="Nobody", torch=VENDOR, refuses=[])
    folder = home / "dockerfiles" / "nobody"
    folder.mkdir()
    (folder / "vendor.yaml").write_text(yaml.safe_dump(words))
    cluster = yaml.safe_load((home / "cluster" / "local.yaml").read_text())
    (home / "cluster" / "nobody.yaml").write_text(yaml.safe_dump({**cluster, "vendor": "nobody"}))
    path = home / "cases" / "llama2_7b" / "case.yaml"
    path.write_text(yaml.safe_dump(shrunk(yaml.safe_load(path.read_text())), sort_keys=False))
    words = ("run", "llama2_7b", "--cluster", "nobody", "--lang", "en")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--home", str(home), *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(plugin)))},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text())
    (cell,) = result["cells"]
    assert cell["verdict"] == "MEASURED"
    (job,) = Path(done.stdout.splitlines()[-1]).glob("cells/*/job.json")
    assert json.loads(job.read_text())["device"] == NOBODY
    assert cell["metrics"]["memory_framework_peak_bytes"]["value"] > 0
    assert len(list(job.parent.glob("node0/rank*/calls.log"))) == 2


def shrunk(case):
    """The case with its proxy's sizes and DDP: what is not on a CPU trains the case itself."""
    proxy = copy.deepcopy(case["proxy"])
    for key in ("model", "data", "batch", "optimizer", "limits"):
        case[key] = proxy[key]
    case.update(engine="ddp", precision="fp32", zero={"stage": 0})
    case["measurement"] = {"warmup_steps": 2, "measured_steps": 6}
    return case
