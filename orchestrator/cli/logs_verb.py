"""`nx8 logs`"""

from __future__ import annotations

import click

from orchestrator.cli.common import workspace_of


@click.command("logs")
@click.argument("named", metavar="RUN", default="latest")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--node", metavar="NAME", help="Of one node alone.")
@click.option("--rank", type=click.IntRange(min=0), help="Of one rank alone.")
@click.option(
    "--stream",
    type=click.Choice(["all", "stdout", "stderr", "launcher"]),
    default="all",
    show_default=True,
    help="Of one stream alone.",
)
@click.pass_context
def command(
    ctx: click.Context, named: str, follow: bool, node: str | None, rank: int | None, stream: str
) -> int:
    """Print what a run's ranks say, also while they say it.

    Of what was brought home so far; with more than one file every line has its node and rank before it.
    """
    from orchestrator import ui
    from orchestrator.errors import Stopped
    from orchestrator.logs import Wanted, follow_logs, sources
    from orchestrator.results import RunFolder
    from orchestrator.signals import Signals

    ui.tolerate_any_reader()
    folder = RunFolder.find(workspace_of(ctx).runs, named)
    wanted = Wanted(node=node, rank=rank, stream=stream)
    found = sources(folder, wanted)
    with Signals() as signals:
        signals.held = True
        follow_logs(folder, found, say=click.echo, follow=follow, signals=signals)
        if signals.caught is not None:
            raise Stopped(signals.caught)
    return 0
