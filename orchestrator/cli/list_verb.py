"""`nx8 list`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import columns, json_text, workspace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.workspace import Workspace


@click.command("list")
@click.argument("noun", type=click.Choice(["cases", "vendors", "clusters", "runs"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def command(ctx: click.Context, noun: str, as_json: bool) -> None:
    """List cases, vendors, clusters or runs."""
    rows = list(LISTS[noun](workspace_of(ctx)))
    if as_json:
        click.echo(json_text({"schema": 1, noun: rows}))
        return
    click.echo(columns([tuple(row.values()) for row in rows]), nl=False)


def _cases(workspace: Workspace) -> Iterator[dict[str, Any]]:
    from orchestrator.cases import Case
    from orchestrator.load import load

    for name in workspace.case_names():
        path = workspace.case_file(name)
        case = load(path, Case, shown_as=workspace.shown(path))
        yield {
            "name": name,
            "configs": ", ".join(workspace.config_names(name)) or "none",
            "description": case.description,
        }


def _vendors(workspace: Workspace) -> Iterator[dict[str, Any]]:
    from orchestrator.load import load
    from orchestrator.vendors import Vendor

    for name in workspace.vendor_names():
        path = workspace.vendor_file(name)
        vendor = load(path, Vendor, shown_as=workspace.shown(path))
        yield {
            "name": name,
            "devices": ", ".join(vendor.devices),
            "torch": f"{vendor.torch.device_type}/{vendor.torch.backend}",
            "display_name": vendor.display_name,
        }


def _clusters(workspace: Workspace) -> Iterator[dict[str, Any]]:
    from orchestrator.cluster import Cluster
    from orchestrator.load import load

    for name in workspace.cluster_names():
        path = workspace.cluster_file(name)
        cluster = load(path, Cluster, shown_as=workspace.shown(path))
        yield {
            "name": name,
            "vendor": cluster.vendor,
            "scale": cluster.scale,
            "description": cluster.description,
        }


def _runs(workspace: Workspace) -> Iterator[dict[str, Any]]:
    from orchestrator.errors import ConfigError
    from orchestrator.results import RunFolder, read_result

    for folder in RunFolder.all(workspace.runs):
        try:
            verdicts = [cell["verdict"] for cell in read_result(folder)["cells"]]
        except (ConfigError, KeyError, TypeError):
            verdicts = ["no result" if not folder.result.exists() else "unreadable result"]
        yield {"name": folder.run_id, "verdicts": ", ".join(verdicts), "folder": str(folder.path)}


LISTS = {"cases": _cases, "vendors": _vendors, "clusters": _clusters, "runs": _runs}
