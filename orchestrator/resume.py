"""Goes on with a run whose controller died: re-attaches to its containers while the leases last, and comes to
the result that the undisturbed run would have come to.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.journal import Journal, Past, read
from orchestrator.load import read_stored
from orchestrator.plan import Plan
from orchestrator.run import Going, Phases, closing, contexts_of, data_dir, finished, runner_of
from orchestrator.selection import select
from orchestrator.sources import prepared

if TYPE_CHECKING:
    from orchestrator.results import RunFolder
    from orchestrator.signals import Signals
    from orchestrator.ui import View
    from orchestrator.workspace import Workspace


def resume(workspace: Workspace, folder: RunFolder, *, view: View, signals: Signals) -> None:
    """Raises ConfigError (E254) for a run that is at its end, or has no leases to hold; BusyError (E253)
    while somebody follows it; PreflightError (E251) when a lease has expired.
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
        with closing(going), phases.measure("prepare"):
            fresh = past.images is None
            if fresh:
                prepared(selection, data_dir(workspace, selection), write=True)
            contexts = contexts_of(workspace, selection) if fresh else {}
            unchanged(planned, {engine: one.sha256 for engine, one in contexts.items()})
            about["images"] = runner.prepare(
                planned, folder, contexts, data_dir(workspace, selection), journal=journal, past=past
            )
        with closing(going):
            finished(going)


def refuse(planned: Plan, folder: RunFolder, past: Past) -> None:
    """Raises ConfigError (E254) where there is nothing to go on with."""
    run_id = planned.identity.run_id
    if planned.transport == "local":
        why, help_ = "its ranks ended with the process that had started them", "run again"
    elif folder.result.is_file() and past.closed in ("finished", "stopped"):
        why, help_ = f"it is {past.closed}, and has its result", f"nx8 report {run_id}"
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
