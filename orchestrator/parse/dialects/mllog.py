"""MLPerf's `:::MLLOG {json}` (mlperf_logging.mllog).

It has no line of a step: `train_loss` and `tracked_stats` are points in time with a number of samples or
steps in their metadata, and blocks and epochs say when how many samples were done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.parse.dialects.record import (
    Dialect,
    Figures,
    json_not_finite,
    json_object,
    json_real,
    json_whole,
    stated,
)
from orchestrator.parse.strict import Misread

if TYPE_CHECKING:
    from orchestrator.parse.dialects.record import Found
    from orchestrator.parse.transport import Line

HEADER = ":::MLLOG"
SIZES = {
    "global_batch_size": "global_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "micro_batch_size": "micro_batch_size",
    "max_sequence_length": "sequence_length",
    "max_steps": "total_steps",
}
STEP_KEYS = ("step_num", "step", "global_step")
SAMPLES_KEYS = ("samples_count", "samples")
CLOCKS = ("run_start", "block_start", "block_stop", "epoch_start", "epoch_stop")


def read(line: Line) -> tuple[Found, ...]:
    record = json_object(line.text[line.text.find(HEADER) + len(HEADER) :])
    key, value = record.get("key"), record.get("value")
    if not isinstance(key, str) or "time_ms" not in record:
        raise Misread("no key or no time_ms in it")
    metadata = record.get("metadata")
    where = metadata if isinstance(metadata, dict) else {}
    if key in SIZES:
        size = json_whole(value)
        return () if size is None else (stated(line, SIZES[key], size),)
    if key == "run_stop":
        done = where.get("status") == "success"
        return (stated(line, "ended", 1), *_point(line, record, where)) if done else ()
    if key == "run_start":
        return (stated(line, "started", 1), *_point(line, record, where))
    if key in ("train_loss", "tracked_stats") or key in CLOCKS:
        return _point(line, record, where)
    return ()


def _point(line: Line, record: dict[str, Any], where: dict[str, Any]) -> tuple[Found, ...]:
    figures = Figures(line)
    key, value = record["key"], record.get("value")
    figures.put("step", _first(where, STEP_KEYS))
    figures.put("consumed_samples", 0 if key == "run_start" else _first(where, SAMPLES_KEYS))
    time_ms = json_real(record["time_ms"])
    figures.put("clock_s", None if time_ms is None else time_ms / 1e3)
    if key == "train_loss":
        if json_not_finite(value):
            figures.take("loss", str(value))
        figures.put("loss", json_real(value))
        figures.put("learning_rate", json_real(where.get("lr")))
    if key == "tracked_stats" and isinstance(value, dict):
        figures.put("samples_per_second", json_real(value.get("throughput")))
        figures.put("step_time_s", json_real(value.get("train_step_time")))
    return (figures.made(),)


def _first(where: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((count for key in keys if (count := json_whole(where.get(key))) is not None), None)


DIALECT = Dialect(name="mllog", says="MLPerf's :::MLLOG lines", markers=(HEADER.encode(),), read=read)
