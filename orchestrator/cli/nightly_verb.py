"""`nx8 nightly`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import language
from orchestrator.cli.common import WithDefault, json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.messages import Language
    from orchestrator.nightly.document import Night
    from orchestrator.ui import View


@click.group(
    "nightly",
    cls=WithDefault,
    default="run",
    subcommand_metavar="[run] SUITE [OPTIONS] | install SUITE [OPTIONS]",
)
def command() -> None:
    """Run a suite unattended: look, run, judge, write down, and tell.

    Exit 0 in band, 1 a confirmed regression, 3 nodes are missing, 4 a cell failed, 6 busy, 7 the time budget
    was used up. `nx8 nightly run --help` has the options.
    """


@command.command("run")
@click.argument("suite")
@click.option("--cluster", metavar="NAME", help="A file of cluster/. [default: the suite's; local]")
@click.option("--vendor", metavar="NAME", help="A folder of dockerfiles/.")
@click.option("--budget", metavar="6h", help="Time budget: 90s, 45m or 6h. [default: the suite's]")
@click.option("--quiet", is_flag=True, help="Say nothing unless something is out of band or went wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print the night as one JSON document.")
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write a Prometheus textfile there.",
)
@language.option("Words of the report, and of what `notify` is told.", tables=False)
@click.pass_context
def run_command(
    ctx: click.Context,
    suite: str,
    cluster: str | None,
    vendor: str | None,
    budget: str | None,
    quiet: bool,
    as_json: bool,
    textfile: Path | None,
    lang: Language,
) -> int:
    """Run a suite of cases/suites/ once, as a timer would."""
    from orchestrator import ui
    from orchestrator.nightly.session import Asked, night
    from orchestrator.signals import Signals
    from orchestrator.suites import seconds

    try:
        budget_s = None if budget is None else seconds(budget)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--budget") from error
    ui.tolerate_any_reader()
    asked = Asked(
        suite=suite,
        cluster=cluster,
        vendor=vendor,
        budget_s=budget_s,
        textfile=textfile,
        argv=tuple(sys.argv),
        language=lang,
    )
    with Signals() as signals:
        view: View = ui.Quiet(sys.stderr) if quiet else ui.Plain(sys.stderr)
        done = night(workspace_of(ctx), asked, view=view, signals=signals)
    show(done, quiet=quiet, as_json=as_json)
    return int(done.exit_code or 0)


def show(night: Night, *, quiet: bool, as_json: bool) -> None:
    from orchestrator.messages import say
    from orchestrator.nightly.notice import read_state
    from orchestrator.nightly.showing import blocks, text, worth_saying

    if as_json:
        click.echo(json_text(night.document()))
    elif not quiet:
        click.echo(text(night), nl=False)
    else:
        rows = read_state(night.folder.parent).busy_in_a_row
        if lines := [*blocks(night), *worth_saying(night, busy_in_a_row=rows)]:
            path = night.folder / "report.txt"
            report = say("worth.report", night.language, path=path, code=night.exit_code)
            click.echo("\n".join([*lines, f"  {report}"]))


def _program() -> Path:
    """The nx8 that a timer can start: this one, or where we run as a module the one beside our Python."""
    called = Path(sys.argv[0]).absolute()
    return called if called.name != "__main__.py" else Path(sys.executable).absolute().with_name("nx8")


@command.command("install")
@click.argument("suite")
@click.option("--cluster", metavar="NAME", help="A file of cluster/. [default: the suite's; local]")
@click.option(
    "--at", default="02:00", show_default=True, metavar="HH:MM", help="When, in the machine's time."
)
@click.option("--user", "user_unit", is_flag=True, help="Units of your own account (~/.config/systemd/user).")
@click.option("--cron", "as_cron", is_flag=True, help="A file of /etc/cron.d instead of systemd units.")
@click.option(
    "--as", "account", metavar="NAME", help="Which account runs it. [default: root; with --user you]"
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where each night leaves its Prometheus textfile.",
)
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write the files there."
)
@click.option("--dry-run", is_flag=True, help="Print the files, and write nothing.")
@click.pass_context
def install_command(
    ctx: click.Context,
    suite: str,
    cluster: str | None,
    at: str,
    user_unit: bool,
    as_cron: bool,
    account: str | None,
    textfile: Path | None,
    folder: Path | None,
    dry_run: bool,
) -> None:
    """Write what starts a suite every night: a systemd service and timer, or a file of cron.

    Nothing is enabled; the commands for that are printed. A file that somebody edited is never overwritten.
    """
    from orchestrator.nightly import schedule
    from orchestrator.selection import site_of
    from orchestrator.suites import read_suite

    workspace = workspace_of(ctx.find_root())
    read = read_suite(workspace, suite)
    site = site_of(workspace, vendor=None, cluster=cluster or read.cluster)
    if user_unit and (as_cron or account):
        raise click.UsageError("--user is for systemd units of your own account: without --cron and --as")
    wanted = schedule.Wanted(
        suite=suite,
        cluster=site.cluster_name,
        program=_program(),
        home=workspace.home.absolute(),
        at=at,
        textfile=None if textfile is None else textfile.absolute(),
        user=account,
        budget_s=read.budget_s,
    )
    default = "/etc/cron.d" if as_cron else "~/.config/systemd/user" if user_unit else "/etc/systemd/system"
    where = folder or Path(default).expanduser()
    files = (schedule.cron(wanted, where),) if as_cron else schedule.systemd(wanted, where)
    if dry_run:
        click.echo("\n".join(f"# {one.path}\n{one.text}" for one in files), nl=False)
        return
    written = schedule.install(files)
    for one in files:
        click.echo(f"{'wrote' if one.path in written else 'is so already'}  {one.path}")
    if not as_cron:
        own = " --user" if user_unit else ""
        timer = files[1].path.name
        click.echo(f"next   systemctl{own} daemon-reload && systemctl{own} enable --now {timer}")
