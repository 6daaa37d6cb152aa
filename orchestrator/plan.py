"""Plan: everything one run will do, as one frozen value. planner.py makes it, `nx8 plan` prints it, `nx8
run` executes it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from orchestrator.vendors import Probe

CONTRACT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    warmup_steps: int
    measured_steps: int

    @property
    def total(self) -> int:
        return self.warmup_steps + self.measured_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """global_batch_size = micro_batch_size × data_parallel_size × gradient_accumulation_steps, in
    sequences.
    """

    sequence_length: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    data_parallel_size: int
    world_size: int
    global_batch_size: int

    def __post_init__(self) -> None:
        product = self.micro_batch_size * self.data_parallel_size * self.gradient_accumulation_steps
        if self.global_batch_size != product:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} != LBS {self.micro_batch_size}"
                f" × DP {self.data_parallel_size} × GAS {self.gradient_accumulation_steps} = {product}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPlan:
    """`label` is the table's word; beside it what is computed in and by which mechanism."""

    label: Literal["fp32", "amp", "bf16", "fp16"]
    compute_dtype: Literal["fp32", "bf16", "fp16"]
    mechanism: Literal["none", "engine", "autocast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    type: str
    plugin: str | None
    backend: str
    deepspeed_accelerator: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    architecture: Literal["llama"]
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_hidden_size: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    init_std: float
    tie_embeddings: bool

    @property
    def num_embedding_parameters(self) -> int:
        """The input embedding alone."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Trainable parameters: embeddings, attention (grouped queries), SwiGLU, norms, output."""
        head = self.hidden_size // self.num_heads
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * head * self.num_kv_heads
        layer = attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size
        outside = (1 if self.tie_embeddings else 2) * self.num_embedding_parameters + self.hidden_size
        return outside + self.num_layers * layer


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    file: str
    sha256: str
    num_tokens: int
    dtype: Literal["uint8", "int16", "int32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerPlan:
    name: Literal["adamw"]
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    gradient_clipping: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroPlan:
    stage: int
    overlap_comm: bool
    contiguous_gradients: bool
    reduce_scatter: bool
    reduce_bucket_size: int
    allgather_bucket_size: int
    stage3_max_live_parameters: int
    stage3_max_reuse_distance: int
    stage3_prefetch_bucket_size: int
    stage3_param_persistence_threshold: int
    sub_group_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What job.json holds: docs/contract.md says what each key means."""

    contract: int
    run_id: str
    cell_id: str
    nonce: str
    case: str
    seed: int
    engine: Literal["deepspeed", "ddp"]
    device: DevicePlan
    model: ModelPlan
    data: DataPlan
    batch: BatchPlan
    steps: Steps
    optimizer: OptimizerPlan
    precision: PrecisionPlan
    recompute: Literal["none", "full"]
    attention: Literal["sdpa"]
    zero: ZeroPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launcher on one node: exactly this argv with exactly these variables set over the inherited
    environment. On a node reached over SSH the argv is `docker run …`, `container` its name, `node_job_dir`
    the folder that it writes to, and the variables stand in the argv.
    """

    node: str
    node_rank: int
    ranks: tuple[int, ...]
    argv: tuple[str, ...]
    environment: dict[str, str]
    host_output: str
    container: str | None = None
    node_job_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """What every node runs: built from exactly this Dockerfile and context, tagged by the context's hash."""

    tag: str
    base: str
    dockerfile: str
    context_sha256: str
    build_args: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopsPlan:
    """The rule of `mfu_published`: FLOPs per token = multiplier × parameters."""

    multiplier: int
    parameters: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakPlan:
    """The device's dense peak for the compute dtype; null carries its reason."""

    dtype: str
    tflops: float | None
    source: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """Present when a stand-in runs instead of the published model."""

    why: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsPlan:
    startup_s: float
    stall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One case × device × scale of a run."""

    cell_id: str
    case: str
    vendor: str
    device: str
    device_display: str
    num_nodes: int
    devices_per_node: int
    stage: str | None
    proxy: ProxyPlan | None
    fix_hp: str
    changed: dict[str, str]
    columns: tuple[str, ...]
    flops: FlopsPlan
    peak: PeakPlan
    limits: LimitsPlan
    config_hash: str
    job: Job
    launches: tuple[Launch, ...]
    image: ImagePlan | None = None
    rehearsal: str | None = None
    probe: Probe | None = None
    device_memory_bytes: int | None = None

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.devices_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes one run itself, decided once at the edge and handed to the pure planner."""

    run_id: str
    nonce: str
    created_utc: str
    host_run_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything `nx8 run` will do. `nx8 plan` prints this value, `nx8 run` executes it and nothing else."""

    schema: Literal[1]
    identity: Identity
    cluster: str
    vendor: str
    transport: str
    cells: tuple[Cell, ...]
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        names = [cell.cell_id for cell in self.cells]
        if not names:
            raise ValueError("a plan has at least one cell")
        if len(set(names)) != len(names):
            raise ValueError(
                f"a cell stands twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}"
            )
        for cell in self.cells:
            ranks = [rank for launch in cell.launches for rank in launch.ranks]
            if ranks != list(range(cell.world_size)):
                raise ValueError(
                    f"{cell.cell_id}: its launches start ranks {ranks}, not 0 … {cell.world_size - 1}"
                )


def to_json(value: Plan | Job) -> str:
    """The text of plan.json or job.json."""
    return json.dumps(asdict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
