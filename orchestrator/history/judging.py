"""The gate's word on the cells of a run, from the history of their series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.changes import Change, between
from orchestrator.gate import Judged, Point, Rule, Step, Trend, change_points, rule_for, walk
from orchestrator.history import questions
from orchestrator.history.record import MEASURED, Series

if TYPE_CHECKING:
    import sqlite3

#: Kinds of verdicts that a person should look at.
OUTSIDE = frozenset({"regression", "improvement", "suspect"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One metric of one cell, judged. `changes`: since the last run in band, most suspect first; only where
    the figure is outside the band. `rehearsed`: a proxy or rehearsal, judged because the suite says so.
    """

    series: Series
    metric: str
    unit: str
    judged: Judged
    changes: tuple[Change, ...] = ()

    @property
    def rehearsed(self) -> bool:
        return self.series.scope != "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One metric of one series over time: every point judged, and where the level moved for good."""

    series: Series
    metric: str
    unit: str
    trend: Trend
    drift: tuple[Step, ...]
    points: tuple[Point, ...]


def course(connection: sqlite3.Connection, wanted: Series, metric: str, rule: Rule) -> Course:
    """The whole course of one metric; `drift` is advice, of the points since the newest accepted one."""
    points = questions.series(connection, wanted, metric)
    unit = questions.metrics_of(connection).get(metric, ("", ""))[0]
    trend = walk(points, rule=rule, metric=rule_for(rule, metric))
    first = max((at for at, point in enumerate(points) if point.accepted), default=0)
    steps = change_points([point.value for point in points[first:]])
    return Course(
        series=wanted,
        metric=metric,
        unit=unit,
        trend=trend,
        drift=tuple(
            Step(index=first + one.index, before=one.before, after=one.after, change=one.change)
            for one in steps
        ),
        points=points,
    )


def findings(connection: sqlite3.Connection, run_id: str, rule: Rule) -> tuple[Finding, ...]:
    """Every judged metric of every proven cell of a run; nothing of a degraded one, nor of a proxy or a
    rehearsal unless `rule.rehearse`.
    """
    units = questions.metrics_of(connection)
    found = []
    for line in questions.lines(connection, "", run_id=run_id):
        if line.verdict != MEASURED or line.degraded or (line.series.scope != "full" and not rule.rehearse):
            continue
        for metric in rule.metrics:
            judged = _judged(connection, line.series, metric, run_id, line.cell_id, rule)
            if judged is not None:
                found.append(
                    Finding(
                        series=line.series,
                        metric=metric,
                        unit=units[metric][0],
                        judged=judged,
                        changes=changes(connection, judged) if judged.kind in OUTSIDE else (),
                    )
                )
    return tuple(found)


def _judged(
    connection: sqlite3.Connection, series: Series, metric: str, run_id: str, cell_id: str, rule: Rule
) -> Judged | None:
    points = questions.series(connection, series, metric)
    at = next((at for at, one in enumerate(points) if (one.run_id, one.cell_id) == (run_id, cell_id)), None)
    if at is None:
        return None
    return walk(points[: at + 1], rule=rule, metric=rule_for(rule, metric)).judged[-1]


def changes(connection: sqlite3.Connection, judged: Judged) -> tuple[Change, ...]:
    """What differs between the last run in band and this one; nothing where there is no such run."""
    if judged.last_good is None:
        return ()
    now = questions.facts(connection, judged.point.run_id, judged.point.cell_id)
    then = questions.facts(connection, judged.last_good, judged.point.cell_id)
    if now is None or then is None:
        return ()
    return between(then.environment, now.environment, then.work, now.work)
