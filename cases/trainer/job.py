"""job.json, read strictly: what the host decided, as plain values. The keys are those of docs/contract.md."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Type, TypeVar

CONTRACT = 1

T = TypeVar("T")


class JobError(ValueError):
    """job.json cannot be run as it is; lists every problem found."""


@dataclass(frozen=True)
class Device:
    type: str
    plugin: Optional[str]
    backend: str
    deepspeed_accelerator: Optional[str]


@dataclass(frozen=True)
class Vision:
    """`num_layers` counts those of the published model; `feature_layer` is the one that is read: -1 the last,
    -2 the last but one.
    """

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
        return (self.image_size // self.patch_size) ** 2

    @property
    def built_layers(self) -> int:
        """Layers up to the one that is read; layer 0 would be the embeddings."""
        number = self.feature_layer
        return number + self.num_layers + 1 if number < 0 else number


@dataclass(frozen=True)
class Model:
    architecture: str
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
    vision: Optional[Vision] = None


@dataclass(frozen=True)
class Samples:
    num_samples: int
    order: str
    images: Optional[str]


@dataclass(frozen=True)
class Index:
    """Megatron's `.idx` of the file."""

    file: str
    sha256: str
    num_sequences: int
    num_documents: int


@dataclass(frozen=True)
class Data:
    file: str
    sha256: str
    num_tokens: int
    dtype: str
    samples: Optional[Samples] = None
    index: Optional[Index] = None


@dataclass(frozen=True)
class Batch:
    sequence_length: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    data_parallel_size: int
    world_size: int
    global_batch_size: int


@dataclass(frozen=True)
class Steps:
    warmup_steps: int
    measured_steps: int

    @property
    def planned(self) -> int:
        return self.warmup_steps + self.measured_steps


@dataclass(frozen=True)
class Schedule:
    shape: str
    warmup_steps: int

    def share(self, step: int, *, total: int) -> float:
        """The fraction of the full learning rate at which `step`, from 1, is taken: linearly up from 0 over
        the warm-up, then half a cosine down.
        """
        done = step - 1
        if done < self.warmup_steps:
            return done / max(1, self.warmup_steps)
        along = (done - self.warmup_steps) / max(1, total - self.warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * along)))


@dataclass(frozen=True)
class Optimizer:
    name: str
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    gradient_clipping: float
    schedule: Optional[Schedule] = None

    def learning_rate_at(self, step: int, *, total: int) -> float:
        """Of `step`, from 1."""
        return self.learning_rate * (self.schedule.share(step, total=total) if self.schedule else 1.0)


@dataclass(frozen=True)
class Precision:
    label: str
    compute_dtype: str
    mechanism: str
    loss_scale_window: int = 0  # where the job says none: the engine's own


@dataclass(frozen=True)
class Zero:
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


@dataclass(frozen=True)
class Parallel:
    """Of the native engine. `pipeline_layers`: how many layers each chunk of the pipeline holds, in the order
    of the model; null shares them out evenly.
    """

    tensor_parallel_size: int
    pipeline_parallel_size: int
    virtual_pipeline_size: int
    sequence_parallel: bool
    shard_optimizer: bool
    overlap: bool
    pipeline_layers: Optional[List[int]] = None


@dataclass(frozen=True)
class Initial:
    folders: List[str]
    manifests: List[str]
    projector: Optional[str]


@dataclass(frozen=True)
class Questions:
    file: str
    sha256: str
    num_questions: int
    max_new_tokens: int


@dataclass(frozen=True)
class Job:
    """Keys with a default may be left out: they came later, and what they say is not asked for then."""

    contract: int
    run_id: str
    cell_id: str
    nonce: str
    case: str
    seed: int
    engine: str
    device: Device
    model: Model
    data: Data
    batch: Batch
    steps: Steps
    optimizer: Optimizer
    precision: Precision
    recompute: str
    attention: str
    zero: Zero
    stage: Optional[str] = None
    trainable: Optional[List[str]] = None
    initial: Optional[Initial] = None
    save: Optional[str] = None
    questions: Optional[Questions] = None
    parallel: Optional[Parallel] = None


def load_job(path: str) -> Job:
    """Raises JobError for anything the contract does not allow, OSError when the file cannot be read."""
    with open(path, "rb") as file:
        raw = file.read()
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise JobError("{}: not JSON in UTF-8: {}".format(path, error)) from error
    if isinstance(value, dict) and value.get("contract") != CONTRACT:
        # First, because everything else would be misread in another version.
        raise JobError(
            "{}: contract {!r}; this trainer speaks {}".format(path, value.get("contract"), CONTRACT)
        )
    problems: List[str] = []
    job = _build(Job, value, "", problems)
    if job is not None:
        _check(job, problems)
    if job is None or problems:
        raise JobError("{}: {}".format(path, "; ".join(problems)))
    return job


def _refuse_constant(name: str) -> Any:
    raise ValueError("{} is not JSON".format(name))


def _build(cls: Type[T], value: Any, where: str, problems: List[str]) -> Optional[T]:
    """An instance of the dataclass from the JSON object, or None with the problems noted."""
    if not isinstance(value, dict):
        problems.append("{}: must be an object".format(where or "the job"))
        return None
    before = len(problems)
    hints = typing.get_type_hints(cls)
    prefix = where + "." if where else ""
    problems.extend("{}{}: unknown key".format(prefix, key) for key in sorted(set(value) - set(hints)))
    fields: Dict[str, Any] = {}
    optional = {one.name for one in dataclasses.fields(cls) if one.default is not dataclasses.MISSING}
    for name, kind in hints.items():
        inner = _inner(kind)
        if name not in value:
            if name not in optional:
                problems.append("{}{}: missing".format(prefix, name))
        elif inner is not None and value[name] is None and inner is not kind:
            fields[name] = None
        elif inner is not None:
            fields[name] = _build(inner, value[name], prefix + name, problems)
        elif not _fits(value[name], kind):
            problems.append("{}{}: {!r} is not {}".format(prefix, name, value[name], _name(kind)))
        else:
            fields[name] = float(value[name]) if kind is float else value[name]
    return cls(**fields) if len(problems) == before else None


def _inner(kind: Any) -> Any:
    """The dataclass that a field holds, also where it may be null; None for any other kind."""
    for one in (kind, *getattr(kind, "__args__", ())):
        if dataclasses.is_dataclass(one):
            return one
    return None


def _fits(value: Any, kind: Any) -> bool:
    if kind == Optional[str]:
        return value is None or isinstance(value, str)
    if kind in (List[str], Optional[List[str]]):
        if value is None:
            return kind != List[str]
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == Optional[List[int]]:
        return value is None or (isinstance(value, list) and all(type(one) is int for one in value))
    if isinstance(value, bool):  # bool is an int in Python, not in JSON
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _name(kind: Any) -> str:
    if kind == Optional[str]:
        return "str or null"
    if kind == Optional[List[int]]:
        return "a list of int or null"
    return "a list of str" if kind in (List[str], Optional[List[str]]) else kind.__name__


def _check(job: Job, problems: List[str]) -> None:
    """What the types cannot say."""

    def among(where: str, value: Any, allowed: Any) -> None:
        if value not in allowed:
            problems.append("{}: {!r} is none of {}".format(where, value, ", ".join(map(str, allowed))))

    def require(holds: bool, message: str) -> None:
        if not holds:
            problems.append(message)

    model, batch, zero = job.model, job.batch, job.zero
    among("engine", job.engine, ("deepspeed", "ddp", "native"))
    among("model.architecture", model.architecture, ("llama", "llava"))
    among("data.dtype", job.data.dtype, ("uint8", "int16", "uint16", "int32"))
    among("optimizer.name", job.optimizer.name, ("adamw",))
    among("precision.compute_dtype", job.precision.compute_dtype, ("fp32", "tf32", "bf16", "fp16"))
    among("precision.mechanism", job.precision.mechanism, ("none", "engine", "autocast"))
    among("recompute", job.recompute, ("none", "selective", "full"))
    among("attention", job.attention, ("sdpa", "flash_attn_2"))
    among("zero.stage", zero.stage, (0, 1, 2, 3))
    hexadecimal = set("0123456789abcdef")
    require(len(job.nonce) == 32 and set(job.nonce) <= hexadecimal, "nonce: must be 32 hex digits")
    require(
        len(job.data.sha256) == 64 and set(job.data.sha256) <= hexadecimal,
        "data.sha256: must be 64 hex digits",
    )
    for section in ("batch", "steps", "model", "parallel"):
        for name, value in _values(getattr(job, section)).items():
            if type(value) is int:
                least = 0 if name == "warmup_steps" else 1
                require(value >= least, "{}.{}: must be at least {}".format(section, name, least))
    _check_parallel(job, require)
    product = batch.micro_batch_size * batch.gradient_accumulation_steps * batch.data_parallel_size
    require(batch.global_batch_size == product, "batch.global_batch_size: must be {}".format(product))
    require(
        model.num_heads > 0 and model.hidden_size % model.num_heads == 0,
        "model.hidden_size: not divisible by num_heads",
    )
    require(
        model.num_kv_heads > 0 and model.num_heads % model.num_kv_heads == 0,
        "model.num_heads: not divisible by num_kv_heads",
    )
    _check_stage(job, among, require)
    require(job.engine == "deepspeed" or zero.stage == 0, "zero.stage: must be 0 for " + job.engine)
    mixed = job.precision.compute_dtype not in ("fp32", "tf32")
    require(
        mixed == (job.precision.mechanism != "none"),
        "precision.mechanism: none goes with fp32 and tf32, engine or autocast with the others",
    )


def _values(section: Any) -> Dict[str, Any]:
    return {} if section is None else dataclasses.asdict(section)


def _check_parallel(job: Job, require: Any) -> None:
    """How ranks, heads, layers and micro-batches must divide."""
    parallel, model, batch = job.parallel, job.model, job.batch
    native = job.engine == "native"
    require(native or parallel is None, "parallel: goes with engine native")
    require(native or job.recompute != "selective", "recompute: selective goes with engine native")
    tensor = parallel.tensor_parallel_size if parallel else 1
    stages = parallel.pipeline_parallel_size if parallel else 1
    product = tensor * stages * batch.data_parallel_size
    require(
        product == batch.world_size,
        "batch.world_size: {} is not tensor {} × pipeline {} × data {} = {}".format(
            batch.world_size, tensor, stages, batch.data_parallel_size, product
        ),
    )
    if parallel is None or tensor < 1 or stages < 1 or parallel.virtual_pipeline_size < 1:
        return  # said elsewhere
    for name in ("num_heads", "num_kv_heads", "ffn_hidden_size"):
        number = getattr(model, name)
        require(
            number % tensor == 0,
            "model.{}: {} are not divisible among {} tensor ranks".format(name, number, tensor),
        )
    require(
        not parallel.sequence_parallel or batch.sequence_length % tensor == 0,
        "batch.sequence_length: {} positions are not divisible among {} tensor ranks".format(
            batch.sequence_length, tensor
        ),
    )
    chunks = stages * parallel.virtual_pipeline_size
    require(
        model.num_layers >= chunks,
        "model.num_layers: {} are too few for {} chunks of a pipeline".format(model.num_layers, chunks),
    )
    lists = parallel.pipeline_layers
    require(
        lists is None
        or (len(lists) == chunks and min(lists, default=0) >= 1 and sum(lists) == model.num_layers),
        "parallel.pipeline_layers: {} must be {} numbers from 1 with the sum {}".format(
            lists, chunks, model.num_layers
        ),
    )
    if parallel.virtual_pipeline_size > 1:
        require(stages > 1, "parallel.virtual_pipeline_size: needs a pipeline of more than one stage")
        require(
            batch.gradient_accumulation_steps % stages == 0,
            "batch.gradient_accumulation_steps: {} are not divisible among {} interleaved stages".format(
                batch.gradient_accumulation_steps, stages
            ),
        )


def _check_stage(job: Job, among: Any, require: Any) -> None:
    """The keys of a case that is trained in stages: all of them together, or none."""
    llava, samples = job.model.architecture == "llava", job.data.samples
    require(llava == (job.model.vision is not None), "model.vision: llava has one, llama has none")
    require(llava == (samples is not None), "data.samples: llava learns from a prepared set, llama does not")
    require(llava == (job.trainable is not None), "trainable: goes with llava")
    for name in job.trainable or ():
        among("trainable", name, ("multi_modal_projector", "language_model"))
    if samples is not None:
        among("data.samples.order", samples.order, ("shuffled", "grouped"))
    if job.optimizer.schedule is not None:
        among("optimizer.schedule.shape", job.optimizer.schedule.shape, ("cosine",))
    if job.initial is not None:
        same = len(job.initial.folders) == len(job.initial.manifests)
        require(same, "initial: one manifest a folder")
    for name, path in (("save", job.save), ("initial.projector", job.initial and job.initial.projector)):
        # Whatever another run left where this one looks: its name would be another.
        require(path is None or path.endswith("projector-" + job.nonce), name + ": is not of this run")
    require(job.questions is None or llava, "questions: are about images, which llama does not see")
