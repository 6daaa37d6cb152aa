"""Any training log, and what a person knows of it → figures with their reasons, for `nx8 parse FILE`.

No figure from here is MEASURED: there is no plan, no nonce, nothing to prove it by. The best that a log can
be is PARSED; INVALID when it contradicts itself or what was said of it, INCOMPLETE when it shows no end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Exit, Problem
from orchestrator.logfile.known import DEFAULT_WARMUP_STEPS, Known, known_of
from orchestrator.logfile.sizes import (
    Sizes,
    check_closing,
    check_lines,
    check_possible,
    of_training,
    sizes_of,
    stages_of,
    stated_of,
)
from orchestrator.logfile.whole import check_whole
from orchestrator.metrics import Metric
from orchestrator.metrics.alignment import Alignment, align
from orchestrator.metrics.arithmetic import Check
from orchestrator.metrics.comparison import ScalePoint, scaling_efficiency
from orchestrator.metrics.logged import Logged, summarize_log, why_unfinished
from orchestrator.metrics.summary import NoValueError
from orchestrator.parse import PARSER_VERSION, collecting
from orchestrator.parse.dialects import DIALECTS, Heard, LogReader, Reading
from orchestrator.parse.dialects.detect import Choice, Unclear, choose, chosen, merged
from orchestrator.parse.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


__all__ = [
    "MARK",
    "SCHEMA",
    "LogResult",
    "document",
    "exit_code",
    "known_of",
    "read_log",
    "read_reference",
    "scaling",
]

SCHEMA = "nx8.log/1"
MARK = "from a log, not proven"
CHUNK_BYTES = 1 << 20
#: Figures that a log closes with, quoted beside ours.
QUOTED = (
    "tokens_per_second_per_device",
    "system_tokens_per_second",
    "mfu",
    "tokens_per_tflops",
    "peak_tflops",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogResult:
    """One log, judged. `status` is PARSED, INVALID or INCOMPLETE, with `reasons` unless PARSED.

    `metrics` are withheld unless PARSED. `losses` by step, for curves.
    """

    file: str
    status: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    choice: Choice
    reading: Reading
    heard: tuple[Heard, ...]
    sizes: Sizes
    warmup_steps: int
    closing: Mapping[str, float]
    checks: tuple[Check, ...]
    metrics: tuple[Metric, ...]
    losses: Mapping[int, float]
    alignment: Alignment | str | None

    def value(self, name: str) -> float | None:
        return next(metric.value for metric in self.metrics if metric.name == name)


@collecting.paused()
def read_log(
    path: Path, known: Known, *, dialect: str = "auto", reference: Mapping[int, float] | None = None
) -> LogResult:
    """Raises ConfigError: E810 a file that cannot be read, E811 no dialect or more than one."""
    return judge_log(_read(path), known, file=str(path), dialect=dialect, reference=reference)


def _read(path: Path) -> Reading:
    reader = LogReader()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                reader.feed(chunk)
    except OSError as error:
        shown = visible(str(path))
        raise ConfigError(
            Problem(code="E810", message=f"{shown} cannot be read: {error.strerror}", help="name a log file")
        ) from error
    return reader.finish()


def judge_log(
    reading: Reading,
    known: Known,
    *,
    file: str,
    dialect: str = "auto",
    reference: Mapping[int, float] | None = None,
) -> LogResult:
    """Pure. Raises ConfigError (E811) where the dialect is not clear."""
    choice = _choice(reading, dialect=dialect, file=file)
    heard = of_training(merged(reading, choice), known)
    stages = stages_of(heard)
    stated = stated_of(heard, known.stage)
    sizes = sizes_of(known, heard, stated)
    warmup = DEFAULT_WARMUP_STEPS if known.warmup_steps is None else known.warmup_steps
    log = Logged(
        heard=tuple(one.steps for one in heard),
        sizes=sizes.values,
        closing={one.name: one.value for one in stated if not isinstance(one.value, str)},
        ended=any(one.name == "ended" for one in stated),
        warmup_steps=warmup,
        stage=known.stage,
        prints_end=next(one.prints_end for one in DIALECTS if one.name == choice.dialect),
    )
    metrics = summarize_log(log)
    by_name = {metric.name: metric for metric in metrics}
    checks = (
        *sizes.checks,
        *check_whole(heard),
        *check_lines(log),
        *check_closing(log, by_name["tokens_per_second_per_device"]),
        *check_possible(by_name["mfu_published"]),
    )
    status, reasons = _verdict(log, checks)
    losses = {point.step: point.value for point in log.series("loss").points if point.step is not None}
    return LogResult(
        file=file,
        status=status,
        reasons=reasons,
        notes=_notes(known, stages, reading, heard),
        choice=choice,
        reading=reading,
        heard=heard,
        sizes=sizes,
        warmup_steps=warmup,
        closing={name: log.closing[name] for name in QUOTED if name in log.closing},
        checks=checks,
        metrics=metrics if status == "PARSED" else tuple(m.withheld(reasons[0]) for m in metrics),
        losses=losses,
        alignment=None
        if reference is None
        else reasons[0]
        if status != "PARSED"
        else _alignment(losses, reference, by_name["nan_iterations"]),
    )


def _choice(reading: Reading, *, dialect: str, file: str) -> Choice:
    if dialect != "auto":
        return chosen(reading, dialect)
    found = choose(reading)
    if isinstance(found, Choice):
        return found
    raise ConfigError(_unclear(found, reading, shown=visible(file)))


def _unclear(found: Unclear, reading: Reading, *, shown: str) -> Problem:
    if found.candidates:
        said = "; ".join(f"{name} ({evidence})" for name, evidence in found.candidates)
        names = " or ".join(f"--dialect {name}" for name, _ in found.candidates)
        return Problem(
            code="E811",
            message=f"{shown} holds more than one dialect: {said}",
            help=f"say which one counts: {names}",
        )
    misread = [heard for heard in reading.heard if heard.num_misread]
    said = "; ".join(f"{one.dialect}: {one.num_misread}, {one.problems[0]}" for one in misread)
    return Problem(
        code="E811",
        message=f"{shown} has no line of training in any dialect ({reading.passed.num_lines} lines)"
        + (f"; lines that look like one and cannot be read: {said}" if said else ""),
        help=f"dialects: {', '.join(one.name for one in DIALECTS)} (docs/parsing.md)",
    )


def _verdict(log: Logged, checks: Sequence[Check]) -> tuple[str, tuple[str, ...]]:
    broken = tuple(f"{check.name}: {check.detail}" for check in checks if not check.held)
    if broken:
        return "INVALID", broken
    unfinished = why_unfinished(log)
    return ("INCOMPLETE", (unfinished,)) if unfinished else ("PARSED", ())


def _notes(known: Known, stages: Sequence[str], reading: Reading, heard: Sequence[Heard]) -> tuple[str, ...]:
    notes = []
    if known.warmup_steps is None:
        notes.append(f"warm-up: {DEFAULT_WARMUP_STEPS} steps, unless --set warmup_steps=N says otherwise")
    if stages and known.stage is None:
        notes.append(f"closing figures of stages ({', '.join(stages)}) are left out: --set stage={stages[0]}")
    if reading.passed.truncated is not None:
        notes.append("the last line has no end and was not read")
    if reading.passed.num_overlong:
        notes.append(f"{reading.passed.num_overlong} lines over 64 KiB were not read")
    misread = sum(one.num_misread for one in heard)
    if misread:
        notes.append(f"{misread} lines look like the dialect and could not be read")
    return tuple(notes)


def _alignment(losses: Mapping[int, float], reference: Mapping[int, float], nan: Metric) -> Alignment | str:
    if nan.value:
        return f"{nan.value} steps have no finite loss"
    if not losses:
        return "no loss of this log has a step: --set logging_steps=N where its lines do not number them"
    try:
        return align(losses, reference)
    except NoValueError as reason:
        return str(reason)


def read_reference(path: Path, known: Known) -> dict[int, float]:
    """A loss curve: a CSV file with the columns step and loss, or another log. Raises ConfigError (E810,
    E811, E813).
    """
    from orchestrator.logfile.curve import read_curve

    if path.suffix.lower() == ".csv":
        return read_curve(path)
    losses = dict(read_log(path, Known(sizes=_of_lines(known), warmup_steps=None, stage=None)).losses)
    if not losses:
        raise ConfigError(
            Problem(
                code="E813",
                message=f"{visible(str(path))}: no loss in it has a step",
                help="--set logging_steps=N where its lines do not number them, or a CSV file of step,loss",
            )
        )
    return losses


def _of_lines(known: Known) -> dict[str, float]:
    """Of what is known of a log only what counts its lines, which its reference shares."""
    names = ("logging_steps", "gradient_accumulation_steps")
    return {name: known.sizes[name] for name in names if name in known.sizes}


def exit_code(results: Sequence[LogResult]) -> int:
    """4 unless every log is PARSED; 1 where one does not follow its reference."""
    if any(result.status != "PARSED" for result in results):
        return Exit.CELL
    strayed = any(
        isinstance(result.alignment, str) or (result.alignment is not None and not result.alignment.aligned)
        for result in results
    )
    return Exit.GATE if strayed else Exit.OK


def document(results: Sequence[LogResult]) -> dict[str, Any]:
    """All logs as one JSON object (docs/parsing.md); no NaN, every text visible."""
    return {
        "schema": SCHEMA,
        "parser_version": PARSER_VERSION,
        "mark": MARK,
        "logs": [_log(result) for result in results],
        "scaling": [asdict(point) for point in scaling(results)],
    }


def _log(result: LogResult) -> dict[str, Any]:
    return {
        "file": visible(result.file),
        "status": result.status,
        "mark": MARK,
        "reasons": [visible(reason) for reason in result.reasons],
        "notes": list(result.notes),
        "dialect": result.choice.dialect,
        "evidence": result.choice.evidence,
        "beside": list(result.choice.beside),
        "lines": _lines(result),
        "sizes": {
            name: {"value": value, "origin": result.sizes.origins[name]}
            for name, value in sorted(result.sizes.values.items())
        },
        "warmup_steps": result.warmup_steps,
        "metrics": {metric.name: _metric(metric) for metric in result.metrics},
        "stated_by_the_log": dict(result.closing),
        "checks": [asdict(check) for check in result.checks],
        "alignment": _aligned(result.alignment),
    }


def _lines(result: LogResult) -> dict[str, Any]:
    passed = result.reading.passed
    return {
        "bytes": passed.num_bytes,
        "lines": passed.num_lines,
        "steps": sum(len(one.steps) for one in result.heard),
        "stated": sum(len(one.stated) for one in result.heard),
        "not_understood": sum(one.num_misread for one in result.heard),
        "overlong": passed.num_overlong,
        "truncated": passed.truncated,
        "samples": [asdict(problem) for one in result.heard for problem in one.problems],
        "overlong_samples": list(passed.overlong),
    }


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "value": metric.value,
        "unit": metric.unit,
        "direction": metric.direction,
        "reason": metric.reason,
        "formula": metric.formula,
        "details": metric.details,
    }


def _aligned(found: Alignment | str | None) -> dict[str, Any] | None:
    if found is None:
        return None
    if isinstance(found, str):
        return {"aligned": None, "reason": found}
    return {"aligned": found.aligned, "reason": None, **asdict(found)}


def scaling(results: Sequence[LogResult]) -> tuple[ScalePoint, ...]:
    """By world size, where a log is PARSED and its size is known; two logs of one size leave it out."""
    speeds: dict[int, list[float]] = {}
    for result in results:
        world, speed = result.sizes.values.get("world_size"), result.value("tokens_per_second_per_device")
        if world and speed:
            speeds.setdefault(int(world), []).append(speed)
    single = {world: found[0] for world, found in speeds.items() if len(found) == 1}
    return scaling_efficiency(single)
