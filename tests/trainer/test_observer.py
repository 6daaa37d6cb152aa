"""The observer of an external program, by itself: standard library, no torch and no other rank."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def observe(bench, tools, tmp_path):
    """Runs a program of one line below an observer: (its exit code, the wait status told, its folder)."""

    def run(code, prepare=lambda folder: None):
        job = bench.job(engine="megatron", batch__world_size=1)
        script = tmp_path / "script.py"
        script.write_text(code)
        job["program"] = {"directory": str(tmp_path), "argv": [str(script)], "environment": {}}
        path, news, folder = tmp_path / "job.json", tmp_path / "news", tmp_path / "out" / "rank0"
        path.write_text(json.dumps(job))
        folder.mkdir(parents=True)
        prepare(folder)
        os.mkfifo(news)
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        place |= {"GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        environment = {**os.environ, **place, "NX8_OUTPUT": str(folder.parent)}
        observer = str(tools.trainer / "program.py")
        argv = [sys.executable, observer, "--job", str(path), "--news", str(news)]
        reading = os.open(news, os.O_RDONLY | os.O_NONBLOCK)
        try:
            done = subprocess.run(argv, env=environment, timeout=100)
            told = [line.split() for line in os.read(reading, 4096).decode().splitlines()]
        finally:
            os.close(reading)
        assert [(what, rank) for what, rank, _ in told] == [("started", "0"), ("ended", "0")]
        return done.returncode, int(told[1][2]), folder

    return run


def test_a_program_that_ends_well_is_told_so(observe):
    code, wait_status, folder = observe("print('said')")
    assert (code, wait_status) == (0, 0)
    assert (folder / "stdout.log").read_text() == "said\n"


def test_a_program_that_fails_is_told_by_its_own_code(observe):
    assert observe("raise SystemExit(3)")[:2] == (3, 3 << 8)


def test_a_full_disk_is_told_as_one(observe):
    def fill(folder):
        (folder / "stdout.log").symlink_to("/dev/full")

    assert observe("print('said')", fill)[:2] == (73, 73 << 8)
