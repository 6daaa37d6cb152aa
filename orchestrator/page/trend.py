"""One metric of one cell, run after run, with the band that is usual. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METRIC = "tokens_per_second_per_device"
#: The band is median ± MAD_FACTOR · MAD of at most WINDOW runs before, and no narrower than MIN_EFFECT.
WINDOW = 30
MAD_FACTOR = 4.0
MIN_EFFECT = 0.015
#: Fewer runs before decide nothing.
MIN_RUNS = 5
#: How many nights a page shows.
MOST = 90

Kind = Literal["in_band", "suspect", "regression", "improvement", "noisy", "no_history"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run: `value` is None where the cell was not MEASURED. `mark` says what changed or was decided
    there: accepted, changed driver …
    """

    run_id: str
    created_utc: str
    value: float | None
    verdict: str
    mark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The points oldest first, this run's last. The band is null where there is too little history; `n` runs
    made it. `first_bad` is the run since which values are out of the band.
    """

    cell_id: str
    metric: str
    points: tuple[Point, ...]
    kind: Kind
    low: float | None
    high: float | None
    median: float | None
    n: int
    first_bad: str | None = None


def identity(cell: Mapping[str, Any], cluster: str) -> tuple[str, ...]:
    """What two cells must share to stand in one trend."""
    proxy = cell["proxy"]
    return tuple(
        str(part)
        for part in (
            cell["case"],
            cell["stage"],
            cell["vendor"],
            cell["device"],
            f"{cell['num_nodes']}x{cell['devices_per_node']}",
            cell["precision"]["label"],
            cell["fix_hp"],
            cluster,
            None if proxy is None else proxy["of"],
            cell.get("rehearsal") is not None,
            sorted(cell["batch"].items()),
        )
    )


def trend_of(
    result: Mapping[str, Any], cell: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> Trend:
    """The trend of one cell of `result` among the results of `earlier` runs, oldest first."""
    wanted = identity(cell, str(result["run"]["cluster"]))
    points = [
        _point(one, other)
        for one in earlier
        for other in one["cells"]
        if identity(other, str(one["run"]["cluster"])) == wanted
    ]
    return judged(str(cell["cell_id"]), [*points[-(MOST - 1) :], _point(result, cell)])


def _point(result: Mapping[str, Any], cell: Mapping[str, Any]) -> Point:
    value = cell["metrics"][METRIC]["value"] if cell["verdict"] == "MEASURED" else None
    return Point(
        run_id=str(result["run"]["run_id"]),
        created_utc=str(result["run"]["created_utc"]),
        value=None if value is None else float(value),
        verdict=str(cell["verdict"]),
    )


def judged(cell_id: str, points: Sequence[Point]) -> Trend:
    """The last point against the band of those before it: one value below is suspect, a second in a row a
    regression. Values that fell out of the band in a row before it do not move it.
    """
    measured = [point for point in points if point.value is not None]
    values = [point.value for point in measured if point.value is not None]
    end = max(0, len(values) - (points[-1].value is not None))
    while end > MIN_RUNS and values[end - 1] < _band(values[: end - 1])[1]:
        end -= 1
    trend = Trend(
        cell_id=cell_id,
        metric=METRIC,
        points=tuple(points),
        kind="no_history",
        low=None,
        high=None,
        median=None,
        n=min(end, WINDOW),
    )
    if end < MIN_RUNS:
        return trend
    median, low, high = _band(values[:end])
    trend = replace(trend, median=median, low=low, high=high)
    last = points[-1].value
    if last is None:
        return trend
    if last < low:
        since = measured[end:]
        kind: Kind = "suspect" if len(since) == 1 else "regression"
        return replace(trend, kind=kind, first_bad=since[0].run_id)
    return replace(trend, kind="improvement" if last > high else "in_band")


def _band(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high) of the newest values."""
    window = values[-WINDOW:]
    median = statistics.median(window)
    scatter = statistics.median([abs(value - median) for value in window])
    reach = max(MAD_FACTOR * scatter, MIN_EFFECT * abs(median))
    return median, median - reach, median + reach
