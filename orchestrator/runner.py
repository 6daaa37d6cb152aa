"""Where cells are started: on this machine, or on nodes reached over SSH."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any, Protocol, Self

from orchestrator.errors import PreflightError, Problem
from orchestrator.launch import launched
from orchestrator.request import needed_modules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator.follow import Running
    from orchestrator.journal import Journal, Past
    from orchestrator.plan import Cell, Plan
    from orchestrator.render import Context
    from orchestrator.results import RunFolder
    from orchestrator.selection import Selection
    from orchestrator.signals import Signals
    from orchestrator.ui import View
    from orchestrator.workspace import Workspace


class Runner(Protocol):
    """Where cells are started: on this machine, or on nodes reached over SSH."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def looked_at(self, planned: Plan) -> dict[str, Any]: ...
    def prepare(
        self,
        planned: Plan,
        folder: RunFolder,
        contexts: Mapping[str, Context],
        data_dir: Path,
        *,
        journal: Journal,
        past: Past | None = None,
    ) -> dict[str, Any]: ...
    def launched(
        self, cell: Cell, folder: RunFolder, begun: dict[str, Any] | None = None
    ) -> AbstractContextManager[Running]: ...
    def salvage(self, cell: Cell, folder: RunFolder) -> None: ...
    def recall(self, cell_id: str, record: dict[str, Any]) -> None: ...
    def containers(self) -> dict[str, Any]: ...
    def remains(self) -> list[str]: ...


class Here:
    """This machine alone: its own Python starts the launcher, and nothing needs to be handed out. The
    launcher's standard input is its lease: it ends with us.
    """

    def __init__(self, workspace: Workspace, signals: Signals) -> None:
        self._workspace = workspace
        self._signals = signals

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def looked_at(self, planned: Plan) -> dict[str, Any]:
        """Raises PreflightError (E302) listing all that is missing."""
        preflight(planned)
        return {}

    def prepare(self, *_: object, journal: Journal, past: Past | None = None) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def launched(
        self,
        cell: Cell,
        folder: RunFolder,  # noqa: ARG002
        begun: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[Running]:
        return launched(
            cell.launches[0],
            working_directory=self._workspace.home,
            insisted=self._signals.insisted,
        )

    def salvage(self, cell: Cell, folder: RunFolder) -> None:
        pass

    def recall(self, cell_id: str, record: dict[str, Any]) -> None:
        pass

    def containers(self) -> dict[str, Any]:
        return {}

    def remains(self) -> list[str]:
        return ["the launcher on this machine; it ends its ranks within seconds, as its standard input ends"]


def runner_of(workspace: Workspace, selection: Selection, view: View, signals: Signals) -> Runner:
    if selection.cluster.transport == "local":
        return Here(workspace, signals)
    from orchestrator.fleet import Fleet  # fabric and paramiko take a while; a local run never needs them

    return Fleet(workspace, selection, view, signals)


def preflight(planned: Plan) -> None:
    """What must stand before a rank is started. Raises PreflightError (E302) listing all that is missing."""
    wanted = needed_modules(
        engines={cell.job.engine for cell in planned.cells},
        plugins={cell.job.device.plugin for cell in planned.cells if cell.job.device.plugin},
    )
    missing = sorted(name for name in wanted if importlib.util.find_spec(name.partition(".")[0]) is None)
    if missing:
        raise PreflightError(
            Problem(
                code="E302",
                message=f"{sys.executable} cannot train: {', '.join(missing)} not installed",
                help="pip install 'nx8[trainer]' -c constraints.txt   (make bench does it)",
            )
        )
