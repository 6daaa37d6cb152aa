"""What a person asked for, and what it comes to: a plan with an identity, data, and contexts of images."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.options import Options, needs_of
from orchestrator.placing import Place
from orchestrator.plan import Identity, Plan
from orchestrator.planner import Sources, plan

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orchestrator.render import Context
    from orchestrator.selection import Selection
    from orchestrator.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asked for."""

    cases: tuple[str, ...]
    vendor: str | None
    cluster: str | None
    options: Options
    #: Nodes of the cluster and its spares to run on, in order; all of the cluster where none is named.
    nodes: tuple[str, ...] = ()
    #: Stages to run; all where none is named.
    stages: tuple[str, ...] = ()
    #: Why these nodes: what stands in the result about nodes that were left out or replaced.
    staffing: Mapping[str, object] | None = None


def contexts_of(workspace: Workspace, selection: Selection, options: Options) -> dict[str, Context]:
    """What the image of each engine that is asked for is built from."""
    return contexts_for(workspace, selection, needs_of(selection, options))


def contexts_for(
    workspace: Workspace, selection: Selection, needs: Mapping[str, Collection[str]]
) -> dict[str, Context]:
    """What the image of each engine is built from, with what its works need; nothing without images."""
    if selection.cluster.transport == "local":
        return {}
    from orchestrator.render import context

    return {
        engine: context(
            workspace,
            selection.vendor_name,
            selection.vendor,
            engine=engine,
            site=selection.cluster.site,
            rehearsal=selection.cluster.rehearsal,
            needs=needs[engine],
        )
        for engine in sorted(needs)
    }


def data_dir(workspace: Workspace, selection: Selection) -> Path:
    """Where this machine keeps prepared data; nodes have their own folder and get copies."""
    if selection.cluster.transport == "local":
        return workspace.home / selection.cluster.data_dir
    return workspace.home / "results" / "data"


def planned_for(
    workspace: Workspace,
    selection: Selection,
    sources: Sources,
    contexts: Mapping[str, Context],
    options: Options,
) -> Plan:
    """The plan of a run that gets its identity now."""
    now = datetime.now(UTC)
    nonce = secrets.token_hex(16)
    # Sorts by time, tells what ran, and stays a valid name of 63 characters at most.
    what = selection.cases[0].name if len(selection.cases) == 1 else f"{len(selection.cases)}-cases"
    run_id = f"{now:%Y%m%dT%H%M%SZ}-{what[:20]}-{selection.vendor_name[:12]}-{nonce[:6]}"
    run_dir = workspace.runs / run_id
    return plan(
        selection,
        identity=Identity(
            run_id=run_id,
            nonce=nonce,
            created_utc=now.isoformat(timespec="seconds"),
            host_run_dir=str(run_dir),
        ),
        place=Place(
            python=sys.executable,
            trainer=workspace.trainer,
            data_dir=data_dir(workspace, selection),
            run_dir=run_dir,
            # Nodes must know the port beforehand; another one every run, and looked at before the start.
            master_port=0 if selection.cluster.transport == "local" else 20000 + int(nonce[:4], 16) % 10000,
            master_address=master_address(selection),
            stand_in=workspace.stand_in,
        ),
        sources=sources,
        contexts=contexts,
        options=options,
    )


def only(planned: Plan, stages: tuple[str, ...]) -> Plan:
    """The plan's cells of these stages; of all where none is named.

    Raises ConfigError (E741) for a stage that no cell has, or one that begins with what another stage leaves.
    """
    if not stages:
        return planned
    cells = tuple(cell for cell in planned.cells if cell.stage in stages)
    there = {cell.cell_id for cell in cells}
    problems = [
        Problem(
            code="E741",
            message=f"{cell.cell_id} begins with what {cell.handed.cell_id} leaves, which is not asked for",
            help="name the stages before it as well",
        )
        for cell in cells
        if cell.handed is not None and cell.handed.cell_id not in there
    ]
    missing = sorted(set(stages) - {cell.stage for cell in cells})
    if missing:
        known = sorted({cell.stage for cell in planned.cells if cell.stage})
        problems.append(
            Problem(
                code="E741",
                message=f"no cell has the stage {', '.join(missing)}",
                help=f"stages: {', '.join(known) or 'none, leave them away'}",
            )
        )
    if problems:
        raise ConfigError(problems)
    return replace(planned, cells=cells)


def master_address(selection: Selection) -> str | None:
    """Where ranks of several nodes meet. Raises ConfigError (E250) for an address that cannot be one."""
    if selection.cluster.transport == "local":
        return None
    from orchestrator.hosts import fabric_address  # knows ~/.ssh/config, and with it paramiko

    return fabric_address(selection.cluster, selection.cluster.nodes[0])


def needed_modules(*, engines: Collection[str], plugins: Collection[str]) -> tuple[str, ...]:
    """The Python modules that training takes."""
    return tuple(sorted({"torch", *plugins, *({"deepspeed"} if "deepspeed" in engines else ())}))
