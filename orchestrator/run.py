"""The main path on one screen: the stages of a run, called in order."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from orchestrator import __version__, ceilings, facts, failpoints
from orchestrator.attempts import attempted
from orchestrator.derive import derive, render
from orchestrator.errors import Nx8Error, Stopped
from orchestrator.follow import follow
from orchestrator.journal import Journal, Past, moment_s
from orchestrator.parse.strict import Fields
from orchestrator.plan import Plan, to_json
from orchestrator.report.markdown import report_text
from orchestrator.request import Request, contexts_of, data_dir, only, planned_for
from orchestrator.results import RunFolder, read_result, serialise, write_atomic
from orchestrator.runner import Runner, runner_of
from orchestrator.selection import select
from orchestrator.signals import Signals
from orchestrator.sources import kept, prepared
from orchestrator.ui import View
from orchestrator.verdict import HostSeen
from orchestrator.verdict.evidence import host_seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.plan import Cell
    from orchestrator.planner import Sources
    from orchestrator.workspace import Workspace


@dataclass(slots=True)
class Phases:
    """Where the time went, in seconds, by stage; the first is what passed before `nx8` could look at a
    clock.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"start": facts.process_age_s()})

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def run(
    workspace: Workspace, request: Request, *, argv: tuple[str, ...], view: View, signals: Signals
) -> RunFolder:
    """Everything `nx8 run` does, from the files to the report.

    Raises ConfigError, PreflightError, BusyError and BuildError before any rank is started.
    """
    phases = Phases()
    with phases.measure("plan"):
        selection = select(
            workspace,
            cases=request.cases,
            vendor=request.vendor,
            cluster=request.cluster,
            nodes=request.nodes,
        )
        sources = prepared(selection, data_dir(workspace, selection), write=True)
        contexts = contexts_of(workspace, selection, request.options)
        planned = only(planned_for(workspace, selection, sources, contexts, request.options), request.stages)
    with phases.measure("facts"):
        host, source = facts.host(), facts.source(workspace.home)
    about: dict[str, object] = {
        "schema": 1,
        "nx8_version": __version__,
        "argv": list(argv),
        "host": asdict(host),
        "nodes": {},
        "images": {},
        "ceilings": ceilings.known(workspace.home, selection),
        "git": asdict(source),
        "cells": {},
        "containers": {},
        **({} if request.staffing is None else {"staffing": dict(request.staffing)}),
    }
    # The journal hears also how the nodes are let go.
    with ExitStack() as last, ExitStack() as exits:
        with phases.measure("connect"):
            runner = exits.enter_context(runner_of(workspace, selection, view, signals))
            about["nodes"], about["attempts"] = attempted(
                "connect", lambda: runner.looked_at(planned), say=view.phase
            )
        folder = opened(workspace, planned, sources, {**about, **timing(phases)})
        journal = last.enter_context(Journal.open(folder.journal))
        failpoints.passed("run.opened")
        view.phase("plan", f"{planned.identity.run_id}  {', '.join(cell.cell_id for cell in planned.cells)}")
        going = Going(
            planned=planned,
            folder=folder,
            runner=runner,
            journal=journal,
            about=about,
            phases=phases,
            view=view,
            signals=signals,
        )
        with closing(going), phases.measure("prepare"):
            # Inside `exits`: what it takes is let go last of all.
            about["images"] = runner.prepare(
                planned, folder, contexts, data_dir(workspace, selection), journal=journal
            )
        with closing(going):
            finished(going)
    told_of(folder, workspace, view)
    return folder


def told_of(folder: RunFolder, workspace: Workspace, view: View) -> None:
    """Takes a run that has ended into the history and writes its page; neither can make it fail."""
    # Nothing before here needs them.
    from orchestrator import history
    from orchestrator.page import write_page

    if line := history.remember(workspace.results):
        view.phase("history", line)
    if why := write_page(folder, workspace):
        view.phase("report", f"no report.html: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A run that has its folder: all that its stages share. `past` is what another controller had done."""

    planned: Plan
    folder: RunFolder
    runner: Runner
    journal: Journal
    about: dict[str, object]
    phases: Phases
    view: View
    signals: Signals
    past: Past = field(default_factory=Past)


@contextmanager
def closing(going: Going) -> Iterator[None]:
    """Whoever asks a third time hears what we leave behind, and the journal has the state of a run that ends
    early.
    """

    def leaving() -> None:
        going.journal.add("closed", state="left")
        run_id = going.planned.identity.run_id
        lines = [f"\n{run_id} is left as it is; in time it can be gone on with: nx8 resume {run_id}"]
        lines += [f"  {one}" for one in going.runner.remains()]
        os.write(2, ("\n".join(lines) + "\n").encode("utf-8", "replace"))

    going.signals.leaving = leaving
    try:
        yield
    except Stopped:
        going.journal.add("closed", state="stopped")
        raise
    except Nx8Error as error:
        codes = [problem.code for problem in error.problems]
        # E260: its containers and locks stand, and it can be tried again.
        state = "lost" if "E251" in codes else "left" if "E260" in codes else "failed"
        going.journal.add("closed", state=state, why=codes)
        raise
    except BaseException as error:  # a bug of ours: what it held is let go all the same
        going.journal.add("closed", state="failed", why=[type(error).__name__])
        raise


def finished(going: Going) -> None:
    """Trains what is left to train, then judges and reports."""
    seen = executed(going)
    # Before the nodes are let go: what was measured is not lost when that goes wrong.
    with going.phases.measure("report"):
        going.about["cells"] = {cell_id: asdict(one) for cell_id, one in seen.items()}
        going.about["containers"] = going.runner.containers()
        reported(going.folder, going.planned, going.about, going.phases)
    failpoints.passed("reported")
    if going.journal.trouble is not None:
        going.view.phase("warning", f"the journal could not be written: {going.journal.trouble}")
    caught = going.signals.caught
    going.journal.add("closed", state="finished" if caught is None else "stopped")


def opened(workspace: Workspace, planned: Plan, sources: Sources, host: dict[str, object]) -> RunFolder:
    """The run's folder with its plan, its jobs, what judging needs and a first host.json, before anything is
    started: whatever ends us later, the raw files can be judged.
    """
    folder = RunFolder.create(workspace.runs, planned.identity.run_id)
    write_atomic(folder.plan, to_json(planned).encode("utf-8"))
    write_atomic(folder.host, serialise(host))
    folder.point_latest()
    for name, content in kept(planned, sources).items():
        write_atomic(folder.path / name, content)
    for cell in planned.cells:
        write_atomic(folder.cell(cell.cell_id).job, to_json(cell.job).encode("utf-8"))
    return folder


def executed(going: Going) -> dict[str, HostSeen]:
    """Runs every cell in order; after a signal or the time limit the rest is not started, and says so."""
    planned, folder, signals, past = going.planned, going.folder, going.signals, going.past
    seen: dict[str, HostSeen] = {}
    # The run's limit goes on from where another controller of it began.
    began = min((moment_s(entry) for entry in past.begun.values()), default=time.monotonic())
    signals.held = True
    for cell in planned.cells:
        left = None if planned.time_limit_s is None else planned.time_limit_s - (time.monotonic() - began)
        if cell.cell_id in past.ended:
            entry = past.ended[cell.cell_id]
            seen[cell.cell_id] = host_seen(Fields(entry["seen"]))
            going.runner.recall(cell.cell_id, entry["containers"])
        elif signals.caught is not None and cell.cell_id not in past.begun:
            seen[cell.cell_id] = not_run(f"the run was stopped by {signals.caught.name}")
        elif left is not None and left <= 0 and cell.cell_id not in past.begun:
            seen[cell.cell_id] = not_run(f"the run's time limit of {planned.time_limit_s:g} s was used up")
        elif cell.handed is not None and not (folder.path / cell.handed.source).is_file():
            seen[cell.cell_id] = not_run(f"{cell.handed.cell_id} left no projector to begin with")
        else:
            try:
                seen[cell.cell_id] = trained(going, cell, left)
            except Nx8Error as error:
                if not seen:
                    raise  # nothing was measured yet: the error's own exit code says most
                seen[cell.cell_id] = not_run(str(error.problems[0].message if error.problems else error))
    return seen


def trained(going: Going, cell: Cell, time_limit_s: float | None) -> HostSeen:
    """Starts one cell, or goes on with one that another controller started; follows it to its end and stops
    what is left of it.
    """
    files, phases = going.folder.cell(cell.cell_id), going.phases
    folders = {rank: files.node(one.node_rank).rank(rank) for one in cell.launches for rank in one.ranks}
    if cell.job.program is None:
        events = {rank: folder.events for rank, folder in folders.items()}
    else:  # Megatron's last rank alone prints how training goes on
        events = {cell.world_size - 1: folders[cell.world_size - 1].stdout}
    going.view.phase(
        "train", f"{cell.cell_id}  {cell.world_size} ranks, {cell.job.steps.total} steps, {cell.job.engine}"
    )
    past = going.past
    begun = past.started.get(cell.cell_id) or past.begun.get(cell.cell_id)
    with (
        going.view.training(cell.cell_id),
        phases.measure("launch"),
        going.runner.launched(cell, going.folder, begun) as launcher,
    ):
        seen = follow(
            launcher,
            cell,
            events=events,
            monitors={one.node_rank: files.node(one.node_rank).monitor for one in cell.launches},
            time_limit_s=time_limit_s,
            clock=time.monotonic,
            signals=going.signals,
            watcher=going.view.sight,
        )
        if seen.stopped is not None:
            going.journal.add("stopping", cell=cell.cell_id, why=seen.stopped)
        # Before its containers are removed: whoever goes on from here needs them no more.
        going.journal.add("ended", cell=cell.cell_id, seen=asdict(seen), containers=launcher.record())
        failpoints.passed("cell.ended")
    life = seen.launcher_wall_s or 0.0
    phases.seconds["train"] = phases.seconds.get("train", 0.0) + life
    phases.seconds["launch"] = max(0.0, phases.seconds["launch"] - life)
    return seen


def not_run(reason: str) -> HostSeen:
    return HostSeen(
        started=False,
        not_run_reason=reason,
        launcher_exit=None,
        launcher_wall_s=None,
        stopped=None,
        detail="",
    )


def reported(folder: RunFolder, planned: Plan, about: dict[str, object], phases: Phases) -> None:
    """result.json and report.md from the files just collected. Where another controller of the run came so
    far, what is stored is never replaced, and only reported.

    The phases belong to the result and derive() must give the same bytes again later, so host.json is
    written once with the time that judging took, measured on a first pass.
    """
    if folder.result.is_file():
        write_atomic(folder.report, report_text(read_result(folder)).encode("utf-8"))
        return
    began = time.monotonic()
    draft = derive(folder, planned, {**about, **timing(phases)})
    report_text(draft)
    phases.seconds["report"] = 2 * (time.monotonic() - began)  # this pass and the one that follows
    host = {**about, **timing(phases)}
    write_atomic(folder.host, serialise(host))
    failpoints.passed("host.written")
    result = derive(folder, planned, host)
    write_atomic(folder.result, render(result))
    failpoints.passed("result.written")
    write_atomic(folder.report, report_text(result).encode("utf-8"))


def timing(phases: Phases) -> dict[str, object]:
    """The phases for host.json; overhead is all of them but the launcher's own life."""
    return {
        "phases": [{"name": name, "seconds": round(seconds, 4)} for name, seconds in phases.seconds.items()],
        "overhead_s": round(sum(s for name, s in phases.seconds.items() if name != "train"), 4),
    }
