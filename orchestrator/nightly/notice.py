"""What a night leaves beside its report: the state of the suite, a Prometheus textfile, a word to a command.

A command is told only when something changed: a new regression or improvement, a recovery, a night that did
not end well and the first that does again, two nights in a row that found the cluster busy.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Exit
from orchestrator.messages import say
from orchestrator.nightly.document import OUTSIDE
from orchestrator.nightly.showing import block, named, reason
from orchestrator.results import serialise, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orchestrator.nightly.document import Night

SCHEMA = "nx8.notice/1"
STATE_SCHEMA = "nx8.nightly-state/1"
COMMAND_LIMIT_S = 60.0
NOBODY_TOLD = "E744"
#: Nights that measured all they had to, whatever the gate said.
WELL = (int(Exit.OK), int(Exit.GATE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Suitestate:
    """What is remembered from night to night. `outside`: figure → what it was last called."""

    last_run_s: float | None = None
    last_success_s: float | None = None
    last_exit_code: int | None = None
    busy_in_a_row: int = 0
    outside: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that is not as it was the night before."""

    kind: str
    title: str
    text: str


def read_state(folder: Path) -> Suitestate:
    """Empty where there is none, or none that can be read: then everything is news."""
    try:
        document = json.loads((folder / "state.json").read_bytes())
        return Suitestate(
            last_run_s=document["last_run_s"],
            last_success_s=document["last_success_s"],
            last_exit_code=document["last_exit_code"],
            busy_in_a_row=int(document["busy_in_a_row"]),
            outside={str(key): str(kind) for key, kind in document["outside"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Suitestate()


def write_state(folder: Path, state: Suitestate) -> None:
    """Raises CellError (E701)."""
    write_atomic(folder / "state.json", serialise({"schema": STATE_SCHEMA, **asdict(state)}))


def after(before: Suitestate, night: Night, *, now_s: float) -> tuple[Suitestate, tuple[Event, ...]]:
    """The state that this night leaves, and what is news. Pure."""
    code = int(night.exit_code or 0)
    busy = night.state == "skipped"
    outside = dict(before.outside)
    events: list[Event] = []
    for one in night.figures:
        was = outside.pop(one.key, None)
        if one.kind in ("regression", "improvement"):
            outside[one.key] = one.kind
            if was != one.kind:
                events.append(Event(kind=one.kind, title=one.title, text="\n".join(block(one, night))))
        elif one.kind in ("suspect", "noisy", "not_enough"):
            outside |= {one.key: was} if was else {}
        elif was == "regression":
            told = {"title": one.title, "metric": one.metric, "value": f"{one.value:.4g}", "unit": one.unit}
            text = say("told.recovered", night.language, **told)
            events.append(Event(kind="recovered", title=one.title, text=text))
    was_well = before.last_exit_code is None or before.last_exit_code in WELL
    rows = before.busy_in_a_row + 1 if busy else 0
    if busy:
        if rows == 2:
            events.append(_about(night, "busy"))
    elif code not in WELL and was_well:
        events.append(_about(night, "not_well"))
    elif code in WELL and not was_well:
        events.append(_about(night, "well_again"))
    state = Suitestate(
        last_run_s=now_s,
        last_success_s=now_s if code in WELL and not busy else before.last_success_s,
        last_exit_code=before.last_exit_code if busy else code,
        busy_in_a_row=rows,
        outside=outside,
    )
    return state, tuple(events)


def _about(night: Night, kind: str) -> Event:
    lang = night.language
    what = say(f"told.{kind}", lang, code=night.exit_code)
    colon = say("separator.other", lang)
    reasons = [f"{named(one.name, lang)}{colon}{reason(one, night)}" for one in night.ran if one.reason][:5]
    return Event(kind=kind, title=f"nightly {night.suite}", text="\n".join([what, *reasons]))


def notify(command: tuple[str, ...], night: Night, events: tuple[Event, ...], *, home: Path) -> str | None:
    """Hands the events to a command, as JSON on its standard input. Never raises; returns a line (E744) where
    the command could not be run or said that it failed.
    """
    if not command or not events:
        return None
    document = json.dumps(notice(night, events), ensure_ascii=False, allow_nan=False)
    try:
        done = subprocess.run(
            command,
            input=document.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=COMMAND_LIMIT_S,
            cwd=home,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{NOBODY_TOLD} {command[0]} did not end within {COMMAND_LIMIT_S:.0f} s; nobody was told"
    except (OSError, ValueError) as error:
        return f"{NOBODY_TOLD} {command[0]} cannot be started: {error}; nobody was told"
    if done.returncode:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
        return f"{NOBODY_TOLD} {command[0]} exited {done.returncode}: {last[:200]}"
    return None


def notice(night: Night, events: Iterable[Event]) -> dict[str, Any]:
    """What a command gets: `title` is one line, `text` a few."""
    ones = list(events)
    lang = night.language
    kinds = [say(f"{'block' if one.kind in OUTSIDE else 'event'}.{one.kind}", lang) for one in ones]
    counted = say("comma", lang).join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return {
        "schema": SCHEMA,
        "title": say("told.title", lang, suite=night.suite, cluster=night.cluster, counted=counted),
        "text": "\n\n".join(one.text for one in ones),
        "events": [asdict(one) for one in ones],
        "suite": night.suite,
        "cluster": night.cluster,
        "night_id": night.night_id,
        "exit_code": night.exit_code,
        "report": str(night.folder / "report.txt"),
    }


def textfile(night: Night, state: Suitestate, *, duration_s: float) -> str:
    """The suite for node_exporter's textfile collector. No run id is on any series."""
    labels = f'suite="{night.suite}",cluster="{night.cluster}",vendor="{night.vendor}"'
    verdicts = [verdict for one in night.ran for verdict in one.verdicts.values()]
    counts = {verdict: verdicts.count(verdict) for verdict in ("MEASURED", "INVALID", "FAILED", "NOT_RUN")}
    regressions = sum(one.kind == "regression" for one in night.outside)
    left_out = {name for one in night.ran for name in one.left_out}
    families: list[tuple[str, str, list[tuple[str, float | None]]]] = [
        ("last_run_timestamp_seconds", "When the newest night ended, Unix time.", [("", state.last_run_s)]),
        (
            "last_success_timestamp_seconds",
            "When a night last measured all it had to, Unix time.",
            [("", state.last_success_s)],
        ),
        ("exit_code", "Exit code of the newest night.", [("", float(night.exit_code or 0))]),
        ("duration_seconds", "How long the newest night took.", [("", duration_s)]),
        (
            "cells",
            "Cells of the newest night by verdict.",
            [(f',verdict="{verdict}"', float(count)) for verdict, count in counts.items()],
        ),
        ("regressions", "Confirmed regressions of the newest night.", [("", float(regressions))]),
        ("nodes_left_out", "Nodes that the newest night could not use.", [("", float(len(left_out)))]),
    ]
    lines = []
    for name, help_, samples in families:
        known = [(more, value) for more, value in samples if value is not None]
        if known:
            full = f"nx8_nightly_{name}"
            lines += [f"# HELP {full} {help_}", f"# TYPE {full} gauge"]
            lines += [f"{full}{{{labels}{more}}} {value!r}" for more, value in known]
    return "\n".join(lines) + "\n"
