"""`nx8 init`"""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.common import workspace_of


@click.command("init")
@click.option(
    "--nodes",
    multiple=True,
    required=True,
    metavar="NODES",
    help="Addresses or names, with ranges: 10.1.0.[11-14] or node[01-04],gate. May be repeated.",
)
@click.option("--vendor", required=True, metavar="NAME", help="A folder of dockerfiles/.")
@click.option("--name", metavar="NAME", help="The file is cluster/NAME.yaml. [default: the vendor's name]")
@click.option("--device", metavar="NAME", help="A device of the vendor. [default: its only one]")
@click.option(
    "--devices", "devices_per_node", type=click.IntRange(1, 64), metavar="N", help="Devices of each node."
)
@click.option("--description", metavar="TEXT", help="One line for people.")
@click.option("--user", metavar="NAME", help="The account on the nodes.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="sshd's port there.")
@click.option("--key", metavar="FILE", help="Path of the private key.")
@click.option("--jump", metavar="HOST", help="The host on the way: gate, or user@gate:2222.")
@click.option("--interface", metavar="NAME", help="The network device that ranks talk through.")
@click.option("--data-dir", metavar="PATH", help="Data on every node. [default: /srv/nx8/data]")
@click.option("--work-dir", metavar="PATH", help="Folders of runs on every node. [default: /srv/nx8]")
@click.option("--dry-run", is_flag=True, help="Print the file, write nothing.")
@click.pass_context
def command(ctx: click.Context, /, name: str | None, dry_run: bool, **given: Any) -> None:
    """Write the file of a new cluster, with comments.

    Asks nothing. What only the cluster's keeper can know stands there as <changeme>, and every other verb
    names such lines until they are filled in. A file that is there is never overwritten.
    """
    from orchestrator.errors import ConfigError, Problem
    from orchestrator.load import load
    from orchestrator.results import write_new
    from orchestrator.skeleton import Wish, skeleton
    from orchestrator.text import Name, fits, wants
    from orchestrator.vendors import Vendor

    workspace = workspace_of(ctx)
    vendor_file = workspace.vendor_file(given["vendor"])
    if not vendor_file.is_file():
        known = ", ".join(workspace.vendor_names()) or "none"
        message = f"vendor {given['vendor']!r} is not known here: {workspace.shown(vendor_file)} is missing"
        raise ConfigError(Problem(code="E113", message=message, help=f"known: {known}"))
    named = name or given["vendor"]
    if not fits(Name, named):
        raise ConfigError(Problem(code="E221", message=f"--name {named!r}: wants {wants(Name)}"))
    vendor = load(vendor_file, Vendor, shown_as=workspace.shown(vendor_file))
    made = skeleton(Wish(**given), vendor)
    if dry_run:
        click.echo(made.text, nl=False)
        return
    path = workspace.cluster_file(named)
    shown = workspace.shown(path)
    if not write_new(path, made.text.encode("utf-8")):
        raise ConfigError(
            Problem(
                code="E221",
                file=shown,
                message="this file is there already, and is not overwritten",
                help=f"choose another name: nx8 init … --name {named}2",
            )
        )
    click.echo(f"{shown}: {made.num_nodes} nodes of {vendor.display_name}")
    lines = made.text.splitlines()
    for line in made.open_lines:
        click.echo(f"  fill in {shown}:{line}  {lines[line - 1].strip()}")
    click.echo(f"then: nx8 hosts pin --cluster {named}   nx8 doctor --cluster {named}")
