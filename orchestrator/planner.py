"""Cluster × Vendor × Case → Plan: ranks, batch arithmetic, argv, environment and job.json, complete before
anything starts. Pure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.cases import DeviceConfig
from orchestrator.errors import ConfigError, Problem
from orchestrator.placing import REHEARSAL, Place, data_plan, device_plan, image_plan, launches
from orchestrator.plan import (
    CONTRACT,
    BatchPlan,
    Cell,
    DataPlan,
    DevicePlan,
    FlopsPlan,
    Identity,
    Job,
    LimitsPlan,
    ModelPlan,
    OptimizerPlan,
    PeakPlan,
    Plan,
    PrecisionPlan,
    ProxyPlan,
    Steps,
    ZeroPlan,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cases import Batch, Case, Data, Model
    from orchestrator.data import Manifest
    from orchestrator.render import Context
    from orchestrator.selection import Chosen, Selection
    from orchestrator.vendors import Device, Vendor


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may say on the command line; null leaves the files' own word."""

    changes: DeviceConfig = field(default_factory=lambda: DeviceConfig(schema=1))
    measured_steps: int | None = None
    startup_limit_s: float | None = None
    stall_limit_s: float | None = None
    time_limit_s: float | None = None


def plan(
    selection: Selection,
    *,
    identity: Identity,
    place: Place,
    manifests: Mapping[str, Manifest],
    options: Options,
    contexts: Mapping[str, Context] | None = None,
) -> Plan:
    """The complete plan. `manifests` has the checked manifest of each case's data, by data name; `contexts`
    what the image of each engine is built from, where there are nodes to build it on.

    Raises ConfigError (E12x) with everything that does not divide, fit or is refused, of all cases at once.
    """
    cells: list[Cell] = []
    problems: list[Problem] = []
    for chosen in selection.cases:
        try:
            cells.append(_cell(selection, chosen, identity, place, manifests, options, contexts or {}))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Plan(
        schema=1,
        identity=identity,
        cluster=selection.cluster_name,
        vendor=selection.vendor_name,
        transport=selection.cluster.transport,
        cells=tuple(cells),
        time_limit_s=options.time_limit_s,
    )


def is_proxy(selection: Selection) -> bool:
    """The proxy block applies if and only if the arithmetic is done by a CPU: there, or in a rehearsal."""
    return selection.cluster.rehearsal or selection.vendor.torch.device_type == "cpu"


def data_of(case: Case, selection: Selection) -> Data:
    """The data that this case reads on the selected devices."""
    return case.proxy.data if is_proxy(selection) else case.data


def _cell(
    selection: Selection,
    chosen: Chosen,
    identity: Identity,
    place: Place,
    manifests: Mapping[str, Manifest],
    options: Options,
    contexts: Mapping[str, Context],
) -> Cell:
    vendor, cluster = selection.vendor, selection.cluster
    device = vendor.devices[cluster.device]
    proxy = is_proxy(selection)
    base = _base(chosen.case, proxy=proxy)
    case = _changed(base, chosen, options, proxy=proxy)
    world_size = len(cluster.nodes) * cluster.devices_per_node
    batch = _batch(case.batch, world_size)
    manifest = manifests[case.data.name]
    precision = _precision(case)
    problems: list[Problem] = [
        *_refused(chosen.name, case, vendor, precision),
        *_data_problems(chosen.name, case, manifest),
    ]
    steps = _steps(chosen.name, case, batch, manifest, problems)
    if problems or steps is None:
        raise ConfigError(problems)
    cell_id = f"{chosen.name}-{cluster.scale}"
    job = _job(
        chosen.name,
        cell_id,
        case,
        identity,
        device_plan(selection),
        data_plan(selection, place, manifest),
        batch,
        steps,
        precision,
    )
    context = contexts.get(case.engine)
    return Cell(
        cell_id=cell_id,
        case=chosen.name,
        vendor=selection.vendor_name,
        device=cluster.device,
        device_display=device.display_name,
        num_nodes=len(cluster.nodes),
        devices_per_node=cluster.devices_per_node,
        stage=None,
        proxy=ProxyPlan(why=case.proxy.why, of=chosen.case.table.display_name) if proxy else None,
        fix_hp=fix_hp(base, case),
        changed={key: str(value) for key, value in _changes(chosen, options, proxy=proxy).items()},
        columns=case.table.columns,
        flops=_flops(case, proxy=proxy),
        peak=_peak(device, precision.compute_dtype, rehearsal=cluster.rehearsal),
        limits=LimitsPlan(
            startup_s=options.startup_limit_s or case.limits.startup_s,
            stall_s=options.stall_limit_s or case.limits.stall_s,
        ),
        config_hash=_config_hash(job),
        job=job,
        launches=launches(selection, place, job, context),
        image=image_plan(context),
        rehearsal=REHEARSAL if cluster.rehearsal else None,
        probe=vendor.probe if context else None,
        device_memory_bytes=round(device.memory_gib * 1024**3) if device.memory_gib else None,
    )


def _base(case: Case, *, proxy: bool) -> Case:
    """The case as it stands before any device changes it: itself, or with its proxy's sections in their
    places.
    """
    if not proxy:
        return case
    small = case.proxy
    return replace(
        case,
        model=small.model,
        data=small.data,
        batch=small.batch,
        optimizer=small.optimizer,
        zero=small.zero,
        measurement=small.measurement,
        limits=small.limits,
    )


def _changes(chosen: Chosen, options: Options, *, proxy: bool) -> dict[str, Any]:
    """What the device's config and the command line change; a proxy keeps its own sizes whatever the
    device's config says.
    """
    sizes = {"sequence_length", "micro_batch_size"} if proxy else set()
    return {
        **{key: value for key, value in chosen.config.changes().items() if key not in sizes},
        **options.changes.changes(),
    }


def _changed(base: Case, chosen: Chosen, options: Options, *, proxy: bool) -> Case:
    """`base` with the changes applied. Raises ConfigError for one that the case does not allow."""
    changes = _changes(chosen, options, proxy=proxy)
    refused = [key for key in options.changes.changes() if key not in base.tunable]
    if refused:
        raise ConfigError(
            [
                Problem(
                    code="E116",
                    message=f"--set {key}: not a key that case {chosen.name!r} lets anyone change",
                    help=f"it may change: {', '.join(base.tunable) or 'nothing'}",
                )
                for key in refused
            ]
        )
    batch = {
        key: changes[key]
        for key in ("sequence_length", "micro_batch_size", "gradient_accumulation_steps")
        if key in changes
    }
    own = {key: changes[key] for key in ("precision", "recompute") if key in changes}
    zero = {"overlap_comm": changes["overlap_comm"]} if "overlap_comm" in changes else {}
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


def fix_hp(base: Case, case: Case) -> str:
    """What differs from the case's default, in the words of the published tables; `/` for nothing."""
    words = [
        f"{word}={new}"
        for word, old, new in (
            ("MPE", base.batch.sequence_length, case.batch.sequence_length),
            ("LBS", base.batch.micro_batch_size, case.batch.micro_batch_size),
            ("GAS", base.batch.gradient_accumulation_steps, case.batch.gradient_accumulation_steps),
            ("recompute", base.recompute != "none", case.recompute != "none"),
        )
        if old != new
    ]
    return " ".join(words) or "/"


def _batch(batch: Batch, world_size: int) -> BatchPlan:
    """Data parallelism only: every rank is one replica."""
    return BatchPlan(
        sequence_length=batch.sequence_length,
        micro_batch_size=batch.micro_batch_size,
        gradient_accumulation_steps=batch.gradient_accumulation_steps,
        data_parallel_size=world_size,
        world_size=world_size,
        global_batch_size=batch.micro_batch_size * batch.gradient_accumulation_steps * world_size,
    )


#: (engine, label of the table) → (compute dtype, mechanism). In DeepSpeed "amp" is float16 with its loss
#: scaler, as the published S4000 rows were taken; DDP's is torch's autocast to bfloat16.
PRECISIONS: dict[
    tuple[str, str], tuple[Literal["fp32", "bf16", "fp16"], Literal["none", "engine", "autocast"]]
] = {
    ("deepspeed", "fp32"): ("fp32", "none"),
    ("deepspeed", "bf16"): ("bf16", "engine"),
    ("deepspeed", "fp16"): ("fp16", "engine"),
    ("deepspeed", "amp"): ("fp16", "engine"),
    ("ddp", "fp32"): ("fp32", "none"),
    ("ddp", "bf16"): ("bf16", "autocast"),
    ("ddp", "fp16"): ("fp16", "autocast"),
    ("ddp", "amp"): ("bf16", "autocast"),
}


def _precision(case: Case) -> PrecisionPlan:
    compute_dtype, mechanism = PRECISIONS[case.engine, case.precision]
    return PrecisionPlan(label=case.precision, compute_dtype=compute_dtype, mechanism=mechanism)


def _refused(name: str, case: Case, vendor: Vendor, precision: PrecisionPlan) -> list[Problem]:
    refusal = vendor.refusal(engine=case.engine, compute_dtype=precision.compute_dtype)
    if refusal is None:
        return []
    return [
        Problem(
            code="E120",
            message=f"{name}: {vendor.display_name} cannot run {case.engine} in {precision.compute_dtype}: "
            f"{refusal.reason}",
            help="choose another precision: --set precision=…   (or in the device's config)",
        )
    ]


def _data_problems(name: str, case: Case, manifest: Manifest) -> list[Problem]:
    if manifest.vocab_size <= case.model.vocab_size:
        return []
    return [
        Problem(
            code="E121",
            message=f"{name}: its data {manifest.name} has tokens up to {manifest.vocab_size}, "
            f"the model knows {case.model.vocab_size}",
            help="prepare the data with the tokenizer that the case names",
        )
    ]


def _steps(
    name: str, case: Case, batch: BatchPlan, manifest: Manifest, problems: list[Problem]
) -> Steps | None:
    """Warm-up and measured steps; one pass over the data is the most there is."""
    tokens_per_step = batch.global_batch_size * batch.sequence_length
    # Labels are the next token, so the last sequence needs one token more than it holds.
    available = (min(manifest.num_tokens, case.data.num_tokens + 1) - 1) // tokens_per_step
    warmup, measured = case.measurement.warmup_steps, case.measurement.measured_steps
    steps = Steps(
        warmup_steps=warmup, measured_steps=measured if measured is not None else max(0, available - warmup)
    )
    if steps.measured_steps >= 1 and steps.total <= available:
        return steps
    wanted = max(steps.total, warmup + 1)
    problems.append(
        Problem(
            code="E122",
            message=(
                f"{name}: {wanted} steps × GBS {batch.global_batch_size} × {batch.sequence_length} tokens = "
                f"{wanted * tokens_per_step:,} tokens, but {manifest.name} has {manifest.num_tokens:,}"
            ),
            help=f"{available} steps fit: lower the steps or the batch, or prepare more text",
        )
    )
    return None


def _flops(case: Case, *, proxy: bool) -> FlopsPlan:
    if not proxy:
        return FlopsPlan(
            multiplier=case.flops.multiplier,
            parameters=case.flops.nominal_parameters,
            source=case.flops.source,
        )
    return FlopsPlan(
        multiplier=case.flops.multiplier,
        parameters=parameters(case.model),
        source=f"{case.flops.multiplier} × the proxy's own parameters per token, attention not counted",
    )


def parameters(model: Model) -> int:
    """Trainable parameters of a case's model."""
    return ModelPlan(**asdict(model)).num_parameters


def _peak(device: Device, dtype: str, *, rehearsal: bool) -> PeakPlan:
    if rehearsal:
        why = "a rehearsal computes on a CPU, which the device's peak says nothing about"
        return PeakPlan(dtype=dtype, tflops=None, source=None, reason=why)
    peak = device.peak(dtype)
    return PeakPlan(dtype=dtype, tflops=peak.tflops, source=peak.source, reason=peak.reason)


def _job(
    name: str,
    cell_id: str,
    case: Case,
    identity: Identity,
    device: DevicePlan,
    data: DataPlan,
    batch: BatchPlan,
    steps: Steps,
    precision: PrecisionPlan,
) -> Job:
    return Job(
        contract=CONTRACT,
        run_id=identity.run_id,
        cell_id=cell_id,
        nonce=identity.nonce,
        case=name,
        seed=case.seed,
        engine=case.engine,
        device=device,
        model=ModelPlan(**asdict(case.model)),
        data=data,
        batch=batch,
        steps=steps,
        optimizer=OptimizerPlan(**asdict(case.optimizer)),
        precision=precision,
        recompute=case.recompute,
        attention=case.attention,
        zero=_zero(case),
    )


def _zero(case: Case) -> ZeroPlan:
    zero = ZeroPlan(**asdict(case.zero))
    return replace(zero, stage=0) if case.engine == "ddp" else zero


def _config_hash(job: Job) -> str:
    """SHA-256 of all that decides what is computed, without what makes this run itself: equal hash, same
    work.
    """
    content = asdict(job)
    for key in ("run_id", "nonce"):
        del content[key]
    del content["data"]["file"]
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode("utf-8")).hexdigest()
