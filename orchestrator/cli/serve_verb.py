"""`nx8 serve`"""

from __future__ import annotations

import click

from orchestrator.cli.common import workspace_of


@click.command("serve")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0: a free one.")
@click.option(
    "--address", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="An address of the loopback."
)
@click.pass_context
def command(ctx: click.Context, port: int, address: str) -> None:
    """Show the pages of all runs to this machine's browsers.

    Loopback only and reading only: any other address is refused. Ctrl-C ends it.
    """
    from orchestrator.page.serve import serve

    serve(workspace_of(ctx), address=address, port=port, said=click.echo)
