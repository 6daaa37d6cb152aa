"""cases/<case>/case.yaml → Case: what is trained, the same for every vendor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from orchestrator.document import Document
from orchestrator.text import AbsolutePath, EnvName, Line, Name, RelativePath

PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Precision = Literal["fp32", "tf32", "amp", "bf16", "fp16"]
Recompute = Literal["none", "selective", "full"]
#: `native` is our own 3D engine; `megatron` an external program, FlagScale or Megatron-LM in its image.
Engine = Literal["deepspeed", "ddp", "native", "megatron"]
#: Engines that know tensor and pipeline parallelism.
ENGINES_3D = ("native", "megatron")
Attention = Literal["sdpa", "flash_attn_2"]
StageName = Literal["pretrain", "finetune"]
#: Parts of a LLaVA that a stage may train; its tower is never trained.
TrainedPart = Literal["projector", "language_model"]
#: Columns a table may have, by our own names; report/ knows the published wording of each.
Column = Literal[
    "config",
    "precision",
    "parallel",
    "fix_hp",
    "tokens_per_second_per_device",
    "loss",
    "mem",
    "acc_mmmu",
    "mfu",
]
#: What a device may change, if its case allows it.
TunableKey = Literal[
    "sequence_length",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "precision",
    "recompute",
    "attention",
    "overlap_comm",
    "loss_scale_window",
    "parallel",
    "engine",
]
#: Of those, what a device may also change in one stage alone.
BATCH_KEYS = ("sequence_length", "micro_batch_size", "gradient_accumulation_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """CLIP's image tower (arXiv:2103.00020). `num_layers` counts those of the published model; of them
    `feature_layer` is read, -2 the last but one, and the layers behind it are not built.
    """

    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    ffn_hidden_size: PositiveInt
    image_size: PositiveInt
    patch_size: PositiveInt
    norm_eps: PositiveFloat
    init_std: PositiveFloat
    feature_layer: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        number = self.feature_layer
        built = number + self.num_layers + 1 if number < 0 else number
        if not 1 <= built <= self.num_layers:
            raise ValueError(f"feature_layer {number} of {self.num_layers} layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A llama-shaped decoder (arXiv:2302.13971, 2307.09288); for `llava` with a tower and a projector of two
    layers before it (arXiv:2310.03744).
    """

    architecture: Literal["llama", "llava"]
    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    ffn_hidden_size: PositiveInt
    vocab_size: PositiveInt
    norm_eps: PositiveFloat
    rope_theta: PositiveFloat
    init_std: PositiveFloat
    tie_embeddings: bool = False
    vision: Vision | None = None

    def __post_init__(self) -> None:
        if (self.architecture == "llava") != (self.vision is not None):
            raise ValueError("vision: llava has one, llama has none")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"head size {self.hidden_size // self.num_heads} is odd; rotary embedding needs pairs"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How the model is cut: `tensor_parallel_size` ranks share every layer, `pipeline_parallel_size` groups
    of them hold the layers one after the other; data parallelism is what is left of the world.

    `virtual_pipeline_size` v > 1 gives each stage v pieces of the model that lie apart (interleaved 1F1B);
    `pipeline_layers` says how many layers each stage has where they are not all the same. `shard_optimizer`
    divides the optimizer's state over the data-parallel ranks. Rank order: tensor fastest, then data, then
    pipeline.
    """

    tensor_parallel_size: PositiveInt
    pipeline_parallel_size: PositiveInt
    virtual_pipeline_size: PositiveInt = 1
    pipeline_layers: tuple[PositiveInt, ...] | None = None
    sequence_parallel: bool = False
    shard_optimizer: bool = False
    overlap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An external program that trains instead of ours, in the image of its engine: where it lies there, and
    what it is given beside the case's own values. docs/external.md has the whole.
    """

    directory: AbsolutePath
    script: RelativePath
    tokenizer_type: Name
    tokenizer_model: RelativePath
    environment: dict[EnvName, Line] = field(default_factory=dict)
    arguments: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a case reads: with `num_tokens` the token file `<data_dir>/<name>.tokens`, its manifest beside it;
    with `num_samples` the prepared set in the folder `<data_dir>/<name>`. `format` megatron: the tokens lie
    in Megatron's `<name>.bin` and `<name>.idx` instead.

    `builtin` names what `nx8` itself can find or draw on any machine and prepare when it is missing; without
    it a person prepares it once, with the command of `prepare`. `order` is of a set: "grouped" by modality
    and length as LLaVA does it, or "shuffled". `images` is the folder below the data folder where the images
    of a set lie that does not bring its own.
    """

    name: Name
    dataset: Line
    tokenizer: Line
    num_tokens: PositiveInt | None = None
    num_samples: PositiveInt | None = None
    format: Literal["tokens", "megatron"] = "tokens"
    order: Literal["shuffled", "grouped"] | None = None
    images: RelativePath | None = None
    builtin: Literal["python-library", "shapes"] | None = None
    prepare: Line | None = None

    def __post_init__(self) -> None:
        if (self.num_tokens is None) == (self.num_samples is None):
            raise ValueError("num_tokens or num_samples: a token file has the one, a prepared set the other")
        if (self.num_samples is None) != (self.order is None):
            raise ValueError("order: a prepared set has one, a token file has none")
        if self.format == "megatron" and self.num_tokens is None:
            raise ValueError("format megatron: of tokens, not of a prepared set")
        if self.builtin is not None and (self.builtin == "shapes") != (self.num_samples is not None):
            raise ValueError("builtin: shapes is a prepared set, python-library a token file")
        if self.builtin is None and self.prepare is None:
            raise ValueError("neither builtin nor prepare: say in `prepare` which command makes this file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    sequence_length: PositiveInt
    micro_batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Of the learning rate: linearly up over `warmup_fraction` of all steps, from zero; then down to zero at
    their end, along half a cosine. `minimum` above zero is where an external program's ends; ours go to zero.
    """

    shape: Literal["cosine"]
    warmup_fraction: Fraction
    minimum: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """`schedule` null: the learning rate is the same in every step; `gradient_clipping` 0: none."""

    name: Literal["adamw"]
    learning_rate: PositiveFloat
    beta1: Fraction
    beta2: Fraction
    eps: PositiveFloat
    weight_decay: Annotated[float, Ge(0)] = 0.0
    gradient_clipping: Annotated[float, Ge(0)] = 0.0
    schedule: Schedule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """DeepSpeed's ZeRO fields, named as in its ds_config (zero_optimization)."""

    stage: Annotated[int, Ge(0), Le(3)]
    overlap_comm: bool = True
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    reduce_bucket_size: PositiveInt = 500_000_000
    allgather_bucket_size: PositiveInt = 500_000_000
    stage3_max_live_parameters: PositiveInt = 1_000_000_000
    stage3_max_reuse_distance: PositiveInt = 1_000_000_000
    stage3_prefetch_bucket_size: PositiveInt = 50_000_000
    stage3_param_persistence_threshold: Annotated[int, Ge(0)] = 100_000
    sub_group_size: PositiveInt = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Which steps count. `measured_steps` null: all that one pass over the data leaves after the warm-up."""

    warmup_steps: PositiveInt
    measured_steps: PositiveInt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long without a sign of life before a cell is called hung, in seconds."""

    startup_s: PositiveFloat = 1800.0
    stall_s: PositiveFloat = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """The published rule: FLOPs per token = `multiplier` × `nominal_parameters`."""

    multiplier: Annotated[int, Ge(1)]
    nominal_parameters: PositiveInt
    source: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Questions that the trained model answers, greedily, after the last step: the prepared set `name` with
    its answer key beside it, `<data_dir>/<name>.key.json`.
    """

    name: Name
    dataset: Line
    max_new_tokens: PositiveInt
    builtin: Literal["shapes"] | None = None
    prepare: Line | None = None

    def __post_init__(self) -> None:
        if self.builtin is None and self.prepare is None:
            raise ValueError("neither builtin nor prepare: say in `prepare` which command makes these files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One of several trainings of a case that come one after the other, each a row of its table.

    `trainable`: what learns; all else keeps its weights. A later stage begins with the projector of the one
    before it. `flops` is absent in a proxy, which takes its case's multiplier.
    """

    name: StageName
    trainable: Annotated[tuple[TrainedPart, ...], MinLen(1)]
    data: Data
    batch: Batch
    optimizer: Optimizer
    zero: Zero
    measurement: Measurement
    flops: Flops | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the case's published table looks like."""

    display_name: Line
    columns: Annotated[tuple[Column, ...], MinLen(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The small stand-in that runs where the full model cannot: on a CPU and in rehearsals. Sizes, steps
    and data, whole sections; of a case with stages, all of them.
    """

    why: Line
    model: Model
    limits: Limits
    data: Data | None = None
    batch: Batch | None = None
    optimizer: Optimizer | None = None
    zero: Zero | None = None
    measurement: Measurement | None = None
    stages: tuple[Stage, ...] = ()
    engine: Engine | None = None
    parallel: Parallel | None = None

    def __post_init__(self) -> None:
        _check_sections(self, ("data", "batch", "optimizer", "measurement"))
        measured = [self.measurement, *(one.measurement for one in self.stages)]
        if any(one is not None and one.measured_steps is None for one in measured):
            raise ValueError("a proxy states its measured_steps: it never runs through a whole data set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published workload: the sections of its one training, or `stages` that have them each for itself.

    `weights`: Hugging Face folders below the data folder that the model begins with; none: random weights.
    """

    schema: Literal[1]
    description: Line
    engine: Engine
    model: Model
    table: Table
    proxy: Proxy
    data: Data | None = None
    batch: Batch | None = None
    optimizer: Optimizer | None = None
    zero: Zero | None = None
    measurement: Measurement | None = None
    flops: Flops | None = None
    stages: tuple[Stage, ...] = ()
    weights: tuple[Name, ...] = ()
    limits: Limits = field(default_factory=Limits)
    precision: Precision = "bf16"
    recompute: Recompute = "none"
    attention: Attention = "sdpa"
    loss_scale_window: PositiveInt | None = None
    seed: Annotated[int, Ge(0), Lt(2**31)] = 1234
    parallel: Parallel | None = None
    program: Program | None = None
    tunable: tuple[TunableKey, ...] = ()
    document: Document | None = None

    def __post_init__(self) -> None:
        _check_sections(self, ("data", "batch", "optimizer", "measurement", "flops"))
        for where, one, engine in (("", self, self.engine), ("proxy.", self.proxy, self.proxy_engine)):
            if not one.stages and one.zero is None and engine not in ENGINES_3D:
                raise ValueError(f"{where}zero: missing, and engine {engine} has no other way to shard")
            if one.parallel is not None and engine not in ENGINES_3D:
                raise ValueError(
                    f"{where}parallel: engine {engine} knows data parallelism alone; "
                    f"{' and '.join(ENGINES_3D)} cut the model"
                )
        if self.engine == "megatron" and self.program is None:
            raise ValueError("program: missing, and engine megatron is an external program")
        if any(stage.flops is None for stage in self.stages):
            raise ValueError("stages: each one states its flops")
        ours = [(stage.name, stage.trainable) for stage in self.stages]
        if ours != [(stage.name, stage.trainable) for stage in self.proxy.stages]:
            raise ValueError("proxy.stages: the same names and trainable as in stages, in the same order")
        if bool(ours) != (self.model.architecture == "llava"):
            raise ValueError("stages: a llava is trained in stages, a llama is not")
        if (self.model.architecture, self.model.vision is None) != (
            self.proxy.model.architecture,
            self.proxy.model.vision is None,
        ):
            raise ValueError("proxy.model: of the same architecture as the case")

    @property
    def proxy_engine(self) -> Engine:
        return self.proxy.engine or self.engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One training of a case with all its sections in one place: what one cell does.

    `stage`, `trainable` and `evaluation` are absent where the case has no stages; `weights` in a proxy.
    `loss_scale_window`: good steps after which fp16's loss scale doubles; null: the engine's own number.
    """

    engine: Engine
    model: Model
    data: Data
    batch: Batch
    optimizer: Optimizer
    zero: Zero
    measurement: Measurement
    flops: Flops
    limits: Limits
    precision: Precision
    recompute: Recompute
    attention: Attention
    seed: int
    loss_scale_window: int | None = None
    stage: StageName | None = None
    trainable: tuple[TrainedPart, ...] = ()
    evaluation: Evaluation | None = None
    weights: tuple[str, ...] = ()
    parallel: Parallel | None = None
    program: Program | None = None


def works(case: Case, *, proxy: bool) -> tuple[Work, ...]:
    """The case as it stands before any device changes it, or its proxy, in the order in which it is trained.

    A proxy runs on a CPU, for which no other attention than torch's own has a kernel.
    """
    small = case.proxy
    common: dict[str, Any] = {
        "engine": case.proxy_engine if proxy else case.engine,
        "parallel": small.parallel if proxy else case.parallel,
        "program": case.program,
        "model": small.model if proxy else case.model,
        "limits": small.limits if proxy else case.limits,
        "precision": case.precision,
        "recompute": case.recompute,
        "attention": "sdpa" if proxy else case.attention,
        "seed": case.seed,
        "loss_scale_window": case.loss_scale_window,
        "weights": () if proxy else case.weights,
    }
    named: tuple[str, ...] = ("data", "batch", "optimizer", "measurement")
    if not case.stages:
        sections = small if proxy else case
        zero = sections.zero or Zero(stage=0)
        return (Work(**common, zero=zero, **_sections(sections, *named), **_sections(case, "flops")),)
    named += ("zero", "trainable", "evaluation")
    return tuple(
        Work(**common, **_sections(stage, *named), **_sections(own, "flops"), stage=own.name)
        for own, stage in zip(case.stages, small.stages if proxy else case.stages, strict=True)
    )


def _sections(value: Case | Proxy | Stage, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _check_sections(value: Case | Proxy, names: tuple[str, ...]) -> None:
    """Raises ValueError unless the sections stand either here or in every stage."""
    given = [name for name in names if getattr(value, name) is not None]
    missing = [name for name in names if name not in given]
    if value.stages and (given or value.zero):
        raise ValueError(f"{', '.join(given or ['zero'])}: with stages, every stage has its own")
    if not value.stages and missing:
        raise ValueError(f"{', '.join(missing)}: missing, and there are no stages that have them")
    repeated = [one.name for one in value.stages]
    if len(set(repeated)) != len(repeated):
        raise ValueError("stages: a name stands twice")
