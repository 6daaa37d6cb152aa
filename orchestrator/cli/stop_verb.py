"""`nx8 stop`"""

from __future__ import annotations

import click

from orchestrator.cli.common import workspace_of


@click.command("stop")
@click.argument("named", metavar="RUN", default="latest")
@click.option("--kill", is_flag=True, help="Give its ranks no grace.")
@click.pass_context
def command(ctx: click.Context, named: str, kill: bool) -> int:
    """Stop a run on all its nodes, and keep what it measured.

    As Ctrl-C does where the run was started. Where its controller died, its containers are stopped over SSH
    within their lease.
    """
    import signal

    from orchestrator import ui
    from orchestrator.results import RunFolder
    from orchestrator.resume import resume
    from orchestrator.runs import ask_to_stop, stand_of
    from orchestrator.signals import Signals

    ui.tolerate_any_reader()
    workspace = workspace_of(ctx)
    folder = RunFolder.find(workspace.runs, named)
    if not ask_to_stop(folder, insist=kill):
        with Signals() as signals:
            signals.stop(signal.SIGTERM, insist=kill)
            resume(workspace, folder, view=ui.view(), signals=signals)
    click.echo(f"{folder.run_id}: {stand_of(folder).state}")
    return 0
