"""Coverage-guided input for every reader: seconds in CI, a minute in full, a million with `make fuzz`."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no build for this machine"
)
@pytest.mark.timeout(660)
@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_guided_input_breaks_no_reader(seconds: int) -> None:
    argv = (sys.executable, "-m", "tests.fuzz.readers", f"-max_total_time={seconds}", "-timeout=60")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 500)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 500
