"""Do the sizes of a run agree with each other: ranks, parallelism, batch. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.linear import compiled

if TYPE_CHECKING:
    from collections.abc import Mapping

PARALLELISM = compiled(r"(TP|PP|DP|CP)(\d{1,6})")
LETTERS = {
    "TP": "tensor_parallel_size",
    "PP": "pipeline_parallel_size",
    "DP": "data_parallel_size",
    "CP": "context_parallel_size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One equation between figures of the same run: whether it holds, and what was compared."""

    name: str
    held: bool
    detail: str


def parallelism(text: str) -> dict[str, int]:
    """`TP8PP4DP1` → sizes by name, in any order, each once. Raises ValueError."""
    sizes: dict[str, int] = {}
    place = 0
    while place < len(text):
        match = PARALLELISM.match(text, place)
        if match is None or LETTERS[match[1]] in sizes or int(match[2]) == 0:
            raise ValueError(f"{text!r} is not like TP8PP4DP1")
        sizes[LETTERS[match[1]]] = int(match[2])
        place = match.end()
    if not sizes:
        raise ValueError("it is empty")
    return sizes


def check_sizes(sizes: Mapping[str, float]) -> tuple[Check, ...]:
    """`world = TP × PP × CP × DP` and `GBS = LBS × GAS × DP`, where enough is known to compare."""
    return tuple(check for check in (_world(sizes), _batch(sizes)) if check is not None)


def data_parallel_size(sizes: Mapping[str, float]) -> float | None:
    """As stated, else world_size ÷ the others; None where neither can be had. A run that names no model
    parallelism at all has none only if it says so.
    """
    if "data_parallel_size" in sizes:
        return sizes["data_parallel_size"]
    known = [name for name in ("tensor_parallel_size", "pipeline_parallel_size") if name in sizes]
    if "world_size" not in sizes or not known:
        return None
    share = sizes["world_size"] / _model_parallel(sizes)
    return share if share == int(share) else None


def _model_parallel(sizes: Mapping[str, float]) -> float:
    names = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
    return math.prod(sizes.get(name, 1) for name in names)


def _world(sizes: Mapping[str, float]) -> Check | None:
    if "world_size" not in sizes or not sizes.keys() & set(LETTERS.values()):
        return None
    others = " × ".join(f"{letters} {sizes[name]:g}" for letters, name in LETTERS.items() if name in sizes)
    world, product = sizes["world_size"], _model_parallel(sizes) * sizes.get("data_parallel_size", 1)
    if "data_parallel_size" in sizes and {"tensor_parallel_size", "pipeline_parallel_size"} <= sizes.keys():
        return Check(name="world_size", held=world == product, detail=f"world {world:g} = {others}")
    return Check(name="world_size", held=world % product == 0, detail=f"world {world:g}, divided by {others}")


def _batch(sizes: Mapping[str, float]) -> Check | None:
    data_parallel = data_parallel_size(sizes)
    if "global_batch_size" not in sizes or "micro_batch_size" not in sizes or data_parallel is None:
        return None
    gbs, lbs = sizes["global_batch_size"], sizes["micro_batch_size"]
    if "gradient_accumulation_steps" not in sizes:
        held = gbs % (lbs * data_parallel) == 0
        detail = f"GBS {gbs:g}, divided by LBS {lbs:g} × DP {data_parallel:g}"
        return Check(name="global_batch_size", held=held, detail=detail)
    gas = sizes["gradient_accumulation_steps"]
    return Check(
        name="global_batch_size",
        held=gbs == lbs * gas * data_parallel,
        detail=f"GBS {gbs:g} = LBS {lbs:g} × GAS {gas:g} × DP {data_parallel:g}",
    )


def check_close(name: str, *, left: float, right: float, tolerance: float, what: str) -> Check:
    """`left` = `right` within a relative `tolerance`; `what` names both sides."""
    held = math.isclose(left, right, rel_tol=tolerance)
    return Check(name=name, held=held, detail=f"{what}: {left:.6g} and {right:.6g}, within {tolerance:.2%}")
