"""The figures of a run beside those of its last good one: four cards a cell, and every change. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.page.banner import config_span
from orchestrator.page.differences import Difference, differences
from orchestrator.page.trend import identity
from orchestrator.page.words import Span, plain, word
from orchestrator.report.columns import MEASURED, Notes, table_cell
from orchestrator.report.numbers import gib, per_cent, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.page.gather import Gathered

#: A change smaller than this is none.
NOTABLE = 0.015


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """`look` is ok, bad or same; `change` empty where there is nothing to compare with."""

    title: Span
    value: str
    unit: Span
    change: Span
    look: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    label: Span
    before: str
    now: str
    change: str
    look: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The comparison with the last good run."""

    run_id: str
    rows: tuple[tuple[Span, tuple[ChangeRow, ...]], ...]
    differences: tuple[Difference, ...]

    @property
    def changed(self) -> tuple[Difference, ...]:
        return tuple(one for one in self.differences if one.changed)

    @property
    def equal(self) -> tuple[Difference, ...]:
        return tuple(one for one in self.differences if not one.changed)


def cards_of(cell: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[Card]:
    """The four figures, each in the words of the table, beside the last good run's."""
    units = {
        "tokens_per_second_per_device": ("card.speed", word("card.per_device")),
        "mfu": ("card.mfu", plain("")),
        "mem": ("card.mem", plain("GiB")),
        "loss": ("card.loss", plain("nats/token")),
    }
    metrics = {"mfu": "mfu_published", "mem": "memory_used_bytes"}
    for column, (title, unit) in units.items():
        text = table_cell(column, cell, Notes(), "en").text
        has_number = any(char.isdigit() for char in text)
        change, look = plain(""), "same"
        if cell["verdict"] != MEASURED:
            change, look = word("card.unproven"), "none"
        elif not has_number:
            change, look = word("card.why"), "none"
        else:
            metric = metrics.get(column, column)
            fraction = _change(before, cell, metric)
            if fraction is None:
                change = word("card.first")
            else:
                look = _look(fraction, cell["metrics"][metric]["direction"])
                against = word("card.against")
                change = Span(*(f"{_signed(fraction)} {said}" for said in against))
        yield Card(
            title=word(title), value=text, unit=unit if has_number else plain(""), change=change, look=look
        )


def same_cell(
    other: Mapping[str, Any] | None, cell: Mapping[str, Any], result: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The cell of `other` that `cell` is compared with."""
    if other is None:
        return None
    wanted = identity(cell, str(result["run"]["cluster"]))
    same = (one for one in other["cells"] if identity(one, str(other["run"]["cluster"])) == wanted)
    return next((one for one in same if one["verdict"] == MEASURED and not one.get("degraded")), None)


def _value(cell: Mapping[str, Any] | None, metric: str) -> float | None:
    if cell is None or cell["verdict"] != MEASURED:
        return None
    value = (cell["metrics"].get(metric) or {}).get("value")
    return None if value is None else float(value)


def _change(before: Mapping[str, Any] | None, now: Mapping[str, Any], metric: str) -> float | None:
    one, other = _value(before, metric), _value(now, metric)
    if one is None or other is None or one == 0:
        return None
    change = (other - one) / abs(one)
    return change if math.isfinite(change) else None


def _signed(fraction: float) -> str:
    sign = "≈" if abs(fraction) < NOTABLE else "▲" if fraction > 0 else "▼"
    return f"{sign} {fraction * 100:+.1f} %".replace("-", "−")


def _look(fraction: float, direction: str) -> str:
    if abs(fraction) < NOTABLE or direction not in ("higher", "lower"):
        return "same"
    return "ok" if (fraction > 0) == (direction == "higher") else "bad"


def last_of(gathered: Gathered) -> Last | None:
    other = gathered.last_good
    if other is None:
        return None
    run_id = str(other["run"]["run_id"])
    rows = []
    for good, cell in zip(gathered.good, gathered.result["cells"], strict=True):
        before = same_cell(good, cell, gathered.result)
        if good is None or before is None or cell["verdict"] != MEASURED:
            continue
        config, own = config_span(cell), str(good["run"]["run_id"])
        if own != run_id:  # this cell was outside its band there
            config = Span(*(f"{text} · {own}" for text in config))
        rows.append((config, tuple(_change_rows(before, cell))))
    return Last(run_id=run_id, rows=tuple(rows), differences=differences(other, gathered.result))


def _change_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[ChangeRow]:
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        "speed": ("tokens_per_second_per_device", significant),
        "mfu": ("mfu_published", per_cent),
        "loss": ("loss", significant),
        "mem": ("memory_used_bytes", gib),
        "p50": ("step_time_p50_s", significant),
        "p99": ("step_time_p99_s", significant),
    }
    for key, (metric, text) in shown.items():
        one, other = _value(before, metric), _value(now, metric)
        if one is None and other is None:
            continue
        change = _change(before, now, metric)
        yield ChangeRow(
            label=word(f"metric.{key}"),
            before="–" if one is None else text(one),
            now="–" if other is None else text(other),
            change="–" if change is None else _signed(change),
            look="same" if change is None else _look(change, now["metrics"][metric]["direction"]),
        )
