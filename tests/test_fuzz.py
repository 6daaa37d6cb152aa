"""A minute of coverage-guided input for every reader; `make fuzz` gives them a million."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = int(os.environ.get("NX8_FUZZ_SECONDS", "60"))


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no build for this machine"
)
@pytest.mark.timeout(SECONDS + 600)
def test_a_minute_of_guided_input_breaks_no_reader() -> None:
    argv = (sys.executable, "-m", "tests.fuzz.readers", f"-max_total_time={SECONDS}", "-timeout=60")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 500)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 500
