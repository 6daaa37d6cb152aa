"""`nx8 compare`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="RUN|published:NAME[/ROW]...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["md", "json"]),
    default="md",
    show_default=True,
    help="Form of the output.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@language.option("Words of the table.")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], form: str, as_json: bool, lang: Language) -> None:
    """Put runs and published rows side by side.

    A run is its name, its folder or 'latest'. Ratios are to the first row, and only between like and like:
    what differs is said instead.
    """
    from orchestrator.compare import document

    click.echo(document(names, workspace_of(ctx), "json" if as_json else form, lang), nl=False)
