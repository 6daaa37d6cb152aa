"""`nx8 bundle`"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import __version__
from orchestrator.cli.common import workspace_of

if TYPE_CHECKING:
    from orchestrator.workspace import Workspace


@click.command("bundle")
@click.argument("run", default="latest")
@click.option(
    "--anonymous", is_flag=True, help="Without names of machines and people, and without addresses."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="[default: nx8-bundle-RUN.tar.gz here]",
)
@click.pass_context
def command(ctx: click.Context, run: str, anonymous: bool, output: Path | None) -> None:
    """Pack a run into one file for support, secrets masked.

    RUN is a run's name, its folder, or 'latest'. MANIFEST.json in it lists every file, how often something
    was masked in it, and what was left out.
    """
    from orchestrator.bundle import bundle, write
    from orchestrator.bundle.redact import Redactor, names_of, secrets_of
    from orchestrator.results import RunFolder

    workspace = workspace_of(ctx)
    folder = RunFolder.find(workspace.runs, run)
    plan, host = _json(folder.plan), _json(folder.host)
    secrets = (*secrets_of(os.environ), *_of_cluster(workspace, str(plan.get("cluster"))))
    names = names_of(plan, host) if anonymous else {}
    made = bundle(folder, Redactor(secrets=secrets, names=names, anonymous=anonymous), version=__version__)
    path = output or Path(f"nx8-bundle-{folder.run_id}.tar.gz")
    write(path, made.data)
    for one in made.held:
        masked = f"  {one.masked} masked" if one.masked else ""
        cut = f"  {one.dropped_bytes} bytes left out" if one.dropped_bytes else ""
        click.echo(f"{one.size:>10}  {one.path}{masked}{cut}")
    for left in made.left_out:
        click.echo(f"{'–':>10}  {left.path}  left out: {left.why}")
    click.echo(f"{len(made.data)} bytes in {path}: look into it before you hand it on")


def _json(path: Path) -> dict[str, object]:
    """What a run wrote; nothing where it is missing or damaged: what is wrong with a run is to be bundled."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_cluster(workspace: Workspace, name: str) -> tuple[str, ...]:
    """The password of the cluster's registry, where it has one that can still be read."""
    from orchestrator.cluster import Cluster
    from orchestrator.errors import Nx8Error
    from orchestrator.images.registry import credentials
    from orchestrator.load import load

    path = workspace.cluster_file(name)
    try:
        login = load(path, Cluster, shown_as=workspace.shown(path)).image.login if path.is_file() else None
        if login is None:
            return ()
        return (credentials(login, home=workspace.home, environment=os.environ).password,)
    except Nx8Error:
        return ()
