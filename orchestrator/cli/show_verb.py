"""`nx8 show`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import language
from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.history.judging import Finding
    from orchestrator.history.questions import Line
    from orchestrator.history.record import Accepted
    from orchestrator.messages import Language

MOST_CHANGES = 8


@click.command("show")
@click.argument("run", default="latest")
@click.option("--proxy", is_flag=True, help="Also judge proxies and rehearsals, against their own kind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@language.option("Words.", tables=False)
@click.pass_context
def command(ctx: click.Context, run: str, proxy: bool, as_json: bool, lang: Language) -> None:
    """Show one run beside its history: each figure, its band, and what changed.

    RUN is a run's name, its folder, or 'latest'; a run that `nx8 gc` removed is still known by its name.
    """
    from orchestrator.errors import ConfigError
    from orchestrator.gate import Rule
    from orchestrator.history import questions, reading
    from orchestrator.history.files import unknown
    from orchestrator.history.judging import findings
    from orchestrator.messages import translated
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
            click.echo(translated(note, lang), err=True)
    if not lines:
        raise missing or unknown(f"run {run_id} has no result that history can keep", f"nx8 parse {run_id}")
    if as_json:
        click.echo(json_text(document(lines, judged, accepted)))
    else:
        click.echo(words(lines, judged, accepted, lang))


def words(
    lines: tuple[Line, ...], judged: tuple[Finding, ...], accepted: tuple[Accepted, ...], lang: Language
) -> str:
    from orchestrator.messages import reason_text, say

    first = lines[0]
    text = [say("show.head", lang, run=first.run_id, at=first.created_utc, code=first.exit_code)]
    for line in lines:
        degraded = say("show.degraded", lang) if line.degraded else ""
        text.append(f"{line.series.title}  {line.verdict}{degraded}")
        if line.reason:
            text.append(f"  {reason_text(line.reason, lang)}")
        own = [one for one in judged if one.judged.point.cell_id == line.cell_id]
        text += (f"  {word}" for finding in own for word in finding_lines(finding, lang))
        if not own and line.verdict == "MEASURED":
            why = "degraded" if line.degraded else say("show.scope", lang, scope=line.series.scope)
            text.append(f"  {say('show.not_judged', lang, why=why)}")
    text += [
        say(
            "show.accepted",
            lang,
            who=one.who,
            at=one.at_utc,
            cell=one.cell_id or say("show.every_cell", lang),
            reason=one.reason,
        )
        for one in accepted
    ]
    return "\n".join(text)


def finding_lines(one: Finding, lang: Language) -> list[str]:
    from orchestrator.doctor.table import pad
    from orchestrator.messages import say, translated

    judged = one.judged
    lines = [
        say(
            "show.figure",
            lang,
            metric=one.metric,
            value=f"{judged.point.value:.4g}",
            unit=one.unit,
            kind=say(f"kind.{judged.kind}", lang),
            why=translated(judged.verdict.why, lang),
        )
    ]
    if one.changes:
        lines.append(f"  {say('changes.since', lang, run=judged.last_good)}")
        lines += [
            f"    {pad(change.kind_text(lang), 11)} {change.text(lang)}"
            for change in one.changes[:MOST_CHANGES]
        ]
        if len(one.changes) > MOST_CHANGES:
            lines.append(f"    {say('show.more', lang, n=len(one.changes) - MOST_CHANGES)}")
    elif judged.kind in ("regression", "suspect") and judged.last_good:
        lines.append(f"  {say('changes.none', lang, run=judged.last_good)}")
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
