"""Real ranks on this machine's CPU: a job.json and a token file in, launch.py as a process, its files out."""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TRAINER = Path(__file__).parents[2] / "cases" / "trainer"
DEADLINE_S = 150.0
NONCE = "0123456789abcdef" * 2


@dataclass
class Result:
    """What one launcher left behind."""

    output: Path
    code: int
    stderr: str

    @functools.cached_property
    def status(self) -> dict[str, Any]:
        return json.loads((self.output / "status.json").read_text())

    def records(self, rank: int, event: str | None = None) -> list[dict[str, Any]]:
        return [r for r in read_records(self.output, rank) if event in (None, r["event"])]

    def explain(self) -> str:
        logs = [self.output / "launcher.log", *sorted(self.output.glob("rank*/stderr.log"))]
        return "\n".join(f"--- {p}\n{p.read_text()[-3000:]}" for p in logs if p.exists())


@dataclass
class Running:
    """A launcher at work; its standard input is the host's end."""

    process: subprocess.Popen
    output: Path

    def wait(self) -> Result:
        # Not communicate(): it would close standard input, and that means "stop".
        code = self.process.wait(timeout=DEADLINE_S)
        self.process.stdin.close()
        stderr = self.process.stderr.read().decode()
        self.process.stderr.close()
        return Result(self.output, code, stderr)

    def records(self, rank: int, event: str) -> list[dict[str, Any]]:
        return [r for r in read_records(self.output, rank) if r["event"] == event]

    def await_record(self, rank: int, event: str, **values: Any) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            for record in read_records(self.output, rank):
                if record["event"] == event and all(record[k] == v for k, v in values.items()):
                    return record
            assert self.process.poll() is None, Result(self.output, self.process.poll(), "").explain()
            return None

        return until(find, f"record {event} {values} of rank {rank}")


@dataclass
class Bench:
    """Writes jobs into one folder and runs them there."""

    folder: Path
    started: list[Running] = field(default_factory=list)

    def job(self, **changes: Any) -> dict[str, Any]:
        """A small planned job; `batch__micro_batch_size=2` changes batch.micro_batch_size."""
        text = b"".join(p.read_bytes() for p in sorted(TRAINER.glob("*.py")))[:40_000]
        tokens = self.folder / "tokens.bin"
        tokens.write_bytes(text)
        job = copy.deepcopy(JOB)
        job["data"].update(file=str(tokens), sha256=hashlib.sha256(text).hexdigest(), num_tokens=len(text))
        for name, value in changes.items():
            section, _, key = name.rpartition("__")
            (job[section] if section else job)[key] = value
        batch = job["batch"]
        parallel = job.get("parallel") or {}
        split = parallel.get("tensor_parallel_size", 1) * parallel.get("pipeline_parallel_size", 1)
        batch["data_parallel_size"] = batch["world_size"] // split
        batch["global_batch_size"] = (
            batch["data_parallel_size"] * batch["micro_batch_size"] * batch["gradient_accumulation_steps"]
        )
        if job["engine"] != "deepspeed":
            job["zero"]["stage"] = 0
        return job

    def start(
        self,
        job: dict[str, Any] | str,
        *,
        launcher: str = "fork",
        node_rank: int = 0,
        num_nodes: int = 1,
        port: int = 0,
        environment: dict[str, str] | None = None,
        options: tuple[str, ...] = (),
        python: str = sys.executable,
    ) -> Running:
        cell = self.folder / f"cell{len(self.started)}"
        cell.mkdir()
        text = job if isinstance(job, str) else json.dumps(job)
        (cell / "job.json").write_text(text)
        world_size = json.loads(text)["batch"]["world_size"]
        output = cell / f"node{node_rank}"
        argv = [python, str(TRAINER / "launch.py"), "--job", str(cell / "job.json")]
        argv += ["--output", str(output), "--launcher", launcher, "--node-rank", str(node_rank)]
        argv += ["--num-nodes", str(num_nodes), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        argv += ["--local-world-size", str(world_size // num_nodes), *options]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder), **(environment or {})},
        )
        running = Running(process, output)
        self.started.append(running)
        return running

    def run(self, job: dict[str, Any] | str, **how: Any) -> Result:
        return self.start(job, **how).wait()

    def plugin(self, source: str) -> dict[str, str]:
        """A device plug-in that misbehaves as `source` says; the environment that lets a rank find it."""
        (self.folder / "fault_plugin.py").write_text(source)
        return {"PYTHONPATH": str(self.folder)}

    def close(self) -> None:
        for running in self.started:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()
            for stream in (running.process.stdin, running.process.stderr):
                stream.close()


JOB: dict[str, Any] = {
    "contract": 1,
    "run_id": "test-run",
    "cell_id": "test-cell",
    "nonce": NONCE,
    "case": "test",
    "seed": 7,
    "engine": "deepspeed",
    "device": {"type": "cpu", "plugin": None, "backend": "gloo", "deepspeed_accelerator": "cpu"},
    "model": {
        "architecture": "llama",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "ffn_hidden_size": 80,
        "vocab_size": 256,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "init_std": 0.02,
        "tie_embeddings": False,
    },
    "data": {"dtype": "uint8"},
    "batch": {
        "sequence_length": 32,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "world_size": 2,
    },
    "steps": {"warmup_steps": 2, "measured_steps": 10},
    "optimizer": {
        "name": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-5,
        "gradient_clipping": 1.0,
    },
    "precision": {"label": "fp32", "compute_dtype": "fp32", "mechanism": "none"},
    "recompute": "none",
    "attention": "sdpa",
    "zero": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 1_000_000,
        "allgather_bucket_size": 1_000_000,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "stage3_prefetch_bucket_size": 1_000_000,
        # Nothing is small enough to stay whole: the partitioning is real.
        "stage3_param_persistence_threshold": 0,
        "sub_group_size": 1_000_000_000,
    },
}


def read_records(output: Path, rank: int) -> list[dict[str, Any]]:
    path = output / f"rank{rank}" / "events.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def until(find: Any, what: str) -> Any:
    """The first true answer of `find`, asked again and again until a late deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if answer := find():
            return answer
        select.select([], [], [], 0.02)
    raise AssertionError(f"no {what} within {DEADLINE_S} s")


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def load_trainer_module(name: str) -> Any:
    """A module of the trainer by its path: the trainer is no package."""
    spec = importlib.util.spec_from_file_location(f"trainer_{name}", TRAINER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(tmp_path):
    one = Bench(tmp_path)
    yield one
    one.close()


@pytest.fixture(scope="session")
def shared_bench(tmp_path_factory):
    """For runs that several tests compare with."""
    one = Bench(tmp_path_factory.mktemp("shared"))
    yield one
    one.close()


@pytest.fixture(scope="session")
def reference(shared_bench):
    """One rank with the whole global batch of 4."""
    result = shared_bench.run(shared_bench.job(engine="ddp", batch__world_size=1, batch__micro_batch_size=4))
    assert result.code == 0, result.explain()
    return result


@pytest.fixture(scope="session")
def tools():
    """Helpers of this file, for tests that import nothing by path."""

    class Tools:
        trainer = TRAINER
        nonce = NONCE
        until = staticmethod(until)
        alive = staticmethod(alive)
        load = staticmethod(load_trainer_module)

    return Tools
