"""One rank: job.json in, event lines out. launch.py starts it, with torchrun's variables in the
environment.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import math
import os
import platform
import signal
import socket
import sys
import time
import traceback
import warnings
from typing import Any, Dict, Iterator, Optional

import job as jobs
import torch
import torch.distributed as dist
from data import Batch, Windows
from device import Device, peak_rss_bytes
from engine import import_deepspeed, make_engine
from events import EventWriter
from llama import Llama, num_parameters
from order import SequenceOrder

TRACEBACK_BYTES = 64 * 1024


def main(job_path: str) -> int:
    """The rank's exit code. Whatever goes wrong is a `fail` record, a traceback on standard error and 1."""
    # A rank that hangs is asked where: SIGUSR1 writes the stack of every thread.
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
    # torch 2.13 renamed collectives that DeepSpeed 0.19 calls by their old names; it would say so at every
    # call.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    job = jobs.load_job(job_path)
    job_sha256 = file_sha256(job_path)
    rank = int(os.environ["RANK"])
    events = EventWriter(rank_directory(rank), job.nonce, rank)
    try:
        train(job, job_sha256, events)
    except BaseException as error:  # noqa: BLE001  an early sys.exit() is a failure too
        traceback.print_exc()
        text = traceback.format_exc().encode("utf-8", "backslashreplace")[-TRACEBACK_BYTES:]
        events.write(
            "fail",
            type=type(error).__name__,
            message=str(error)[:4096],
            traceback=text.decode("utf-8", "replace"),
        )
        return 1
    leave()
    return 0


def train(job: jobs.Job, job_sha256: str, events: EventWriter) -> None:
    device = Device(job.device, int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(job.seed)
    dist.init_process_group(job.device.backend)
    if dist.get_world_size() != job.batch.world_size:
        raise RuntimeError(
            "{} ranks came, {} are planned".format(dist.get_world_size(), job.batch.world_size)
        )
    events.write("hello", **hello(job, job_sha256, device))

    windows = Windows(job.data, sequence_length=job.batch.sequence_length, vocab_size=job.model.vocab_size)
    engine = make_engine(job, device, lambda: build_model(job))
    events.write("ready", **ready(windows, engine))

    order = SequenceOrder(len(windows), job.seed)
    for step in range(1, job.steps.planned + 1):
        # Both clock readings wait for the device, or a step would end when it was queued. For this rank's
        # alone: a barrier here would be work that the benchmark itself adds to every step.
        device.synchronize()
        start_s = time.monotonic()
        fed = Fed(micro_batches(job, order, windows, device, step - 1))
        loss, norm = engine.step(fed)
        device.synchronize()
        end_s = time.monotonic()
        events.write("step", **step_record(job, step, start_s, end_s, fed, float(loss), norm))

    events.write(
        "memory",
        peak_rss_bytes=peak_rss_bytes(),
        device_peak_allocated_bytes=device.peak_allocated_bytes(),
        device_peak_reserved_bytes=device.peak_reserved_bytes(),
    )
    events.end(job.steps.planned)


def build_model(job: jobs.Job) -> Llama:
    return Llama(job.model, recompute=job.recompute == "full", seed=job.seed)


class Fed:
    """Micro-batches on their way into the engine, counted as they pass: what was trained, not what was
    planned.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.samples = 0
        self.tokens = 0

    def __iter__(self) -> Iterator[Batch]:
        for inputs_BS, labels_BS in self._batches:
            self.samples += inputs_BS.shape[0]
            self.tokens += inputs_BS.numel()
            yield inputs_BS, labels_BS


def micro_batches(
    job: jobs.Job, order: SequenceOrder, windows: Windows, device: Device, step: int
) -> Iterator[Batch]:
    batch = job.batch
    for number in range(batch.gradient_accumulation_steps):
        indices = order.micro_batch(
            step,
            number,
            dp_rank=dist.get_rank(),
            dp=batch.data_parallel_size,
            mbs=batch.micro_batch_size,
            gas=batch.gradient_accumulation_steps,
        )
        yield windows.batch(indices, device.device)


def hello(job: jobs.Job, job_sha256: str, device: Device) -> Dict[str, Any]:
    """Who this rank is: what was found, not what was planned, wherever it can be asked for."""
    return {
        "world_size": dist.get_world_size(),
        "local_rank": int(os.environ["LOCAL_RANK"]),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "wall_time_s": time.time(),
        "device_type": device.device.type,
        "device_name": device.name,
        "backend": dist.get_backend(),
        "engine": job.engine,
        "attention": job.attention,
        "versions": versions(job),
        "os": platform.platform(),
        "seed": job.seed,
        "job_sha256": job_sha256,
    }


def versions(job: jobs.Job) -> Dict[str, Optional[str]]:
    if job.engine == "deepspeed":
        import_deepspeed()
    found: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for name in ("torch", "deepspeed", "numpy", job.device.plugin):
        if name is not None:
            found[name] = getattr(sys.modules.get(name), "__version__", None)
    return found


def ready(windows: Windows, engine: Any) -> Dict[str, Any]:
    """What stands, asked of the model, the data and the engine themselves wherever they can be asked."""
    model = engine.model
    return {
        **engine.found(),
        "num_parameters": num_parameters(model),
        "num_embedding_parameters": num_parameters(model.model.embed_tokens),
        "data_sha256": windows.sha256,
        "data_num_tokens": windows.num_tokens,
        "recompute": "full" if model.model.recompute else "none",
        "sequence_length": windows.sequence_length,
        "world_size": dist.get_world_size(),
    }


def step_record(
    job: jobs.Job, step: int, start_s: float, end_s: float, fed: Fed, loss: float, norm: Any
) -> Dict[str, Any]:
    record = {
        "step": step,
        "start_s": start_s,
        "end_s": end_s,
        "samples": fed.samples,
        "tokens": fed.tokens,
        "loss": finite_or_none(loss),
    }
    if record["loss"] is None:
        record["loss_nonfinite"] = str(loss)  # "nan", "inf" or "-inf"
    record["grad_norm"] = None if norm is None else finite_or_none(float(norm))
    record["learning_rate"] = job.optimizer.learning_rate
    return record


def file_sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def finite_or_none(value: float) -> Optional[float]:
    return value if math.isfinite(value) else None


def leave() -> None:
    """Parts from the other ranks. The end is recorded by now, so trouble here is told and changes nothing."""
    try:
        dist.barrier()
        dist.destroy_process_group()
    except Exception:  # noqa: BLE001  see above
        traceback.print_exc()


def rank_directory(rank: int) -> str:
    return os.path.join(os.environ["NX8_OUTPUT"], "rank{}".format(rank))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    sys.exit(main(parser.parse_args().job))
