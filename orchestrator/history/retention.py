"""Which run folders may go. Pure decisions, then one folder at a time: into the archive first, then away."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.history.files import Unread, archive, archive_of, read_run, unknown
from orchestrator.history.record import MEASURED, RunRecord
from orchestrator.history.store import held
from orchestrator.results import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from orchestrator.history.record import Series

DAY_S = 86400.0
_AGE = re.compile(r"([0-9]{1,5})([dwmy])")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}
#: A run without a result may still be running, or be taken up again: younger ones stay whatever is asked.
UNFINISHED_S = 2 * DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What stays: runs younger than `age_s`, or the newest `count` of every series."""

    age_s: float | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One run: whether it goes, and why it goes or stays."""

    run_id: str
    goes: bool
    why: str


def read_keep(text: str) -> Keep:
    """`90d`, `12w`, `6m`, `2y`: by age; `30`: the newest of every series. Raises ConfigError (E737)."""
    if found := _AGE.fullmatch(text):
        return Keep(age_s=int(found[1]) * _DAYS[found[2]] * DAY_S)
    if re.fullmatch(r"[1-9][0-9]{0,5}", text):
        return Keep(count=int(text))
    message = f"--keep {text[:40]!a} is neither an age nor a count"
    help_ = "an age: 90d, 12w, 6m, 2y; or how many of each series: 30"
    raise ConfigError(Problem(code="E737", message=message, help=help_))


def decide(
    records: Sequence[RunRecord],
    unfinished: Mapping[str, float],
    keep: Keep,
    *,
    now_s: float,
    unread: Iterable[Unread] = (),
) -> tuple[Fate, ...]:
    """The fate of every run. `unfinished`: runs without a result → when they began, Unix time. `unread`: runs
    whose result nobody can read, so that nothing of it would be left in the archive.

    Never goes: a run whose figures somebody accepted, the newest MEASURED run of a series, and an unread one.
    """
    newest = _ranked(records)
    fates = [_fate(record, newest, keep, now_s) for record in records]
    fates += [
        Fate(run_id=one.run_id, goes=False, why=f"its result cannot be read: {one.why}") for one in unread
    ]
    for run_id, began_s in unfinished.items():
        old = now_s - began_s > max(UNFINISHED_S, keep.age_s or 0.0)
        why = "no result, and old" if old else "no result, and it may still be running"
        fates.append(Fate(run_id=run_id, goes=old, why=why))
    return tuple(sorted(fates, key=lambda fate: fate.run_id))


def _ranked(records: Iterable[RunRecord]) -> dict[tuple[Series, bool], list[str]]:
    """(series, whether degraded) → its MEASURED runs, newest first."""
    ranked: dict[tuple[Series, bool], list[str]] = {}
    for record in sorted(records, key=lambda one: one.at_s, reverse=True):
        for cell in record.cells:
            if cell.verdict == MEASURED:
                ranked.setdefault((cell.series, cell.degraded), []).append(record.run_id)
    return ranked


def _fate(
    record: RunRecord, newest: Mapping[tuple[Series, bool], list[str]], keep: Keep, now_s: float
) -> Fate:
    def stays(why: str) -> Fate:
        return Fate(run_id=record.run_id, goes=False, why=why)

    if record.accepted:
        return stays(f"a baseline that {record.accepted[-1].who} accepted")
    for runs in newest.values():
        if runs and runs[0] == record.run_id:
            return stays("the newest measured run of a series")
    if keep.age_s is not None and now_s - record.at_s <= keep.age_s:
        return stays("young enough")
    if keep.count is not None:
        if any(record.run_id in runs[: keep.count] for runs in newest.values()):
            return stays(f"among the newest {keep.count} of a series")
        if not any(cell.verdict == MEASURED for cell in record.cells) and _recent(record, newest, keep.count):
            return stays("no older than the runs that stay")
    return Fate(run_id=record.run_id, goes=True, why="old")


def _recent(record: RunRecord, newest: Mapping[tuple[Series, bool], list[str]], count: int) -> bool:
    """Of a run that proved nothing: whether it is as young as what stays of its series."""
    kept = [runs[:count][-1] for cell in record.cells if (runs := newest.get((cell.series, False)))]
    return any(record.run_id >= oldest for oldest in kept)


def fates(results: Path, keep: Keep, *, now_s: float) -> tuple[Fate, ...]:
    """The fate of every run folder; nothing is touched."""
    records: list[RunRecord] = []
    unread: list[Unread] = []
    unfinished: dict[str, float] = {}
    for folder in RunFolder.all(results / "runs"):
        found = read_run(folder)
        if isinstance(found, RunRecord):
            records.append(found)
        elif isinstance(found, Unread):
            unread.append(found)
        else:
            unfinished[folder.run_id] = folder.plan.stat().st_mtime
    return decide(records, unfinished, keep, now_s=now_s, unread=unread)


def remove(results: Path, run_id: str, *, wait_s: float = 60.0) -> None:
    """Keeps the run's rows in the archive, then removes its folder.

    One process at a time: a month of the archive is one file, which each would write anew without the
    others' lines. Raises CellError (E701); HistoryError (E731, E732) where somebody holds it for `wait_s`, or
    nothing can be written; ConfigError (E734) for a result that cannot be read, and leaves it as it is.
    """
    with held(archive_of(results), wait_s, exclusive=True):
        if not (results / "runs" / run_id).exists():
            return  # somebody else's gc was first
        _removed(results, RunFolder.find(results / "runs", run_id))


def _removed(results: Path, folder: RunFolder) -> None:
    run_id = folder.run_id
    record = read_run(folder)
    if isinstance(record, Unread):
        message = f"run {run_id} stays: its result cannot be read, so the archive would lose it: {record.why}"
        raise unknown(message, f"nx8 parse {run_id}")
    if isinstance(record, RunRecord):
        archive(results, record)
    shutil.rmtree(folder.path)
