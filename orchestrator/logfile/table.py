"""Results of logs → a table for people. Every figure carries the mark that it is not proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.logfile import MARK, scaling
from orchestrator.parse.visible import visible
from orchestrator.report.numbers import gib, per_cent, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.logfile import LogResult
    from orchestrator.metrics import Metric
    from orchestrator.parse.events import LineProblem

#: How wide the text of a table may get before a reason is cut.
MAX_CELL = 300


def table_text(results: Sequence[LogResult]) -> str:
    """One block a log, and the scaling between them."""
    blocks = [_block(result) for result in results]
    between = _scaling(results)
    return "\n".join([*blocks, *([between] if between else [])])


def _block(result: LogResult) -> str:
    passed = result.reading.passed
    lines = [
        f"{visible(result.file)}: {result.status} ({MARK})",
        f"  dialect  {result.choice.dialect}: {result.choice.evidence}"
        + (f"; beside it {', '.join(result.choice.beside)}" if result.choice.beside else ""),
        f"  lines    {passed.num_lines}, of training {sum(len(one.steps) for one in result.heard)}, "
        f"not understood {sum(one.num_misread for one in result.heard)}",
    ]
    lines += [f"  reason   {visible(reason)}" for reason in result.reasons]
    lines += [f"  note     {note}" for note in result.notes]
    lines += [
        f"  line {problem.line}: {visible(problem.reason)}: {problem.sample}" for problem in _problems(result)
    ]
    lines += ["", *_rows(result.metrics)]
    if result.closing:
        quoted = ", ".join(f"{name} {significant(value)}" for name, value in result.closing.items())
        lines += ["", f"  the log itself closes with: {quoted}"]
    if result.alignment is not None:
        lines += ["", f"  alignment  {_alignment(result)}"]
    return "\n".join([*lines, ""])


def _problems(result: LogResult) -> list[LineProblem]:
    return [problem for one in result.heard for problem in one.problems]


def _rows(metrics: Sequence[Metric]) -> list[str]:
    rows = [(metric.name, _value(metric), _about(metric)) for metric in metrics]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {about}".rstrip() for name, value, about in rows]


def _value(metric: Metric) -> str:
    if metric.value is None:
        return "–"
    if metric.unit == "fraction":
        return per_cent(metric.value)
    if metric.unit == "bytes":
        return f"{gib(metric.value)} GiB"
    if metric.unit == "steps":
        return str(metric.value)
    return f"{metric.value:.2f}" if metric.unit == "tokens/s" else significant(metric.value)


def _about(metric: Metric) -> str:
    """Unit and spread, or why there is none."""
    if metric.value is None:
        return visible(metric.reason or "", limit=MAX_CELL)
    details = metric.details
    if "median" not in details:
        return "" if metric.unit in ("fraction", "bytes", "steps") else metric.unit
    said = [
        metric.unit,
        f"n = {details['n']}",
        f"mean {_short(details['mean'])}",
        f"std {_short(details['std'])}",
    ]
    if details["ci95_low"] is not None:
        said.append(f"95 % of the median {_short(details['ci95_low'])} … {_short(details['ci95_high'])}")
    return ", ".join([*said, str(details["basis"])])


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def _alignment(result: LogResult) -> str:
    found = result.alignment
    if found is None or isinstance(found, str):
        return f"–  {found}"
    word = "aligned" if found.aligned else "NOT aligned"
    return (
        f"{word}: mean relative error {per_cent(found.mean_relative_error)} over {found.n} steps from step "
        f"{found.from_step} on (limit {per_cent(found.limit)}), largest {per_cent(found.largest)} at step "
        f"{found.largest_at}; {found.missing} steps are in one curve only"
    )


def _scaling(results: Sequence[LogResult]) -> str:
    points = scaling(results)
    if not points:
        return ""
    rows = [
        f"  {point.world_size:>8} devices  {point.tokens_per_second_per_device:.2f} tokens/s each  "
        f"{per_cent(point.efficiency)} of the smallest scale"
        for point in points
    ]
    return "\n".join([f"scaling ({MARK})", *rows, ""])
