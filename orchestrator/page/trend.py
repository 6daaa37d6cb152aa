"""One metric of one cell, run after run, with the band that is usual. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from orchestrator import gate
from orchestrator.gate import Rule
from orchestrator.history.judging import OUTSIDE
from orchestrator.history.record import series_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.history.record import Series

    #: Series of history, batch, model of a proxy.
    Identity = tuple[Series, str, str | None]

METRIC = "tokens_per_second_per_device"
#: The page judges as the gate does where no suite says otherwise.
RULE = Rule()
#: How many nights a page shows.
MOST = 90

#: The mark of a point with which a person began a new baseline.
ACCEPTED = "accepted"

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
    made it. `first_bad` is the run since which values are out of the band, `last_good` the newest run before
    this one that the gate did not find outside its band.
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
    last_good: str | None = None


def identity(cell: Mapping[str, Any], cluster: str) -> Identity:
    """What two cells must share to stand in one trend: the series of history, and of the same batch; a proxy
    only beside one of the same model.
    """
    proxy = cell["proxy"]
    batch = ", ".join(f"{name}={size}" for name, size in sorted(cell["batch"].items()))
    return series_of(cell, cluster), batch, None if proxy is None else str(proxy["of"])


def trend_of(
    result: Mapping[str, Any], cell: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> Trend:
    """The trend of one cell of `result` among the results of `earlier` runs, oldest first. In each `accepted`
    has the cells with which a person began a new baseline, or None for all of them.
    """
    wanted = identity(cell, str(result["run"]["cluster"]))
    points = [
        _point(one, other)
        for one in earlier
        for other in one["cells"]
        if identity(other, str(one["run"]["cluster"])) == wanted
    ]
    return judged(str(cell["cell_id"]), [*points[-(MOST - 1) :], _point(result, cell)])


def _point(result: Mapping[str, Any], cell: Mapping[str, Any]) -> Point:
    # One node that was slow makes no usual value.
    proven = cell["verdict"] == "MEASURED" and not cell.get("degraded")
    value = cell["metrics"][METRIC]["value"] if proven else None
    accepted = result.get("accepted") or ()
    return Point(
        run_id=str(result["run"]["run_id"]),
        created_utc=str(result["run"]["created_utc"]),
        value=None if value is None else float(value),
        verdict=str(cell["verdict"]),
        mark=ACCEPTED if None in accepted or cell["cell_id"] in accepted else None,
    )


def judged(cell_id: str, points: Sequence[Point], rule: Rule = RULE) -> Trend:
    """What the gate says of the last point. Proxies and rehearsals are judged too: among their own kind."""
    measured = [
        gate.Point(
            at_s=_seconds(point.created_utc),
            value=point.value,
            run_id=point.run_id,
            accepted=point.mark == ACCEPTED,
        )
        for point in points
        if point.value is not None
    ]
    walked = gate.walk(measured, rule=rule, metric=gate.rule_for(rule, METRIC)).judged
    last = walked[-1] if walked else None
    proven = points[-1].value is not None
    good = [one.point.run_id for one in (walked[:-1] if proven else walked) if one.kind not in OUTSIDE]
    last_good = good[-1] if good else None
    if last is None or last.verdict.band_low is None:
        return Trend(
            cell_id=cell_id,
            metric=METRIC,
            points=tuple(points),
            kind="no_history",
            low=None,
            high=None,
            median=None,
            n=last.verdict.n if last else 0,
            last_good=last_good,
        )
    return Trend(
        cell_id=cell_id,
        metric=METRIC,
        points=tuple(points),
        kind=_KINDS[last.kind] if proven else "no_history",
        low=last.verdict.band_low,
        high=last.verdict.band_high,
        median=last.verdict.median,
        n=last.verdict.n,
        # Of a fall, since when; a rise needs no last good run.
        first_bad=walked[-last.runs].point.run_id if last.runs and last.verdict.kind == "worse" else None,
        last_good=last_good,
    )


def _seconds(utc: str) -> float:
    """Unix time; 0 for a text that no run of ours writes."""
    try:
        return datetime.fromisoformat(utc).timestamp()
    except (ValueError, OverflowError):
        return 0.0


_KINDS: dict[gate.Kind, Kind] = {
    "regression": "regression",
    "improvement": "improvement",
    "suspect": "suspect",
    "in_band": "in_band",
    "recovered": "in_band",
    "accepted": "in_band",
    "noisy": "noisy",
    "not_enough": "no_history",
}
