"""Runs the emitters that install here for a few steps on the CPU and keeps what they print as samples.

    python tests/capture_logs.py [FOLDER [NAME...]]

writes `<dialect>-captured*.log` with a `.json` beside, whose figures come from the emitter's own memory (the
engine's timer, the trainer's history, the record as JSON) and not from our readers. FOLDER is the corpus
unless named, NAME all of CAPTURES.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "tests" / "data" / "logs"
LIMIT_S = 500

DEEPSPEED = """
import logging, os, sys
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
import json, socket
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(free.getsockname()[1])
import torch, deepspeed
from deepspeed.utils import logger
from deepspeed.utils.timer import TIME_EPSILON
torch.manual_seed(1)
model = torch.nn.Linear(64, 64)
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config={
    "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "steps_per_print": 5,
    "optimizer": {"type": "SGD", "params": {"lr": 0.01}}, "zero_optimization": {"stage": 0}})
logger.setLevel(logging.INFO)
for handler in logger.handlers:
    handler.setLevel(logging.INFO)
seen, timer = [], engine.tput_timer
average = timer.avg_samples_per_sec
def avg_samples_per_sec():
    value = average()
    seen.append({"step": timer.global_step_count, "micro_step": timer.micro_step_count,
        "epoch": timer.epoch_count, "running_samples_per_second": value,
        "samples_per_second": timer.batch_size / (timer.step_elapsed_time + TIME_EPSILON)})
    return value
timer.avg_samples_per_sec = avg_samples_per_sec
sys.stdout.flush()
mark = "=" * 20
print(mark, flush=True)
for _ in range(40):
    loss = engine(torch.randn(4, 64)).pow(2).mean()
    engine.backward(loss)
    engine.step()
print(mark, flush=True)
json.dump(seen, open(sys.argv[1], "w"))
"""

TRAINER = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
torch.manual_seed(1)
model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, vocab_size=128))
ids = torch.randint(0, 128, (64, 16))
data = [{"input_ids": one, "labels": one} for one in ids]
trainer = Trainer(model=model, train_dataset=data, args=TrainingArguments(output_dir=sys.argv[2],
    max_steps=12, logging_steps=2, per_device_train_batch_size=4, report_to=[], save_strategy="no",
    use_cpu=True, disable_tqdm=sys.argv[3] == "plain"))
trainer.train()
json.dump(trainer.state.log_history, open(sys.argv[1], "w"))
"""


def main(folder: Path, names: list[str]) -> None:
    for name in names or CAPTURES:
        log, expected = CAPTURES[name]()
        _refuse_traces(log, name)
        (folder / f"{name}.log").write_bytes(log)
        document = {"not_understood": 0, "overlong": 0, "truncated": False, "stated": []} | expected
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def _refuse_traces(log: bytes, name: str) -> None:
    """A sample must not say where it was made."""
    for trace in (str(ROOT), str(Path.home()), os.uname().nodename, os.uname().release):
        if len(trace) > 3 and trace.encode() in log:
            raise SystemExit(f"{name}: the output names {trace}")


def _python(code: str, *words: str) -> bytes:
    argv = [sys.executable, "-W", "ignore", "-c", code, *words]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stdout.decode(errors="replace"))
    return done.stdout


def deepspeed() -> tuple[bytes, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        truth = Path(scratch) / "truth.json"
        log = _python(DEEPSPEED, str(truth)).split(b"=" * 20 + b"\n")[1]
        seen = json.loads(truth.read_text())
    return log, {
        "format_source": f"DeepSpeed {version('deepspeed')} deepspeed/utils/timer.py ThroughputTimer.stop",
        "situation": "captured from a run on a CPU",
        "dialect": "deepspeed",
        "ignore": ["memory_allocated_bytes", "memory_peak_bytes"],
        "only": "running_samples_per_second",
        "steps": seen,
    }


def trainer(form: str) -> tuple[bytes, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        truth = Path(scratch) / "truth.json"
        log = _python(TRAINER, str(truth), scratch, form)
        history = json.loads(truth.read_text())
    begin = min(place for sign in (b"\r", b"{'loss'") if (place := log.find(sign)) >= 0)
    names = ("loss", "grad_norm", "learning_rate", "epoch")
    steps = [{key: float(f"{one[key]:.4g}") for key in names} for one in history if "loss" in one]
    closing = next(one for one in history if "train_runtime" in one)
    stated = {
        "train_runtime_s": "train_runtime",
        "train_samples_per_second": "train_samples_per_second",
        "train_steps_per_second": "train_steps_per_second",
        "train_loss": "train_loss",
    }
    where = "PrinterCallback.on_log" if form == "plain" else "ProgressCallback.on_log"
    return log[begin:], {
        "format_source": f"transformers {version('transformers')} trainer_callback.py {where}",
        "situation": f"captured from a run on a CPU, {'without' if form == 'plain' else 'with'} a bar",
        "dialect": "huggingface",
        "only": "loss",
        "ignore": [],
        "steps": steps,
        "stated": [[name, float(f"{closing[key]:.4g}")] for name, key in stated.items()] + [["ended", 1]],
    }


def events() -> tuple[bytes, dict[str, Any]]:
    """One rank of `nx8 run`, without its first record, which describes the machine."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        for noun in ("cases", "dockerfiles", "cluster"):
            shutil.copytree(ROOT / noun, home / noun, ignore=shutil.ignore_patterns("__pycache__"))
        argv = [sys.executable, "-m", "orchestrator", "--home", str(home), "run", "llama2_7b"]
        argv += ["--vendor", "cpu", "--cluster", "local", "--steps", "4"]
        done = subprocess.run(argv, capture_output=True, timeout=LIMIT_S, cwd=ROOT)
        if done.returncode:
            raise SystemExit(done.stderr.decode(errors="replace"))
        log = next(home.glob("results/runs/*/cells/*/node0/rank0/events.jsonl")).read_bytes()
    log = log.split(b"\n", 1)[1]
    records = [json.loads(line) for line in log.splitlines()]
    return log, {
        "format_source": "docs/contract.md, Records, version 1",
        "situation": "captured from one rank of a rehearsal on a CPU",
        "dialect": "events",
        "only": "step_time_s",
        "ignore": [],
        "steps": [
            {
                "rank": 0,
                "step": one["step"],
                "loss": one["loss"],
                "step_time_s": one["end_s"] - one["start_s"],
                "learning_rate": one["learning_rate"],
                "grad_norm": one["grad_norm"],
            }
            for one in records
            if one["event"] == "step"
        ],
        "stated": [
            pair
            for one in records
            for pair in {
                "ready": [
                    [name, one.get(name)]
                    for name in (
                        "micro_batch_size",
                        "gradient_accumulation_steps",
                        "sequence_length",
                        "world_size",
                        "num_parameters",
                    )
                ],
                "end": [["total_steps", one.get("steps")], ["ended", 1]],
            }.get(one["event"], [])
        ],
    }


def megatron() -> tuple[bytes, dict[str, Any]]:
    """Two ranks of the stand-in for FlagScale under torchrun, with the sizes of the shipped case's proxy; one
    rank after the other, as two files read together.
    """
    from orchestrator import data
    from orchestrator.cases import Case
    from orchestrator.load import load

    case = load(ROOT / "cases" / "llama2_70b" / "case.yaml", Case)
    model, batch = case.proxy.model, case.proxy.batch
    assert batch is not None
    assert case.proxy.data is not None
    iterations, gbs = 6, 4
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data.store(data.prepare_builtin(case.proxy.data), folder)
        words = {
            "train-samples": iterations * gbs,
            "eval-iters": 0,
            "tensor-model-parallel-size": 1,
            "pipeline-model-parallel-size": 1,
            "micro-batch-size": batch.micro_batch_size,
            "global-batch-size": gbs,
            "data-path": case.proxy.data.name,
            "tokenizer-type": "NullTokenizer",
            "vocab-size": model.vocab_size - 1,
            "split": 1,
            "num-layers": model.num_layers,
            "hidden-size": model.hidden_size,
            "num-attention-heads": model.num_heads,
            "ffn-hidden-size": model.ffn_hidden_size,
            "seq-length": batch.sequence_length,
            "max-position-embeddings": batch.sequence_length,
            "num-query-groups": model.num_kv_heads,
            "init-method-std": 0.02,
            "seed": 1234,
            "weight-decay": 0.01,
            "adam-beta1": 0.9,
            "adam-beta2": 0.95,
            "clip-grad": 1.0,
            "lr": 1.5e-4,
            "min-lr": 1e-5,
            "lr-decay-style": "cosine",
            "lr-warmup-fraction": 0.01,
            "log-interval": 1,
        }
        script = ROOT / "dockerfiles" / "shared" / "stand_in" / "pretrain_llama.py"
        argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        argv += ["--standalone", "--redirects", "3", "--log-dir", "logs", str(script)]
        argv += [one for key, value in words.items() for one in (f"--{key}", str(value))]
        environment = os.environ | {"STAND_IN_TRUTH": str(folder / "truth.json"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*argv, "--bf16", "--swiglu", "--group-query-attention"],
            cwd=folder,
            capture_output=True,
            timeout=LIMIT_S,
            env=environment,
        )
        if done.returncode:
            raise SystemExit(done.stderr.decode(errors="replace"))
        log = b"".join(next(folder.glob(f"logs/*/*/{rank}/stdout.log")).read_bytes() for rank in (0, 1))
        truth = json.loads((folder / "truth.json").read_text())
    for step in truth:  # as many digits as are printed
        step["step_time_s"] = round(step["step_time_s"], 4)
        step["grad_norm"] = round(step["grad_norm"], 3)
        step["loss"] = float(f"{step['loss']:.6E}")
        step["learning_rate"] = float(f"{step['learning_rate']:.3E}")
    sizes = {
        "world_size": 2,
        "data_parallel_size": 2,
        "context_parallel_size": 1,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
    }
    stated = [["ended", 1], *([name, value] for name, value in sizes.items())]
    return log, {
        "format_source": "Megatron-LM, megatron/training.py training_log, and its table of arguments",
        "situation": "captured from two ranks of the stand-in for FlagScale under torchrun on a CPU",
        "dialect": "megatron",
        "only": "loss",
        "ignore": [],
        "steps": truth,
        "stated": stated,
    }


CAPTURES = {
    "deepspeed-captured": deepspeed,
    "huggingface-captured": lambda: trainer("plain"),
    "huggingface-captured-bar": lambda: trainer("bar"),
    "events-captured": events,
    "megatron-captured": megatron,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else LOGS, sys.argv[2:])
