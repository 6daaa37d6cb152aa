"""A model's weights from Hugging Face folders, by name, and back into a safetensors file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Dict, Iterator, List, Sequence, Tuple

import torch
from layouts import Layout, config_problems
from tensorfile import (
    TORCH_DTYPES,
    Stored,
    WeightsError,
    make_header,
    new_file,
    read_folder,
    read_tensor,
    write_tensor,
)
from torch import nn

if TYPE_CHECKING:
    import mmap


def load(model: nn.Module, folders: Sequence[str], layout: Layout, *, fresh: Tuple[str, ...] = ()) -> None:
    """Fills the parameters from the folders, converted to the dtype they have.

    Parameters whose names begin with one of `fresh` keep what they were born with, and no folder may hold
    them. Where ZeRO-3 has partitioned the model every rank must call this: rank 0 reads the data, one module
    at a time is whole. Raises WeightsError before anything is changed; OSError when the data cannot be read.
    """
    found = matched(model, folders, layout, fresh=fresh)
    files: Dict[str, mmap.mmap] = {}
    mine = handles(model)
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(prefix=prefix, recurse=False))
        chosen = {name: parameter for name, parameter in own.items() if name in found}
        with whole(list(chosen.values()), changed=True), torch.no_grad():
            for name, parameter in chosen.items() if mine else ():
                parameter.copy_(read_tensor(found[name], files))


def save(model: nn.Module, path: str, *, prefix: str = "") -> None:
    """Writes the parameters whose names begin with `prefix` to one safetensors file, in the dtype they have.

    Of a model that every rank has whole, one rank calls this; of one that ZeRO-3 has partitioned all must,
    and rank 0 writes. Raises OSError.
    """
    chosen = [(name, p) for name, p in model.named_parameters() if name.startswith(prefix)]
    header, starts, size = make_header(chosen)
    with new_file(path, size) if handles(model) else contextlib.nullcontext() as data:
        if data is not None:
            data[: len(header)] = header
        for name, parameter in chosen:
            with whole([parameter], changed=False):
                if data is not None:
                    write_tensor(parameter.detach(), data, starts[name])


def matched(
    model: nn.Module, folders: Sequence[str], layout: Layout, *, fresh: Tuple[str, ...]
) -> Dict[str, Stored]:
    """The stored tensor of every parameter that is not fresh. Raises WeightsError for all that do not fit."""
    problems: List[str] = []
    found: Dict[str, Stored] = {}
    for folder in folders:
        problems.extend(config_problems(folder, layout))
        for name, stored in read_folder(folder, problems).items():
            ours = layout.rename(name)
            if layout.ignored.fullmatch(ours):
                continue
            if ours in found:
                problems.append(
                    "{}: {!r:.200} is stored twice, also in {}".format(stored.path, ours, found[ours].path)
                )
            found[ours] = stored
    if not problems:
        problems = mismatches(model, found, fresh)
    if problems:
        raise WeightsError("\n".join(problems))
    return found


def mismatches(model: nn.Module, found: Dict[str, Stored], fresh: Tuple[str, ...]) -> List[str]:
    wanted = {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in model.named_parameters()
        if not name.startswith(fresh or ("\0",))
    }
    problems = ["{}: missing".format(name) for name in wanted if name not in found]
    for name, stored in found.items():
        if name not in wanted:
            problems.append("{}: {!r:.200} is no parameter of this model".format(stored.path, name))
        elif stored.shape != wanted[name]:
            problems.append(
                "{}: {} is {}, the model has {}".format(
                    stored.path, name, list(stored.shape), list(wanted[name])
                )
            )
        elif stored.dtype not in TORCH_DTYPES:
            problems.append(
                "{}: {} is {}, not {}".format(stored.path, name, stored.dtype, "/".join(TORCH_DTYPES))
            )
    return problems


def handles(model: nn.Module) -> bool:
    """Whether this rank reads and writes: rank 0 where ZeRO-3 has partitioned the model, else every one."""
    return not any(map(is_partitioned, model.parameters())) or torch.distributed.get_rank() == 0


def is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


@contextlib.contextmanager
def whole(parameters: List[nn.Parameter], *, changed: bool) -> Iterator[None]:
    """Partitioned parameters in one piece; with `changed`, what rank 0 makes of them reaches all ranks."""
    if not any(map(is_partitioned, parameters)):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if changed else None):
        yield
