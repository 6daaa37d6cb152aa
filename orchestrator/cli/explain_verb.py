"""`nx8 explain`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import language
from orchestrator.cli.common import json_text

if TYPE_CHECKING:
    from orchestrator.catalogue import Entry
    from orchestrator.messages import Language

LABELS = {
    "zh": {"cause": "原因：{}", "fix": "解决：{}", "unwritten": "（尚无中文）", "end": "退出码 {}，始于 {}"},
    "en": {"cause": "cause: {}", "fix": "fix: {}", "unwritten": "", "end": "exit code {}, since {}"},
}


@click.command("explain")
@click.argument("codes", nargs=-1, metavar="[CODE]...")
@language.option("Words of the explanation.", tables=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, in both languages.")
def command(codes: tuple[str, ...], lang: Language, as_json: bool) -> None:
    """Say what an error code means, how it comes about and what helps.

    Without CODE, list all of them. E312, e312 and 312 are the same.
    """
    from orchestrator.catalogue import catalogue, normalised

    known = catalogue()
    wanted = [normalised(code) for code in codes]
    _refuse_unknown(wanted, known)
    chosen = {code: known[code] for code in wanted or known}
    if as_json:
        rows = [_row(code, entry) for code, entry in chosen.items()]
        click.echo(json_text({"schema": 1, "codes": rows}))
    elif not wanted:
        for code, entry in chosen.items():
            click.echo(f"{code}  {entry.meaning(lang).title}")
    else:
        click.echo("\n\n".join(described(code, entry, lang) for code, entry in chosen.items()))


def described(code: str, entry: Entry, lang: Language) -> str:
    """One code in words: what, why, what next, and where it leads."""
    labels, meaning = LABELS[lang], entry.meaning(lang)
    unwritten = labels["unwritten"] if entry.zh is None else ""
    said = (("cause", meaning.cause), ("fix", meaning.fix))
    lines = [labels[part].format(text) for part, text in said if text]
    return "\n".join(
        [f"{code}  {meaning.title}{unwritten}", *lines, labels["end"].format(entry.exits, entry.since)]
    )


def _row(code: str, entry: Entry) -> dict[str, Any]:
    def words(lang: Language) -> dict[str, str | None] | None:
        meaning = entry.zh if lang == "zh" else entry.en
        if meaning is None:
            return None
        return {"title": meaning.title, "cause": meaning.cause, "fix": meaning.fix}

    return {
        "code": code,
        "exits": [entry.exit, *entry.also],
        "since": entry.since,
        "en": words("en"),
        "zh": words("zh"),
    }


def _refuse_unknown(wanted: list[str], known: dict[str, Entry]) -> None:
    """Raises ConfigError (E860) naming, for every unknown code, the nearest one."""
    from orchestrator.catalogue import nearest
    from orchestrator.errors import ConfigError, Problem

    unknown = [code for code in wanted if code not in known]
    if unknown:
        near = [nearest(code, tuple(known)) for code in unknown]
        raise ConfigError(
            Problem(
                code="E860",
                message=f"{code[:40]!a} is no code of nx8",
                help=f"the nearest is {one}: {known[one].en.title}\nnx8 explain lists all",
            )
            for code, one in zip(unknown, near, strict=True)
        )
