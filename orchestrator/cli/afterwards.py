"""What stands below the problems of an error: where to read more, and in Chinese what each code means."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.errors import Problem
    from orchestrator.messages import Language

#: More codes than these are not listed: whoever has so many begins with the first.
MAX_CODES = 4


def afterwards(problems: Iterable[Problem], language: Language) -> list[str]:
    """In English one line, and only where a problem does not say itself what to do next. In Chinese also the
    meaning of each code, since a problem's details are in English.
    """
    problems = tuple(problems)
    if language == "zh":
        codes = _distinct(problems)
        return [*_meanings(codes), f"详细解释：nx8 explain {' '.join(codes)}"] if codes else []
    codes = _distinct(problem for problem in problems if not problem.help)
    return [f"more: nx8 explain {' '.join(codes)}"] if codes else []


def _distinct(problems: Iterable[Problem]) -> list[str]:
    return list(dict.fromkeys(problem.code for problem in problems))[:MAX_CODES]


def _meanings(codes: list[str]) -> list[str]:
    """Never a second failure: without a readable catalogue the error stands for itself."""
    from orchestrator.catalogue import catalogue
    from orchestrator.errors import Nx8Error

    try:
        known = catalogue()
    except Nx8Error:
        return []
    return [f"{code}：{known[code].meaning('zh').title}" for code in codes if code in known]
