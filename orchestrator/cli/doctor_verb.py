"""`nx8 doctor`"""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import workspace_of

if TYPE_CHECKING:
    from orchestrator.doctor.findings import Severity
    from orchestrator.messages import Language


@click.command("doctor")
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--vendor", metavar="NAME", help="A folder of dockerfiles/.")
@click.option("--cluster", metavar="NAME", help="A file of cluster/. [default: the vendor's only one; local]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document (doctor.schema.json).")
@click.option("--nagios", is_flag=True, help="One line, and Nagios' exit codes 0 to 3.")
@language.option("Words of the table.")
@click.pass_context
def command(
    ctx: click.Context,
    cases: tuple[str, ...],
    vendor: str | None,
    cluster: str | None,
    as_json: bool,
    nagios: bool,
    lang: Language,
) -> int:
    """Look at every node of a cluster, and say what is wrong and what mends it.

    Changes nothing on any node, and is done within 15 seconds. Exit 3 when a planned node cannot run. CASE
    limits whose data and images are looked for.
    """
    from orchestrator import doctor, ui
    from orchestrator.doctor import document, table

    ui.tolerate_any_reader()
    if as_json and nagios:
        raise click.UsageError("--json and --nagios: one of them")
    if nagios:
        return _nagios(ctx, vendor=vendor, cluster=cluster, cases=cases)
    if sys.stderr.isatty() and not as_json:
        click.echo("looking at every node, 15 s at most …", err=True)
    findings = doctor.look(workspace_of(ctx), cluster=cluster, vendor=vendor, cases=cases)
    if as_json:
        click.echo(json.dumps(document.document(findings), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        width = shutil.get_terminal_size((100, 40)).columns
        click.echo(table.text(findings, lang, width=width, marks=_marks()))
    return int(findings.exit_code)


def _nagios(ctx: click.Context, *, vendor: str | None, cluster: str | None, cases: tuple[str, ...]) -> int:
    """Whatever keeps us from looking is UNKNOWN there, not a usage error."""
    from orchestrator import doctor
    from orchestrator.doctor import document
    from orchestrator.errors import Nx8Error

    try:
        findings = doctor.look(workspace_of(ctx), cluster=cluster, vendor=vendor, cases=cases)
    except Nx8Error as error:
        click.echo(f"NX8 UNKNOWN - {error.problems[0].code} {error.problems[0].message}".replace("|", "/"))
        return 3
    click.echo(document.nagios(findings))
    return findings.nagios


def _marks() -> dict[Severity, str] | None:
    """Those that the terminal's encoding has; None for the usual ones."""
    from orchestrator.doctor import table

    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "".join(table.MARKS.values()).encode(encoding)
    except (UnicodeError, LookupError):
        return table.ASCII_MARKS
    return None
