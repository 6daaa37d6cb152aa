"""One line of an events file → one typed record (docs/contract.md, "Records").

Records are msgspec structs, not dataclasses: a long run has millions, and these are made and read in half the
time. A step in the form that our trainer writes takes a short way; every other line, and every line with
anything wrong, the long way, which says what.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import msgspec

from orchestrator.parse.strict import Fields, Misread, strict_object

if TYPE_CHECKING:
    from collections.abc import Callable

#: What follows the checked bytes of every line.
_CRC = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\Z')
_CRC_BYTES = 20
_NONFINITE: dict[str, Literal["nan", "inf", "-inf"]] = {"nan": "nan", "inf": "inf", "-inf": "-inf"}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What all records have. `t_s`: the rank's monotonic clock, seconds. `line` counts from 1."""

    line: int
    nonce: str
    rank: int
    seq: int
    t_s: float


class Hello(Record, frozen=True, kw_only=True):
    world_size: int
    local_rank: int
    hostname: str
    pid: int
    wall_time_s: float
    device_type: str
    device_name: str | None
    backend: str
    engine: str
    attention: str
    versions: tuple[tuple[str, str | None], ...]
    os: str
    seed: int
    job_sha256: str


class Ready(Record, frozen=True, kw_only=True):
    num_parameters: int
    num_embedding_parameters: int
    data_sha256: str
    data_num_tokens: int
    zero_stage: int
    compute_dtype: str
    recompute: str
    micro_batch_size: int
    gradient_accumulation_steps: int
    sequence_length: int
    world_size: int
    num_trainable_parameters: int | None = None
    projector_sha256: str | None = None
    attention: str | None = None
    loss_scaling: str | None = None
    compiled: bool | None = None
    tf32: bool | None = None
    flops_per_token: int | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    tensor_rank: int | None = None
    pipeline_rank: int | None = None
    data_rank: int | None = None
    num_local_parameters: int | None = None
    virtual_pipeline_size: int | None = None
    sequence_parallel: bool | None = None
    num_optimizer_parameters: int | None = None


class Step(Record, frozen=True, kw_only=True, gc=False):
    """One optimizer step of this rank. `loss` in nats per token, before the update; None when it was not
    finite.

    `tokens` counts padding. `real_tokens`, `labelled_tokens` and `images` are None where there is no padding;
    `data_wait_s` is how long it stood still for its data, `comm_wait_s` for other ranks, `forward_s` how
    long its forward passes took where nothing of others is in them; None where it does not say. `updated` is
    False where an overflow skipped the update, None without a loss scale. `learning_rate` is None where an
    external program's line does not say it.
    """

    step: int
    start_s: float
    end_s: float
    samples: int
    tokens: int
    loss: float | None
    loss_nonfinite: Literal["nan", "inf", "-inf"] | None
    grad_norm: float | None
    learning_rate: float | None
    data_wait_s: float | None = None
    comm_wait_s: float | None = None
    forward_s: float | None = None
    updated: bool | None = None
    real_tokens: int | None = None
    labelled_tokens: int | None = None
    images: int | None = None

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


class Program(Record, frozen=True, kw_only=True):
    """What the observer of an external program started; digests of what it reads, on a node's first rank."""

    directory: str
    argv: tuple[str, ...]
    data_sha256: str | None
    index_sha256: str | None


class Output(Record, frozen=True, kw_only=True, gc=False):
    """How much of an external program's output had come by `t_s`: bytes, and lines that were whole."""

    bytes: int
    lines: int


class OutputEnd(Record, frozen=True, kw_only=True):
    """All of an external program's output."""

    bytes: int
    lines: int
    sha256: str


class Memory(Record, frozen=True, kw_only=True):
    peak_rss_bytes: int
    device_peak_allocated_bytes: int | None
    device_peak_reserved_bytes: int | None


class Fail(Record, frozen=True, kw_only=True):
    """An exception as the rank saw it; text from a log, to be escaped where it is shown."""

    type: str
    message: str
    traceback: str


class Saved(Record, frozen=True, kw_only=True):
    """A file that this rank left for the next stage, below its node's folder."""

    file: str
    bytes: int
    sha256: str


class Answered(Record, frozen=True, kw_only=True):
    """What the trained model said to one question, as token ids."""

    question: str
    tokens: tuple[int, ...]


class Evaluated(Record, frozen=True, kw_only=True):
    """All questions of this rank have been answered: `answered` of the set's `num_questions`."""

    start_s: float
    end_s: float
    data_sha256: str
    num_questions: int
    answered: int
    decoding: str


class End(Record, frozen=True, kw_only=True):
    steps: int
    count: int
    sha256: str


class Unknown(Record, frozen=True, kw_only=True):
    """A whole record of an event this version does not know: counted, not an error."""


class _Common(TypedDict):
    line: int
    nonce: str
    rank: int
    seq: int
    t_s: float


def decode(line: bytes, *, number: int) -> Record:
    """The record in `line` (without its newline). Raises Misread with the reason: CRC, JSON, version or a
    field's type.
    """
    _check_crc(line)
    return _plain_step(line, number=number) or _decode(line, number=number)


def _check_crc(line: bytes) -> None:
    match = _CRC.search(line[-_CRC_BYTES:])
    if match is None:
        raise Misread("no crc32 at its end")
    computed = b"%08x" % zlib.crc32(line[:-_CRC_BYTES])
    if computed != match[1]:
        stated = match[1].decode("ascii")
        raise Misread(f"its bytes have the CRC-32 {computed.decode('ascii')}, not the stated {stated}")


_Exact = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Finite = Annotated[float, msgspec.Meta(ge=-1e299, le=1e299)]


_Wait = Annotated[float, msgspec.Meta(ge=0, le=1e299)]


class _PlainStep(msgspec.Struct, gc=False):
    """A step whose every value is there and ordinary, in the one of the forms below that its keys make."""

    v: Literal[1]
    nonce: Annotated[str, msgspec.Meta(max_length=64)]
    rank: _Exact
    seq: _Exact
    t_s: _Finite
    event: Literal["step"]
    step: _Exact
    start_s: _Finite
    end_s: _Finite
    samples: _Count
    tokens: _Count
    loss: Annotated[float, msgspec.Meta(ge=0, le=1e299)]
    grad_norm: _Finite
    learning_rate: _Finite
    crc32: str


class _WaitingStep(_PlainStep, gc=False):
    """Of a rank that says what it waited for."""

    data_wait_s: _Wait
    comm_wait_s: _Wait | None


class _ScaledStep(_WaitingStep, gc=False):
    """In fp16, with a scaled loss."""

    loss_scale: _Finite | None
    updated: bool


class _PaddedStep(_WaitingStep, gc=False):
    """Of samples that vary in length."""

    real_tokens: _Count
    labelled_tokens: _Count
    images: _Count


class _PaddedScaledStep(_PaddedStep, gc=False):
    loss_scale: _Finite | None
    updated: bool


def _forms() -> dict[int, list[Callable[[bytes], _PlainStep]]]:
    """Number of keys → how such a line is read, each form also with what its forward passes took. All keys of
    a form are required, so a line with as many colons has none that stands twice.
    """
    found: dict[int, list[Callable[[bytes], _PlainStep]]] = {}
    waiting = (_WaitingStep, _ScaledStep, _PaddedStep, _PaddedScaledStep)
    timed: list[Any] = [
        msgspec.defstruct(f"{form.__name__}Timed", [("forward_s", _Wait | None)], bases=(form,), gc=False)
        for form in waiting
    ]
    forms: list[Any] = [_PlainStep, *waiting, *timed]
    for form in forms:
        found.setdefault(len(form.__struct_fields__), []).append(msgspec.json.Decoder(form).decode)
    return found


_FORMS = _forms()


def _plain_step(line: bytes, *, number: int) -> Step | None:
    """The step in `line`; None for any other record and for whatever needs a closer look."""
    read = None
    for form in _FORMS.get(line.count(b":"), ()):
        try:
            read = form(line)
            break
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    if read is None:
        return None
    waiting = read if isinstance(read, _WaitingStep) else None
    padded = read if isinstance(read, _PaddedStep) else None
    scaled = read if isinstance(read, _ScaledStep | _PaddedScaledStep) else None
    return Step(
        line=number,
        nonce=read.nonce,
        rank=read.rank,
        seq=read.seq,
        t_s=read.t_s,
        step=read.step,
        start_s=read.start_s,
        end_s=read.end_s,
        samples=read.samples,
        tokens=read.tokens,
        loss=read.loss,
        loss_nonfinite=None,
        grad_norm=read.grad_norm,
        learning_rate=read.learning_rate,
        data_wait_s=None if waiting is None else waiting.data_wait_s,
        comm_wait_s=None if waiting is None else waiting.comm_wait_s,
        forward_s=getattr(read, "forward_s", None),
        updated=scaled.updated if scaled is not None else None,
        real_tokens=None if padded is None else padded.real_tokens,
        labelled_tokens=None if padded is None else padded.labelled_tokens,
        images=None if padded is None else padded.images,
    )


def _decode(line: bytes, *, number: int) -> Record:
    fields = strict_object(line)
    if (version := fields.integer("v")) != 1:
        raise Misread(f"version {version} of the record format, not 1")
    common = _Common(
        line=number,
        # Longer than any nonce of ours, so a cut one can never equal it.
        nonce=fields.text("nonce", limit=64),
        rank=fields.integer("rank"),
        seq=fields.integer("seq"),
        t_s=fields.number("t_s"),
    )
    read = _EVENTS.get(fields.text("event", limit=64))
    return Unknown(**common) if read is None else read(fields, common)


def _count(fields: Fields, key: str) -> int:
    """A number of things, or bytes: never below zero."""
    value = fields.integer(key)
    if value < 0:
        raise Misread(f"{key} is negative")
    return value


def _optional_count(fields: Fields, key: str) -> int | None:
    value = fields.optional_integer(key)
    if value is not None and value < 0:
        raise Misread(f"{key} is negative")
    return value


def _hello(fields: Fields, common: _Common) -> Hello:
    return Hello(
        **common,
        world_size=_count(fields, "world_size"),
        local_rank=_count(fields, "local_rank"),
        hostname=fields.text("hostname", limit=256),
        pid=_count(fields, "pid"),
        wall_time_s=fields.number("wall_time_s"),
        device_type=fields.text("device_type", limit=64),
        device_name=fields.optional_text("device_name", limit=256),
        backend=fields.text("backend", limit=64),
        engine=fields.text("engine", limit=64),
        attention=fields.text("attention", limit=64),
        versions=fields.texts("versions"),
        os=fields.text("os", limit=256),
        seed=fields.integer("seed"),
        job_sha256=fields.text("job_sha256", limit=128),
    )


def _ready(fields: Fields, common: _Common) -> Ready:
    return Ready(
        **common,
        num_parameters=_count(fields, "num_parameters"),
        num_embedding_parameters=_count(fields, "num_embedding_parameters"),
        data_sha256=fields.text("data_sha256", limit=128),
        data_num_tokens=_count(fields, "data_num_tokens"),
        zero_stage=_count(fields, "zero_stage"),
        compute_dtype=fields.text("compute_dtype", limit=64),
        recompute=fields.text("recompute", limit=64),
        micro_batch_size=_count(fields, "micro_batch_size"),
        gradient_accumulation_steps=_count(fields, "gradient_accumulation_steps"),
        sequence_length=_count(fields, "sequence_length"),
        world_size=_count(fields, "world_size"),
        num_trainable_parameters=_optional_count(fields, "num_trainable_parameters"),
        projector_sha256=fields.optional_text("projector_sha256", limit=128),
        attention=fields.optional_text("attention", limit=64),
        loss_scaling=fields.optional_text("loss_scaling", limit=64),
        compiled=fields.optional_flag("compiled"),
        tf32=fields.optional_flag("tf32"),
        flops_per_token=_optional_count(fields, "flops_per_token"),
        tensor_parallel_size=_optional_count(fields, "tensor_parallel_size"),
        pipeline_parallel_size=_optional_count(fields, "pipeline_parallel_size"),
        tensor_rank=_optional_count(fields, "tensor_rank"),
        pipeline_rank=_optional_count(fields, "pipeline_rank"),
        data_rank=_optional_count(fields, "data_rank"),
        num_local_parameters=_optional_count(fields, "num_local_parameters"),
        virtual_pipeline_size=_optional_count(fields, "virtual_pipeline_size"),
        sequence_parallel=fields.optional_flag("sequence_parallel"),
        num_optimizer_parameters=_optional_count(fields, "num_optimizer_parameters"),
    )


def _step(fields: Fields, common: _Common) -> Step:
    nonfinite = fields.optional_text("loss_nonfinite", limit=64)
    if nonfinite is not None and nonfinite not in _NONFINITE:
        raise Misread("loss_nonfinite is none of nan, inf, -inf")
    loss = fields.optional_number("loss")
    if loss is not None and loss < 0:
        raise Misread("loss is negative, which a cross entropy never is")
    return Step(
        **common,
        step=fields.integer("step"),
        start_s=fields.number("start_s"),
        end_s=fields.number("end_s"),
        samples=_count(fields, "samples"),
        tokens=_count(fields, "tokens"),
        loss=loss,
        loss_nonfinite=None if nonfinite is None else _NONFINITE[nonfinite],
        grad_norm=fields.optional_number("grad_norm"),
        learning_rate=fields.number("learning_rate"),
        data_wait_s=_optional_wait(fields, "data_wait_s"),
        comm_wait_s=_optional_wait(fields, "comm_wait_s"),
        forward_s=_optional_wait(fields, "forward_s"),
        updated=fields.optional_flag("updated"),
        real_tokens=_optional_count(fields, "real_tokens"),
        labelled_tokens=_optional_count(fields, "labelled_tokens"),
        images=_optional_count(fields, "images"),
    )


def _optional_wait(fields: Fields, key: str) -> float | None:
    value = fields.optional_number(key)
    if value is not None and value < 0:
        raise Misread(f"{key} is negative")
    return value


def _memory(fields: Fields, common: _Common) -> Memory:
    return Memory(
        **common,
        peak_rss_bytes=_count(fields, "peak_rss_bytes"),
        device_peak_allocated_bytes=_optional_count(fields, "device_peak_allocated_bytes"),
        device_peak_reserved_bytes=_optional_count(fields, "device_peak_reserved_bytes"),
    )


def _fail(fields: Fields, common: _Common) -> Fail:
    return Fail(
        **common,
        type=fields.text("type", limit=256),
        message=fields.text("message"),
        traceback=fields.text("traceback"),
    )


def _saved(fields: Fields, common: _Common) -> Saved:
    return Saved(
        **common,
        file=fields.text("file", limit=512),
        bytes=_count(fields, "bytes"),
        sha256=fields.text("sha256", limit=128),
    )


def _program(fields: Fields, common: _Common) -> Program:
    return Program(
        **common,
        directory=fields.text("directory", limit=4096),
        argv=fields.strings("argv"),
        data_sha256=fields.optional_text("data_sha256", limit=128),
        index_sha256=fields.optional_text("index_sha256", limit=128),
    )


def _output(fields: Fields, common: _Common) -> Output:
    return Output(**common, bytes=_count(fields, "bytes"), lines=_count(fields, "lines"))


def _output_end(fields: Fields, common: _Common) -> OutputEnd:
    return OutputEnd(
        **common,
        bytes=_count(fields, "bytes"),
        lines=_count(fields, "lines"),
        sha256=fields.text("sha256", limit=128),
    )


def _answered(fields: Fields, common: _Common) -> Answered:
    return Answered(**common, question=fields.text("question", limit=512), tokens=fields.integers("tokens"))


def _evaluated(fields: Fields, common: _Common) -> Evaluated:
    return Evaluated(
        **common,
        start_s=fields.number("start_s"),
        end_s=fields.number("end_s"),
        data_sha256=fields.text("data_sha256", limit=128),
        num_questions=_count(fields, "num_questions"),
        answered=_count(fields, "answered"),
        decoding=fields.text("decoding", limit=64),
    )


def _end(fields: Fields, common: _Common) -> End:
    return End(
        **common,
        steps=_count(fields, "steps"),
        count=_count(fields, "count"),
        sha256=fields.text("sha256", limit=128),
    )


_EVENTS: dict[str, Callable[[Fields, _Common], Record]] = {
    "hello": _hello,
    "ready": _ready,
    "step": _step,
    "memory": _memory,
    "program": _program,
    "output": _output,
    "output_end": _output_end,
    "fail": _fail,
    "saved": _saved,
    "answer": _answered,
    "evaluation": _evaluated,
    "end": _end,
}
