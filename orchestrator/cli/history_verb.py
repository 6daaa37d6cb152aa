"""`nx8 history`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import WithDefault, columns, json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.history.questions import Line


@click.group("history", cls=WithDefault, default="list", no_args_is_help=False)
def command() -> None:
    """List the cells of stored runs, newest first, with what they proved.

    results/history.sqlite is a cache of the run folders: `nx8 history rebuild` makes it anew.
    """


@command.command("list")
@click.option("--case", metavar="CASE", help="Only cells of this case.")
@click.option("--cluster", metavar="NAME", help="Only runs on this cluster.")
@click.option(
    "-n", "newest", type=click.IntRange(min=1), default=20, show_default=True, help="How many cells."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def list_command(
    ctx: click.Context, case: str | None, cluster: str | None, newest: int, as_json: bool
) -> None:
    """List the cells of the newest runs; `nx8 history` alone does the same."""
    from orchestrator.history import questions, reading

    with reading(workspace_of(ctx).results) as (connection, note):
        if note:
            click.echo(note, err=True)
        lines = questions.lines(
            connection, "tokens_per_second_per_device", case=case, cluster=cluster, newest=newest
        )
    if as_json:
        click.echo(json_text({"schema": 1, "cells": [asdict(line) for line in lines]}))
    else:
        click.echo(table(lines), nl=False)


@command.command("rebuild")
@click.pass_context
def rebuild_command(ctx: click.Context) -> None:
    """Make history.sqlite anew from the run folders and the archive; the old file is kept beside."""
    from orchestrator.history import rebuild

    made = rebuild(workspace_of(ctx.find_root()).results)
    click.echo(f"{made.runs} runs, {made.cells} cells, {made.values} values")
    for one in made.unread:
        click.echo(f"{one.run_id} cannot be read: {one.why}", err=True)


def table(lines: tuple[Line, ...]) -> str:
    if not lines:
        return "no run is stored yet\n"
    rows: list[tuple[str, ...]] = [("planned (UTC)", "cell", "token/p/s", "verdict", "run")]
    for line in lines:
        marks = "" if line.series.scope == "full" else f" ({line.series.scope})"
        verdict = f"{line.verdict}, degraded" if line.degraded else line.verdict
        rows.append(
            (
                line.created_utc[:16].replace("T", " "),
                line.cell_id + marks,
                "–" if line.value is None else f"{line.value:.4g}",
                verdict,
                line.run_id,
            )
        )
    return columns(rows, right={2})
