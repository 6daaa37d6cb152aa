"""A night as it is written down: after every step, so that whatever ends it leaves a report."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.messages import Language, Message, say, translated
from orchestrator.nightly.showing import text
from orchestrator.results import serialise, write_atomic
from orchestrator.results.storage import make_folder

if TYPE_CHECKING:
    from orchestrator.changes import Change
    from orchestrator.doctor import Findings
    from orchestrator.history.judging import Finding

SCHEMA = "nx8.night/1"
#: running: not ended, or ended by force · done: to its end · stopped: by a signal · skipped: busy · failed:
#: something before or between the runs went wrong.
State = Literal["running", "done", "stopped", "skipped", "failed"]
#: Kinds of which a person should read, in this order.
OUTSIDE = ("regression", "improvement", "recovered")


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
        changes=tuple(_changed(change, "en") for change in finding.changes),
        rehearsed=finding.rehearsed,
        against=against,
    )


def _changed(change: Change, language: Language) -> str:
    return f"{change.kind_text(language)}{say('separator.other', language)}{change.text(language)}"


@dataclass(slots=True, kw_only=True)
class Night:
    """The document of one night, and where it is written.

    What it holds in words is English, whatever the language of its report; `chinese` has what of that is said
    otherwise in Chinese than `translated` knows: doctor's words, changes.
    """

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
    language: Language = "en"
    chinese: dict[str, str] = field(default_factory=dict)

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
            said = f"{check.severity} {code}{check.text('en')}"
            severity = say(f"severity.{check.severity}", "zh")
            self.kept(Message(f"{severity} {code}{check.text('zh')}", said))
            self.doctor.setdefault(name, []).append(said)

    def kept(self, words: Message) -> str:
        """The English of `words`, to be stored; the Chinese is remembered for the report."""
        self.chinese[words.en] = words.zh
        return words.en

    def shown(self, words: str) -> str:
        """Stored words in the report's language."""
        if self.language == "en":
            return words
        return self.chinese.get(words) or translated(words, "zh")

    def judged(self, finding: Finding, *, against: str | None = None) -> Said:
        """Takes in one judged figure."""
        for change in finding.changes:
            self.kept(Message(*(_changed(change, language) for language in ("zh", "en"))))
        one = said(finding, against=against)
        self.figures.append(one)
        return one

    @property
    def outside(self) -> list[Said]:
        """What a person should read: confirmed changes and recoveries, regressions first."""
        found = [
            one
            for one in self.figures
            if one.kind in OUTSIDE and (one.kind == "regression" or one.new) and self._is_last(one)
        ]
        return sorted(found, key=lambda one: OUTSIDE.index(one.kind))

    def _is_last(self, one: Said) -> bool:
        """A second run of the same night has the last word."""
        return next(other for other in reversed(self.figures) if other.key == one.key) is one


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
