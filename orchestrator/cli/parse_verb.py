"""`nx8 parse`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.reparse import Outcome, Unreadable

#: Held against the dialects by a test; here so that help loads none of them.
DIALECT_NAMES = ("events", "deepspeed", "megatron", "huggingface", "flagperf", "torchtitan", "mllog")


@click.command("parse")
@click.argument("things", nargs=-1, metavar="[RUN | FILE...]")
@click.option(
    "--all", "everything", is_flag=True, help="Every stored run: which figures moved, by how much and why."
)
@click.option(
    "--dialect",
    type=click.Choice(["auto", *DIALECT_NAMES]),
    default="auto",
    show_default=True,
    help="Of log files: what wrote them.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of log files: what they do not say themselves, such as sequence_length=4096.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="CSV|LOG",
    help="Of log files: a loss curve to follow from step 21 on, within 2 %.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of log files: form of the output.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json, for stored runs too.")
@click.pass_context
def command(
    ctx: click.Context,
    things: tuple[str, ...],
    everything: bool,
    dialect: str,
    settings: tuple[str, ...],
    reference: Path | None,
    form: str,
    as_json: bool,
) -> int:
    """Recompute a stored run and compare, or read figures from any training log.

    Nothing is replaced: where today's parser comes to another result, it is written beside, under reparse/.
    Exit 0 when the result is the same byte for byte, else 4.

    With FILEs, logs of any training run in any dialect we know: figures, marked as not proven. Exit 4 when
    a log contradicts itself or does not reach its end, 1 when it does not follow --reference.
    """
    files = [Path(thing) for thing in things]
    if everything:
        _refuse_more_than_all(things)
        return _all(ctx, as_json=as_json)
    if files and all(file.is_file() for file in files):
        return _files(
            files, dialect=dialect, settings=settings, reference=reference, form="json" if as_json else form
        )
    _refuse_mixture(
        files, asked=dialect != "auto" or bool(settings) or reference is not None or form != "text"
    )
    return _run(ctx, things[0] if things else "latest", as_json=as_json)


def _run(ctx: click.Context, run: str, *, as_json: bool) -> int:
    from orchestrator.reparse import reparse
    from orchestrator.results import RunFolder

    folder = RunFolder.find(workspace_of(ctx).runs, run)
    outcome = reparse(folder)
    click.echo(_json((outcome,)) if as_json else outcome.message)
    return outcome.exit_code


def _json(outcomes: tuple[Outcome | Unreadable, ...]) -> str:
    rows = [{"run": one.run_id, "exit_code": int(one.exit_code), "message": one.message} for one in outcomes]
    return json_text({"schema": 1, "runs": rows})


def _all(ctx: click.Context, *, as_json: bool) -> int:
    from orchestrator.errors import worst
    from orchestrator.reparse import reparse_all

    outcomes = []
    for outcome in reparse_all(workspace_of(ctx).runs):
        if not as_json:
            click.echo(outcome.message)
        outcomes.append(outcome)
    codes = [one.exit_code for one in outcomes]
    if as_json:
        click.echo(_json(tuple(outcomes)))
        return worst(codes)
    moved = sum(code != 0 for code in codes)
    click.echo(f"{len(codes)} runs, {moved} of them not as stored")
    return worst(codes)


def _refuse_more_than_all(things: tuple[str, ...]) -> None:
    from orchestrator.errors import ConfigError, Problem

    if things:
        raise ConfigError(
            Problem(code="E810", message="--all means every stored run", help="name none beside it")
        )


def _files(
    files: list[Path], *, dialect: str, settings: tuple[str, ...], reference: Path | None, form: str
) -> int:
    from orchestrator.logfile import document, exit_code, known_of, read_log, read_reference
    from orchestrator.logfile.table import table_text

    known = known_of(settings)
    curve = None if reference is None else read_reference(reference, known)
    results = [read_log(file, known, dialect=dialect, reference=curve) for file in files]
    if form == "json":
        click.echo(json_text(document(results)))
    else:
        click.echo(table_text(results), nl=False)
    return exit_code(results)


def _refuse_mixture(files: list[Path], *, asked: bool) -> None:
    """Several things, or options of log files, want every argument to be a plain file. Raises ConfigError
    (E810, E814).
    """
    from orchestrator.errors import ConfigError, Problem
    from orchestrator.parse.visible import visible

    missing = [visible(str(file)) for file in files if not file.is_file()]
    if len(files) > 1 or (files and asked):
        raise ConfigError(
            [
                Problem(
                    code="E810", message=f"{file} is no log file", help="nx8 parse takes one RUN, or FILEs"
                )
                for file in missing
            ]
        )
    if asked:
        raise ConfigError(
            Problem(
                code="E814",
                message="--dialect, --set, --reference and --format are for log files, and none was named",
                help="nx8 parse FILE… --set sequence_length=4096",
            )
        )
