"""`nx8 run`"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import plan_options, request_of, workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language


@click.command("run")
@plan_options
@click.option(
    "--lang", type=click.Choice(["zh", "en"]), default="zh", show_default=True, help="Words of the table."
)
@click.pass_context
def command(ctx: click.Context, /, lang: Language, **given: Any) -> int:
    """Train, prove and print the metric table.

    Without CASE, every case that has a config for the cluster's device and size. Progress goes to stderr,
    the table to stdout.
    """
    from orchestrator import ui
    from orchestrator.errors import Stopped
    from orchestrator.report.markdown import table_text
    from orchestrator.results import read_result
    from orchestrator.run import run
    from orchestrator.signals import Signals

    ui.tolerate_any_reader()
    with Signals() as signals:
        folder = run(
            workspace_of(ctx),
            request_of(**given),
            argv=tuple(sys.argv),
            view=ui.view(),
            signals=signals,
        )
        result = read_result(folder)
        click.echo(table_text(result, lang))
        click.echo(f"{folder.path}")
        if signals.caught is not None:
            raise Stopped(signals.caught)
    return int(result["exit_code"])
