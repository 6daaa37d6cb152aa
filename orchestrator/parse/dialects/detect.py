"""Which dialect a log is written in, by what was read in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.parse.dialects import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.parse.dialects import Heard, Reading, StepLine

#: One of these makes a line one of training: a bar's clock or a table of arguments alone does not.
TELLING = (
    "loss",
    "step_time_s",
    "samples_per_second",
    "running_samples_per_second",
    "tokens_per_second_per_device",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The dialect of a log, why, and those that fill in what it leaves out."""

    dialect: str
    evidence: str
    beside: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """No dialect, or more than one that cannot be of one program; `candidates` with their evidence."""

    candidates: tuple[tuple[str, str], ...]


def choose(reading: Reading) -> Choice | Unclear:
    """The dialect that spoke of training. One that yields to another found as well stands beside it."""
    spoke = {heard.dialect: evidence for heard in reading.heard if (evidence := _evidence(heard))}
    yields_to = {dialect.name: dialect.yields_to for dialect in DIALECTS}
    leading = [name for name in spoke if not any(other in spoke for other in yields_to[name])]
    if len(leading) != 1:
        return Unclear(candidates=tuple(spoke.items()))
    beside = tuple(name for name in spoke if name != leading[0])
    return Choice(dialect=leading[0], evidence=spoke[leading[0]], beside=beside)


def chosen(reading: Reading, name: str) -> Choice:
    """The dialect a person named; others that yield to it stand beside."""
    spoke = {heard.dialect: evidence for heard in reading.heard if (evidence := _evidence(heard))}
    beside = tuple(
        dialect.name for dialect in DIALECTS if dialect.name in spoke and name in dialect.yields_to
    )
    return Choice(dialect=name, evidence=f"named; {spoke.get(name, 'no line of it')}", beside=beside)


def _evidence(heard: Heard) -> str:
    """How many lines of training, and where the first stands; empty for none."""
    telling = [step.line for step in heard.steps if tells(step)]
    closing = [one.line for one in heard.stated if one.name in ("ended", "tokens_per_second_per_device")]
    lines = telling or closing
    if not lines:
        return ""
    kind = "of training" if telling else "of its end"
    return f"{len(lines)} line{'s' if len(lines) > 1 else ''} {kind}, the first is line {lines[0]}"


def tells(step: StepLine) -> bool:
    return bool(step.not_finite) or any(getattr(step, name) is not None for name in TELLING)


def merged(reading: Reading, choice: Choice) -> Sequence[Heard]:
    """What the chosen dialect and those beside it heard, the chosen one first."""
    by_name = {heard.dialect: heard for heard in reading.heard}
    return [by_name[name] for name in (choice.dialect, *choice.beside)]
