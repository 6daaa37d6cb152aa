"""`nx8 published import`, `nx8 published list` and `nx8 published show`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import columns, json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language

MAX_PATH = 4096


@click.group("published")
def command() -> None:
    """Import, check and show results that others published."""


@command.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--to",
    "target",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder. [default: results/published]",
)
@click.option("--strict", is_flag=True, help="Exit 1 when anything was found wrong.")
@click.option("--replace", is_flag=True, help="Take the place of a document of the same name.")
@click.option("--dry-run", is_flag=True, help="Store nothing: only say what would be, and what is wrong.")
@click.pass_context
def import_(
    ctx: click.Context,
    files: tuple[Path, ...],
    target: Path | None,
    strict: bool,
    replace: bool,
    dry_run: bool,
) -> int:
    """Read result documents in Markdown, say what is wrong with them, and store their rows as YAML.

    Every file is read before anything is written. What is wrong is stored as it was published and said here
    and whenever the document is used.
    """
    from orchestrator.errors import Exit
    from orchestrator.parse.visible import visible
    from orchestrator.published.storing import Shelf, import_all

    workspace = workspace_of(ctx)
    shelf = Shelf.of(workspace) if target is None else Shelf(target, shown=str(target))
    outcome = import_all(files, shelf=shelf, workspace=workspace, replace=replace, dry_run=dry_run)
    for one in outcome:
        for finding in one.findings:
            click.echo(finding.text(one.document.source.file))
        shown = visible(workspace.shown(one.path), limit=MAX_PATH)
        would = "not stored: " if dry_run else ""
        click.echo(f"{would}{shown}: {len(one.document.rows)} rows, {len(one.findings)} warnings")
    return Exit.GATE if strict and any(one.findings for one in outcome) else Exit.OK


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the stored documents."""
    from orchestrator.published.storing import Shelf, listed

    workspace = workspace_of(ctx)
    rows = listed(Shelf.of(workspace), workspace)
    if as_json:
        click.echo(json_text({"schema": 1, "published": rows}))
        return
    click.echo(columns([tuple(row.values()) for row in rows]), nl=False)


@command.command("show")
@click.argument("name")
@language.option("Words around the document.")
@click.pass_context
def show(ctx: click.Context, name: str, lang: Language) -> None:
    """Print a stored document as Markdown, and below it what is wrong with it."""
    from orchestrator.published.showing import markdown_text
    from orchestrator.published.storing import Shelf, findings

    workspace = workspace_of(ctx)
    document = Shelf.of(workspace).read(name)
    click.echo(markdown_text(document, findings(document, workspace), lang), nl=False)
