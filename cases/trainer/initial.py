"""The model of a job with the weights that it begins with, and those that a stage leaves to the next."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Union

import torch.distributed as dist
import weights
from data import llava_config
from layouts import llama_layout, llava_layout
from llama import Llama
from llava import Llava
from samples import SampleError, verify_file
from tensorfile import SINGLE, WeightsError

if TYPE_CHECKING:
    import job as jobs

MANIFEST = "nx8-weights.json"
PROJECTOR = "multi_modal_projector."


def build_model(job: jobs.Job) -> Union[Llama, Llava]:
    """Born with the planned weights; what is not trained asks for no gradient. Raises WeightsError."""
    settings: Dict[str, Any] = {"recompute": job.recompute == "full", "seed": job.seed}
    model: Union[Llama, Llava]
    if job.model.vision is None:
        model = Llama(job.model, attention=job.attention, **settings)
        layout = llama_layout(job.model)
    else:
        config = llava_config(job.model)
        model = Llava(config, attention=job.attention, **settings)
        layout = llava_layout(config)
    if job.initial is not None:
        folders, fresh = chosen(job.initial)
        verify(job.initial)
        weights.load(model, folders, layout, fresh=fresh)
    if job.trainable is not None:
        learning = tuple(name + "." for name in job.trainable)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(learning))
    return model


def chosen(initial: jobs.Initial) -> Tuple[List[str], Tuple[str, ...]]:
    """The folders that are read, and the beginnings of the names that none of them has."""
    fresh: List[str] = [] if initial.projector else [PROJECTOR]
    if not initial.folders:
        fresh += ["vision_tower.", "language_model."]
    return initial.folders + ([initial.projector] if initial.projector else []), tuple(fresh)


def verify(initial: jobs.Initial) -> None:
    """Holds every file of the folders against its list, once a node. Raises WeightsError."""
    if int(os.environ["LOCAL_RANK"]) == 0:
        for folder, sha256 in zip(initial.folders, initial.manifests):
            verify_folder(folder, sha256)
    if initial.folders:
        dist.barrier()  # nobody reads what is still being looked at


def verify_folder(folder: str, sha256: str) -> None:
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise WeightsError("{}: {}".format(path, error.strerror)) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError("{}: SHA-256 is {}, planned is {}".format(path, found, sha256))
    try:
        for file in json.loads(content.decode("utf-8"))["files"]:
            verify_file(os.path.join(folder, file["name"]), file["bytes"], file["sha256"])
    except SampleError as error:
        raise WeightsError(str(error)) from error


def projector_sha256(initial: jobs.Initial) -> Optional[str]:
    """Of the file that the stage before left; null without one."""
    if initial.projector is None:
        return None
    with open(os.path.join(initial.projector, SINGLE), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def save_projector(model: Any, output: str, folder: str) -> Optional[Dict[str, Any]]:
    """Writes the projector below `output`; what rank 0 has to say about the file, None on the others."""
    first = dist.get_rank() == 0
    path = os.path.join(output, folder, SINGLE)
    if first:
        os.makedirs(os.path.dirname(path))
    if first or any(map(weights.is_partitioned, model.parameters())):
        weights.save(model, path, prefix=PROJECTOR)
    if not first:
        return None
    with open(path, "rb") as file:
        content = file.read()
    return {
        "file": "{}/{}".format(folder, SINGLE),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
