"""`nx8 report`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language


@click.command("report")
@click.argument("run", default="latest")
@click.option(
    "--format",
    "form",
    type=click.Choice(["md", "html", "svg", "csv", "json", "junit", "prometheus", "mllog"]),
    default="md",
    show_default=True,
    help="Form of the output.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@language.option("Words of the report.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write FILE in one step instead of standard output.",
)
@click.pass_context
def command(
    ctx: click.Context, run: str, form: str, as_json: bool, lang: Language, output: Path | None
) -> None:
    """Print the tables of a stored run.

    RUN is a run's name, its folder, or 'latest'.
    """
    from orchestrator.report import document
    from orchestrator.report.output import write_file, write_out
    from orchestrator.results import RunFolder, read_result

    workspace = workspace_of(ctx)
    folder = RunFolder.find(workspace.runs, run)
    form = "json" if as_json else form
    if form in ("html", "svg"):  # what only the raw files of a run hold
        from orchestrator.page import curves_svg, page_of

        text = page_of(folder, workspace) if form == "html" else curves_svg(folder, lang)
    else:
        text = document(read_result(folder), form, lang)
    if output is None or str(output) == "-":
        write_out(text)
    else:
        write_file(output, text)
