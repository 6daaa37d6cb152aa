"""Goes on with a run whose controller died: re-attaches to its containers while the leases last, and comes to
the result that the undisturbed run would have come to.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, PreflightError, Problem
from orchestrator.journal import Journal, Past, read
from orchestrator.load import read_stored
from orchestrator.options import needs_of_plan
from orchestrator.plan import Plan
from orchestrator.request import contexts_for, data_dir
from orchestrator.run import (
    Going,
    Phases,
    closing,
    finished,
    not_run,
    reported,
    told_of,
)
from orchestrator.runner import runner_of
from orchestrator.selection import select
from orchestrator.sources import prepared
from orchestrator.verdict import HostSeen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.results import RunFolder
    from orchestrator.signals import Signals
    from orchestrator.ui import View
    from orchestrator.workspace import Workspace


def resume(workspace: Workspace, folder: RunFolder, *, view: View, signals: Signals) -> None:
    """Raises ConfigError (E254) for a run that is at its end, or has no leases to hold; BusyError (E253)
    while somebody follows it; PreflightError where a lease has expired (E251) or a node cannot be asked
    (E260).
    """
    planned = read_stored(folder.plan, Plan)
    past = Past.of(read(folder.journal))
    refuse(planned, folder, past)
    with ExitStack() as exits:
        journal = exits.enter_context(Journal.open(folder.journal))
        past = Past.of(read(folder.journal))
        about, phases = told(folder)
        selection = select(
            workspace,
            cases=tuple(dict.fromkeys(cell.case for cell in planned.cells)),
            vendor=planned.vendor,
            cluster=planned.cluster,
            nodes=tuple(dict.fromkeys(one.node for cell in planned.cells for one in cell.launches)),
        )
        runner = exits.enter_context(runner_of(workspace, selection, view, signals))
        going = Going(
            planned=planned,
            folder=folder,
            runner=runner,
            journal=journal,
            about=about,
            phases=phases,
            view=view,
            signals=signals,
            past=past,
        )
        view.phase("resume", planned.identity.run_id)
        with closing(going), lost(going), phases.measure("prepare"):
            fresh = past.images is None
            if fresh:
                prepared(selection, data_dir(workspace, selection), write=True)
            contexts = contexts_for(workspace, selection, needs_of_plan(planned)) if fresh else {}
            unchanged(planned, {engine: one.sha256 for engine, one in contexts.items()})
            about["images"] = runner.prepare(
                planned, folder, contexts, data_dir(workspace, selection), journal=journal, past=past
            )
        with closing(going):
            finished(going)
    told_of(folder, workspace, view)


@contextmanager
def lost(going: Going) -> Iterator[None]:
    """A run whose lease has expired ends here: its cells that were begun are FAILED as lost, with all that
    they wrote on their nodes; the others were never run. Raises what it found.
    """
    try:
        yield
    except PreflightError as error:
        if any(problem.code != "E251" for problem in error.problems):
            raise
        why = error.problems[0].message
        past = going.past
        with going.phases.measure("salvage"):
            for cell in going.planned.cells:
                if cell.cell_id in past.ended:
                    going.runner.recall(cell.cell_id, past.ended[cell.cell_id]["containers"])
                elif cell.cell_id in past.begun:
                    going.runner.salvage(cell, going.folder)
        going.about["cells"] = {
            cell.cell_id: past.ended[cell.cell_id]["seen"]
            if cell.cell_id in past.ended
            else asdict(_never_seen_to_end(why))
            if cell.cell_id in past.begun
            else asdict(not_run(why))
            for cell in going.planned.cells
        }
        going.about["containers"] = going.runner.containers()
        reported(going.folder, going.planned, going.about, going.phases)
        raise


def _never_seen_to_end(why: str) -> HostSeen:
    return HostSeen(
        started=True,
        not_run_reason=None,
        launcher_exit=None,
        launcher_wall_s=None,
        stopped="node_lost",
        detail=why,
    )


def refuse(planned: Plan, folder: RunFolder, past: Past) -> None:
    """Raises ConfigError (E254) where there is nothing to go on with."""
    run_id = planned.identity.run_id
    if planned.transport == "local":
        why, help_ = "its ranks ended with the process that had started them", "run again"
    elif folder.result.is_file() and past.closed in ("finished", "stopped"):
        why, help_ = f"it is {past.closed}, and has its result", f"nx8 report {run_id}"
    elif past.closed == "lost":
        why, help_ = "its lease had expired", f"what it had measured by then: nx8 report {run_id}"
    elif past.closed in ("stopped", "failed"):
        why, help_ = f"it is {past.closed}: its containers and locks are gone", "run again"
    elif not past.controllers:
        why, help_ = "it has no journal", "run again"
    else:
        return
    raise ConfigError(Problem(code="E254", message=f"run {run_id} cannot be resumed: {why}", help=help_))


def told(folder: RunFolder) -> tuple[dict[str, Any], Phases]:
    """What host.json has of the run so far, and its phases, to which the time that follows is added."""
    about = json.loads(folder.host.read_bytes())
    seconds = {one["name"]: float(one["seconds"]) for one in about.pop("phases", [])}
    about.pop("overhead_s", None)
    return about, Phases(seconds=seconds)


def unchanged(planned: Plan, contexts: dict[str, str]) -> None:
    """Raises ConfigError (E255) where an image would be built from other files than were planned."""
    for cell in planned.cells:
        now = contexts.get(cell.job.engine)
        if cell.image is not None and now is not None and now != cell.image.context_sha256:
            raise ConfigError(
                Problem(
                    code="E255",
                    message=f"run {planned.identity.run_id} cannot be resumed: what the image of {cell.case} "
                    "is built from has changed since it was planned",
                    help="run again",
                )
            )
