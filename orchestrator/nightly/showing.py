"""A night in words: its report, and one block for each confirmed change. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.doctor.table import pad
from orchestrator.messages import reason_text, say

if TYPE_CHECKING:
    from orchestrator.messages import Language
    from orchestrator.nightly.document import Night, Ran, Said

MOST_CHANGES = 5
#: Cells of the longest kind of a figure.
KIND = 11


def text(night: Night) -> str:
    """The whole report, in the night's language."""
    lang = night.language
    head = {"suite": night.suite, "cluster": night.cluster, "vendor": night.vendor, "at": night.started_utc}
    lines = [say("night.head", lang, **head), _ended(night)]
    for name, problems in night.doctor.items():
        node = name or say("night.this_machine", lang)
        lines += [say("night.doctor", lang, node=node, problem=night.shown(one)) for one in problems]
    lines += [_ran(one, night) for one in night.ran]
    not_begun = night.planned[len([one for one in night.ran if not one.rerun]) :]
    lines += [say("night.not_begun", lang, name=named(name, lang)) for name in not_begun]
    lines += [say("night.note", lang, note=night.shown(note)) for note in night.notes]
    lines += [""] if night.figures else []
    lines += [_figure(one, night) for one in night.figures]
    return "\n".join([*lines, "", *blocks(night)]).rstrip() + "\n"


def _ended(night: Night) -> str:
    if night.ended_utc is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return say("night.not_ended", night.language, at=now)
    state = say(f"state.{night.state}", night.language)
    return say("night.ended", night.language, state=state, at=night.ended_utc, code=night.exit_code)


def named(name: str, language: Language) -> str:
    """A run of the night, as its item is called: CASE [STAGES] all nodes, or so many."""
    found = re.fullmatch(r"(.+) (?:all|([0-9]+)) nodes", name)
    if found is None:
        return name
    if found[2] is None:
        return say("night.all_nodes", language, name=found[1])
    return say("night.num_nodes", language, name=found[1], n=found[2])


def _ran(one: Ran, night: Night) -> str:
    lang = night.language
    what = ", ".join(f"{cell} {verdict}" for cell, verdict in one.verdicts.items())
    parts = [
        say(
            "night.again" if one.rerun else "night.ran",
            lang,
            name=named(one.name, lang),
            what=what or say("night.not_run", lang),
        )
    ]
    parts += [say("night.exit", lang, code=one.exit_code)] if one.exit_code else []
    parts += [one.run_id] if one.run_id else []
    parts += [reason(one, night)] if one.reason else []
    parts += [say("night.replaced", lang, bad=bad, spare=spare) for bad, spare in one.replaced.items()]
    parts += [say("night.left_out", lang, bad=bad, why=night.shown(why)) for bad, why in one.left_out.items()]
    return "  ".join(parts)


def reason(one: Ran, night: Night) -> str:
    """Why a run did not measure: what the night knows of it, or a verdict's reason."""
    words = one.reason or ""
    return night.chinese.get(words) or reason_text(words, "zh") if night.language == "zh" else words


def _against(one: Said, language: Language) -> str:
    return say("night.against", language, row=one.against) if one.against else ""


def _figure(one: Said, night: Night) -> str:
    lang = night.language
    said = say(
        "night.figure",
        lang,
        title=one.title,
        metric=one.metric,
        value=f"{one.value:.4g}",
        unit=one.unit,
        against=_against(one, lang),
        why=night.shown(one.why),
    )
    return f"{pad(say(f'kind.{one.kind}', lang), KIND)} {said}"


def blocks(night: Night) -> list[str]:
    """One block for each confirmed change: how much, since when, what changed, what to do."""
    return [line for one in night.outside for line in block(one, night)]


def block(one: Said, night: Night) -> list[str]:
    lang = night.language
    limit = one.band_low if one.change is not None and one.change < 0 else one.band_high
    how = [] if one.change is None else [f"{one.change:+.1%}"]
    how += [] if limit is None else [say("block.limit", lang, limit=f"{limit:.4g}")]
    how += [say("block.runs", lang, n=one.runs), say("block.nights", lang, n=one.nights)] if one.runs else []
    lines = [
        say(
            "block.head",
            lang,
            kind=say(f"block.{one.kind}", lang) + (say("block.rehearsal", lang) if one.rehearsed else ""),
            title=one.title,
            metric=one.metric,
            value=f"{one.value:.4g}",
            than="" if one.median is None else say("block.than", lang, median=f"{one.median:.4g}"),
            unit=one.unit,
            against=_against(one, lang),
            how=say("comma", lang).join(how),
        )
    ]
    if one.kind == "recovered":
        return lines
    if one.changes:
        lines.append(f"  {say('changes.since', lang, run=one.last_good)}")
        lines += [f"    {night.shown(change)}" for change in one.changes[:MOST_CHANGES]]
        more = len(one.changes) - MOST_CHANGES
        lines += [f"    {say('block.more', lang, n=more, run=one.run_id)}"] if more > 0 else []
    elif one.last_good:
        lines.append(f"  {say('changes.none', lang, run=one.last_good)}")
    look, accept = say("block.look", lang), say("block.accept", lang)
    lines += [f"  {look}nx8 compare {one.last_good} {one.run_id}"] if one.last_good else []
    lines.append(f'  {accept}nx8 accept {one.run_id} --cell {one.cell_id} --reason "…"')
    return lines


def worth_saying(night: Night, *, busy_in_a_row: int) -> list[str]:
    """What cron should send although nothing regressed. A cluster that is busy once is normal."""
    lang = night.language
    if night.state == "skipped":
        notes = "; ".join(night.shown(note) for note in night.notes)
        return [say("worth.busy", lang, rows=busy_in_a_row, notes=notes)] if busy_in_a_row > 1 else []
    lines = [
        say("worth.not_well", lang, name=named(one.name, lang), reason=reason(one, night))
        for one in night.ran
        if one.exit_code
    ]
    lines += [
        say("worth.replaced", lang, name=named(one.name, lang), bad=bad, spare=spare)
        for one in night.ran
        for bad, spare in one.replaced.items()
    ]
    lines += [
        say("worth.left_out", lang, name=named(one.name, lang), bad=bad, why=night.shown(why))
        for one in night.ran
        for bad, why in one.left_out.items()
    ]
    return lines + [say("worth.note", lang, note=night.shown(note)) for note in night.notes]
