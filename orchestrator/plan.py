"""Plan: everything one run will do, as one frozen value. planner.py makes it, `nx8 plan` prints it, `nx8
run` executes it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from orchestrator.cluster import ImageSource
from orchestrator.document import Document
from orchestrator.memory import MemoryPlan
from orchestrator.vendors import Probe

CONTRACT = 1
#: Marks a key that was added later: where it says nothing it is left out, so that the plans and jobs of runs
#: before it keep their bytes, and with them their digests.
ADDED = {"added": True}


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
class ParallelPlan:
    """How the model is cut; fields as cases.Parallel has them. Rank = pp·(DP·TP) + dp·TP + tp."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    virtual_pipeline_size: int
    pipeline_layers: tuple[int, ...] | None
    sequence_parallel: bool
    shard_optimizer: bool
    overlap: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPlan:
    """An external program: `argv` begins with its script, found in `directory`, and is run by every rank's
    Python with `environment` over what the rank has. `dialect` is what its log is read by.
    """

    directory: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    dialect: Literal["megatron"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPlan:
    """`label` is the table's word; beside it what is computed in and by which mechanism."""

    label: Literal["fp32", "tf32", "amp", "bf16", "fp16"]
    compute_dtype: Literal["fp32", "tf32", "bf16", "fp16"]
    mechanism: Literal["none", "engine", "autocast"]
    loss_scale_window: int | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    type: str
    plugin: str | None
    backend: str
    deepspeed_accelerator: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionPlan:
    """CLIP's image tower, built up to the layer that is read."""

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_hidden_size: int
    image_size: int
    patch_size: int
    norm_eps: float
    init_std: float
    feature_layer: int

    @property
    def num_patches(self) -> int:
        """Positions of a sequence that one image takes."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_parameters(self) -> int:
        """Class token, patches, positions, the norm before the layers, and those that are built."""
        d, f, number = self.hidden_size, self.ffn_hidden_size, self.feature_layer
        built = number + self.num_layers + 1 if number < 0 else number
        outside = d + 3 * d * self.patch_size**2 + (self.num_patches + 1) * d + 2 * d
        return outside + built * (4 * d * d + 2 * d * f + 9 * d + f)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    architecture: Literal["llama", "llava"]
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
    vision: VisionPlan | None = field(default=None, metadata=ADDED)

    @property
    def num_embedding_parameters(self) -> int:
        """The input embedding alone."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All of them: the language model's, the projector's and the tower's."""
        tower = self.vision.num_parameters if self.vision else 0
        return self.num_language_parameters + self.num_projector_parameters + tower

    @property
    def num_projector_parameters(self) -> int:
        """Two layers with their biases."""
        if self.vision is None:
            return 0
        return self.hidden_size * (self.vision.hidden_size + self.hidden_size + 2)

    @property
    def num_language_parameters(self) -> int:
        """Embeddings, attention (grouped queries), SwiGLU, norms, output."""
        head = self.hidden_size // self.num_heads
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * head * self.num_kv_heads
        layer = attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size
        outside = (1 if self.tie_embeddings else 2) * self.num_embedding_parameters + self.hidden_size
        return outside + self.num_layers * layer


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesPlan:
    """What makes the data a prepared set. `images`: the folder of the images that it does not bring along."""

    num_samples: int
    order: Literal["shuffled", "grouped"]
    images: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """The `.idx` beside a Megatron `.bin`: where its sequences and documents begin."""

    file: str
    sha256: str
    num_sequences: int
    num_documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """A token file, or with `samples` the manifest of a prepared set, whose tokens are counted as they enter
    the model, without padding. With `index` the file is Megatron's `.bin`.
    """

    file: str
    sha256: str
    num_tokens: int
    dtype: Literal["uint8", "int16", "uint16", "int32"]
    samples: SamplesPlan | None = field(default=None, metadata=ADDED)
    index: IndexPlan | None = field(default=None, metadata=ADDED)

    @property
    def name(self) -> str:
        """Of the token file or the set, in any data folder."""
        parts = self.file.split("/")
        return parts[-1].removesuffix(".tokens").removesuffix(".bin") if self.samples is None else parts[-2]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePlan:
    """Of the learning rate of step t from 1 … total: linearly up from 0 over the warm-up, then half a cosine
    down.
    """

    shape: Literal["cosine"]
    warmup_steps: int

    def share(self, step: int, *, total: int) -> float:
        """The fraction of the full learning rate at which `step`, from 1, is taken."""
        done = step - 1
        if done < self.warmup_steps:
            return done / max(1, self.warmup_steps)
        along = (done - self.warmup_steps) / max(1, total - self.warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * along)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerPlan:
    name: Literal["adamw"]
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    gradient_clipping: float
    schedule: SchedulePlan | None = field(default=None, metadata=ADDED)

    def learning_rate_at(self, step: int, *, total: int) -> float:
        """Of `step`, from 1."""
        return self.learning_rate * (self.schedule.share(step, total=total) if self.schedule else 1.0)


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
class InitialPlan:
    """Weights that the model begins with: Hugging Face folders, and the projector that the stage before this
    one left, a safetensors file in a folder of this run's nonce. `manifests` are the SHA-256 of the lists of
    the folders' files, in the same order.
    """

    folders: tuple[str, ...]
    manifests: tuple[str, ...]
    projector: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionsPlan:
    """What the trained model is asked after the last step; the answers are scored on the host."""

    file: str
    sha256: str
    num_questions: int
    max_new_tokens: int

    @property
    def name(self) -> str:
        """Of the set, in any data folder."""
        return self.file.split("/")[-2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What job.json holds: docs/contract.md says what each key means."""

    contract: int
    run_id: str
    cell_id: str
    nonce: str
    case: str
    seed: int
    engine: Literal["deepspeed", "ddp", "native", "megatron"]
    device: DevicePlan
    model: ModelPlan
    data: DataPlan
    batch: BatchPlan
    steps: Steps
    optimizer: OptimizerPlan
    precision: PrecisionPlan
    recompute: Literal["none", "selective", "full"]
    attention: Literal["sdpa", "flash_attn_2"]
    zero: ZeroPlan
    stage: str | None = field(default=None, metadata=ADDED)
    trainable: tuple[str, ...] | None = field(default=None, metadata=ADDED)
    initial: InitialPlan | None = field(default=None, metadata=ADDED)
    save: str | None = field(default=None, metadata=ADDED)
    questions: QuestionsPlan | None = field(default=None, metadata=ADDED)
    parallel: ParallelPlan | None = field(default=None, metadata=ADDED)
    program: ProgramPlan | None = field(default=None, metadata=ADDED)

    @property
    def parallel_label(self) -> str:
        """As the published tables write it: TP8PP4DP1."""
        tp = self.parallel.tensor_parallel_size if self.parallel else 1
        pp = self.parallel.pipeline_parallel_size if self.parallel else 1
        return f"TP{tp}PP{pp}DP{self.batch.data_parallel_size}"

    @property
    def num_trainable_parameters(self) -> int:
        sizes = {
            "multi_modal_projector": self.model.num_projector_parameters,
            "language_model": self.model.num_language_parameters,
        }
        return (
            self.model.num_parameters if self.trainable is None else sum(sizes[one] for one in self.trainable)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launcher on one node: exactly this argv with exactly these variables set over the inherited
    environment. On a node reached over SSH the argv is `docker container create …`, `container` its name,
    `node_job_dir` the folder that it writes to, and the variables stand in the argv; whom it runs as is known
    only on the node, and added to the argv there.
    """

    node: str
    node_rank: int
    ranks: tuple[int, ...]
    argv: tuple[str, ...]
    environment: dict[str, str]
    host_output: str
    container: str | None = None
    node_job_dir: str | None = None

    @property
    def master_port(self) -> int:
        """The port on the first node where ranks meet; 0 takes a free one."""
        return int(self.argv[self.argv.index("--master-port") + 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """What every node runs: built from exactly this Dockerfile and context, tagged by the context's hash, and
    brought to the nodes as `origin` says. `needs`: what the works of its engine ask of it beside the engine.
    """

    tag: str
    base: str
    dockerfile: str
    context_sha256: str
    build_args: dict[str, str]
    origin: ImageSource = field(default_factory=ImageSource)
    needs: tuple[str, ...] | None = field(default=None, metadata=ADDED)


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
class DocumentPlan:
    """What the published document of this cell says beside what the run finds out: the case's words, changed
    by the device's. `default_batch`: LBS, MPE and GAS of the case, before anything changed them; `sources`:
    the file that each of them stands in, below the case's folder.
    """

    words: Document
    default_batch: dict[str, int]
    sources: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedPlan:
    """A file that another cell of the run left, below the run's folder, and where this cell's ranks find it,
    below the folder of its job.
    """

    cell_id: str
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListsPlan:
    """What the host keeps of a prepared set in the run's folder to recompute its batches: by the name of the
    file, its SHA-256.
    """

    lengths: str
    lengths_sha256: str
    words: str
    words_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """What answers are scored with, below the run's folder. `tokenizer` null: tokens are bytes."""

    key: str
    key_sha256: str
    tokenizer: str | None
    tokenizer_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One case × device × scale × stage of a run."""

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
    document: DocumentPlan | None = None
    lists: ListsPlan | None = field(default=None, metadata=ADDED)
    key: KeyPlan | None = field(default=None, metadata=ADDED)
    handed: HandedPlan | None = field(default=None, metadata=ADDED)
    memory: MemoryPlan | None = field(default=None, metadata=ADDED)
    warnings: tuple[str, ...] | None = field(default=None, metadata=ADDED)

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
    return json.dumps(as_document(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_document(value: Any) -> Any:
    """`dataclasses.asdict`, without the keys that were added later and say nothing here."""
    if is_dataclass(value) and not isinstance(value, type):
        listed = {one.name: (getattr(value, one.name), one.metadata) for one in fields(value)}
        return {
            name: as_document(item)
            for name, (item, metadata) in listed.items()
            if item is not None or "added" not in metadata
        }
    if isinstance(value, list | tuple):
        return [as_document(item) for item in value]
    if isinstance(value, dict):
        return {key: as_document(item) for key, item in value.items()}
    return value
