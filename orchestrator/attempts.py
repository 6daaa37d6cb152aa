"""One more try for what goes wrong between us and the nodes before anything is started, never a hidden one.

A cell that failed is not tried again: a second try would hide the first. What a node is or lacks is no
accident either, and a node that does not answer has had its time. Only a link that broke is tried once more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import PreflightError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: sshd hung up before the login, a link was lost in the middle, no further channel (docs/errors.md).
TRANSIENT = frozenset({"E203", "E209", "E211"})
MOST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a stage, counted from 1; `problems` is empty for the one that went well."""

    stage: str
    number: int
    problems: tuple[str, ...]


def attempted(
    stage: str, work: Callable[[], T], *, say: Callable[[str, str], None]
) -> tuple[T, list[dict[str, Any]]]:
    """What `work` returns, and every attempt, for host.json. Raises what the last attempt raised; `say` is
    told (stage, why) before another one.
    """
    attempts: list[Attempt] = []
    while True:
        number = len(attempts) + 1
        try:
            done = work()
        except PreflightError as error:
            problems = tuple(f"{one.code} {one.message}" for one in error.problems)
            # Tried again only where that can help with all that is wrong.
            transient = bool(error.problems) and all(one.code in TRANSIENT for one in error.problems)
            if number >= MOST or not transient:
                raise
            attempts.append(Attempt(stage=stage, number=number, problems=problems))
            say(stage, f"tried again: {problems[0]}")
        else:
            attempts.append(Attempt(stage=stage, number=number, problems=()))
            return done, [asdict(one) for one in attempts]
