"""cases/<case>/ → Case, DeviceConfig: what is trained, the same for every vendor, and what one device may
change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from orchestrator.text import Line, Name

PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Precision = Literal["fp32", "amp", "bf16", "fp16"]
Recompute = Literal["none", "full"]
Engine = Literal["deepspeed", "ddp"]
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
    "overlap_comm",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A llama-shaped decoder (arXiv:2302.13971, 2307.09288)."""

    architecture: Literal["llama"]
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

    def __post_init__(self) -> None:
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
class Data:
    """The token file a case reads, `<data_dir>/<name>.tokens` with its manifest beside it.

    `builtin` names a text that `nx8` itself can find on any machine and prepare when the file is missing;
    without it a person prepares the file once, with the command of `prepare`.
    """

    name: Name
    dataset: Line
    tokenizer: Line
    num_tokens: PositiveInt
    builtin: Literal["python-library"] | None = None
    prepare: Line | None = None

    def __post_init__(self) -> None:
        if self.builtin is None and self.prepare is None:
            raise ValueError("neither builtin nor prepare: say in `prepare` which command makes this file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    sequence_length: PositiveInt
    micro_batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    name: Literal["adamw"]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Ge(0)]
    beta1: Fraction
    beta2: Fraction
    eps: PositiveFloat
    gradient_clipping: Annotated[float, Ge(0)]


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
class Table:
    """What the case's published table looks like."""

    display_name: Line
    columns: Annotated[tuple[Column, ...], MinLen(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The small stand-in that runs where the full model cannot: on a CPU and in rehearsals. Sizes, steps
    and data, whole sections.
    """

    why: Line
    model: Model
    data: Data
    batch: Batch
    optimizer: Optimizer
    zero: Zero
    measurement: Measurement
    limits: Limits

    def __post_init__(self) -> None:
        if self.measurement.measured_steps is None:
            raise ValueError("a proxy states its measured_steps: it never runs through a whole data set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published workload."""

    schema: Literal[1]
    description: Line
    engine: Engine
    model: Model
    data: Data
    batch: Batch
    optimizer: Optimizer
    zero: Zero
    measurement: Measurement
    flops: Flops
    table: Table
    proxy: Proxy
    limits: Limits = field(default_factory=Limits)
    precision: Precision = "bf16"
    recompute: Recompute = "none"
    attention: Literal["sdpa"] = "sdpa"
    seed: Annotated[int, Ge(0), Lt(2**31)] = 1234
    tunable: tuple[TunableKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """cases/<case>/configs/<device>x<nodes>x<devices>.yaml: the deviations of one device, each with its
    reason in `why`.
    """

    schema: Literal[1]
    sequence_length: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None
    precision: Precision | None = None
    recompute: Recompute | None = None
    overlap_comm: bool | None = None
    why: dict[TunableKey, Line] = field(default_factory=dict)

    def changes(self) -> dict[str, int | str | bool]:
        """The keys that are set, with their values."""
        listed: dict[str, int | str | bool | None] = {
            "sequence_length": self.sequence_length,
            "micro_batch_size": self.micro_batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "precision": self.precision,
            "recompute": self.recompute,
            "overlap_comm": self.overlap_comm,
        }
        return {key: value for key, value in listed.items() if value is not None}

    def __post_init__(self) -> None:
        silent = [key for key in self.changes() if key not in self.why]
        if silent:
            raise ValueError(f"{', '.join(silent)}: changed without a reason in `why`")
        idle = [key for key in self.why if key not in self.changes()]
        if idle:
            raise ValueError(f"why.{', why.'.join(idle)}: a reason for a key that is not set")
