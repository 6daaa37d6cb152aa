"""`nx8 site`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.common import workspace_of


@click.command("site")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write it. [default: results/site]",
)
@click.option(
    "--runs", type=click.IntRange(min=1), default=400, show_default=True, help="The newest so many runs."
)
@click.pass_context
def command(ctx: click.Context, output: Path | None, runs: int) -> None:
    """Write the pages of all runs and their index, for any web server.

    A page is written again when its run's result is newer; nothing is removed.
    """
    from orchestrator.page.site import write_site

    workspace = workspace_of(ctx)
    made = write_site(workspace, output or workspace.home / "results" / "site", listed=runs)
    for run, why in made.failed:
        click.echo(f"{run}: no page: {why}", err=True)
    click.echo(f"{made.written} pages written, {made.kept} up to date", err=True)
    click.echo(str(made.index))
