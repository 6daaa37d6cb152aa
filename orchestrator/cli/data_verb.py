"""`nx8 data`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.cases import Work
    from orchestrator.multimodal import SetManifest
    from orchestrator.workspace import Workspace


@click.group("data")
def command() -> None:
    """Prepare and check token files."""


@command.command("prepare")
@click.argument("what")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of the downloaded data set, when WHAT is not the text itself.",
)
@click.option("--name", help="Name of what is made, as the case's data section has it; a TEXT needs one.")
@click.option(
    "--tokenizer",
    help="'bytes' (the default for a TEXT), a sentencepiece .model or a Hugging Face .json.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tokens", "megatron"]),
    help="Of a TEXT: one token file, or Megatron's .bin and .idx. [default: as the case has it; tokens]",
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
    what: str,
    source: Path | None,
    name: str | None,
    tokenizer: str | None,
    form: str | None,
    max_tokens: int | None,
    field: str,
    target: Path | None,
) -> None:
    """Turn WHAT into the files that a case reads, with their manifest.

    \b
    TEXT               a folder, .txt or .jsonl                    → a token file
    CASE               the case's own data, below --from           → as the case has it
    llava-pretrain     LLaVA-Pretrain/ below --from                → a set of conversations
    llava-finetune     LLaVA-Finetune/ below --from                → a set of conversations
    mmmu               MMMU/MMMU/ below --from                     → questions, and their key apart
    llava-proxy-pretrain, llava-proxy-finetune, mmmu-proxy         → small ones, from nothing

    What is missing is named file by file before anything is made. docs/data.md shows the layouts.
    """
    from orchestrator import multimodal

    folder = target or workspace_of(ctx).home / "results" / "data"
    if source is None and what in multimodal.PROXIES and not Path(what).exists():
        _say_set(multimodal.prepare_proxy(what, folder=folder), folder)
    elif source is None:
        if not Path(what).exists():
            known = ", ".join((*_SETS, *multimodal.PROXIES))
            raise click.UsageError(f"There is no {what!r} here. A case, or one of {known}, wants --from DIR.")
        if name is None:
            raise click.UsageError("Missing option '--name'.")
        _token_file(
            Path(what),
            name=name,
            tokenizer=tokenizer or "bytes",
            form=form or "tokens",
            max_tokens=max_tokens,
            field=field,
            to=folder,
        )
    elif what in _SETS:
        _set(_SETS[what], source, name=name or what, tokenizer=tokenizer, to=folder)
    else:
        works = _works_of(workspace_of(ctx), what)
        sets = {one.name: one.dataset for work in works for one in (work.data, work.evaluation) if one}
        for wanted, dataset in sets.items():
            stage = next((one for one in _SETS if _dataset(one) == dataset), None)
            if stage is not None and (folder / wanted).exists() and len(sets) > 1:
                click.echo(f"{wanted} is there already", err=True)
            elif stage is not None:
                _set(_SETS[stage], source, name=name or wanted, tokenizer=tokenizer, to=folder)
        if len(works) == 1 and works[0].data.num_tokens is not None:
            text = works[0].data
            _token_file(
                source,
                name=name or text.name,
                tokenizer=_named_tokenizer(tokenizer, text.tokenizer),
                form=form or text.format,
                max_tokens=max_tokens or text.num_tokens,
                field=field,
                to=folder,
            )


#: WHAT → the stage that multimodal/ describes; None is MMMU.
_SETS = {"llava-pretrain": "pretrain", "llava-finetune": "finetune", "mmmu": None}


def _works_of(workspace: Workspace, case: str) -> tuple[Work, ...]:
    from orchestrator.cases import Case, works
    from orchestrator.load import load

    if case not in workspace.case_names():
        known = ", ".join((*workspace.case_names(), *_SETS))
        raise click.UsageError(f"{case!r} is not what can be made from a folder: {known}.")
    path = workspace.case_file(case)
    return works(load(path, Case, shown_as=workspace.shown(path)), proxy=False)


def _dataset(what: str) -> str:
    from orchestrator import multimodal

    stage = _SETS[what]
    return multimodal.MMMU.dataset if stage is None else multimodal.DESCRIPTIONS[stage].dataset


def _named_tokenizer(given: str | None, wanted: str) -> str:
    if given is None:
        raise click.UsageError(f"Missing option '--tokenizer': this data is made with {wanted}.")
    return given


def _token_file(
    text: Path, *, name: str, tokenizer: str, form: str, max_tokens: int | None, field: str, to: Path
) -> None:
    from orchestrator import data, tokenizers

    made = data.prepare(
        data.documents(text, field=field),
        name=name,
        encoder=tokenizers.tokenizer(tokenizer),
        max_tokens=max_tokens,
        form="megatron" if form == "megatron" else "tokens",
    )
    path = data.store(made, to)
    manifest = made.manifest
    cut = ", cut at --max-tokens" if manifest.truncated else ""
    click.echo(f"{manifest.num_tokens:,} tokens ({manifest.dtype}) from {manifest.num_inputs:,} files{cut}")
    click.echo(f"{path}  sha256 {manifest.sha256}")
    if manifest.index is not None:
        index = data.index_file(to, name)
        click.echo(f"{index}  {manifest.index.num_documents:,} documents, sha256 {manifest.index.sha256}")


def _set(stage: str | None, source: Path, *, name: str, tokenizer: str | None, to: Path) -> None:
    from orchestrator import multimodal, tokenizers

    wanted = "vicuna's tokenizer.model (LLaVA-Pretrain/checkpoints/vicuna-7b-v1.5 in the published layout)"
    encoder = tokenizers.tokenizer(_named_tokenizer(tokenizer, wanted))
    if stage is None:
        made = multimodal.prepare_questions(source, multimodal.MMMU, name=name, tokenizer=encoder, folder=to)
        published = multimodal.MMMU.published_questions
        if encoder.sha256 is not None and tokenizer is not None:
            _keep_tokenizer(Path(tokenizer), name=name, folder=to)
    else:
        description = multimodal.DESCRIPTIONS[stage]
        made = multimodal.prepare(
            source,
            description,
            name=name,
            tokenizer=encoder,
            folder=to,
            say=lambda words: click.echo(words, err=True),
        )
        published = description.published_samples
    _say_set(made, to)
    if made.num_samples != published:
        click.echo(f"not the published set: that one has {published:,} samples", err=True)


def _keep_tokenizer(path: Path, *, name: str, folder: Path) -> None:
    """Beside the answer key: what was answered is tokens, and read with this."""
    from orchestrator.multimodal.lists import tokenizer_file
    from orchestrator.results import write_atomic

    write_atomic(tokenizer_file(folder, name, path.suffix), path.read_bytes())


def _say_set(made: SetManifest, folder: Path) -> None:
    from orchestrator import data

    click.echo(
        f"{made.num_samples:,} {made.kind} with {made.num_images:,} images; "
        f"mean length {made.mean_length:.2f}, longest {made.max_length:,} positions"
    )
    if made.num_cut:
        click.echo(
            f"{made.num_cut:,} cut at {made.model_max_length:,} positions, "
            f"{made.num_images_lost:,} of them before their image ended"
        )
    path = folder / made.name / "manifest.json"
    click.echo(f"{path}  sha256 {data.file_sha256(path)}")


@command.command("check")
@click.argument("name")
@click.option(
    "--in", "source", type=click.Path(file_okay=False, path_type=Path), help="Folder. [default: results/data]"
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Of a prepared set: the folder of its images, to be read one by one as well.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest that holds, as JSON.")
@click.pass_context
def check(ctx: click.Context, name: str, source: Path | None, images: Path | None, as_json: bool) -> None:
    """Hold a token file or a prepared set against its manifest."""
    from orchestrator import data, multimodal

    folder = source or workspace_of(ctx).home / "results" / "data"
    if multimodal.is_set(folder, name):
        made = multimodal.verify(folder, name, images=images)
        if as_json:
            click.echo(json_text({"schema": 1, "set": asdict(made)}))
            return
        read = made.num_images if made.images_in_set or images else 0
        click.echo(f"as its manifest says; {read:,} of {made.num_images:,} images read")
        _say_set(made, folder)
        return
    manifest = data.verify(folder, name)
    if as_json:
        click.echo(json_text({"schema": 1, "tokens": asdict(manifest)}))
        return
    click.echo(f"as its manifest says: {manifest.num_tokens:,} tokens, sha256 {manifest.sha256}")


@command.command("weights")
@click.argument("name")
@click.option(
    "--in", "source", type=click.Path(file_okay=False, path_type=Path), help="Folder. [default: results/data]"
)
@click.pass_context
def list_weights(ctx: click.Context, name: str, source: Path | None) -> None:
    """Read the Hugging Face folder NAME once and list its files, which a run holds it against."""
    from orchestrator import data, weights

    path = weights.prepare(source or workspace_of(ctx).home / "results" / "data", name)
    click.echo(f"{path}  sha256 {data.file_sha256(path)}")


@command.command("push")
@click.argument("name")
@click.option("--cluster", required=True, metavar="NAME", help="A file of cluster/.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_context
def push(ctx: click.Context, name: str, cluster: str, quiet: bool) -> None:
    """Bring a token file to the data folder of every node, checked by SHA-256."""
    from orchestrator import ui
    from orchestrator.cluster import Cluster
    from orchestrator.hosts import known_hosts_file
    from orchestrator.load import load
    from orchestrator.parcels import hand_out
    from orchestrator.remote import Pool

    workspace = workspace_of(ctx)
    path = workspace.cluster_file(cluster)
    site = load(path, Cluster, shown_as=workspace.shown(path))
    names = tuple(node.name for node in site.nodes)
    with Pool.open(site, site.nodes, known_hosts_file(workspace, cluster, site)) as pool:
        source = workspace.home / "results" / "data"
        hand_out(pool, name, source=source, folder=site.data_dir, nodes=names, view=ui.view(quiet=quiet))
    click.echo(f"{name} is on {', '.join(names)} in {site.data_dir}")
