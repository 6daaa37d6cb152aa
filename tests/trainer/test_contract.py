"""The trainer's torch-free parts."""

import functools
import json
import operator
import os
import pwd
import py_compile
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def load_job(tools, tmp_path):
    module = tools.load("job")

    def load(job):
        path = tmp_path / "job.json"
        path.write_text(job if isinstance(job, str) else json.dumps(job))
        return module.load_job(str(path))

    load.error = module.JobError
    return load


def test_a_job_is_read(bench, load_job):
    job = load_job(bench.job())
    assert job.steps.planned == 12
    assert job.batch.global_batch_size == 4
    assert job.device.plugin is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise: unknown key"),
        ({"model__surprise": 1}, "model.surprise: unknown key"),
        ({"contract": 2}, "contract 2"),
        ({"engine": "other"}, "engine"),
        ({"seed": True}, "seed"),
        ({"model__hidden_size": 32.0}, "model.hidden_size"),
        ({"nonce": "xyz"}, "nonce"),
        ({"precision__compute_dtype": "bf16"}, "precision.mechanism"),
        ({"device__plugin": 3}, "device.plugin"),
        ({"steps__measured_steps": 0}, "steps.measured_steps"),
    ],
)
def test_a_job_off_the_contract_is_refused(bench, load_job, change, message):
    with pytest.raises(load_job.error, match=message):
        load_job(bench.job(**change))


def test_a_missing_key_and_nan_are_refused_all_at_once(bench, load_job):
    job = bench.job()
    del job["seed"], job["zero"]["stage"]
    with pytest.raises(load_job.error, match=r"seed: missing.*zero\.stage: missing"):
        load_job(job)
    with pytest.raises(load_job.error, match="NaN"):
        load_job(json.dumps(bench.job(optimizer__learning_rate=float("nan"))))


def test_the_launcher_refuses_such_a_job_before_any_rank(bench):
    result = bench.run(bench.job(surprise=1))
    assert result.code == 1
    assert "surprise: unknown key" in result.stderr
    assert list(result.output.glob("rank*")) == []


def test_a_record_never_holds_nan(tools, tmp_path):
    writer = tools.load("events").EventWriter(str(tmp_path / "rank0"), tools.nonce, 0)
    with pytest.raises(ValueError, match="JSON"):
        writer.write("step", loss=float("nan"))
    writer.write("step", loss=None, note="größer\n\udc80")
    writer.end(1)
    first, last = (tmp_path / "rank0" / "events.jsonl").read_bytes().splitlines()
    assert json.loads(first)["seq"] == 0
    assert json.loads(last)["count"] == 1


def test_a_second_life_of_a_rank_does_not_write_into_the_first(tools, tmp_path):
    events = tools.load("events")
    events.EventWriter(str(tmp_path), tools.nonce, 0)
    with pytest.raises(FileExistsError):
        events.EventWriter(str(tmp_path), tools.nonce, 0)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 4, 1), (2, 1, 4), (4, 2, 1), (8, 1, 1), (2, 2, 2)])
def test_a_global_batch_holds_the_same_sequences_at_every_scale(tools, shape):
    dp, mbs, gas = shape
    order = tools.load("order").SequenceOrder(21, seed=5)
    stream = [i for epoch in range(3) for i in tools.load("order").permutation(21, 5, epoch)]
    for step in range(7):
        parts = [
            order.micro_batch(step, g, dp_rank=r, dp=dp, mbs=mbs, gas=gas)
            for g in range(gas)
            for r in range(dp)
        ]
        assert sorted(functools.reduce(operator.iadd, parts, [])) == sorted(stream[step * 8 : step * 8 + 8])


def test_the_order_never_changes(tools):
    permutation = tools.load("order").permutation
    assert permutation(8, 1234, 0) == [5, 2, 1, 6, 4, 0, 3, 7]
    assert permutation(100, 1, 0) != permutation(100, 2, 0) != permutation(100, 2, 1)


def python38():
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # HOME is the tests' own
    candidates = [shutil.which("python3.8"), *map(str, home.glob(".pyenv/versions/3.8.*/bin/python"))]
    for candidate in filter(None, candidates):
        answer = subprocess.run(
            [candidate, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True
        )
        if answer.stdout.strip() == b"(3, 8)":
            return candidate
    return None


def test_python_3_8_reads_every_file_and_runs_the_torch_free_ones(tools, tmp_path):
    python = python38()
    if python is None:
        pytest.skip("no working Python 3.8 on this machine")
    files = sorted(map(str, tools.trainer.glob("*.py")))
    assert files
    source = (
        "import sys; sys.dont_write_bytecode = True\n"
        f"sys.path.insert(0, {str(tools.trainer)!r})\n"
        f"for f in {files!r}: compile(open(f, encoding='utf-8').read(), f, 'exec')\n"
        "import job, events, order, status, ranks, torchrun, launch\n"
        "assert 'torch' not in sys.modules\n"
        "print(order.permutation(1000, 7, 3))\n"
    )
    answer = subprocess.run(
        [python, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == tools.load("order").permutation(1000, 7, 3)


def test_every_file_compiles(tools, tmp_path):
    for file in tools.trainer.glob("*.py"):
        py_compile.compile(str(file), cfile=str(tmp_path / "out.pyc"), doraise=True)
