"""The trained model answers questions about images, greedily; each rank its share, every question once.

The answer key is not here: answers are scored on the host.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from data import DataError
from generate import generate
from samples import PreparedSet
from weights import is_partitioned

if TYPE_CHECKING:
    import job as jobs
    from device import Device
    from events import EventWriter


def answer(job: jobs.Job, engine: Any, device: Device, events: EventWriter) -> None:
    """One `answer` record a question of this rank's, then an `evaluation` record."""
    planned = job.questions
    assert planned is not None and job.model.vision is not None  # the job was checked
    vision = job.model.vision
    questions = PreparedSet(
        os.path.dirname(planned.file),
        manifest_sha256=planned.sha256,
        vocab_size=job.model.vocab_size,
        image_positions=(vision.image_size // vision.patch_size) ** 2,
    )
    ids = questions.question_ids()
    if len(ids) != planned.num_questions:
        raise DataError("{}: {} questions, planned {}".format(planned.file, len(ids), planned.num_questions))
    rank, world = dist.get_rank(), dist.get_world_size()
    # Where ZeRO-3 has partitioned the weights every forward is a collective: a rank that is done, or has no
    # question left, goes on until all are.
    together = any(map(is_partitioned, engine.model.parameters()))
    end = questions.manifest["eos_token"]
    start_s, answered = time.monotonic(), 0
    with engine.inference():
        for first in range(0, len(ids), world):
            number = first + rank
            mine = number < len(ids)
            if not mine and not together:
                break
            batch = questions.batch([number if mine else 0])
            tokens = generate(
                engine.model,
                batch.inputs_BS[0].to(device.device),
                images_NCHW=batch.images_NCHW.to(device.device),
                max_new_tokens=planned.max_new_tokens,
                end_ids=() if end is None else (end,),
                all_done=Agreed(device, idle=not mine) if together else bool,
            )
            if mine:
                events.write("answer", question=ids[number], tokens=tokens)
                answered += 1
    events.write(
        "evaluation",
        start_s=start_s,
        end_s=time.monotonic(),
        data_sha256=questions.sha256,
        num_questions=len(ids),
        answered=answered,
        decoding="greedy",
    )


class Agreed:
    """Whether all ranks are done; one that is `idle` always is."""

    def __init__(self, device: Device, *, idle: bool) -> None:
        self._device, self._idle = device, idle

    def __call__(self, finished: bool) -> bool:
        done = torch.tensor(float(finished or self._idle), device=self._device.device)
        dist.all_reduce(done, op=dist.ReduceOp.MIN)
        return bool(done.item())
