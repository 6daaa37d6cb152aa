"""`nx8 open`"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import workspace_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command("open")
@click.argument("run", default="latest")
@click.option("--print", "only_print", is_flag=True, help="Print the path alone, open nothing.")
@click.pass_context
def command(ctx: click.Context, run: str, only_print: bool) -> None:
    """Open the page of a stored run in a browser, or say where it is.

    RUN is a run's name, its folder, or 'latest'. A page that is missing, or older than its result or than
    what was accepted last, is made now.
    """
    from orchestrator.page import accepted_at, is_fresh, page_of
    from orchestrator.report.output import write_file
    from orchestrator.results import RunFolder

    workspace = workspace_of(ctx)
    folder = RunFolder.find(workspace.runs, run)
    page = folder.page
    if not is_fresh(page, folder, accepted_at(folder.path.parent)):
        write_file(page, page_of(folder, workspace))
    click.echo(str(page))
    if only_print:
        return
    opener = opener_of(os.environ)
    if opener is not None:
        subprocess.Popen(
            [opener, str(page)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return
    size = page.stat().st_size // 1000
    click.echo(
        f"no browser here ({size} kB, one file, works offline). Copy it, or:\n"
        "  nx8 serve                                   here, and on your machine\n"
        "  ssh -L 8321:127.0.0.1:8321 THIS_HOST        then open http://127.0.0.1:8321/",
        err=True,
    )


def opener_of(environment: Mapping[str, str]) -> str | None:
    """The program that opens a file in this session's browser; None where there is no screen to show it."""
    screen = environment.get("WAYLAND_DISPLAY") or environment.get("DISPLAY")
    if not screen or environment.get("SSH_CONNECTION"):
        return None
    return shutil.which("xdg-open", path=environment.get("PATH"))
