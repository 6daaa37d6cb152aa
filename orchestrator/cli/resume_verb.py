"""`nx8 resume`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language


@click.command("resume")
@click.argument("named", metavar="RUN", default="latest")
@language.option("Words of the table.")
@click.pass_context
def command(ctx: click.Context, named: str, lang: Language) -> int:
    """Go on with a run whose controller died, within the lease of its nodes.

    Its containers were never stopped; it comes to the result that it would have come to undisturbed. Refused,
    with the reason, when a lease has expired.
    """
    from orchestrator import ui
    from orchestrator.errors import Stopped
    from orchestrator.report.markdown import table_text
    from orchestrator.results import RunFolder, read_result
    from orchestrator.resume import resume
    from orchestrator.signals import Signals

    ui.tolerate_any_reader()
    with Signals() as signals:
        workspace = workspace_of(ctx)
        folder = RunFolder.find(workspace.runs, named)
        resume(workspace, folder, view=ui.view(), signals=signals)
        result = read_result(folder)
        click.echo(table_text(result, lang))
        click.echo(f"{folder.path}")
        if signals.caught is not None:
            raise Stopped(signals.caught)
    return int(result["exit_code"])
