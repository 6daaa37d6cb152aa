"""Our own records, one rank's file or several together: each line's CRC is checked here, and beside the other
lines (`orchestrator/logfile/whole.py`) that they are of one run, all there, and of no rank that failed.

Whether the run is proven is the matter of `nx8 parse RUN`, which has the plan: read here, they are figures of
a log like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.parse.dialects.record import Dialect, Figures, Stated
from orchestrator.parse.records import End, Fail, Hello, Memory, Ready, Record, Step, decode
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found, StepLine
    from orchestrator.parse.transport import Line

READY = (
    "micro_batch_size",
    "gradient_accumulation_steps",
    "sequence_length",
    "world_size",
    "num_parameters",
)


def read(line: Line) -> tuple[Found, ...]:
    record = decode(line.words.strip().encode("utf-8", "replace"), number=line.number)
    match record:
        case Step():
            return (_step(line, record),)
        case Hello():
            return (_stated(line, record, "world_size", record.world_size),)
        case Ready():
            return tuple(_stated(line, record, name, getattr(record, name)) for name in READY)
        case Memory():
            return (_memory(line, record),)
        case Fail():
            return (_stated(line, record, "failed", record.type),)
        case End():
            if record.count != record.seq:
                raise Misread(f"it counts {record.count} records before it, its number is {record.seq}")
            return (
                _stated(line, record, "total_steps", record.steps),
                _stated(line, record, "ended", 1),
            )
    return (_stated(line, record, "record", 1),)


def _stated(line: Line, record: Record, name: str, value: float | str) -> Stated:
    return Stated(line=line.number, source=line.source, name=name, value=value, **_who(record))


def _step(line: Line, record: Step) -> StepLine:
    figures = Figures(line)
    figures.put("step", record.step)
    figures.put("loss", record.loss)
    figures.put("step_time_s", record.duration_s)
    figures.put("learning_rate", record.learning_rate)
    figures.put("grad_norm", record.grad_norm)
    if record.loss_nonfinite:
        figures.take("loss", record.loss_nonfinite)
    return figures.made(**_who(record))


def _memory(line: Line, record: Memory) -> StepLine:
    figures = Figures(line)
    figures.put("memory_peak_bytes", record.device_peak_allocated_bytes)
    figures.put("memory_reserved_bytes", record.device_peak_reserved_bytes)
    return figures.made(**_who(record))


def _who(record: Record) -> dict[str, Any]:
    return {"rank": record.rank, "run": record.nonce, "seq": record.seq}


DIALECT = Dialect(
    name="events",
    says="our own records (docs/contract.md)",
    markers=(b',"crc32":"',),
    read=read,
)
