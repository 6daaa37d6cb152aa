"""`nx8 gc`"""

from __future__ import annotations

import time

import click

from orchestrator.cli.common import workspace_of


@click.command("gc")
@click.option("--keep", required=True, metavar="90d|30", help="An age, or how many runs of each series.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why the rest stays.")
@click.pass_context
def command(ctx: click.Context, keep: str, dry_run: bool) -> None:
    """Remove the folders of old runs; their figures stay in the history.

    Never removed: a run that somebody accepted, the newest MEASURED run of every series, one whose result
    cannot be read.
    """
    from orchestrator.history import remember
    from orchestrator.history.retention import fates, read_keep, remove

    results = workspace_of(ctx).results
    found = fates(results, read_keep(keep), now_s=time.time())
    going = [one for one in found if one.goes]
    for one in found if dry_run else going:
        click.echo(f"{'remove' if one.goes else 'keep  '}  {one.run_id}  ({one.why})")
    if not dry_run:
        if note := remember(results):  # what goes is in the database first, and in the archive
            click.echo(note, err=True)
        for one in going:
            remove(results, one.run_id)
    click.echo(f"{len(going)} of {len(found)} runs {'would go' if dry_run else 'removed'}")
