"""`nx8 accept`"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime

import click

from orchestrator.cli.common import workspace_of


@click.command("accept")
@click.argument("run")
@click.option("--reason", required=True, metavar="TEXT", help="Why this is normal now; kept with the run.")
@click.option("--cell", metavar="CELL", help="Only this cell. [default: every MEASURED cell of the run]")
@click.pass_context
def command(ctx: click.Context, run: str, reason: str, cell: str | None) -> None:
    """Begin a new baseline with a run, and keep who, when and why.

    Points before it stay in the history and no longer make the band.
    """
    from orchestrator.errors import ConfigError, Problem
    from orchestrator.history import remember
    from orchestrator.history.files import read_accepted, read_run, write_accepted
    from orchestrator.history.record import MEASURED, Accepted, RunRecord
    from orchestrator.results import RunFolder

    def refuse(message: str, help_: str | None = None) -> ConfigError:
        return ConfigError(Problem(code="E735", message=message, help=help_))

    workspace = workspace_of(ctx)
    folder = RunFolder.find(workspace.runs, run)
    record = read_run(folder)
    if not isinstance(record, RunRecord):
        raise refuse(f"run {folder.run_id} has no result that can be accepted", f"nx8 parse {folder.run_id}")
    if not reason.strip() or "\n" in reason:
        raise refuse("--reason wants one line that says why", 'for example --reason "driver 470.161.03"')
    good = [one.cell_id for one in record.cells if one.verdict == MEASURED and not one.degraded]
    if cell is not None and cell not in good:
        named = ", ".join(good) or "none"
        raise refuse(f"{cell[:80]!a} is no MEASURED cell of {folder.run_id}", f"those are: {named}")
    if not good:
        raise refuse(f"run {folder.run_id} has no MEASURED cell: nothing proven can be accepted")
    one = Accepted(
        who=getpass.getuser(),
        at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason.strip()[:400],
        cell_id=cell,
    )
    write_accepted(folder, (*read_accepted(folder), one))
    if note := remember(workspace.results):
        click.echo(note, err=True)
    click.echo(
        f"{folder.run_id}: {cell or ', '.join(good)} accepted by {one.who}; a new baseline begins here"
    )
