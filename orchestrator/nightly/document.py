"""A night as it is written down: after every step, so that whatever ends it leaves a report."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.results import serialise, write_atomic
from orchestrator.results.storage import make_folder

if TYPE_CHECKING:
    from orchestrator.doctor import Findings
    from orchestrator.history.judging import Finding

SCHEMA = "nx8.night/1"
#: running: not ended, or ended by force · done: to its end · stopped: by a signal · skipped: busy · failed:
#: something before or between the runs went wrong.
State = Literal["running", "done", "stopped", "skipped", "failed"]
MOST_CHANGES = 5
TITLES = {"regression": "REGRESSION", "improvement": "IMPROVEMENT", "recovered": "RECOVERED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run of the night, or why there is none. `verdicts` by cell; `rerun`: to confirm a suspect."""

    name: str
    nodes: tuple[str, ...]
    exit_code: int
    run_id: str | None = None
    replaced: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    rerun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One judged figure. `against`: null for the series' own baseline, else the published row."""

    title: str
    metric: str
    unit: str
    kind: str
    new: bool
    value: float
    median: float | None
    band_low: float | None
    band_high: float | None
    n: int
    change: float | None
    why: str
    runs: int
    nights: int
    run_id: str
    cell_id: str
    last_good: str | None
    changes: tuple[str, ...] = ()
    rehearsed: bool = False
    against: str | None = None

    @property
    def key(self) -> str:
        """The same figure on another night."""
        return " | ".join(part for part in (self.title, self.metric, self.against) if part)


def said(finding: Finding, *, against: str | None = None) -> Said:
    judged = finding.judged
    verdict = judged.verdict
    return Said(
        title=finding.series.title,
        metric=finding.metric,
        unit=finding.unit,
        kind=judged.kind,
        new=judged.new,
        value=judged.point.value,
        median=verdict.median,
        band_low=verdict.band_low,
        band_high=verdict.band_high,
        n=verdict.n,
        change=verdict.change,
        why=verdict.why,
        runs=judged.runs,
        nights=judged.nights,
        run_id=judged.point.run_id,
        cell_id=judged.point.cell_id,
        last_good=judged.last_good,
        changes=tuple(f"{change.kind}: {change.text()}" for change in finding.changes),
        rehearsed=finding.rehearsed,
        against=against,
    )


@dataclass(slots=True, kw_only=True)
class Night:
    """The document of one night, and where it is written."""

    folder: Path
    suite: str
    cluster: str
    vendor: str
    planned: tuple[str, ...]
    started_utc: str
    budget_s: float | None = None
    state: State = "running"
    ended_utc: str | None = None
    exit_code: int | None = None
    doctor: dict[str, list[str]] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    figures: list[Said] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def night_id(self) -> str:
        return self.folder.name

    def document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "night_id": self.night_id,
            "suite": self.suite,
            "cluster": self.cluster,
            "vendor": self.vendor,
            "state": self.state,
            "pid": os.getpid(),
            "started_utc": self.started_utc,
            "written_utc": now_utc(),
            "ended_utc": self.ended_utc,
            "exit_code": self.exit_code,
            "budget_s": self.budget_s,
            "planned": list(self.planned),
            "doctor": self.doctor,
            "ran": [asdict(one) for one in self.ran],
            "figures": [asdict(one) for one in self.figures],
            "notes": self.notes,
        }

    def save(self) -> None:
        """night.json and report.txt, each in one step. Raises CellError (E701)."""
        make_folder(self.folder)
        write_atomic(self.folder / "night.json", serialise(self.document()))
        write_atomic(self.folder / "report.txt", text(self).encode("utf-8", "replace"))

    def looked(self, findings: Findings) -> None:
        """What doctor found that is not well, by node; its own machine under the empty name."""
        for name, check in findings.problems:
            code = f"{check.code} " if check.code else ""
            self.doctor.setdefault(name, []).append(f"{check.severity} {code}{check.text('en')}")

    @property
    def outside(self) -> list[Said]:
        """What a person should read: confirmed changes and recoveries, regressions first."""
        order = list(TITLES)
        found = [
            one
            for one in self.figures
            if one.kind in TITLES and (one.kind == "regression" or one.new) and self._is_last(one)
        ]
        return sorted(found, key=lambda one: order.index(one.kind))

    def _is_last(self, one: Said) -> bool:
        """A second run of the same night has the last word."""
        return next(other for other in reversed(self.figures) if other.key == one.key) is one


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def text(night: Night) -> str:
    """The whole report in words."""
    lines = [
        f"nightly {night.suite} on {night.cluster} ({night.vendor}), started {night.started_utc}",
        _ended(night),
    ]
    for name, problems in night.doctor.items():
        lines += [f"doctor  {name or 'this machine'}: {problem}" for problem in problems]
    lines += [_ran(one) for one in night.ran]
    not_begun = night.planned[len([one for one in night.ran if not one.rerun]) :]
    lines += [f"not begun  {name}" for name in not_begun]
    lines += [f"note  {note}" for note in night.notes]
    lines += [""] if night.figures else []
    lines += [_figure(one) for one in night.figures]
    return "\n".join([*lines, "", *blocks(night)]).rstrip() + "\n"


def _ended(night: Night) -> str:
    if night.ended_utc is None:
        return f"not ended: what follows is how it stood at {now_utc()}"
    return f"{night.state} at {night.ended_utc}, exit {night.exit_code}"


def _ran(one: Ran) -> str:
    what = ", ".join(f"{cell} {verdict}" for cell, verdict in one.verdicts.items()) or "not run"
    parts = [f"{'again' if one.rerun else 'ran':<5} {one.name}: {what}"]
    parts += [f"exit {one.exit_code}"] if one.exit_code else []
    parts += [one.run_id] if one.run_id else []
    parts += [one.reason] if one.reason else []
    parts += [f"{bad} replaced by {spare}" for bad, spare in one.replaced.items()]
    parts += [f"{bad} left out ({why})" for bad, why in one.left_out.items()]
    return "  ".join(parts)


def _figure(one: Said) -> str:
    against = f" against {one.against}" if one.against else ""
    return f"{one.kind:<11} {one.title}  {one.metric} {one.value:.4g} {one.unit}{against}: {one.why}"


def blocks(night: Night) -> list[str]:
    """One block for each confirmed change: how much, since when, what changed, what to do."""
    return [line for one in night.outside for line in block(one)]


def block(one: Said) -> list[str]:
    limit = one.band_low if one.change is not None and one.change < 0 else one.band_high
    change = "" if one.change is None else f"{one.change:+.1%}, "
    than = "" if one.median is None else f" vs {one.median:.4g}"
    kind = TITLES[one.kind] + (" (rehearsal)" if one.rehearsed else "")
    counted = f", {one.runs} runs, {one.nights} nights" if one.runs else ""
    shown = "" if limit is None else f"limit {limit:.4g}"
    against = f" against {one.against}" if one.against else ""
    lines = [
        f"{kind} {one.title}  {one.metric} {one.value:.4g}{than} {one.unit}{against}"
        f" ({change}{shown}{counted})"
    ]
    if one.kind == "recovered":
        return lines
    if one.changes:
        lines.append(f"  changed since {one.last_good}:")
        lines += [f"    {change}" for change in one.changes[:MOST_CHANGES]]
        more = len(one.changes) - MOST_CHANGES
        lines += [f"    and {more} more: nx8 show {one.run_id}"] if more > 0 else []
    elif one.last_good:
        lines.append(f"  nothing that is recorded changed since {one.last_good}")
    lines += [f"  look:   nx8 compare {one.last_good} {one.run_id}"] if one.last_good else []
    lines.append(f'  accept: nx8 accept {one.run_id} --cell {one.cell_id} --reason "…"')
    return lines
