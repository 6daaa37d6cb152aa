"""`nx8 vendors check` and `nx8 vendors render`"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.cluster import Site
    from orchestrator.vendors import Vendor
    from orchestrator.workspace import Workspace


@click.group("vendors")
def command() -> None:
    """Check and render the vendors' folders."""


@command.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--quiet", is_flag=True, help="No notes: whether each is complete, and what is lacking.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def check(ctx: click.Context, names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Say everything that a vendor's folder lacks; all vendors when none is named."""
    from orchestrator.errors import ConfigError
    from orchestrator.vendorcheck import check as checked

    workspace = workspace_of(ctx)
    results = [checked(workspace, name) for name in names or workspace.vendor_names()]
    if as_json:
        rows = [
            {
                "name": result.vendor,
                "complete": not result.problems,
                "lacks": [problem.message for problem in result.problems],
                "notes": list(result.notes),
            }
            for result in results
        ]
        click.echo(json_text({"schema": 1, "vendors": rows}))
    for result in () if as_json else results:
        lacking = len(result.problems)
        click.echo(f"{result.vendor:<10}  {f'lacks {lacking}' if lacking else 'complete'}")
        for note in () if quiet else result.notes:
            click.echo(f"            {note}")
    problems = [problem for result in results for problem in result.problems]
    if problems:
        raise ConfigError(problems)


@command.command("render")
@click.argument("name")
@click.option("--case", metavar="NAME", help="The case whose engine is meant. [default: engine deepspeed]")
@click.option("--cluster", metavar="NAME", help="The cluster whose site is meant. [default: no site]")
@click.pass_context
def render(ctx: click.Context, name: str, case: str | None, cluster: str | None) -> None:
    """Print a vendor's Dockerfile and the docker commands of a node, and do nothing."""
    workspace = workspace_of(ctx)
    vendor, engine, site, num_devices = _chosen(workspace, name, case=case, cluster=cluster)
    click.echo(
        described(workspace, name, vendor, engine=engine, site=site, num_devices=num_devices), nl=False
    )


def _chosen(
    workspace: Workspace, name: str, *, case: str | None, cluster: str | None
) -> tuple[Vendor, str, Site, int]:
    from orchestrator.cases import Case
    from orchestrator.cluster import Cluster, Site
    from orchestrator.load import load
    from orchestrator.vendors import Vendor

    path = workspace.vendor_file(name)
    vendor = load(path, Vendor, shown_as=workspace.shown(path))
    engine, site, num_devices = "deepspeed", Site(), 8
    if case is not None:
        path = workspace.case_file(case)
        engine = load(path, Case, shown_as=workspace.shown(path)).engine
    if cluster is not None:
        path = workspace.cluster_file(cluster)
        chosen = load(path, Cluster, shown_as=workspace.shown(path))
        site, num_devices = chosen.site, chosen.devices_per_node
    return vendor, engine, site, num_devices


def described(
    workspace: Workspace, name: str, vendor: Vendor, *, engine: str, site: Site, num_devices: int
) -> str:
    """The Dockerfile, then the commands as a person could type them."""
    from orchestrator import docker
    from orchestrator.render import context

    made = context(workspace, name, vendor, engine=engine, site=site)
    spec = docker.container_spec(
        vendor,
        engine=engine,
        image=made.tag,
        name="nx8-RUN-CELL-n0",
        command=(
            "python3",
            f"{docker.CONTAINER_TRAINER}/launch.py",
            "--job",
            f"{docker.CONTAINER_JOB}/job.json",
        ),
        num_devices=num_devices,
        node_job_dir="/WORK_DIR/runs/RUN/CELL",
        node_data_dir="/DATA_DIR",
        labels={"nx8.run": "RUN", "nx8.cell": "CELL", "nx8.node_rank": "0", "nx8.owner": "OWNER"},
    )
    build = shlex.join(docker.build_argv(made.tag, build_args=made.build_args))
    run = " \\\n    ".join(shlex.quote(word) for word in docker.create_argv(spec))
    return f"{made.dockerfile}\n# context {made.sha256}\n# {build}\n\n{run}\n"
