"""`nx8 parse`"""

from __future__ import annotations

import click

from orchestrator.cli.common import workspace_of


@click.command("parse")
@click.argument("run", default="latest")
@click.pass_context
def command(ctx: click.Context, run: str) -> int:
    """Recompute a stored run from its raw files and compare.

    Nothing is replaced: where today's parser comes to another result, it is written beside, under reparse/.
    Exit 0 when the result is the same byte for byte, else 4.
    """
    from orchestrator.reparse import reparse
    from orchestrator.results import RunFolder

    folder = RunFolder.find(workspace_of(ctx).runs, run)
    outcome = reparse(folder)
    click.echo(outcome.message)
    return outcome.exit_code
