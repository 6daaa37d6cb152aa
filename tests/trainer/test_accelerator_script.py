"""tests/perf/accelerator.py in toy sizes on the CPU: it works, and a side that trained something else does
not count.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.trainer

SCRIPT = Path(__file__).parents[1] / "perf" / "accelerator.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("accelerator", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def answer(losses):
    return {"steps_s": [0.5, 0.5, 0.25], "first_s": 9.0, "losses": losses, "peak_gib": None}


TRUTH = [10.0, 9.5, 9.0, 8.5, 8.0]


@pytest.mark.parametrize("losses", [[10.0, 9.5, 9.0, 8.5, 8.2], [10.0, 9.5], [float("nan")] * 5])
def test_a_side_that_trained_something_else_is_void(script, losses):
    shape = script.SHAPES["A"]
    against = {"flops": 1e10, "peak": 1000.0, "ceiling": 800.0, "truth": TRUTH}
    row = script.row("hf", [answer(TRUTH), answer(losses)], shape, **against)
    assert "void" in row
    assert "%" not in row


def test_figures_are_of_the_median_step_and_against_both_ceilings(script):
    shape = script.SHAPES["A"]
    against = {"flops": 1e10, "peak": 1000.0, "ceiling": 800.0, "truth": TRUTH}
    row = script.row("ours", [answer(TRUTH)], shape, **against)
    assert row == "| ours | 32768 | 65536 | 32.8 % | 41.0 % | 9.0 | / | 0.0e+00 |"


def test_the_peak_is_the_vendors_own(script):
    assert script.peak_tflops("NVIDIA H200", "nvidia") == 989
    assert script.peak_tflops("a device nobody has", "nvidia") is None


@pytest.mark.slow
def test_it_runs_through_on_a_cpu_and_the_sides_agree():
    pytest.importorskip("transformers")
    argv = [sys.executable, str(SCRIPT), "--rehearse", "--sides", "ours", "hf", "--rounds", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| ours", "| hf"))]
    assert len(rows) == 4, done.stdout
    assert "void" not in done.stdout
    assert "not to be had" not in done.stdout
    assert "REHEARSAL" in done.stdout
