"""`nx8 run`"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import language
from orchestrator.cli.common import plan_options, request_of, workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language


@click.command("run")
@plan_options
@language.option("Words of the table.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON report instead of the table.")
@click.option("--quiet", is_flag=True, help="No progress; errors and the result only.")
@click.option("--dry-run", is_flag=True, help="Do nothing: print what `nx8 plan` prints.")
@click.pass_context
def command(
    ctx: click.Context, /, lang: Language, as_json: bool, quiet: bool, dry_run: bool, **given: Any
) -> int:
    """Train, prove and print the metric table.

    Without CASE, every case that has a config for the cluster's device and size. Progress goes to stderr,
    the table to stdout.
    """
    if dry_run:
        from orchestrator.cli.plan_verb import command as plan

        ctx.invoke(plan, as_json=as_json, **given)
        return 0

    from orchestrator import ui
    from orchestrator.errors import Stopped
    from orchestrator.report import document
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
            view=ui.view(quiet=quiet),
            signals=signals,
        )
        result = read_result(folder)
        if as_json:
            click.echo(document(result, "json", lang), nl=False)
        else:
            click.echo(table_text(result, lang))
            click.echo(f"{folder.path}")
        if signals.caught is not None:
            raise Stopped(signals.caught)
    return int(result["exit_code"])
