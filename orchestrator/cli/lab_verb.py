"""`nx8 lab`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.lab.cache import Sources
    from orchestrator.workspace import Workspace

#: Those of lab.injecting, which is not imported only to complete a word.
FAULTS = (
    *("link", "sessions", "sshd", "dockerd", "containers", "reboot"),
    *("kill-rank", "freeze-rank", "disk", "clock", "slow", "loss", "delay"),
)
named = click.option(
    "--name", default="lab", show_default=True, metavar="NAME", help="Its cluster file is cluster/NAME.yaml."
)


@click.group("lab")
def command() -> None:
    """A rehearsal cluster on this machine: real sshd, real dockerd."""


@command.command("up")
@click.option("--vendor", required=True, metavar="NAME", help="A folder of dockerfiles/.")
@click.option("--nodes", type=click.IntRange(1, 200), default=2, show_default=True, help="Number of nodes.")
@click.option(
    "--devices", type=click.IntRange(1, 64), default=2, show_default=True, help="Stand-in devices per node."
)
@click.option("--device", metavar="NAME", help="A device of the vendor. [default: its first]")
@click.option("--subnet", metavar="CIDR", help="Where its addresses are. [default: a free 10.77.x.0/24]")
@click.option(
    "--disk", type=click.IntRange(16), metavar="MIB", help="Give each node a /srv of its own, in memory."
)
@click.option("--mirror", metavar="URL", help="Debian's packages. [default: deb.debian.org]")
@click.option(
    "--extra-index",
    metavar="URL",
    help="A further index of Python packages, such as one with CPU builds of torch.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the base image is kept. [default: NX8_LAB_CACHE or results/lab/cache]",
)
@named
@click.pass_context
def up(
    ctx: click.Context,
    vendor: str,
    nodes: int,
    devices: int,
    device: str | None,
    subnet: str | None,
    disk: int | None,
    mirror: str | None,
    extra_index: str | None,
    cache: Path | None,
    name: str,
) -> None:
    """Start nodes and write their cluster file. Needs Linux and root; the first time makes the base image."""
    from orchestrator.lab import box
    from orchestrator.signals import Signals

    workspace = workspace_of(ctx)
    name = checked(name)
    sources = sources_of(workspace, mirror=mirror, extra_index=extra_index, cache=cache)
    wish = box.Wish(
        vendor=vendor, nodes=nodes, devices=devices, device=device, subnet=subnet, name=name, disk_mib=disk
    )
    with Signals():
        lab = box.up(workspace, wish, sources=sources, say=lambda text: click.echo(text, err=True))
    width = max(len(node.name) for node in lab.nodes)
    for node in lab.nodes:
        click.echo(f"{node.name:<{width}}  {node.address}")
    click.echo(f"run on it: nx8 run --cluster {name}   end it: nx8 lab down --name {name}")


@command.command("down")
@named
@click.pass_context
def down(ctx: click.Context, name: str) -> None:
    """End and remove all of it: processes, networks, mounts, files. The base image stays."""
    from orchestrator.lab import box
    from orchestrator.signals import Signals

    workspace, name = workspace_of(ctx), checked(name)
    with Signals() as signals:
        signals.held = True
        was_there = box.down(workspace, name)
    click.echo(f"lab {name}: gone" if was_there else f"lab {name}: there is none")


@command.command("status")
@named
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def status(ctx: click.Context, name: str, as_json: bool) -> int:
    """List the nodes; exit 3 when there are none or one of them does not answer."""
    from orchestrator.errors import Exit
    from orchestrator.lab import box, state

    lab = state.read(workspace_of(ctx), checked(name))
    seen = box.status(lab) if lab else ()
    if as_json:
        rows = [
            {"name": one.node.name, "address": one.node.address, "alive": one.alive, "docker": one.docker}
            for one in seen
        ]
        click.echo(json_text({"schema": 1, "lab": name, "nodes": rows}))
        return Exit.OK if rows and all(one.docker for one in seen) else Exit.PREFLIGHT
    if lab is None:
        click.echo(f"lab {name}: there is none")
        return Exit.PREFLIGHT
    click.echo(f"lab {name}: vendor {lab.vendor}, device {lab.device}, {lab.devices} a node, {lab.subnet}")
    width = max(len(one.node.name) for one in seen)
    for one in seen:
        docker = f"docker {one.docker}" if one.docker else "docker does not answer over ssh"
        life = f"pid {one.node.init.pid}  {docker}" if one.alive else "is not running"
        click.echo(f"{one.node.name:<{width}}  {one.node.address}  {life}")
    return Exit.OK if all(one.docker for one in seen) else Exit.PREFLIGHT


@command.command("fault")
@click.argument("node", metavar="NODE")
@click.argument("kind", metavar="KIND", type=click.Choice(["heal", *FAULTS]))
@click.option(
    "--for", "seconds", type=click.FloatRange(0, 86400), metavar="S", help="Undo it after S seconds."
)
@click.option("--rank", type=click.IntRange(0), metavar="N", help="Which rank. [default: the node's last]")
@click.option("--cpu", type=click.FloatRange(0.01, 64), default=0.1, show_default=True, help="Of one core.")
@click.option("--loss", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Of packets.")
@click.option("--delay-ms", type=click.FloatRange(0, 60000), default=50, show_default=True, metavar="MS")
@click.option("--skew", type=float, default=10800, show_default=True, metavar="S", help="Of the wall clock.")
@named
@click.pass_context
def fault(
    ctx: click.Context,
    node: str,
    kind: str,
    seconds: float | None,
    rank: int | None,
    cpu: float,
    loss: float,
    delay_ms: float,
    skew: float,
    name: str,
) -> None:
    """Break a node of a lab, or heal it: `nx8 lab fault node2 link --for 30`.

    \b
    link sessions sshd dockerd containers reboot   the node and its daemons
    kill-rank freeze-rank                          a rank (--rank)
    disk clock slow loss delay                     what it runs on
    heal                                           undo all of them
    """
    from orchestrator.errors import ConfigError, Problem, Stopped
    from orchestrator.lab import injecting, state
    from orchestrator.signals import Signals

    name = checked(name)
    lab = state.read(workspace_of(ctx), name)
    if lab is None:
        raise ConfigError(
            Problem(code="E272", message=f"lab {name}: there is none", help=f"nx8 lab up --name {name} …")
        )
    found = injecting.node_of(lab, node)
    settings = injecting.Settings(rank=rank, cpu=cpu, loss=loss, delay_ms=delay_ms, skew_s=skew)
    with Signals() as signals:
        signals.held = True  # whatever comes, what was broken for a time is mended first
        if kind != injecting.HEAL:
            click.echo(f"{node}: {injecting.make(lab, found, kind, settings)}")
            if seconds is None:
                if injecting.KINDS[kind].lasting:
                    click.echo(f"undo it: nx8 lab fault {node} heal --name {name}", err=True)
                return
            signals.wait(timeout_s=seconds)
        injecting.heal(lab, found)
        click.echo(f"{node}: healed")
        if signals.caught is not None:
            raise Stopped(signals.caught)


def checked(name: str) -> str:
    """A lab's name becomes a file's and a folder's. Raises ConfigError (E285) for one that cannot."""
    import re

    from orchestrator.errors import ConfigError, Problem

    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name) and name not in ("cache", "local", "example"):
        return name
    raise ConfigError(
        Problem(
            code="E285",
            message=f"--name {name!r}: wants a-z, 0-9 and -, 31 at most; not cache, local, example",
        )
    )


def sources_of(
    workspace: Workspace,
    *,
    mirror: str | None = None,
    extra_index: str | None = None,
    cache: Path | None = None,
) -> Sources:
    from orchestrator.lab.cache import MIRROR, Sources

    kept = os.environ.get("NX8_LAB_CACHE")
    return Sources(
        folder=(cache or (Path(kept) if kept else workspace.home / "results" / "lab" / "cache")).resolve(),
        constraints=workspace.home / "constraints.txt",
        mirror=mirror or os.environ.get("NX8_LAB_MIRROR") or MIRROR,
        extra_index=extra_index,
    )
