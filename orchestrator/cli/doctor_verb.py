"""`nx8 doctor`"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import Seconds, json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.doctor.findings import Severity
    from orchestrator.messages import Language


@click.command("doctor")
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--vendor", metavar="NAME", help="A folder of dockerfiles/.")
@click.option("--cluster", metavar="NAME", help="A file of cluster/. [default: the vendor's only one; local]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document (doctor.schema.json).")
@click.option("--deep", is_flag=True, help="Then measure idle nodes, in the vendor's container: minutes.")
@click.option(
    "--least",
    type=Seconds(),
    default=2.0,
    show_default=True,
    metavar="S",
    help="With --deep: a figure is measured for S seconds at least.",
)
@click.option(
    "--limit",
    type=Seconds(),
    default=15.0,
    show_default=True,
    metavar="S",
    help="Be done looking within S seconds; what was not heard by then is said.",
)
@click.option("--nagios", is_flag=True, help="One line, and Nagios' exit codes 0 to 3.")
@language.option("Words of the table.")
@click.pass_context
def command(
    ctx: click.Context,
    cases: tuple[str, ...],
    vendor: str | None,
    cluster: str | None,
    as_json: bool,
    deep: bool,
    least: float,
    limit: float,
    nagios: bool,
    lang: Language,
) -> int:
    """Look at every node of a cluster, and say what is wrong and what mends it.

    Changes nothing on any node, and is done within 15 seconds. Exit 3 when a planned node cannot run. CASE
    limits whose data and images are looked for.

    With --deep, nodes that can run and are idle are measured: products of matrices by type, memory
    bandwidth, copies, all-reduce within and between nodes. Who is slower than its own peers is named, and
    the day's runs are held against what was measured (mfu_ceiling).
    """
    from orchestrator import doctor, ui
    from orchestrator.doctor import document, table

    ui.tolerate_any_reader()
    if nagios and (as_json or deep):
        raise click.UsageError("--nagios prints its own line: without --json and --deep")
    if deep:
        where = {"vendor": vendor, "cluster": cluster}
        return _deep(ctx, where, cases=cases, least=least, limit=limit, lang=lang, as_json=as_json)
    if nagios:
        return _nagios(ctx, vendor=vendor, cluster=cluster, cases=cases, limit=limit)
    if sys.stderr.isatty() and not as_json:
        click.echo(f"looking at every node, {limit:g} s at most …", err=True)
    where_of = workspace_of(ctx)
    findings = doctor.look(where_of, cluster=cluster, vendor=vendor, cases=cases, limit_s=limit)
    if as_json:
        click.echo(json_text(document.document(findings)))
    else:
        width = shutil.get_terminal_size((100, 40)).columns
        click.echo(table.text(findings, lang, width=width, marks=_marks()))
    return int(findings.exit_code)


def _deep(
    ctx: click.Context,
    where: dict[str, str | None],
    *,
    cases: tuple[str, ...],
    least: float,
    limit: float,
    lang: Language,
    as_json: bool,
) -> int:
    from orchestrator.doctor import table
    from orchestrator.doctor.deep import measured, showing
    from orchestrator.errors import worst
    from orchestrator.signals import Signals

    with Signals():
        depth = measured(
            workspace_of(ctx),
            cluster=where["cluster"],
            vendor=where["vendor"],
            cases=cases,
            least_s=least,
            limit_s=limit,
            say=lambda text: click.echo(text, err=True),
        )
    if as_json:
        click.echo(json_text(showing.document(depth)))
    else:
        width = shutil.get_terminal_size((100, 40)).columns
        click.echo(table.text(depth.findings, lang, width=width, marks=_marks()))
        click.echo("\n" + showing.text(depth, lang))
    return worst((int(depth.findings.exit_code), int(depth.exit_code)))


def _nagios(
    ctx: click.Context, *, vendor: str | None, cluster: str | None, cases: tuple[str, ...], limit: float
) -> int:
    """Whatever keeps us from looking is UNKNOWN there, not a usage error."""
    from orchestrator import doctor
    from orchestrator.doctor import document
    from orchestrator.errors import Nx8Error

    try:
        findings = doctor.look(workspace_of(ctx), cluster=cluster, vendor=vendor, cases=cases, limit_s=limit)
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
