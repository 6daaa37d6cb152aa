"""The arithmetic of a plan: batch, steps, precision, memory, FLOPs, and the words of what differs. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal

from orchestrator import plancheck
from orchestrator.cases import ENGINES_3D
from orchestrator.data import Manifest
from orchestrator.errors import Problem
from orchestrator.footprint import estimate
from orchestrator.plan import (
    BatchPlan,
    FlopsPlan,
    ModelPlan,
    OptimizerPlan,
    ParallelPlan,
    PeakPlan,
    PrecisionPlan,
    SchedulePlan,
    Steps,
    VisionPlan,
    ZeroPlan,
)

if TYPE_CHECKING:
    from orchestrator.cases import Model, Optimizer, Work
    from orchestrator.memory import MemoryPlan
    from orchestrator.multimodal.lists import Samples
    from orchestrator.vendors import Device


def batch(work: Work, world_size: int) -> BatchPlan:
    """Replicas are what tensor and pipeline parallelism leave of the world."""
    said, cut = work.batch, work.parallel
    replicas = world_size // (cut.tensor_parallel_size * cut.pipeline_parallel_size) if cut else world_size
    return BatchPlan(
        sequence_length=said.sequence_length,
        micro_batch_size=said.micro_batch_size,
        gradient_accumulation_steps=said.gradient_accumulation_steps,
        data_parallel_size=replicas,
        world_size=world_size,
        global_batch_size=said.micro_batch_size * said.gradient_accumulation_steps * replicas,
    )


def steps(
    name: str, case: Work, batch: BatchPlan, source: Manifest | Samples, problems: list[Problem]
) -> Steps | None:
    """Warm-up and measured steps. Without a number of its own a case trains one pass over its data.

    Of a token file that is the most there is. The last batch of a prepared set is filled up from the next
    pass, as many as the steps ask for.
    """
    whole = isinstance(source, Manifest)
    tokens_per_step = batch.global_batch_size * batch.sequence_length
    if isinstance(source, Manifest):
        # Labels are the next token, so the last sequence needs one token more than it holds.
        tokens = min(source.num_tokens, (case.data.num_tokens or source.num_tokens) + 1)
        available = (tokens - 1) // tokens_per_step
    else:
        num_samples = min(source.manifest.num_samples, case.data.num_samples or source.manifest.num_samples)
        available = -(-num_samples // batch.global_batch_size)
    warmup, measured = case.measurement.warmup_steps, case.measurement.measured_steps
    found = Steps(
        warmup_steps=warmup, measured_steps=measured if measured is not None else max(0, available - warmup)
    )
    if found.measured_steps >= 1 and (found.total <= available or not whole):
        return found
    wanted = max(found.total, warmup + 1)
    problems.append(
        plancheck.too_few_tokens(name, batch, source, wanted=wanted, available=available)
        if isinstance(source, Manifest)
        else Problem(
            code="E122",
            message=f"{name}: one pass over {source.manifest.name} is {available} steps of GBS "
            f"{batch.global_batch_size}, no more than the {warmup} of warm-up",
            help="lower the batch or the warm-up, or say how many steps: --steps N",
        )
    )
    return None


#: Compute dtype and mechanism.
Computing = tuple[Literal["fp32", "tf32", "bf16", "fp16"], Literal["none", "engine", "autocast"]]
IN_3D: dict[str, Computing] = {
    "fp32": ("fp32", "none"),
    "tf32": ("tf32", "none"),
    "bf16": ("bf16", "engine"),
    "fp16": ("fp16", "engine"),
    "amp": ("bf16", "engine"),
}
#: By engine and label of the table. In DeepSpeed "amp" is float16 with its loss scaler, as the published
#: S4000 rows were taken; DDP's is torch's autocast to bfloat16.
PRECISIONS: dict[tuple[str, str], Computing] = {
    ("deepspeed", "fp32"): ("fp32", "none"),
    ("deepspeed", "tf32"): ("tf32", "none"),
    ("deepspeed", "bf16"): ("bf16", "engine"),
    ("deepspeed", "fp16"): ("fp16", "engine"),
    ("deepspeed", "amp"): ("fp16", "engine"),
    ("ddp", "fp32"): ("fp32", "none"),
    ("ddp", "tf32"): ("tf32", "none"),
    ("ddp", "bf16"): ("bf16", "autocast"),
    ("ddp", "fp16"): ("fp16", "autocast"),
    ("ddp", "amp"): ("bf16", "autocast"),
    # Both keep float32 master weights beside 16-bit parameters; the published 70B rows' amp is bfloat16.
    **{(engine, label): computing for engine in ENGINES_3D for label, computing in IN_3D.items()},
}


def precision(case: Work, device: Device) -> PrecisionPlan:
    """The fp32 of an external program is what its image makes of it: where a device has TF32, the images
    multiply in it, as the published row's peak says.
    """
    compute_dtype, mechanism = PRECISIONS[case.engine, case.precision]
    if case.engine == "megatron" and compute_dtype == "fp32" and "tf32" in device.peaks:
        compute_dtype = "tf32"
    return PrecisionPlan(
        label=case.precision,
        compute_dtype=compute_dtype,
        mechanism=mechanism,
        # No other dtype's loss is scaled.
        loss_scale_window=case.loss_scale_window if compute_dtype == "fp16" else None,
    )


def memory(work: Work, batch: BatchPlan, precision: PrecisionPlan, device: Device) -> MemoryPlan | None:
    """Of the engines that cut the model; what ZeRO leaves on a device moves with its settings."""
    if work.parallel is None:
        return None
    return estimate(
        model_plan(work.model),
        ParallelPlan(**asdict(work.parallel)),
        batch,
        precision,
        recompute=work.recompute,
        attention=work.attention,
        capacity_bytes=round(device.memory_gib * 1024**3) if device.memory_gib else None,
    )


def flops(case: Work, *, proxy: bool) -> FlopsPlan:
    if not proxy:
        return FlopsPlan(
            multiplier=case.flops.multiplier,
            parameters=case.flops.nominal_parameters,
            source=case.flops.source,
        )
    return FlopsPlan(
        multiplier=case.flops.multiplier,
        parameters=model_plan(case.model).num_language_parameters,
        source=f"{case.flops.multiplier} × the proxy's own parameters per token, attention not counted",
    )


def peak(device: Device, dtype: str, *, rehearsal: bool) -> PeakPlan:
    if rehearsal:
        why = "a rehearsal computes on a CPU, which the device's peak says nothing about"
        return PeakPlan(dtype=dtype, tflops=None, source=None, reason=why)
    listed = device.peak(dtype)
    return PeakPlan(dtype=dtype, tflops=listed.tflops, source=listed.source, reason=listed.reason)


def optimizer(optimizer: Optimizer, steps: Steps) -> OptimizerPlan:
    settings = asdict(optimizer)
    schedule = settings.pop("schedule")  # its minimum is an external program's
    if schedule is None:
        return OptimizerPlan(**settings)
    warmup = math.ceil(schedule["warmup_fraction"] * steps.total)
    return OptimizerPlan(**settings, schedule=SchedulePlan(shape=schedule["shape"], warmup_steps=warmup))


def zero(case: Work) -> ZeroPlan:
    said = ZeroPlan(**asdict(case.zero))
    return said if case.engine == "deepspeed" else replace(said, stage=0)


def model_plan(model: Model) -> ModelPlan:
    sizes = asdict(model)
    vision = sizes.pop("vision")
    return ModelPlan(**sizes, vision=VisionPlan(**vision) if vision else None)


def parameters(model: Model) -> int:
    """All parameters of a case's model."""
    return model_plan(model).num_parameters


def fix_hp(base: Work, case: Work, *, data_parallel_size: int) -> str:
    """What differs from the case's default, in the words of the published tables; `/` for nothing."""
    batch = case.batch
    accumulation = batch.gradient_accumulation_steps
    sequences = batch.micro_batch_size * accumulation * data_parallel_size
    tokens = _tokens(sequences * batch.sequence_length)
    words = [
        f"{word}={new}{beside}"
        for word, old, new, beside in (
            ("MPE", base.batch.sequence_length, batch.sequence_length, ""),
            ("LBS", base.batch.micro_batch_size, batch.micro_batch_size, ""),
            (
                "GAS",
                base.batch.gradient_accumulation_steps,
                accumulation,
                f"(GBS={sequences}={tokens} tokens)",
            ),
        )
        if old != new
    ]
    if base.recompute != case.recompute:
        words.append(f"recompute={_recomputed(base, case)}")
    return " ".join(words) or "/"


def _recomputed(base: Work, case: Work) -> str:
    """The published tables' True is the whole layer in DeepSpeed's rows and attention alone in FlagScale's,
    where the default is nothing; any other change is said as it is set.
    """
    if case.recompute == "none":
        return "False"
    published = "selective" if case.engine in ENGINES_3D else "full"
    return "True" if (base.recompute, case.recompute) == ("none", published) else case.recompute


def _tokens(count: int) -> str:
    """As the published tables count the tokens of a step: 4M is 4 × 1024²."""
    for size, unit in ((1024**2, "M"), (1024, "K")):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)
