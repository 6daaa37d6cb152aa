"""One night of a suite: look at the nodes, run what the suite lists, judge it, and write down all of it.

staffing.py  which nodes run · guard.py  one nightly at a time · document.py  the night as it is written
showing.py  in words · notice.py  what others hear of it · schedule.py  systemd and cron
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from orchestrator import history
from orchestrator.catalogue import catalogue
from orchestrator.compare.likeness import compared
from orchestrator.compare.sides import sides_of
from orchestrator.compare.table import notes_of
from orchestrator.doctor import look
from orchestrator.errors import (
    BusyError,
    ConfigError,
    Exit,
    Nx8Error,
    Problem,
    Stopped,
    worst,
)
from orchestrator.gate import rule_for, walk
from orchestrator.history import questions
from orchestrator.history.judging import Finding, findings
from orchestrator.messages import Language, Message, translated, words
from orchestrator.nightly.document import Night, Ran, Said, now_utc
from orchestrator.nightly.guard import alone
from orchestrator.nightly.notice import after, notify, read_state, textfile, write_state
from orchestrator.nightly.staffing import Item, Staffed, items, staffed
from orchestrator.options import Options
from orchestrator.request import Request
from orchestrator.results import read_result
from orchestrator.results.storage import link_atomic, make_folder
from orchestrator.run import run
from orchestrator.selection import Site, select, site_of
from orchestrator.suites import read_suite

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from orchestrator.doctor import Findings
    from orchestrator.signals import Signals
    from orchestrator.suites import Suite
    from orchestrator.ui import View
    from orchestrator.workspace import Workspace

SPEED = "tokens_per_second_per_device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person, or a timer, asked for. `textfile`: a folder of node_exporter's textfile collector.
    `language`: of the report, and of what others are told.
    """

    suite: str
    cluster: str | None = None
    vendor: str | None = None
    budget_s: float | None = None
    textfile: Path | None = None
    argv: tuple[str, ...] = ()
    language: Language = "en"


def night(workspace: Workspace, asked: Asked, *, view: View, signals: Signals) -> Night:
    """A whole night. What goes wrong inside is in the document; the exit code is the night's.

    Raises, with nothing touched, ConfigError for files that do not fit and BusyError (E740) while another
    nightly is at work on the cluster; Stopped, with the report written, for a signal.
    """
    suite = read_suite(workspace, asked.suite)
    site = site_of(workspace, vendor=asked.vendor, cluster=asked.cluster or suite.cluster)
    todo = items(suite)
    _check(workspace, site, todo)
    root = workspace.results / "nightly"
    with alone(root, site.cluster_name, suite=asked.suite):
        folder = _folder(root / asked.suite)
        one = Night(
            folder=folder,
            suite=asked.suite,
            cluster=site.cluster_name,
            vendor=site.vendor_name,
            planned=tuple(item.name for item in todo),
            started_utc=now_utc(),
            budget_s=asked.budget_s or suite.budget_s,
            language=asked.language,
        )
        one.save()
        link_atomic(folder.parent / "latest", folder.name)
        session = _Session(workspace, asked, suite, site, todo, one, view, signals)
        try:
            session.go()
        except Stopped as stopped:
            session.end("stopped", stopped.exit_code)
            raise
        except Nx8Error as error:
            one.notes.append(str(error.problems[0].message))
            session.end("skipped" if isinstance(error, BusyError) else "failed", error.exit_code)
        except BaseException as error:
            one.notes.append(f"{type(error).__name__}: {error}")
            session.end("failed", Exit.BUG)
            raise
        else:
            session.end("done", worst(session.codes))
    return one


def _folder(suite: Path) -> Path:
    """A new folder of its own for this night."""
    make_folder(suite)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in range(1, 1000):
        folder = suite / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return folder
    raise ConfigError(Problem(code="E703", message=f"{suite} has a thousand nights of the same second"))


def _check(workspace: Workspace, site: Site, todo: tuple[Item, ...]) -> None:
    """Every file of every run, before anything begins. Raises ConfigError with the problems of all."""
    problems: list[Problem] = []
    for item in todo:
        count = item.num_nodes or len(site.cluster.nodes)
        if count > len(site.cluster.nodes):
            message = f"{item.name}: the cluster {site.cluster_name} has {len(site.cluster.nodes)}"
            problems.append(Problem(code="E742", message=message, help="fewer nodes in the suite's entry"))
            continue
        names = tuple(node.name for node in site.cluster.nodes[:count])
        try:
            select(
                workspace,
                cases=(item.entry.case,),
                vendor=site.vendor_name,
                cluster=site.cluster_name,
                nodes=names,
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


class _Session:
    """One night at work."""

    def __init__(
        self,
        workspace: Workspace,
        asked: Asked,
        suite: Suite,
        site: Site,
        todo: tuple[Item, ...],
        document: Night,
        view: View,
        signals: Signals,
    ) -> None:
        self.codes: list[int] = []
        self._workspace = workspace
        self._asked = asked
        self._suite = suite
        self._site = site
        self._todo = todo
        self._night = document
        self._view = view
        self._signals = signals
        self._began_s = time.monotonic()
        self._bad: dict[str, Message] = {}

    def go(self) -> None:
        self._view.phase(
            "nightly", f"suite={self._asked.suite} cluster={self._site.cluster_name} runs={len(self._todo)}"
        )
        self._look()
        for item in self._todo:
            self._do(item)
        if self._suite.gate.confirm in ("rerun", "both"):
            self._again()
        # Only now: while a second run may still clear it, a suspect says nothing.
        if any(one.kind == "regression" for one in self._night.outside):
            self.codes.append(Exit.GATE)

    def end(self, state: Any, code: int) -> None:
        """Writes everything down; whatever cannot be written does not change how the night ended."""
        one = self._night
        one.state, one.exit_code, one.ended_utc = state, int(code), now_utc()
        # First of all: whoever is told now reads a report that has ended.
        notes = [self._kept(one.save)]
        suite = one.folder.parent
        now_s = time.time()
        new, events = after(read_state(suite), one, now_s=now_s)
        notes += [notify(self._suite.notify, one, events, home=self._workspace.home)]
        notes += [self._kept(lambda: write_state(suite, new))]
        if self._asked.textfile is not None:
            from orchestrator.report.output import write_file

            path = self._asked.textfile / f"nx8_nightly_{one.suite}_{one.cluster}.prom"
            shown = textfile(one, new, duration_s=time.monotonic() - self._began_s)
            notes += [self._kept(lambda: write_file(path, shown))]
        one.notes += [note for note in notes if note]
        for note in notes:
            if note:
                self._view.phase("note", note)
        self._kept(one.save)
        self._view.phase("nightly", f"{state}, exit {int(code)}; {one.folder / 'report.txt'}")

    def _kept(self, write: Callable[[], None]) -> str | None:
        try:
            write()
        except Nx8Error as error:
            return f"{error.problems[0].code} {error.problems[0].message}"
        except OSError as error:
            return f"E701 {error}"
        return None

    def _look(self) -> None:
        """Doctor, at the cluster's nodes and its spares. Raises BusyError when others are at work there."""
        cluster = self._site.cluster
        names = tuple(node.name for node in (*cluster.nodes, *cluster.spares))
        found = look(
            self._workspace,
            cluster=self._site.cluster_name,
            vendor=self._site.vendor_name,
            cases=tuple(dict.fromkeys(item.entry.case for item in self._todo)),
            nodes=names,
        )
        self._night.looked(found)
        busy = [self._night.kept(_of(name, why)) for name, why in sorted(_busy(found).items())]
        if busy:
            raise BusyError([Problem(code="E601", message=one) for one in busy])
        self._bad = {node.name: _why(found, node.name) for node in found.nodes if node.severity == "bad"}
        shown = f"nodes={len(names) - len(self._bad)} of {len(names)}" + "".join(
            f"  {name}: {why.en}" for name, why in self._bad.items()
        )
        self._view.phase("doctor", shown)
        self._night.save()

    def _left_s(self) -> float | None:
        budget = self._night.budget_s
        return None if budget is None else budget - (time.monotonic() - self._began_s)

    def _do(self, item: Item, *, rerun: bool = False) -> None:
        """One run, or why there is none; written down before the next."""
        if self._signals.caught is not None:
            raise Stopped(self._signals.caught)
        who = staffed(self._site.cluster, item, self._bad)
        left_s = self._left_s()
        done = self._refused(item, who, left_s, rerun) or self._ran(item, who, left_s, rerun)
        self.codes.append(done.exit_code)
        self._night.ran.append(done)
        self._view.phase(
            "run", f"{item.name}  exit {done.exit_code}  {done.reason or done.run_id or ''}".rstrip()
        )
        if done.run_id is not None:
            self._judge(item, done.run_id)
        self._night.save()
        if self._signals.caught is not None:
            raise Stopped(self._signals.caught)

    def _refused(self, item: Item, who: Staffed, left_s: float | None, rerun: bool) -> Ran | None:
        """Why it is not begun at all."""
        if who.missing is not None:
            return self._not_run(item, who, Exit.PREFLIGHT, self._night.kept(who.missing), rerun)
        if left_s is None:
            return None
        if left_s <= 0:
            return self._not_run(item, who, Exit.BUDGET, "the time budget is used up", rerun)
        expected_s = self._expected_s(item, who)
        if expected_s is not None and expected_s > left_s:
            reason = f"it takes {expected_s:.0f} s as a rule, and {left_s:.0f} s of the budget are left"
            return self._not_run(item, who, Exit.BUDGET, reason, rerun)
        return None

    def _expected_s(self, item: Item, who: Staffed) -> float | None:
        """The median of the same run in the past; null for a first one."""
        scale = f"{len(who.nodes)}x{self._site.cluster.devices_per_node}"
        with history.reading(self._workspace.results) as (connection, _):
            every = questions.all_series(
                connection, case=item.entry.case.partition(":")[0], cluster=self._site.cluster_name
            )
            alike = [
                one
                for one in every
                if one.scale == scale
                and (not item.entry.stages or one.stage in item.entry.stages)
                and item.entry.steps in (None, one.steps)
            ]
            past = questions.durations(connection, alike)
        return median(past) if past else None

    def _ran(self, item: Item, who: Staffed, left_s: float | None, rerun: bool) -> Ran:
        left_out = self._left_out(who)
        staffing = {"suite": self._asked.suite, "replaced": who.replaced, "left_out": left_out}
        request = Request(
            cases=(item.entry.case,),
            vendor=self._site.vendor_name,
            cluster=self._site.cluster_name,
            options=Options(measured_steps=item.entry.steps, time_limit_s=left_s),
            nodes=who.nodes,
            stages=item.entry.stages,
            staffing=staffing,
        )
        self._signals.held = False
        try:
            folder = run(
                self._workspace, request, argv=self._asked.argv, view=self._view, signals=self._signals
            )
            result = read_result(folder)
        except Nx8Error as error:
            reason = self._night.kept(_said(error.problems[:3]))
            return self._not_run(item, who, error.exit_code, reason, rerun)
        code = int(result["exit_code"])
        reasons = [cell["reasons"][0] for cell in result["cells"] if cell["reasons"]]
        if code == Exit.TIME_LIMIT:
            code = Exit.BUDGET  # the only time limit that a night sets is what is left of its budget
        return Ran(
            name=item.name,
            nodes=who.nodes,
            exit_code=code,
            run_id=folder.run_id,
            replaced=who.replaced,
            left_out=left_out,
            verdicts={str(cell["cell_id"]): str(cell["verdict"]) for cell in result["cells"]},
            reason=str(reasons[0]) if reasons else None,
            rerun=rerun,
        )

    def _judge(self, item: Item, run_id: str) -> None:
        with history.reading(self._workspace.results) as (connection, note):
            if note and note not in self._night.notes:
                self._night.notes.append(note)
            figures = [self._night.judged(one) for one in findings(connection, run_id, self._suite.gate)]
            if item.entry.published is not None:
                figures += self._against(connection, item.entry.published, run_id)
        for one in figures:
            if one.kind not in ("in_band", "not_enough"):
                self._view.phase(one.kind, f"{one.title}  {one.metric} {one.value:.4g} {one.unit}: {one.why}")

    def _against(self, connection: sqlite3.Connection, row: str, run_id: str) -> list[Said]:
        """The speeds of a run against a published row, where the two are alike; else a note that says why."""
        name = f"published:{row}"
        try:
            table = compared(sides_of((name, run_id), self._workspace))
        except ConfigError as error:
            self._night.notes.append(f"{name}: {error.problems[0].message}")
            return []
        reference = table[0].side.figures[SPEED].value
        found = []
        for line in questions.lines(connection, SPEED, run_id=run_id):
            beside = next((one for one in table[1:] if one.side.row == line.cell_id), None)
            if beside is None or line.value is None:
                continue
            if reference is None or beside.ratios[SPEED] is None or line.series.scope != "full":
                no_speed = words("night.no_speed")
                why = Message(
                    zh="；".join(notes_of((table[0], beside), "zh")) or no_speed.zh,
                    en="; ".join(notes_of((table[0], beside), "en")) or no_speed.en,
                )
                note = words("night.not_held", cell=line.cell_id, row=name, why=why)
                self._night.notes.append(self._night.kept(note))
                continue
            points = questions.series(connection, line.series, SPEED)
            at = next(at for at, one in enumerate(points) if one.run_id == run_id)
            metric = rule_for(self._suite.gate, SPEED)
            trend = walk(points[: at + 1], rule=self._suite.gate, metric=metric, reference=reference)
            finding = Finding(
                series=line.series, metric=SPEED, unit="tokens/s", judged=trend.judged[-1], changes=()
            )
            found.append(self._night.judged(finding, against=name))
        return found

    def _again(self) -> None:
        """Suspects are measured once more, at the end of the night: far from their first run."""
        suspects = {one.run_id for one in self._night.figures if one.kind == "suspect"}
        first = [one for one in self._night.ran if not one.rerun]
        for item, done in zip(self._todo, first, strict=True):
            if done.run_id in suspects:
                self._view.phase("suspect", f"{item.name} is run again")
                self._do(item, rerun=True)

    def _left_out(self, who: Staffed) -> dict[str, str]:
        return {name: self._night.kept(why) for name, why in who.left_out.items()}

    def _not_run(self, item: Item, who: Staffed, code: int, reason: str, rerun: bool) -> Ran:
        return Ran(
            name=item.name,
            nodes=who.nodes,
            exit_code=int(code),
            replaced=who.replaced,
            left_out=self._left_out(who),
            reason=reason,
            rerun=rerun,
        )


def _of(name: str, why: Message) -> Message:
    return Message(zh=f"{name}：{why.zh}", en=f"{name}: {why.en}")


def _said(problems: Sequence[Problem]) -> Message:
    """What a person is told of errors; their own words are English."""
    known = catalogue()
    titles = [f"{known[one.code].meaning('zh').title}：" if one.code in known else "" for one in problems]
    return Message(
        zh="；".join(
            f"{one.code} {title}{translated(one.message, 'zh')}"
            for one, title in zip(problems, titles, strict=True)
        ),
        en="; ".join(f"{one.code} {one.message}" for one in problems),
    )


def _busy(found: Findings) -> dict[str, Message]:
    """Nodes that lack nothing but somebody else's leaving them."""
    busy = {}
    for node in found.nodes:
        bad = [check for check in node.checks if check.severity == "bad"]
        if bad and all(check.name == "idle" for check in bad):
            busy[node.name] = bad[0].message
    return busy


def _why(found: Findings, name: str) -> Message:
    bad = [check for check in found.node(name).checks if check.severity == "bad"]
    return Message(
        zh="；".join(f"{check.code or check.name} {check.text('zh')}" for check in bad),
        en="; ".join(f"{check.code or check.name} {check.text('en')}" for check in bad),
    )
