"""`nx8 show`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.history.judging import Finding
    from orchestrator.history.questions import Line
    from orchestrator.history.record import Accepted

MOST_CHANGES = 8


@click.command("show")
@click.argument("run", default="latest")
@click.option("--proxy", is_flag=True, help="Also judge proxies and rehearsals, against their own kind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def command(ctx: click.Context, run: str, proxy: bool, as_json: bool) -> None:
    """Show one run beside its history: each figure, its band, and what changed.

    RUN is a run's name, its folder, or 'latest'; a run that `nx8 gc` removed is still known by its name.
    """
    from orchestrator.errors import ConfigError
    from orchestrator.gate import Rule
    from orchestrator.history import questions, reading
    from orchestrator.history.files import unknown
    from orchestrator.history.judging import findings
    from orchestrator.results import RunFolder

    workspace = workspace_of(ctx)
    missing: ConfigError | None = None
    try:
        run_id = RunFolder.find(workspace.runs, run).run_id
    except ConfigError as error:
        run_id, missing = run, error
    with reading(workspace.results) as (connection, note):
        lines = questions.lines(connection, "tokens_per_second_per_device", run_id=run_id)
        judged = findings(connection, run_id, Rule(rehearse=proxy))
        accepted = tuple(one for name, one in questions.acceptances(connection) if name == run_id)
        if note:
            click.echo(note, err=True)
    if not lines:
        raise missing or unknown(f"run {run_id} has no result that history can keep", f"nx8 parse {run_id}")
    click.echo(json_text(document(lines, judged, accepted)) if as_json else words(lines, judged, accepted))


def words(lines: tuple[Line, ...], judged: tuple[Finding, ...], accepted: tuple[Accepted, ...]) -> str:
    text = [f"{lines[0].run_id}  {lines[0].created_utc}  exit {lines[0].exit_code}"]
    for line in lines:
        text.append(f"{line.series.title}  {line.verdict}{', degraded' if line.degraded else ''}")
        if line.reason:
            text.append(f"  {line.reason}")
        own = [one for one in judged if one.judged.point.cell_id == line.cell_id]
        text += (word for finding in own for word in finding_lines(finding))
        if not own and line.verdict == "MEASURED":
            why = (
                "degraded"
                if line.degraded
                else f"a {line.series.scope}: --proxy shows it beside its own kind"
            )
            text.append(f"  not judged: {why}")
    text += [
        f"accepted by {one.who} at {one.at_utc}, {one.cell_id or 'every cell'}: {one.reason}"
        for one in accepted
    ]
    return "\n".join(text)


def finding_lines(one: Finding) -> list[str]:
    judged = one.judged
    lines = [f"  {one.metric} {judged.point.value:.4g} {one.unit}  {judged.kind}: {judged.verdict.why}"]
    if one.changes:
        lines.append(f"    changed since {judged.last_good}:")
        lines += [f"      {change.kind:<11} {change.text()}" for change in one.changes[:MOST_CHANGES]]
        if len(one.changes) > MOST_CHANGES:
            lines.append(f"      and {len(one.changes) - MOST_CHANGES} more (--json)")
    elif judged.kind in ("regression", "suspect") and judged.last_good:
        lines.append(f"    nothing that is recorded changed since {judged.last_good}")
    return lines


def document(
    lines: tuple[Line, ...], judged: tuple[Finding, ...], accepted: tuple[Accepted, ...]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "run_id": lines[0].run_id,
        "cells": [asdict(line) for line in lines],
        "findings": [
            {**asdict(one), "changes": [{**asdict(c), "text": c.text()} for c in one.changes]}
            for one in judged
        ],
        "accepted": [asdict(one) for one in accepted],
    }
