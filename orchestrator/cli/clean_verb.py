"""`nx8 clean`"""

from __future__ import annotations

import click

from orchestrator.cli.common import workspace_of


@click.command("clean")
@click.option("--cluster", metavar="NAME", required=True, help="A file of cluster/.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.pass_context
def command(ctx: click.Context, cluster: str, dry_run: bool) -> int:
    """Remove from nodes what runs left there whose lease has expired.

    Only what carries the label of a run that holds the node no more: its containers, its folder, its lock.
    A run that is at work is never touched, nor anything without our label.
    """
    from orchestrator.errors import Nx8Error, PreflightError, Problem
    from orchestrator.fleet import pool_of
    from orchestrator.runs import clean

    problems: list[Problem] = []
    with pool_of(workspace_of(ctx), cluster) as (pool, site):
        for name, found in clean(pool, str(site.work_dir), dry_run=dry_run).items():
            if isinstance(found, Nx8Error):
                problems += found.problems
                continue
            seen, left = found
            verb = "would remove" if dry_run else "removed"
            for run in seen.dead:
                click.echo(f"{name}: {verb} run {run}: {seen.containers.get(run, 0)} containers, its folder")
            if seen.holder:
                click.echo(f"{name}: held by {seen.holder}, not touched")
            if not seen.dead and not seen.holder:
                click.echo(f"{name}: nothing of ours")
            problems += [Problem(code="E252", message=f"{name}: {one}") for one in left]
    if problems:
        raise PreflightError(problems)
    return 0
