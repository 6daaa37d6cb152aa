"""Charts as SVG: what the page shows without a script and in print, and pictures for a README. Pure.

Only numbers and texts that were escaped go in; colours come from classes, so that one picture serves light
and dark.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.page.curves import Chart
    from orchestrator.page.trend import Trend

WIDTH, HEIGHT = 540, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 10, 26
#: Points of one line; more than pixels are wide say nothing.
POINTS = 280
#: Colours of a picture that stands alone, by the reader's own scheme where its viewer knows it.
STYLE = """
text{font:11px system-ui,"Segoe UI","Noto Sans","Noto Sans CJK SC",sans-serif;fill:#5b636e}
.ti{font-size:13px;font-weight:600;fill:#1d2126}
.gr{stroke:#d9dce1;stroke-width:1}.wu{fill:#8a929c;fill-opacity:.14}
.l{fill:none;stroke-width:1.6;stroke-linejoin:round}
.l0{stroke:#2457c5}.l1{stroke:#b4690e}.l2{stroke:#0b7f79}.l3{stroke:#8a4fb5}
@media (prefers-color-scheme:dark){text{fill:#9aa3ad}.ti{fill:#e6e8eb}.gr{stroke:#3a4149}
.l0{stroke:#7aa7ff}.l1{stroke:#e3a948}.l2{stroke:#5cc8c0}.l3{stroke:#c79bea}}
"""


def number(value: float) -> str:
    """At most four significant digits, as an axis writes them."""
    if value == 0:
        return "0"
    text = f"{value:.4g}"
    if "e" in text and 1e-4 <= abs(value) < 1e7:
        text = f"{value:.0f}"
    return text


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values from `low` to `high`, near `about` of them."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / max(1, about)
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def extent(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """The range an axis shows, with some room. `zero`: from 0 where that costs less than half of it."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    below = 0.0 if zero or (low >= 0 and low < room * 4) else low - room
    return below, high + room


def chart_svg(chart: Chart, named: str) -> str:
    """The chart with its axes; `named` is the attribute that says its name, `aria-labelledby="…"`."""
    body = "".join(_chart(chart))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {named}'
        f' xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


def figure_svg(charts: Sequence[tuple[str, Chart]], title: str) -> str:
    """Charts under one another, each under its heading: a picture that stands alone."""
    head, height = 26, HEIGHT + 26
    whole = head + height * len(charts)
    parts = [f'<text class="ti" x="8" y="17">{escape(title)}</text>']
    for n, (heading, chart) in enumerate(charts):
        top = head + n * height
        parts.append(f'<g transform="translate(0 {top})"><text x="8" y="14">{escape(heading)}</text>')
        parts.append(f'<g transform="translate(0 20)">{"".join(_chart(chart))}</g></g>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {whole}" width="{WIDTH}" height="{whole}" role="img"'
        f' aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def trend_svg(trend: Trend, named: str, *, small: bool = False) -> str:
    """Runs in their order, the usual band behind them; those without a number as crosses at the foot."""
    width, height = (220, 44) if small else (1080, 220)
    left, right, top, bottom = (4, 4, 5, 5) if small else (58, 14, 12, 30)
    values = [point.value for point in trend.points if point.value is not None]
    shown = [*values, *(one for one in (trend.low, trend.high) if one is not None)] or [0.0, 1.0]
    low, high = extent(shown) if min(shown) < max(shown) else (shown[0] * 0.9 - 0.05, shown[0] * 1.1 + 0.05)
    count = len(trend.points)

    def x(n: int) -> float:
        return left + (width - left - right) * (n + 0.5) / max(1, count)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = []
    if not small:
        for tick in ticks(low, high, 4):
            parts.append(f'<path class="gr" d="M{left} {y(tick):.1f}H{width - right}"/>')
            parts.append(
                f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
            )
    if trend.low is not None and trend.high is not None and trend.median is not None:
        top_y, bottom_y = y(trend.high), y(trend.low)
        parts.append(
            f'<rect class="band" x="{left}" y="{top_y:.1f}" width="{width - left - right}"'
            f' height="{max(1.0, bottom_y - top_y):.1f}"/>'
            f'<path class="med" d="M{left} {y(trend.median):.1f}H{width - right}"/>'
        )
    known = [(x(n), y(one.value)) for n, one in enumerate(trend.points) if one.value is not None]
    parts.append(f'<path class="l l0" d="{_path(known)}"/>' if len(known) > 1 else "")
    for n, point in enumerate(trend.points):
        said = escape(f"{point.run_id}: {number(point.value) if point.value is not None else point.verdict}")
        last = n == count - 1
        if point.value is None:
            at, foot, arm = x(n), height - bottom - 4, 2.5 if small else 4
            shape = (
                f'<path class="pt-none" d="M{at - arm:.1f} {foot - arm:.1f}l{2 * arm} {2 * arm}'
                f'm0 {-2 * arm}l{-2 * arm} {2 * arm}"><title>{said}</title></path>'
            )
        else:
            bad = trend.low is not None and point.value < trend.low
            kind = "pt-bad" if bad else "pt"
            if small and not (bad or last):
                continue
            radius = (3 if last else 2) if small else (5 if last else 3.2)
            shape = (
                f'<circle class="{kind}" cx="{x(n):.1f}" cy="{y(point.value):.1f}" r="{radius}">'
                f"<title>{said}</title></circle>"
            )
        parts.append(shape)
    if not small:
        for n in sorted({0, count // 2, count - 1}):
            anchor = "start" if n == 0 else "end" if n == count - 1 else "middle"
            day = escape(trend.points[n].created_utc[:10])
            at = left if n == 0 else width - right if n == count - 1 else x(n)
            if count > 2 or n != count // 2 or count == 1 or n == 0:
                parts.append(f'<text x="{at:.1f}" y="{height - 8}" text-anchor="{anchor}">{day}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" {named}'
        f' xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _chart(chart: Chart) -> Iterator[str]:
    known = [value for line in chart.lines for value in line.values if value is not None]
    low, high = extent(known) if known else (0.0, 1.0)
    begin, end = chart.xs[0], chart.xs[-1]
    if begin == end:
        begin, end = begin - 0.5, end + 0.5

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - begin) / (end - begin)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    if chart.warmup is not None and chart.warmup >= begin:
        right = x(min(end, chart.warmup + 0.5))
        yield (
            f'<rect class="wu" x="{LEFT}" y="{TOP}" width="{right - LEFT:.1f}"'
            f' height="{HEIGHT - TOP - BOTTOM}"/>'
        )
    for tick in ticks(low, high, 4):
        yield f'<path class="gr" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for tick in ticks(begin, end, 6):
        yield f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(tick)}</text>'
    for n, line in enumerate(chart.lines):
        for run in _runs(chart.xs, line.values):
            points = [(x(at), y(value)) for at, value in run]
            if len(points) == 1:
                at, height = points[0]
                yield f'<path class="l l{n}" d="M{at - 1.5:.1f} {height:.1f}h3"/>'
            else:
                yield f'<path class="l l{n}" d="{_path(points)}"/>'


def _runs(xs: Sequence[float], values: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    """The stretches of a line without a gap."""
    run: list[tuple[float, float]] = []
    for at, value in zip(xs, values, strict=True):
        if value is None:
            if run:
                yield run
            run = []
        else:
            run.append((at, value))
    if run:
        yield run


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
