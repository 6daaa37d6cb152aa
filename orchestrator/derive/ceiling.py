"""What host.json kept of measured ceilings → the ceiling of one cell. Pure; never raises on what it reads."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.metrics.ceiling import Ceiling

if TYPE_CHECKING:
    from orchestrator.plan import Cell

#: Clocks, temperature and neighbours change: a ceiling counts for the runs of a day.
MAX_AGE = timedelta(days=1)


def ceiling_of(kept: object, cell: Cell, *, created_utc: str) -> Ceiling | None:
    """None where the run knows nothing of ceilings, as older ones do not; else the ceiling, or its reason."""
    if not isinstance(kept, dict):
        return None
    figures: list[float] = []
    times: list[str] = []
    for node in dict.fromkeys(launch.node for launch in cell.launches):
        found = _of_node(kept.get(node), node, cell, created_utc)
        if isinstance(found, str):
            return Ceiling(tflops=None, reason=found)
        figures += found[0]
        times.append(found[1])
    if not figures:
        return Ceiling(tflops=None, reason="no ceiling was measured: nx8 doctor --deep")
    return Ceiling(tflops=math.fsum(figures) / len(figures), at_utc=min(times))


def _of_node(one: object, node: str, cell: Cell, created_utc: str) -> tuple[list[float], str] | str:
    """The devices' figures and when they were measured, or why there are none."""
    dtype = cell.peak.dtype
    if not isinstance(one, dict):
        return f"{node}: no ceiling was kept"
    if one.get("reason") is not None or not isinstance(one.get("tflops"), dict):
        return str(one.get("reason") or f"{node}: no ceiling was kept")
    at = one.get("at_utc")
    age = _age(at, created_utc)
    if not isinstance(at, str) or age is None:
        return f"{node}: the ceiling does not say when it was measured"
    if not timedelta() <= age <= MAX_AGE:
        return f"{node}: the ceiling was not measured in the day before the run but at {at}"
    values = one["tflops"].get(dtype)
    if not isinstance(values, list | tuple) or len(values) < cell.devices_per_node:
        return f"{node}: no ceiling was measured for {dtype}"
    figures = [
        float(value)
        for value in values[: cell.devices_per_node]
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and value > 0
        and math.isfinite(value)
    ]
    if len(figures) < cell.devices_per_node:
        return f"{node}: not every device has a ceiling for {dtype}"
    return figures, at


def _age(at: object, created_utc: str) -> timedelta | None:
    try:
        return datetime.fromisoformat(created_utc) - datetime.fromisoformat(str(at))
    except (ValueError, TypeError):
        return None
