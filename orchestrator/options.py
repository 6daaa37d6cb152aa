"""What a person asks to be otherwise than the files say, and what a case is after that: its works, engine and
what they need of their image. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.cases import BATCH_KEYS, Parallel, Work, works
from orchestrator.configs import DeviceConfig
from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from orchestrator.cases import Case
    from orchestrator.plan import Plan
    from orchestrator.selection import Chosen, Selection
    from orchestrator.vendors import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may say on the command line; null leaves the files' own word."""

    changes: DeviceConfig = field(default_factory=lambda: DeviceConfig(schema=1))
    measured_steps: int | None = None
    startup_limit_s: float | None = None
    stall_limit_s: float | None = None
    time_limit_s: float | None = None


def is_proxy(selection: Selection) -> bool:
    """The proxy block applies if and only if the arithmetic is done by a CPU: there, or in a rehearsal."""
    return selection.cluster.rehearsal or selection.vendor.torch.device_type == "cpu"


def works_of(case: Case, selection: Selection) -> tuple[Work, ...]:
    """What this case trains on the selected devices, before any device changes it."""
    return works(case, proxy=is_proxy(selection))


def engine_of(chosen: Chosen, selection: Selection, options: Options) -> str:
    """Which engine trains this case in the end: the command line's, the device's, the case's."""
    base = works_of(chosen.case, selection)[0]
    return str(changes(selection, base, chosen, options).get("engine", base.engine))


def needs_of(selection: Selection, options: Options) -> dict[str, frozenset[Need]]:
    """Every engine that trains something, with what its works need of their image beside it."""
    found: dict[str, frozenset[Need]] = {}
    for chosen in selection.cases:
        engine = engine_of(chosen, selection, options)
        for base in works_of(chosen.case, selection):
            attention = changes(selection, base, chosen, options).get("attention", base.attention)
            sets = (base.data if base.data.num_samples else None, base.evaluation)
            needs: dict[Need, bool] = {
                "flash_attn_2": attention == "flash_attn_2",
                # What is drawn for a proxy is read without a library.
                "images": any(one is not None and one.builtin is None for one in sets),
            }
            found[engine] = found.get(engine, frozenset()) | {name for name, is_so in needs.items() if is_so}
    return found


def needs_of_plan(planned: Plan) -> dict[str, frozenset[str]]:
    """The same, as the images of a plan were made."""
    return {
        cell.job.engine: frozenset(cell.image.needs or ()) for cell in planned.cells if cell.image is not None
    }


def changes(selection: Selection, base: Work, chosen: Chosen, options: Options) -> dict[str, Any]:
    """What the device's config and the command line change.

    A proxy keeps its own sizes and attention whatever the device's config says, and in a rehearsal, where a
    CPU computes for a device, the case's precision: what such a device is asked for no CPU can do.
    """
    kept: set[str] = {"sequence_length", "micro_batch_size", "attention"} if is_proxy(selection) else set()
    kept |= {"parallel", "engine"} if is_proxy(selection) else set()
    kept |= {"precision"} if selection.cluster.rehearsal else set()
    return {
        **{key: value for key, value in chosen.config.changes(base.stage).items() if key not in kept},
        **options.changes.changes(),
    }


def changed(selection: Selection, base: Work, chosen: Chosen, options: Options) -> Work:
    """`base` with the changes applied. Raises ConfigError for one that the case does not allow."""
    asked = changes(selection, base, chosen, options)
    tunable = chosen.case.tunable
    refused = [key for key in options.changes.changes() if key not in tunable]
    if refused:
        raise ConfigError(
            [
                Problem(
                    code="E116",
                    message=f"--set {key}: not a key that case {chosen.name!r} lets anyone change",
                    help=f"it may change: {', '.join(tunable) or 'nothing'}",
                )
                for key in refused
            ]
        )
    batch = {key: asked[key] for key in BATCH_KEYS if key in asked}
    own = {
        key: asked[key]
        for key in ("precision", "recompute", "attention", "loss_scale_window", "parallel", "engine")
        if key in asked
    }
    zero = {"overlap_comm": asked["overlap_comm"]} if "overlap_comm" in asked else {}
    measurement = base.measurement
    if options.measured_steps is not None:
        measurement = replace(measurement, measured_steps=options.measured_steps)
    return replace(
        base,
        batch=replace(base.batch, **batch),
        zero=replace(base.zero, **zero),
        measurement=measurement,
        **own,
    )


def shown(value: Any) -> str:
    if not isinstance(value, Parallel):
        return str(value)
    said = {key: one for key, one in asdict(value).items() if one is not None}
    return ", ".join(f"{key} {one}" for key, one in said.items())
