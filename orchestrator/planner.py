"""Cluster × Vendor × Case → Plan: ranks, batch arithmetic, argv, environment and job.json, complete before
anything starts. Pure.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from orchestrator import megatron, parallelcheck, plancheck
from orchestrator.cases import BATCH_KEYS, ENGINES_3D, DeviceConfig, Parallel, Work, works
from orchestrator.data import Manifest
from orchestrator.document import Text
from orchestrator.errors import ConfigError, Problem
from orchestrator.footprint import estimate
from orchestrator.multimodal.lists import AnswerKey, Samples
from orchestrator.placing import (
    REHEARSAL,
    REHEARSAL_OF_CASE,
    Place,
    data_plan,
    device_plan,
    image_plan,
    initial_plan,
    launches,
    questions_plan,
)
from orchestrator.plan import (
    CONTRACT,
    BatchPlan,
    Cell,
    DocumentPlan,
    FlopsPlan,
    HandedPlan,
    Identity,
    Job,
    KeyPlan,
    LimitsPlan,
    ListsPlan,
    ModelPlan,
    OptimizerPlan,
    ParallelPlan,
    PeakPlan,
    Plan,
    PrecisionPlan,
    ProxyPlan,
    SchedulePlan,
    Steps,
    VisionPlan,
    ZeroPlan,
    as_document,
)
from orchestrator.selection import Chosen, Selection

if TYPE_CHECKING:
    from orchestrator.cases import Case, Model, Optimizer
    from orchestrator.memory import MemoryPlan
    from orchestrator.render import Context
    from orchestrator.vendors import Device, Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may say on the command line; null leaves the files' own word."""

    changes: DeviceConfig = field(default_factory=lambda: DeviceConfig(schema=1))
    measured_steps: int | None = None
    startup_limit_s: float | None = None
    stall_limit_s: float | None = None
    time_limit_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What was found on this machine of that which cells read, checked: token files and prepared sets by
    name, keys by the name of their questions, and the SHA-256 of the lists of weights.
    """

    data: Mapping[str, Manifest | Samples]
    keys: Mapping[str, AnswerKey] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


def plan(
    selection: Selection,
    *,
    identity: Identity,
    place: Place,
    sources: Sources,
    options: Options,
    contexts: Mapping[str, Context] | None = None,
) -> Plan:
    """The complete plan. `contexts` has what the image of each engine is built from, where there are nodes to
    build it on.

    Raises ConfigError (E12x) with everything that does not divide, fit or is refused, of all cases at once.
    """
    cells: list[Cell] = []
    problems: list[Problem] = []
    for chosen in selection.cases:
        before: str | None = None
        bases = works_of(chosen.case, selection)
        for at, base in enumerate(bases):
            maker = _Maker(
                selection=selection,
                chosen=chosen,
                base=base,
                before=before,
                is_last=at == len(bases) - 1,
                identity=identity,
                place=place,
                sources=sources,
                options=options,
            )
            before = maker.cell_id
            engine = engine_of(chosen, selection, options)
            try:
                cells.append(maker.cell((contexts or {}).get(engine)))
            except ConfigError as error:
                problems += (problem for problem in error.problems if problem not in problems)
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


def engine_of(chosen: Chosen, selection: Selection, options: Options) -> str:
    """Which engine trains this case in the end: the command line's, the device's, the case's."""
    base = works_of(chosen.case, selection)[0]
    return str(_changes(selection, base, chosen, options).get("engine", base.engine))


def needs_of(selection: Selection, options: Options) -> dict[str, frozenset[Need]]:
    """Every engine that trains something, with what its works need of their image beside it."""
    found: dict[str, frozenset[Need]] = {}
    for chosen in selection.cases:
        engine = engine_of(chosen, selection, options)
        for base in works_of(chosen.case, selection):
            attention = _changes(selection, base, chosen, options).get("attention", base.attention)
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


def works_of(case: Case, selection: Selection) -> tuple[Work, ...]:
    """What this case trains on the selected devices, before any device changes it."""
    return works(case, proxy=is_proxy(selection))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes the cell of one case, or of one stage of it; `before` is the cell of the stage before."""

    selection: Selection
    chosen: Chosen
    base: Work
    before: str | None
    is_last: bool
    identity: Identity
    place: Place
    sources: Sources
    options: Options

    @property
    def cell_id(self) -> str:
        parts = (self.chosen.name, self.selection.cluster.scale, self.chosen.label, self.base.stage)
        return "-".join(part for part in parts if part)

    @property
    def named(self) -> str:
        """In messages."""
        beside = self.base.stage or self.chosen.label
        return f"{self.chosen.name} ({beside})" if beside else self.chosen.name

    def cell(self, context: Context | None) -> Cell:
        """Raises ConfigError."""
        selection, chosen, base = self.selection, self.chosen, self.base
        cluster, vendor = selection.cluster, selection.vendor
        device, proxy = vendor.devices[cluster.device], is_proxy(selection)
        work = _changed(selection, base, chosen, self.options)
        source = self.sources.data[work.data.name]
        precision = _precision(work, device)
        has_image = cluster.transport != "local"
        problems: list[Problem] = [
            *parallelcheck.uncuttable(self.named, work, cluster, has_image=has_image),
            *plancheck.refused(self.named, work, vendor, precision, on_cpu=proxy, has_image=has_image),
            *plancheck.data_problems(self.named, work, source),
        ]
        if work.evaluation is not None:
            questions = self.sources.data[work.evaluation.name]
            problems += plancheck.question_problems(self.named, work, questions)
        # A cut that does not divide has no data-parallel size, and nothing follows from it.
        cuttable = not any(problem.code in ("E340", "E342") for problem in problems)
        world_size = len(cluster.nodes) * cluster.devices_per_node
        batch = _batch(work, world_size) if cuttable else None
        steps = _steps(self.named, work, batch, source, problems) if batch else None
        memory = _memory(work, batch, precision, device) if batch else None
        problems += parallelcheck.too_large(self.named, memory) if memory and not cluster.rehearsal else ()
        if problems or steps is None or batch is None:
            raise ConfigError(problems)
        job = self._job(work, batch, steps, precision)
        return Cell(
            cell_id=self.cell_id,
            case=chosen.name,
            vendor=selection.vendor_name,
            device=cluster.device,
            device_display=device.display_name,
            num_nodes=len(cluster.nodes),
            devices_per_node=cluster.devices_per_node,
            stage=base.stage,
            proxy=ProxyPlan(why=chosen.case.proxy.why, of=chosen.case.table.display_name) if proxy else None,
            fix_hp=fix_hp(base, work, data_parallel_size=batch.data_parallel_size),
            changed={
                key: _shown(value) for key, value in _changes(selection, base, chosen, self.options).items()
            },
            columns=chosen.case.table.columns,
            flops=_flops(work, proxy=proxy),
            peak=_peak(device, precision.compute_dtype, rehearsal=cluster.rehearsal),
            limits=LimitsPlan(
                startup_s=self.options.startup_limit_s or work.limits.startup_s,
                stall_s=self.options.stall_limit_s or work.limits.stall_s,
            ),
            config_hash=_config_hash(job),
            job=job,
            launches=launches(selection, self.place, job, context),
            image=image_plan(context, cluster.image),
            rehearsal=self._rehearsal(work),
            probe=vendor.probe if context else None,
            device_memory_bytes=round(device.memory_gib * 1024**3) if device.memory_gib else None,
            document=_document(selection, chosen, base, self.options, proxy=proxy),
            lists=_lists(source),
            key=_key(work, self.sources),
            handed=self._handed(),
            memory=memory,
            warnings=parallelcheck.warnings(work, None if cluster.rehearsal else memory) or None,
        )

    def _job(self, work: Work, batch: BatchPlan, steps: Steps, precision: PrecisionPlan) -> Job:
        selection, place, sources = self.selection, self.place, self.sources
        data = data_plan(selection, place, work.data, sources.data[work.data.name])
        job = Job(
            contract=CONTRACT,
            run_id=self.identity.run_id,
            cell_id=self.cell_id,
            nonce=self.identity.nonce,
            case=self.chosen.name,
            seed=work.seed,
            engine=work.engine,
            device=device_plan(selection),
            model=model_plan(work.model),
            data=data,
            batch=batch,
            steps=steps,
            optimizer=_optimizer(work.optimizer, steps),
            precision=precision,
            recompute=work.recompute,
            attention=work.attention,
            zero=_zero(work),
            stage=work.stage,
            trainable=tuple(TRAINED[part] for part in work.trainable) or None,
            initial=initial_plan(
                selection,
                place,
                weights={name: sources.weights[name] for name in work.weights},
                before=self.before,
                folder=self._projector,
            ),
            save=None if self.is_last else self._projector,
            questions=None
            if work.evaluation is None
            else questions_plan(
                selection, place, sources.data[work.evaluation.name], work.evaluation.max_new_tokens
            ),
            parallel=None if work.parallel is None else ParallelPlan(**asdict(work.parallel)),
        )
        if work.engine != "megatron" or work.program is None:
            return job
        source = sources.data[work.data.name]
        assert isinstance(source, Manifest), "an external program reads tokens"
        here = selection.cluster.transport == "local" and place.stand_in is not None
        return replace(
            job,
            program=megatron.program(
                work, job, tokenizer=source.tokenizer, stand_in=str(place.stand_in) if here else None
            ),
        )

    def _rehearsal(self, work: Work) -> str | None:
        if not self.selection.cluster.rehearsal:
            return None
        case = self.chosen.case
        asked: dict[str, Any] = {"precision": case.precision, "attention": case.attention}
        asked |= {key: value for key, value in self.chosen.config.changes(work.stage).items() if key in asked}
        same = all(getattr(work, key) == value for key, value in asked.items())
        return REHEARSAL if same else REHEARSAL_OF_CASE

    @property
    def _projector(self) -> str:
        """Of this run alone: a file that another run left there can never be taken for it."""
        return f"projector-{self.identity.nonce}"

    def _handed(self) -> HandedPlan | None:
        if self.before is None:
            return None
        file = f"{self._projector}/model.safetensors"
        return HandedPlan(cell_id=self.before, source=f"cells/{self.before}/node0/{file}", target=file)


#: What a stage may train, by the name that its parameters begin with.
TRAINED = {"projector": "multi_modal_projector", "language_model": "language_model"}


def model_plan(model: Model) -> ModelPlan:
    sizes = asdict(model)
    vision = sizes.pop("vision")
    return ModelPlan(**sizes, vision=VisionPlan(**vision) if vision else None)


def _lists(source: Manifest | Samples) -> ListsPlan | None:
    if isinstance(source, Manifest):
        return None
    name = source.manifest.name
    return ListsPlan(
        lengths=f"samples/{name}.lengths.i32",
        lengths_sha256=source.lengths_sha256,
        words=f"samples/{name}.words.i32",
        words_sha256=source.words_sha256,
    )


def _key(work: Work, sources: Sources) -> KeyPlan | None:
    if work.evaluation is None:
        return None
    name, key = work.evaluation.name, sources.keys[work.evaluation.name]
    return KeyPlan(
        key=f"samples/{name}.key.json",
        key_sha256=key.key_sha256,
        tokenizer=None if key.tokenizer is None else f"samples/{name}.tokenizer{key.tokenizer_suffix}",
        tokenizer_sha256=key.tokenizer_sha256,
    )


def _document(
    selection: Selection, chosen: Chosen, base: Work, options: Options, *, proxy: bool
) -> DocumentPlan | None:
    """The words of the published document; a proxy's says which data it really read."""
    if chosen.case.document is None:
        return None
    words = chosen.case.document.changed(chosen.config.document)
    vendor, device = selection.vendor.display_name, selection.cluster.device
    name = vendor if device.lower() == vendor.lower() else f"{vendor} {device}"
    words = replace(
        words,
        title=words.title or Text(zh=name, en=name),
        model=words.model or chosen.case.table.display_name,
    )
    if proxy:
        read = Text(zh=base.data.dataset, en=base.data.dataset)
        remarks = dict(words.remarks)
        remarks.pop("dataset", None)
        words = replace(words, dataset=read, remarks=remarks)
    changed = _changes(selection, base, chosen, options)
    said = options.changes.changes()
    config = f"configs/{chosen.config_name or selection.cluster.scale}.yaml"
    batch = asdict(base.batch)
    return DocumentPlan(
        words=words,
        default_batch=batch,
        sources={key: "--set" if key in said else config if key in changed else "case.yaml" for key in batch},
    )


def _changes(selection: Selection, base: Work, chosen: Chosen, options: Options) -> dict[str, Any]:
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


def _changed(selection: Selection, base: Work, chosen: Chosen, options: Options) -> Work:
    """`base` with the changes applied. Raises ConfigError for one that the case does not allow."""
    changes = _changes(selection, base, chosen, options)
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
    batch = {key: changes[key] for key in BATCH_KEYS if key in changes}
    own = {
        key: changes[key]
        for key in ("precision", "recompute", "attention", "loss_scale_window", "parallel", "engine")
        if key in changes
    }
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


def _shown(value: Any) -> str:
    if not isinstance(value, Parallel):
        return str(value)
    said = {key: one for key, one in asdict(value).items() if one is not None}
    return ", ".join(f"{key} {one}" for key, one in said.items())


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


def _batch(work: Work, world_size: int) -> BatchPlan:
    """Replicas are what tensor and pipeline parallelism leave of the world."""
    batch, cut = work.batch, work.parallel
    replicas = world_size // (cut.tensor_parallel_size * cut.pipeline_parallel_size) if cut else world_size
    return BatchPlan(
        sequence_length=batch.sequence_length,
        micro_batch_size=batch.micro_batch_size,
        gradient_accumulation_steps=batch.gradient_accumulation_steps,
        data_parallel_size=replicas,
        world_size=world_size,
        global_batch_size=batch.micro_batch_size * batch.gradient_accumulation_steps * replicas,
    )


def _memory(work: Work, batch: BatchPlan, precision: PrecisionPlan, device: Device) -> MemoryPlan | None:
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


def _precision(case: Work, device: Device) -> PrecisionPlan:
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


def _steps(
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
    steps = Steps(
        warmup_steps=warmup, measured_steps=measured if measured is not None else max(0, available - warmup)
    )
    if steps.measured_steps >= 1 and (steps.total <= available or not whole):
        return steps
    wanted = max(steps.total, warmup + 1)
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


def _flops(case: Work, *, proxy: bool) -> FlopsPlan:
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


def parameters(model: Model) -> int:
    """All parameters of a case's model."""
    return model_plan(model).num_parameters


def _peak(device: Device, dtype: str, *, rehearsal: bool) -> PeakPlan:
    if rehearsal:
        why = "a rehearsal computes on a CPU, which the device's peak says nothing about"
        return PeakPlan(dtype=dtype, tflops=None, source=None, reason=why)
    peak = device.peak(dtype)
    return PeakPlan(dtype=dtype, tflops=peak.tflops, source=peak.source, reason=peak.reason)


def _optimizer(optimizer: Optimizer, steps: Steps) -> OptimizerPlan:
    settings = asdict(optimizer)
    schedule = settings.pop("schedule")  # its minimum is an external program's
    if schedule is None:
        return OptimizerPlan(**settings)
    warmup = math.ceil(schedule["warmup_fraction"] * steps.total)
    return OptimizerPlan(**settings, schedule=SchedulePlan(shape=schedule["shape"], warmup_steps=warmup))


def _zero(case: Work) -> ZeroPlan:
    zero = ZeroPlan(**asdict(case.zero))
    return zero if case.engine == "deepspeed" else replace(zero, stage=0)


def _config_hash(job: Job) -> str:
    """SHA-256 of all that decides what is computed, without what makes this run itself and where things lie:
    equal hash, same work.
    """
    content = as_document(job)
    for key in ("run_id", "nonce", "save"):
        content.pop(key, None)
    del content["data"]["file"]
    content["data"].get("samples", {}).pop("images", None)
    content.get("questions", {}).pop("file", None)
    content["data"].get("index", {}).pop("file", None)
    if job.program is not None:
        content["program"]["argv"] = megatron.without_paths(job.program)
        del content["program"]["directory"]
    if "initial" in content:
        content["initial"] = {
            "manifests": content["initial"]["manifests"],
            "projector": content["initial"]["projector"] is not None,
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode("utf-8")).hexdigest()
