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
from typing import Any, Dict, Optional

import job as jobs
import torch.distributed as dist
from answers import answer
from attention import check_attention
from data import Fed, make_feed
from device import Device, peak_rss_bytes
from engine import import_deepspeed, make_engine
from events import EventWriter
from grid import grid_of
from initial import build_model, projector_sha256, save_projector
from llama import num_parameters
from stacks import RANK_STACKS_NAME
from status import EXIT_NO_ROOM, no_room

TRACEBACK_BYTES = 64 * 1024


def main(job_path: str) -> int:
    """The rank's exit code. Whatever goes wrong is a `fail` record, a traceback on standard error and 1."""
    # A rank that hangs is asked where: SIGUSR1 writes the stack of every thread. Into a file of its own: what
    # goes to standard error may be so much that only its beginning and its end are kept.
    rank = int(os.environ["RANK"])
    os.makedirs(rank_directory(rank), exist_ok=True)
    answers = open(os.path.join(rank_directory(rank), RANK_STACKS_NAME), "a")  # noqa: SIM115  as long as we live
    faulthandler.register(signal.SIGUSR1, file=answers, all_threads=True)
    # torch 2.13 renamed collectives that DeepSpeed 0.19 calls by their old names; it would say so at every
    # call.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    job = jobs.load_job(job_path)
    job_sha256 = file_sha256(job_path)
    events = EventWriter(rank_directory(rank), job.nonce, rank)
    try:
        train(job, job_sha256, events)
    except BaseException as error:  # noqa: BLE001  an early sys.exit() is a failure too
        return told(error, events)
    leave()
    return 0


def told(error: BaseException, events: EventWriter) -> int:
    """Says what went wrong wherever there is room to say it; the exit code."""
    code = EXIT_NO_ROOM if no_room(error) else 1
    try:
        traceback.print_exc()
        text = traceback.format_exc().encode("utf-8", "backslashreplace")[-TRACEBACK_BYTES:]
        events.write(
            "fail",
            type=type(error).__name__,
            message=str(error)[:4096],
            traceback=text.decode("utf-8", "replace"),
        )
    except OSError as second:
        if not no_room(second):
            raise
        return EXIT_NO_ROOM
    return code


def train(job: jobs.Job, job_sha256: str, events: EventWriter) -> None:
    device = Device(job.device, int(os.environ["LOCAL_RANK"]))
    device.seed(job.seed)
    dist.init_process_group(job.device.backend)
    if dist.get_world_size() != job.batch.world_size:
        raise RuntimeError(
            "{} ranks came, {} are planned".format(dist.get_world_size(), job.batch.world_size)
        )
    events.write("hello", **hello(job, job_sha256, device))

    check_attention(job.attention, device.type)
    with make_feed(job, rank=grid_of(job).place(dist.get_rank())[1]) as feed:
        engine = make_engine(job, device, lambda: build_model(job))
        events.write("ready", **ready(job, feed, engine))
        measure(job, device, engine, feed, events)

    events.write(
        "memory",
        peak_rss_bytes=peak_rss_bytes(),
        device_peak_allocated_bytes=device.peak_allocated_bytes(),
        device_peak_reserved_bytes=device.peak_reserved_bytes(),
    )
    # All that follows is timed by nobody.
    if job.save is not None:
        saved = save_projector(engine.model, os.environ["NX8_OUTPUT"], job.save)
        if saved is not None:
            events.write("saved", **saved)
    if job.questions is not None:
        answer(job, engine, device, events)
    events.end(job.steps.planned)


def measure(job: jobs.Job, device: Device, engine: Any, feed: Any, events: EventWriter) -> None:
    for step in range(1, job.steps.planned + 1):
        rate = job.optimizer.learning_rate_at(step, total=job.steps.planned)
        if job.optimizer.schedule is not None:
            engine.set_learning_rate(rate)
        # Both clock readings wait for the device, or a step would end when it was queued. For this rank's
        # alone: a barrier here would be work that the benchmark itself adds to every step.
        device.synchronize()
        start_s = time.monotonic()
        fed = Fed(feed.micro_batches(step - 1, device.device))
        loss, norm = engine.step(fed)
        device.synchronize()
        end_s = time.monotonic()
        record = step_record(step, rate, start_s, end_s, fed, float(loss), norm)
        events.write("step", **record, **engine.step_facts())


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


def ready(job: jobs.Job, feed: Any, engine: Any) -> Dict[str, Any]:
    """What stands, asked of the model, the data and the engine themselves wherever they can be asked."""
    model = engine.model
    record = {
        **engine.found(),
        "data_sha256": feed.sha256,
        "data_num_tokens": feed.num_tokens,
        "sequence_length": feed.sequence_length,
        "world_size": dist.get_world_size(),
    }
    if job.trainable is not None:
        record["num_trainable_parameters"] = num_parameters(model, trainable=True)
    if job.initial is not None:
        record["initial_manifests"] = job.initial.manifests
        record["projector_sha256"] = projector_sha256(job.initial)
    return record


def step_record(
    step: int, rate: float, start_s: float, end_s: float, fed: Fed, loss: float, norm: Any
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
    record["learning_rate"] = rate
    record["data_wait_s"] = fed.wait_s
    if fed.real_tokens is not None:
        record["real_tokens"] = fed.real_tokens
        record["labelled_tokens"] = fed.labelled_tokens
        record["images"] = fed.images
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
