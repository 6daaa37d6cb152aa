"""`nx8 hosts`"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cluster import Cluster
    from orchestrator.hosts import Survey

CLUSTER = click.option("--cluster", required=True, metavar="NAME", help="A file of cluster/.")


@click.group("hosts")
def command() -> None:
    """Show and store the host keys of a cluster's nodes."""


@command.command("pin")
@CLUSTER
@click.option("--yes", is_flag=True, help="Store without asking.")
@click.option("--replace", is_flag=True, help="Also replace keys that have changed.")
@click.pass_context
def pin(ctx: click.Context, cluster: str, yes: bool, replace: bool) -> int:
    """Ask every node and jump host for its host keys, show their fingerprints, and store them.

    Compare the fingerprints out of band: whoever answers is trusted from then on. A node behind a jump host
    is asked once the jump host's own keys are stored.
    """
    from orchestrator import hosts

    loaded, file, shown = _cluster(ctx, cluster)
    waiting: tuple[str, ...] | None = None
    failure = 0
    stored = 0
    while True:
        survey = hosts.survey(loaded, file, only=waiting)
        _show(survey)
        failure = max(failure, int(survey.failed.exit_code) if survey.failed else 0)
        if survey.changed and not replace:
            _say_changed(survey, shown)
            failure = 3
        wanted = len(survey.new) + (len(survey.changed) if replace else 0)
        if not wanted:
            if not stored:
                click.echo("nothing to store")
        elif not yes and not _agreed(shown):
            click.echo("nothing was stored: answer yes on a terminal, or give --yes", err=True)
            failure = failure or 2
        else:
            stored += hosts.store(survey, replace=replace)
            click.echo(f"{stored} keys stored in {shown}")
        if not survey.waiting:
            return failure
        if not wanted or survey.waiting == waiting or failure == 2:
            names = ", ".join(survey.waiting)
            click.echo(f"not asked, for the keys of a jump host on the way are not stored: {names}", err=True)
            return failure or 3
        waiting = survey.waiting


def _show(survey: Survey) -> None:
    width = max((len(key.node) for key in survey.keys), default=0)
    for key in survey.keys:
        was = f"  (was {key.was})" if key.was else ""
        click.echo(f"{key.node:<{width}}  {key.kind:<19}  {key.fingerprint}  {key.state}{was}")
    if survey.failed:
        click.echo(str(survey.failed), err=True)


def _say_changed(survey: Survey, shown: str) -> None:
    nodes = sorted({key.node for key in survey.changed})
    click.echo(
        f"the keys of {', '.join(nodes)} are not those stored in {shown}. A new installation, or someone "
        "in between? When it is explained: add --replace. Nothing was stored for them.",
        err=True,
    )


@command.command("list")
@CLUSTER
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def list_(ctx: click.Context, cluster: str, as_json: bool) -> None:
    """Print what is pinned."""
    from orchestrator import hosts

    loaded, file, shown = _cluster(ctx, cluster)
    if as_json:
        rows = [
            {"node": node, "kind": key.kind, "fingerprint": key.fingerprint, "line": key.line}
            for node, keys in hosts.pinned(loaded, file).items()
            for key in keys
        ]
        unpinned = [node for node, keys in hosts.pinned(loaded, file).items() if not keys]
        said = {"schema": 1, "cluster": cluster, "file": shown, "keys": rows, "not_pinned": unpinned}
        click.echo(json_text(said))
        return
    for node, keys in hosts.pinned(loaded, file).items():
        for key in keys:
            click.echo(f"{node}  {key.kind:<19}  {key.fingerprint}  {shown}:{key.line}")
        if not keys:
            click.echo(f"{node}  not pinned")


def _agreed(shown: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return bool(click.prompt(f"store them in {shown}? (yes/no)", type=str).strip() == "yes")


def _cluster(ctx: click.Context, name: str) -> tuple[Cluster, Path, str]:
    """The cluster, its known_hosts file, and that file as a person would name it. Raises ConfigError."""
    from orchestrator import hosts
    from orchestrator.cluster import Cluster
    from orchestrator.load import load

    workspace = workspace_of(ctx)
    path = workspace.cluster_file(name)
    loaded = load(path, Cluster, shown_as=workspace.shown(path))
    file = hosts.known_hosts_file(workspace, name, loaded)
    return loaded, file, workspace.shown(file)
