"""What a vendor's probe printed beside a run → samples over time, and what of it was not understood. Pure.

The file is written on the node by node/monitor.py, one JSON object a line; nothing in it is trusted.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.probe import Sample, read_probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.vendors import Probe

MAX_LINE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The devices of one node, seen by a probe that was started at `t_s` of the node's monotonic clock and
    had answered at `until_s`.
    """

    t_s: float
    until_s: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorEnd:
    """The monitor's last line: when it ended by itself, and why."""

    t_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorLog:
    """Everything one node's monitor wrote.

    `num_probes` counts the probe's starts, `num_failed` those that ended badly or not at all, `num_unread`
    what was printed and not understood; `cost_s` is the median time one probe took, `end` None where the
    monitor did not write its last line, or wrote on after it.
    """

    observed: tuple[Observed, ...]
    num_probes: int
    num_failed: int
    num_unread: int
    unread: tuple[str, ...]
    cost_s: float | None
    end: MonitorEnd | None


def read_monitor(lines: Iterable[bytes], probe: Probe, *, capacity_bytes: int | None = None) -> MonitorLog:
    """The log of one node. Never raises: a line that is none of ours is counted as unread."""
    observed: list[Observed] = []
    costs: list[float] = []
    probes = failed = unread = 0
    kept: list[str] = []
    end: MonitorEnd | None = None
    for record in _records(lines):
        if record is None:
            end, unread = None, unread + 1
        elif "end" in record:
            end = _end(record)
        else:
            end = None
            probes += 1
            took_s, t_s, out = _number(record.get("took_s")), _number(record.get("t_s")), record.get("out")
            if took_s is not None:
                costs.append(took_s)
            if record.get("rc") != 0 or t_s is None or not isinstance(out, str):
                failed += 1
                continue
            reading = read_probe(out.encode("utf-8", "surrogatepass"), probe, capacity_bytes=capacity_bytes)
            until_s = t_s + max(0.0, took_s or 0.0)
            observed.append(Observed(t_s=t_s, until_s=until_s, samples=reading.samples))
            unread += reading.num_unread
            kept += reading.unread[: max(0, 5 - len(kept))]
    return MonitorLog(
        observed=tuple(observed),
        num_probes=probes,
        num_failed=failed,
        num_unread=unread,
        unread=tuple(kept),
        cost_s=statistics.median(costs) if costs else None,
        end=end,
    )


def _end(record: dict[str, Any]) -> MonitorEnd | None:
    t_s, reason = _number(record.get("t_s")), record.get("end")
    if t_s is None or not isinstance(reason, str):
        return None
    return MonitorEnd(t_s=t_s, reason="".join(char for char in reason[:200] if char.isprintable()))


def _records(lines: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    for line in lines:
        try:
            record = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            record = None
        yield record if isinstance(record, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value) if math.isfinite(value) else None
    return None
