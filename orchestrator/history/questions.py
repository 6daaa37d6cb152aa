"""What is asked of many runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from orchestrator.gate import Point
from orchestrator.history.record import MEASURED, Accepted, Series

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_COLUMNS = "scope, case_name, stage, s.vendor, device, scale, precision, fix_hp, s.cluster, steps"
#: The number of one series, from the values of `_key`.
_ONE = (
    "(SELECT id FROM series WHERE scope = ? AND case_name = ? AND stage = ? AND vendor = ? AND device = ?"
    " AND scale = ? AND precision = ? AND fix_hp = ? AND cluster = ? AND steps = ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One cell of one run, as `nx8 history` lists it. `value`: of the metric asked for, if it is proven."""

    run_id: str
    created_utc: str
    cell_id: str
    series: Series
    verdict: str
    degraded: bool
    reason: str | None
    value: float | None
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a cell was computed with, flat: the run's environment and the cell's work."""

    run_id: str
    environment: dict[str, str]
    work: dict[str, str]


def all_series(
    connection: sqlite3.Connection, *, case: str | None = None, cluster: str | None = None
) -> tuple[Series, ...]:
    """Every series, by case; only those of `case` and `cluster` where they are given."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM series s"
        " WHERE (?1 IS NULL OR case_name = ?1) AND (?2 IS NULL OR s.cluster = ?2)"
        " ORDER BY case_name, device, scale, stage, scope, precision, fix_hp, cluster, steps",
        (case, cluster),
    )
    return tuple(_series(row) for row in rows)


def _series(row: Sequence[Any]) -> Series:
    values = dict(zip((field.name for field in fields(Series)), row, strict=True))
    return Series(**{**values, "stage": values["stage"] or None})


def series(connection: sqlite3.Connection, wanted: Series, metric: str) -> tuple[Point, ...]:
    """The proven points of one metric, oldest first: MEASURED and not degraded. What may enter a baseline."""
    rows = connection.execute(
        "SELECT c.at_s, v.value, c.run_id, c.cell_id,"
        " EXISTS (SELECT 1 FROM accepted a WHERE a.run_id = c.run_id AND a.cell_id IN ('', c.cell_id))"
        " FROM cell c JOIN value v ON v.cell = c.id JOIN metric m ON m.id = v.metric"
        f" WHERE c.series = {_ONE} "
        " AND m.name = ? AND c.verdict = ? AND c.degraded = 0 ORDER BY c.at_s, c.run_id",
        (*_key(wanted), metric, MEASURED),
    )
    return tuple(
        Point(at_s=at_s, value=value, run_id=run_id, cell_id=cell_id, accepted=bool(accepted))
        for at_s, value, run_id, cell_id, accepted in rows
    )


def _key(wanted: Series) -> tuple[object, ...]:
    return tuple(
        "" if getattr(wanted, field.name) is None else getattr(wanted, field.name) for field in fields(Series)
    )


def metrics_of(connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    """Metric → unit and direction."""
    rows = connection.execute("SELECT name, unit, direction FROM metric ORDER BY name")
    return {name: (unit, direction) for name, unit, direction in rows}


def lines(
    connection: sqlite3.Connection,
    metric: str,
    *,
    case: str | None = None,
    cluster: str | None = None,
    run_id: str | None = None,
    newest: int | None = None,
) -> tuple[Line, ...]:
    """Cells of the newest runs, newest first, with one metric beside them."""
    rows = connection.execute(
        f"SELECT r.run_id, r.created_utc, c.cell_id, {_COLUMNS}, c.verdict, c.degraded, c.reason, v.value,"
        " r.exit_code FROM run r JOIN cell c ON c.run_id = r.run_id JOIN series s ON s.id = c.series"
        " LEFT JOIN value v ON v.cell = c.id AND v.metric = (SELECT id FROM metric WHERE name = ?1)"
        " WHERE (?2 IS NULL OR s.case_name = ?2) AND (?3 IS NULL OR s.cluster = ?3)"
        " AND (?4 IS NULL OR r.run_id = ?4) ORDER BY r.at_s DESC, r.run_id DESC, c.id LIMIT ?5",
        (metric, case, cluster, run_id, -1 if newest is None else newest),
    )
    return tuple(
        Line(
            run_id=row[0],
            created_utc=row[1],
            cell_id=row[2],
            series=_series(row[3:13]),
            verdict=row[13],
            degraded=bool(row[14]),
            reason=row[15],
            value=row[16],
            exit_code=row[17],
        )
        for row in rows
    )


def facts(connection: sqlite3.Connection, run_id: str, cell_id: str) -> Facts | None:
    row = connection.execute(
        "SELECT e.json, w.json FROM cell c JOIN run r ON r.run_id = c.run_id"
        " JOIN fact e ON e.id = r.environment JOIN fact w ON w.id = c.work"
        " WHERE c.run_id = ? AND c.cell_id = ?",
        (run_id, cell_id),
    ).fetchone()
    if row is None:
        return None
    return Facts(run_id=run_id, environment=json.loads(row[0]), work=json.loads(row[1]))


def durations(connection: sqlite3.Connection, wanted: Sequence[Series], *, newest: int = 10) -> list[float]:
    """Seconds of the newest runs that held one of these series, newest first."""
    found: dict[str, tuple[float, float]] = {}
    for one in wanted:
        rows = connection.execute(
            "SELECT DISTINCT r.run_id, r.at_s, r.duration_s FROM cell c JOIN run r ON r.run_id = c.run_id"
            f" WHERE c.series = {_ONE} AND r.duration_s IS NOT NULL AND c.verdict = ?"
            " ORDER BY r.at_s DESC LIMIT ?",
            (*_key(one), MEASURED, newest),
        )
        found |= {run_id: (at_s, duration_s) for run_id, at_s, duration_s in rows}
    return [duration_s for _, duration_s in sorted(found.values(), reverse=True)[:newest]]


def acceptances(connection: sqlite3.Connection) -> tuple[tuple[str, Accepted], ...]:
    """Every acceptance with its run, newest first."""
    rows = connection.execute(
        "SELECT run_id, cell_id, who, at_utc, reason FROM accepted ORDER BY at_utc DESC"
    )
    return tuple(
        (run_id, Accepted(who=who, at_utc=at_utc, reason=reason, cell_id=cell_id or None))
        for run_id, cell_id, who, at_utc, reason in rows
    )
