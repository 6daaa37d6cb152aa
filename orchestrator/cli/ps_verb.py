"""`nx8 ps`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import columns, json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.runs import OnNodes
    from orchestrator.workspace import Workspace


@click.command("ps")
@click.option("--all", "everything", is_flag=True, help="Also runs that came to their end.")
@click.option("--cluster", metavar="NAME", help="Ask the nodes of that cluster what stands there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def command(ctx: click.Context, everything: bool, cluster: str | None, as_json: bool) -> int:
    """List runs that are at work, or left something behind.

    `orphaned`: its controller died, and its nodes hold it until their leases end; `left`: it was told to go
    at once. Both can be gone on with by `nx8 resume` until then.
    """
    from orchestrator.errors import Nx8Error

    workspace = workspace_of(ctx)
    if cluster is None:
        _show_runs(workspace, everything, as_json)
        return 0
    rows, failed = [], []
    for name, seen in _asked(workspace, cluster).items():
        if isinstance(seen, Nx8Error):
            failed.append(seen)
        else:
            rows.append({"node": name, **_row(seen)})
    _show(rows, as_json, key="nodes")
    if failed:
        from orchestrator.errors import PreflightError

        raise PreflightError(problem for error in failed for problem in error.problems)
    return 0


def _show_runs(workspace: Workspace, everything: bool, as_json: bool) -> None:
    from orchestrator.runs import stands

    found = [one for one in stands(workspace) if everything or one.state in ("running", "orphaned", "left")]
    if as_json:
        _show([asdict(one) for one in found], as_json, key="runs")
        return
    _show(
        [
            {
                "run": one.run_id,
                "state": one.state,
                "cluster": one.cluster,
                "nodes": ",".join(one.nodes),
                "cells": one.cells,
                "drops": one.drops,
                "controller": f"{one.controller.pid} on {one.controller.host}" if one.controller else "/",
            }
            for one in found
        ],
        as_json,
        key="runs",
    )


def _row(seen: OnNodes) -> dict[str, Any]:
    lease = seen.lease
    if lease is None:
        held = "free"
    else:
        owner = lease.owner or {}
        age = "of an earlier boot" if lease.age_s is None else f"renewed {lease.age_s:.0f} s ago"
        who = f"{owner.get('user')} on {owner.get('host')}"
        held = f"{owner.get('run')} of {who}, {age}{', expired' if lease.expired else ''}"
    return {
        "lock": held,
        "containers": ", ".join(f"{run} ({count})" for run, count in seen.containers.items()) or "/",
        "folders": len(seen.folders),
    }


def _asked(workspace: Workspace, cluster: str) -> dict[str, Any]:
    from orchestrator.fleet import pool_of
    from orchestrator.runs import seen_on

    with pool_of(workspace, cluster) as (pool, site):
        return seen_on(pool, str(site.work_dir))


def _show(rows: list[dict[str, Any]], as_json: bool, *, key: str) -> None:
    if as_json:
        click.echo(json_text({"schema": 1, key: rows}))
        return
    heading = [tuple(rows[0])] if rows else []
    click.echo(columns([*heading, *(tuple(row.values()) for row in rows)]), nl=False)
