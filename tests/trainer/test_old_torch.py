"""The trainer's core under the oldest torch that vendors' images hold, 2.0.1, with the Pythons of its time.

torch and numpy are installed once for each Python, in a folder under results/: some gigabytes each, and
minutes the first time.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.test_parallel import LADDER, VARIANTS, assert_same, curves, ladder_job

pytestmark = [pytest.mark.trainer, pytest.mark.slow, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[2]
TORCH = "2.0.1"
INSTALL_LIMIT_S = 2400
# float32 on both sides; the older kernels add up in another order.
TOLERANCE = 1e-5
FINGERPRINT = """
import sys, zlib
sys.path.insert(0, sys.argv[1])
import llama
for seed in (1, 2, 1):
    weights = llama.normal("model.layers.0.mlp.up_proj", (48, 64), std=0.02, seed=seed)
    print(zlib.crc32(weights.detach().numpy().tobytes()))
"""


def interpreter(version):
    """A Python of exactly this minor version that works, or None."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # HOME is the tests' own
    found = [shutil.which(f"python{version}"), *home.glob(f".pyenv/versions/{version}.*/bin/python")]
    for one in filter(None, found):
        argv = [str(one), "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(argv, capture_output=True, text=True).stdout.strip() == version:
            return str(one)
    return None


def installed(version):
    """The interpreter of an environment with that Python and torch 2.0.1. Skips, with the reason, where there
    cannot be one.
    """
    folder = ROOT / "results" / "environments" / f"torch-{TORCH}-python-{version}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        base = interpreter(version)
        if base is None:
            pytest.skip(f"no working Python {version} with ensurepip on this machine")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([base, "-m", "venv", str(folder)], check=True, timeout=INSTALL_LIMIT_S)
        argv = [str(python), "-m", "pip", "install", "--quiet", f"torch=={TORCH}", "numpy<2"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        if done.returncode:
            pytest.skip(f"torch {TORCH} for Python {version} could not be installed: {done.stderr[-400:]}")
        (folder / "complete").touch()
    return str(python)


@pytest.fixture(scope="module", params=["3.8", "3.9", "3.10"])
def python(request):
    return installed(request.param)


def fingerprints(python, trainer):
    argv = [python, "-c", FINGERPRINT, str(trainer)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def test_ddp_trains_there_what_it_trains_here(bench, reference, python):
    for ranks, launcher in ((1, "fork"), (2, "fork"), (2, "torchrun")):
        job = bench.job(engine="ddp", batch__world_size=ranks, batch__micro_batch_size=4 // ranks)
        result = bench.run(job, python=python, launcher=launcher)
        assert result.code == 0, result.explain()
        assert result.records(0, "hello")[0]["versions"]["torch"].split("+")[0] == TORCH
        curves = [[s["loss"] for s in result.records(rank, "step")] for rank in range(ranks)]
        means = [sum(step) / ranks for step in zip(*curves, strict=True)]
        here = [s["loss"] for s in reference.records(0, "step")]
        worst = max(abs(a / b - 1) for a, b in zip(means, here, strict=True))
        print(f"{python} {ranks} ranks, {launcher}: loss, largest relative difference: {worst:.1e}")
        assert means == pytest.approx(here, rel=TOLERANCE)


@pytest.mark.parametrize("change", [{"recompute": "full"}, {"batch__gradient_accumulation_steps": 2}])
def test_what_the_core_offers_works_there(bench, python, change):
    result = bench.run(bench.job(engine="ddp", batch__world_size=1, **change), python=python)
    assert result.code == 0, result.explain()
    curve = [s["loss"] for s in result.records(0, "step")]
    assert curve[-1] < curve[0] - 0.2


def test_what_it_cannot_do_is_said_and_not_replaced(bench, python):
    result = bench.run(bench.job(batch__world_size=1), python=python, launcher="torchrun")
    assert result.code == 1
    assert "engine deepspeed" in result.records(0, "fail")[0]["message"]  # it is not installed there


def test_a_seed_means_the_same_weights_there(tools, python):
    there = fingerprints(python, tools.trainer)
    assert there[0] == there[2] != there[1]
    assert there == fingerprints(sys.executable, tools.trainer)


WAYS = {"-".join(map(str, grid)): (grid, {}) for grid in LADDER}
WAYS.update(VARIANTS)


@pytest.fixture(scope="module")
def alone(shared_bench):
    """One process, on the torch that is installed here."""
    return functools.lru_cache(maxsize=None)(
        lambda **model: curves(shared_bench.run(ladder_job(shared_bench, **model)))
    )


@pytest.mark.parametrize("name", WAYS)
def test_our_own_engine_trains_there_what_one_process_trains_here(bench, alone, name):
    grid, changes = WAYS[name]
    model = {key: value for key, value in changes.items() if key.startswith("model__") or key == "layers"}
    result = bench.run(ladder_job(bench, *grid, **changes), python=installed("3.8"))
    assert_same(result, alone(**model))
    assert result.records(0, "hello")[0]["versions"]["torch"].split("+")[0] == TORCH
