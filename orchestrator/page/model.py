"""Gathered → View: everything the page's template says, decided. Pure."""

from __future__ import annotations

import math
import shlex
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.compare.table import cells_of, notes_of
from orchestrator.messages import proof_text, reason_text, translated
from orchestrator.page.banner import Banner, banner_of, config_span
from orchestrator.page.curves import thinned
from orchestrator.page.figures import Card, Last, cards_of, last_of, same_cell
from orchestrator.page.gather import Tail
from orchestrator.page.svg import POINTS, chart_svg, number, trend_svg
from orchestrator.page.trend import RULE, Trend
from orchestrator.page.words import Span, joined, plain, word
from orchestrator.report.columns import MEASURED, straggler_text
from orchestrator.report.markdown import table_text
from orchestrator.report.model import Report, build, guarded
from orchestrator.report.numbers import per_cent, seconds, significant
from orchestrator.report.separated import csv_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.compare.likeness import Compared
    from orchestrator.messages import Language
    from orchestrator.page.curves import Chart, Curves, Device, HeatMap, Line
    from orchestrator.page.gather import Gathered

#: Points of one line, and numbers of all curves of a page: half a megabyte is enough for anybody.
MOST_POINTS = 1500
MOST_NUMBERS = 30_000
#: (upper end of `over`, its class): seven steps from fast to slow.
LEVELS = ((-0.02, 0), (-0.005, 1), (0.005, 2), (0.02, 3), (0.05, 4), (0.10, 5), (math.inf, 6))
LANGUAGES: tuple[Language, ...] = ("zh", "en")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartView:
    """`svg` is safe markup; `stats` one row a line: name, first, last, median, lowest, highest."""

    id: str
    title: Span
    unit: str
    axis: Span
    names: tuple[Span, ...]
    svg: str
    stats: tuple[tuple[Span, str, str, str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatView:
    """Rows of (node, cells); a cell is (text, class, title) or None where that node has no such device."""

    devices: tuple[Span, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str, str] | None, ...]], ...]
    said: Span
    slow: tuple[Span, ...]
    judged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    id: str
    config: Span
    cell_id: str
    verdict: str
    proven: bool
    cards: tuple[Card, ...]
    charts: tuple[ChartView, ...]
    thinned: Span | None
    missing: Span | None
    heat: HeatView | None
    trend_svg: str
    trend_said: Span
    trend_kind: Span
    trend_look: str
    trend: Trend | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A comparison with published rows in one language."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`reports`, `tables` by language; `order` a note's number in the report → on the page. `data` is what
    the script reads: curves, texts to copy, its words.
    """

    run_id: str
    version: str
    banner: Banner
    cells: tuple[CellView, ...]
    reports: dict[str, Report]
    tables: dict[str, tuple[TableView, ...]]
    table_notes: tuple[int, ...]
    other_notes: tuple[int, ...]
    order: dict[int, int]
    last: Last | None
    warnings: tuple[Span, ...]
    tails: tuple[Tail, ...]
    tracebacks: tuple[tuple[Span, str], ...]
    command: str | None
    commit: str | None
    jobs: tuple[tuple[Span, str], ...]
    dockerfiles: tuple[tuple[Span, str], ...]
    num_files: int
    data: dict[str, Any]


def view_of(gathered: Gathered) -> View:
    """Raises ConfigError (E801) for a result of another shape."""
    return guarded(gathered.result, lambda: _view(gathered))


def _view(gathered: Gathered) -> View:
    result = gathered.result
    last = last_of(gathered)
    slow = [one for cell in result["cells"] for one in _slow(cell, gathered)]
    warnings = list(_warnings(result)) + slow
    lines = sum(len(chart.lines) + 1 for curves in gathered.curves.values() for chart in curves.charts)
    most = max(40, min(MOST_POINTS, MOST_NUMBERS // max(1, lines)))
    curves = {
        cell_id: [thinned(chart, most) for chart in one.charts] for cell_id, one in gathered.curves.items()
    }
    git = result["environment"].get("git") or {}
    argv = result["run"].get("argv")
    banner_warnings = [*_degraded(result), *slow]
    reports = {language: build(result, language) for language in LANGUAGES}
    of_table, others = _notes(reports["zh"])
    return View(
        run_id=str(result["run"]["run_id"]),
        version=str(result["nx8_version"]),
        banner=banner_of(gathered, last.changed if last else (), banner_warnings),
        cells=tuple(
            _cell(n, cell, gathered, curves.get(str(cell["cell_id"]), []), most)
            for n, cell in enumerate(result["cells"])
        ),
        reports={str(language): report for language, report in reports.items()},
        table_notes=of_table,
        other_notes=others,
        order={number: place for place, number in enumerate((*of_table, *others), start=1)},
        tables={
            language: tuple(_table(table, language) for table in gathered.tables) for language in LANGUAGES
        },
        last=last,
        warnings=tuple(warnings),
        tails=tuple(tail for found in gathered.tails.values() for tail in found),
        tracebacks=tuple(
            (
                word("warnings.traceback", cell=cell["cell_id"], rank=cell["cause_rank"]),
                str(cell["traceback"]),
            )
            for cell in result["cells"]
            if cell["traceback"] is not None
        ),
        command=shlex.join(map(str, argv)) if argv else None,
        commit=None if git.get("commit") is None else str(git["commit"]),
        jobs=tuple((word("provenance.job", cell=name), text) for name, text in gathered.jobs.items() if text),
        dockerfiles=tuple(
            (word("provenance.dockerfile", tag=tag), text) for tag, text in gathered.dockerfiles.items()
        ),
        num_files=len(result["files"]) + sum(len(cell["files"]) for cell in result["cells"]),
        data={
            "charts": {
                f"c{n}-{chart.name}": _chart_data(f"c{n}", chart)
                for n, cell in enumerate(result["cells"])
                for chart in curves.get(str(cell["cell_id"]), [])
            },
            "copy": {
                language: {
                    "md": table_text(result, language) + "\n",
                    "csv": csv_text(result, language),
                }
                for language in LANGUAGES
            },
            "words": {key: list(word(key)) for key in ("copied", "copy_failed")},
        },
    )


def _notes(report: Report) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of the notes that the table needs, and of all others."""
    needed = {number for row in report.rows for cell in row.texts.values() for number in cell.notes}
    numbers = range(1, len(report.notes) + 1)
    return tuple(n for n in numbers if n in needed), tuple(n for n in numbers if n not in needed)


def _cell(
    n: int, cell: Mapping[str, Any], gathered: Gathered, charts: Sequence[Chart], most: int
) -> CellView:
    cell_id = str(cell["cell_id"])
    trend, curves = gathered.trends.get(cell_id), gathered.curves.get(cell_id)
    return CellView(
        id=f"c{n}",
        config=config_span(cell),
        cell_id=cell_id,
        verdict=str(cell["verdict"]),
        proven=cell["verdict"] == MEASURED,
        cards=tuple(cards_of(cell, same_cell(gathered.good[n], cell, gathered.result))),
        charts=tuple(_chart(f"c{n}", chart) for chart in charts),
        thinned=_thinned(curves, most),
        missing=_missing(curves, cell),
        heat=_heat(curves.heat) if curves else None,
        trend=trend,
        trend_svg=trend_svg(trend, f'aria-labelledby="c{n}-trend"')
        if trend and len(trend.points) > 1
        else "",
        trend_said=_trend_said(trend) if trend else plain(""),
        trend_kind=word(f"trend.{trend.kind}") if trend else plain(""),
        trend_look=_trend_look(trend),
    )


def _chart(cell: str, chart: Chart) -> ChartView:
    return ChartView(
        id=f"{cell}-{chart.name}",
        title=word(f"chart.{chart.name}"),
        unit=chart.unit,
        axis=word(f"axis.{chart.x}"),
        names=tuple(word(f"line.{line.name}") for line in chart.lines),
        svg=chart_svg(thinned(chart, POINTS), f'aria-labelledby="{cell}-{chart.name}-title"'),
        stats=tuple(_stats(chart, line) for line in chart.lines),
    )


def _stats(chart: Chart, line: Line) -> tuple[Span, str, str, str, str, str]:
    known = [(value, at) for at, value in zip(chart.xs, line.values, strict=True) if value is not None]
    low, high = min(known), max(known, key=lambda one: one[0])
    return (
        word(f"line.{line.name}"),
        number(known[0][0]),
        number(known[-1][0]),
        number(statistics.median(value for value, _ in known)),
        f"{number(low[0])} ({number(low[1])})",
        f"{number(high[0])} ({number(high[1])})",
    )


def _chart_data(cell: str, chart: Chart) -> dict[str, Any]:
    """Six digits are more than a screen shows."""
    whole = chart.x == "step"
    return {
        "group": f"{cell}-{chart.x}",
        "x": [int(at) if whole else _short(at) for at in chart.xs],
        "y": [[None if one is None else _short(one) for one in line.values] for line in chart.lines],
        "warmup": chart.warmup,
    }


def _short(value: float) -> float | int:
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _thinned(curves: Curves | None, most: int) -> Span | None:
    if curves is None or not curves.charts:
        return None
    recorded = max(chart.recorded for chart in curves.charts)
    key = "curves.thinned" if recorded > most else "curves.whole"
    return word(key, most=most, recorded=recorded)


def _missing(curves: Curves | None, cell: Mapping[str, Any]) -> Span | None:
    if curves is None or not curves.missing:
        return None
    names = joined([word(f"chart.{name}") for name in curves.missing], "、", ", ")
    names = Span(names.zh, names.en.lower())
    if cell["device_type"] == "cpu" and set(curves.missing) == {"memory", "power", "temperature"}:
        names = joined([names, word("curves.missing_cpu")], "", "")
    return word("curves.missing", names=names)


def _heat(heat: HeatMap) -> HeatView:
    by_node: dict[tuple[int, str], dict[int, Device]] = {}
    for device in heat.devices:
        by_node.setdefault((device.node_rank, device.node), {})[device.local_rank] = device
    width = max((max(found) + 1 for found in by_node.values()), default=0)
    median = "–" if heat.median_s is None else seconds(heat.median_s)
    key = "heat.none" if heat.median_s is None else "heat.compute" if heat.waits_known else "heat.whole"
    return HeatView(
        devices=tuple(word("heat.device", n=n) for n in range(width)),
        rows=tuple(
            (node, tuple(_heat_cell(found.get(n), heat) for n in range(width)))
            for (_, node), found in sorted(by_node.items())
        ),
        said=word(key, median=median),
        slow=tuple(plain(one.rank) for one in heat.devices if one.stands_out),
        judged=heat.waits_known,
    )


def _heat_cell(device: Device | None, heat: HeatMap) -> tuple[str, str, str] | None:
    if device is None:
        return None
    if device.compute_s is None:
        return "–", "hx", f"rank {device.rank}"
    level = next(level for end, level in LEVELS if (device.over or 0.0) <= end) if heat.waits_known else 2
    text = significant(device.compute_s, digits=3, whole_from=1000)
    over = f"{(device.over or 0.0) * 100:+.1f} %".replace("-", "−")
    return f"{text}{' ▲' if device.stands_out else ''}", f"h{level}", f"rank {device.rank}: {over}"


def _slow(cell: Mapping[str, Any], gathered: Gathered) -> Iterator[Span]:
    curves = gathered.curves.get(str(cell["cell_id"]))
    for device in curves.heat.devices if curves else ():
        if device.stands_out and device.over is not None:
            yield word(
                "said.slow",
                config=config_span(cell),
                node=device.node,
                device=device.local_rank,
                rank=device.rank,
                over=per_cent(device.over, digits=1),
            )


def _trend_said(trend: Trend) -> Span:
    count = len(trend.points)
    if trend.low is None or trend.high is None or trend.median is None:
        return word("trend.no_band", count=count, least=RULE.min_points)
    return word(
        "trend.band",
        count=count,
        n=trend.n,
        median=significant(trend.median),
        low=significant(trend.low),
        high=significant(trend.high),
    )


def _trend_look(trend: Trend | None) -> str:
    looks = {"in_band": "ok", "improvement": "ok", "suspect": "warn", "noisy": "warn", "regression": "bad"}
    return looks.get(trend.kind, "none") if trend else "none"


def _table(table: Sequence[Compared], language: Language) -> TableView:
    headings, rows = cells_of(table, language)
    return TableView(
        headings=tuple(headings),
        rows=tuple(tuple(row) for row in rows),
        notes=notes_of(table, language),
    )


def _degraded(result: Mapping[str, Any]) -> Iterator[Span]:
    for cell in result["cells"]:
        for one in cell.get("degraded") or ():
            slow = Span(straggler_text(one, "zh"), straggler_text(one, "en"))
            yield Span(*(f"{text}: {said}" for text, said in zip(config_span(cell), slow, strict=True)))


def _warnings(result: Mapping[str, Any]) -> Iterator[Span]:
    yield from _degraded(result)
    for cell in result["cells"]:
        config = config_span(cell)
        for reason in cell["reasons"]:
            said = Span(reason_text(str(reason), "zh"), reason_text(str(reason), "en"))
            yield Span(*(f"{one}: {other}" for one, other in zip(config, said, strict=True)))
        for proof in cell["proofs"]:
            if not proof["held"] and not any(
                str(reason).startswith(f"{proof['name']}: ") for reason in cell["reasons"]
            ):
                name = Span(proof_text(proof["name"], "zh"), proof_text(proof["name"], "en"))
                detail = Span(translated(proof["detail"], "zh"), proof["detail"])
                yield word("warnings.proof", cell=config, name=name, detail=detail)
        for rank in cell["ranks"]:
            if rank["problems"]:
                first = rank["problems"][0]
                yield word(
                    "warnings.unread",
                    cell=config,
                    rank=rank["rank"],
                    n=len(rank["problems"]),
                    sample=f"{first['reason']}: {first['sample']}",
                )
    if (result["environment"].get("git") or {}).get("dirty"):
        yield word("warnings.dirty")
