"""`nx8 trend`"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import language
from orchestrator.cli.common import json_text, workspace_of

if TYPE_CHECKING:
    from orchestrator.history.judging import Course
    from orchestrator.messages import Language

BARS = "▁▂▃▄▅▆▇█"
MARKS = {"regression": "▼", "improvement": "▲", "suspect": "?", "recovered": "≈", "accepted": "✓"}
METRICS = ["tokens_per_second_per_device", "loss", "memory_used_bytes", "acc_mmmu"]


@click.command("trend")
@click.argument("case", required=False)
@click.option("--cluster", metavar="NAME", help="Only series of this cluster.")
@click.option(
    "--metric", type=click.Choice(METRICS), default=METRICS[0], show_default=True, help="Which metric."
)
@click.option(
    "-n", "newest", type=click.IntRange(min=2), default=90, show_default=True, help="How many points."
)
@click.option("--proxy", is_flag=True, help="Also proxies and rehearsals, each a trend of its own kind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, every point with its verdict.")
@language.option("Words.", tables=False)
@click.pass_context
def command(
    ctx: click.Context,
    case: str | None,
    cluster: str | None,
    metric: str,
    newest: int,
    proxy: bool,
    as_json: bool,
    lang: Language,
) -> None:
    """Show how a metric went, series by series, with its band.

    Only MEASURED cells that are not degraded. Proxies and rehearsals are shown with --proxy, or where there
    is nothing else; they are never judged against anything but their own kind.
    """
    from orchestrator.gate import Rule
    from orchestrator.history import questions, reading
    from orchestrator.history.judging import course
    from orchestrator.messages import say, translated

    with reading(workspace_of(ctx).results) as (connection, note):
        every = questions.all_series(connection, case=case, cluster=cluster)
        full = [one for one in every if one.scope == "full"]
        shown = list(every) if proxy else full or list(every)
        courses = [course(connection, one, metric, Rule()) for one in shown]
        if note:
            click.echo(translated(note, lang), err=True)
        if shown and not full and not proxy:
            click.echo(say("trend.rehearsals", lang), err=True)
    courses = [one for one in courses if one.points]
    if as_json:
        text = json_text({"schema": 1, "series": [document(one, newest) for one in courses]})
        click.echo(text)
    else:
        click.echo("\n".join(words(one, newest, lang) for one in courses) or say("trend.nothing", lang))


def words(one: Course, newest: int, lang: Language) -> str:
    """Some lines a series."""
    from orchestrator.messages import say, translated

    judged = one.trend.judged[-newest:]
    last = judged[-1]
    verdict = last.verdict
    band = say("trend.no_band", lang)
    if verdict.band_low is not None and verdict.band_high is not None and verdict.median is not None:
        low, high, median = (f"{one:.4g}" for one in (verdict.band_low, verdict.band_high, verdict.median))
        band = say("trend.band", lang, low=low, high=high, median=median)
    last_said = say(
        "trend.last",
        lang,
        value=f"{last.point.value:.4g}",
        unit=one.unit,
        band=band,
        n=verdict.n,
        kind=say(f"kind.{last.kind}", lang),
        why=translated(verdict.why, lang),
    )
    lines = [
        say("trend.head", lang, title=one.series.title, steps=one.series.steps),
        f"  {sparkline([point.point.value for point in judged])}",
        f"  {last_said}",
    ]
    lines += [
        f"  {MARKS[point.kind]} {day(point.point.at_s)} {say(f'kind.{point.kind}', lang)}"
        f" {point.point.value:.4g}  {point.point.run_id}"
        for point in judged
        if point.kind in MARKS and (point.new or point.kind in ("accepted", "suspect"))
    ][-8:]
    moved = ((day(one.points[step.index].at_s), f"{step.change:+.1%}") for step in one.drift)
    lines += [f"  ~ {say('trend.moved', lang, day=at, change=change)}" for at, change in moved][-4:]
    return "\n".join(lines)


def day(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"


def sparkline(values: list[float]) -> str:
    low, high = min(values), max(values)
    if high == low:
        return BARS[3] * len(values)
    return "".join(BARS[min(7, int((value - low) / (high - low) * 8))] for value in values)


def document(one: Course, newest: int) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "series": asdict(one.series),
        "metric": one.metric,
        "unit": one.unit,
        "state": one.trend.state,
        "points": [asdict(point) for point in one.trend.judged[-newest:]],
        "change_points": [{**asdict(step), "run_id": one.points[step.index].run_id} for step in one.drift],
    }
