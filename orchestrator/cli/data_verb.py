"""`nx8 data`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.common import workspace_of


@click.group("data")
def command() -> None:
    """Prepare and check token files."""


@command.command("prepare")
@click.argument("text", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Name of the token file, as the case's data section has it.")
@click.option(
    "--tokenizer",
    default="bytes",
    show_default=True,
    help="'bytes', a sentencepiece .model or a Hugging Face .json.",
)
@click.option("--max-tokens", type=click.IntRange(min=2), help="Stop after this many tokens.")
@click.option(
    "--field", default="text", show_default=True, help="Field of a .jsonl line that holds the text."
)
@click.option(
    "--to", "target", type=click.Path(file_okay=False, path_type=Path), help="Folder. [default: results/data]"
)
@click.pass_context
def prepare(
    ctx: click.Context,
    text: Path,
    name: str,
    tokenizer: str,
    max_tokens: int | None,
    field: str,
    target: Path | None,
) -> None:
    """Turn TEXT (a folder, .txt or .jsonl) into a token file with its manifest."""
    from orchestrator import data

    folder = target or workspace_of(ctx).home / "results" / "data"
    made = data.prepare(
        data.documents(text, field=field), name=name, encoder=data.tokenizer(tokenizer), max_tokens=max_tokens
    )
    path = data.store(made, folder)
    manifest = made.manifest
    cut = ", cut at --max-tokens" if manifest.truncated else ""
    click.echo(f"{manifest.num_tokens:,} tokens ({manifest.dtype}) from {manifest.num_inputs:,} files{cut}")
    click.echo(f"{path}  sha256 {manifest.sha256}")


@command.command("check")
@click.argument("name")
@click.option(
    "--in", "source", type=click.Path(file_okay=False, path_type=Path), help="Folder. [default: results/data]"
)
@click.pass_context
def check(ctx: click.Context, name: str, source: Path | None) -> None:
    """Hold a token file against its manifest."""
    from orchestrator import data

    folder = source or workspace_of(ctx).home / "results" / "data"
    manifest = data.verify(folder, name)
    click.echo(f"as its manifest says: {manifest.num_tokens:,} tokens, sha256 {manifest.sha256}")


@command.command("push")
@click.argument("name")
@click.option("--cluster", required=True, metavar="NAME", help="A file of cluster/.")
@click.pass_context
def push(ctx: click.Context, name: str, cluster: str) -> None:
    """Bring a token file to the data folder of every node, checked by SHA-256."""
    from orchestrator import ui
    from orchestrator.cluster import Cluster
    from orchestrator.fleet import hand_out
    from orchestrator.hosts import known_hosts_file
    from orchestrator.load import load
    from orchestrator.remote import Pool

    workspace = workspace_of(ctx)
    path = workspace.cluster_file(cluster)
    site = load(path, Cluster, shown_as=workspace.shown(path))
    names = tuple(node.name for node in site.nodes)
    with Pool.open(site, site.nodes, known_hosts_file(workspace, cluster, site)) as pool:
        source = workspace.home / "results" / "data"
        hand_out(pool, name, source=source, folder=site.data_dir, nodes=names, view=ui.view())
    click.echo(f"{name} is on {', '.join(names)} in {site.data_dir}")
