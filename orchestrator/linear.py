"""Regular expressions that stand in data and can never be slow.

A data file may name a regular expression, and Python's engine backtracks: `(a+)+$` takes years on thirty
letters. Here one is accepted only if it is deterministic: after any character there is one way to go on, so
that a line is read once, from left to right, whatever it holds. Decided on the positions automaton
(Glushkov 1961; Brüggemann-Klein and Wood, "One-unambiguous regular languages", 1998).
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

#: Latin-1, and one more for every other character.
OTHER = 256
ALPHABET = frozenset(range(257))
DIGITS = frozenset(range(0x30, 0x3A))
SPACES = frozenset(b" \t\n\r\f\v")
WORDS = DIGITS | frozenset(range(0x41, 0x5B)) | frozenset(range(0x61, 0x7B)) | {0x5F}
#: Positions an expression may have; `x{3}` has three.
MAX_POSITIONS = 600
MAX_COPIES = 32

parser: Any = importlib.import_module("re._parser")
names: Any = importlib.import_module("re._constants")


@lru_cache(maxsize=512)
def compiled(regex: str) -> re.Pattern[str]:
    """The expression, ready to match. Raises ValueError for one that `complaint` is about."""
    wrong = complaint(regex)
    if wrong:
        raise ValueError(wrong)
    return re.compile(regex, re.ASCII)


@lru_cache(maxsize=512)
def complaint(regex: str) -> str | None:
    """Why this expression may not stand in data, or None."""
    try:
        tree = parser.parse(regex, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{regex!r} is not a regular expression: {error}"
    if tree.state.flags & ~(re.ASCII | re.UNICODE):
        return f"{regex!r} sets flags; write the letters that are meant instead"
    automaton = _Automaton()
    try:
        start = automaton.sequence(list(tree))
    except _NotLinearError as error:
        return f"{regex!r} {error}"
    for following in (start.first, *automaton.follow):
        seen: set[int] = set()
        for position in sorted(following):
            letters = automaton.letters[position]
            if seen & letters:
                shown = min(seen & letters)
                what = repr(chr(shown)) if shown < OTHER else "some letter"
                return f"{regex!r} can read {what} in two ways at one place, so a match could be slow"
            seen |= letters
    return None


class _NotLinearError(Exception):
    pass


@dataclass
class _Part:
    nullable: bool = True
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)


class _Automaton:
    """Every place where a character is read (a position), and which may follow which."""

    def __init__(self) -> None:
        self.letters: list[frozenset[int]] = []
        self.follow: list[set[int]] = []

    def sequence(self, tree: list[Any]) -> _Part:
        whole = _Part()
        for operator, argument in tree:
            whole = self._joined(whole, self._part(operator, argument))
        return whole

    def _part(self, operator: Any, argument: Any) -> _Part:
        if operator in (names.LITERAL, names.NOT_LITERAL, names.ANY, names.IN):
            return self._position(_letters(operator, argument))
        if operator is names.AT and argument in (names.AT_BEGINNING, names.AT_END):
            return _Part()
        if operator is names.SUBPATTERN and not argument[1] and not argument[2]:
            return self.sequence(list(argument[3]))
        if operator is names.BRANCH:
            parts = [self.sequence(list(branch)) for branch in argument[1]]
            if sum(part.nullable for part in parts) > 1:
                raise _NotLinearError("has two alternatives that may both be empty")
            return _Part(
                nullable=any(part.nullable for part in parts),
                first={position for part in parts for position in part.first},
                last={position for part in parts for position in part.last},
            )
        if operator is names.MAX_REPEAT:
            return self._repeated(*argument)
        raise _NotLinearError(
            f"uses {str(operator).lower()}, which is not offered: groups, classes, |, ?, * and + are"
        )

    def _position(self, letters: frozenset[int]) -> _Part:
        self.letters.append(letters)
        self.follow.append(set())
        if len(self.letters) > MAX_POSITIONS:
            raise _NotLinearError(f"is too long: more than {MAX_POSITIONS} places")
        here = {len(self.letters) - 1}
        return _Part(nullable=False, first=here, last=set(here))

    def _joined(self, left: _Part, right: _Part) -> _Part:
        self._connect(left.last, right.first)
        return _Part(
            nullable=left.nullable and right.nullable,
            first=left.first | (right.first if left.nullable else set()),
            last=right.last | (left.last if right.nullable else set()),
        )

    def _connect(self, before: set[int], after: set[int]) -> None:
        for position in before:
            if self.follow[position] & after:
                raise _NotLinearError(
                    "repeats what already repeats, so it can go on in two ways at one place"
                )
            self.follow[position] |= after

    def _repeated(self, least: int, most: Any, tree: Any) -> _Part:
        endless = most is names.MAXREPEAT
        copies = max(least, 1) if endless else int(most)
        if copies > MAX_COPIES:
            raise _NotLinearError(f"repeats more than {MAX_COPIES} times by count")
        parts = [self.sequence(list(tree)) for _ in range(copies)]
        if any(part.nullable for part in parts):
            raise _NotLinearError("repeats something that may be empty")
        if endless:
            self._connect(parts[-1].last, parts[-1].first)
        # x{2,4} is xx(x(x)?)?: each further copy only after the one before it.
        whole = _Part()
        for number, part in reversed(list(enumerate(parts))):
            joined = self._joined(part, whole)
            whole = _Part(nullable=number >= least, first=joined.first, last=joined.last)
        return whole


def _letters(operator: Any, argument: Any) -> frozenset[int]:
    if operator is names.LITERAL:
        return frozenset({min(argument, OTHER)})
    if operator is names.NOT_LITERAL:
        return ALPHABET - {argument} if argument < OTHER else ALPHABET
    if operator is names.ANY:
        return ALPHABET - {0x0A}
    negated = bool(argument) and argument[0][0] is names.NEGATE
    inside: frozenset[int] = frozenset()
    for kind, value in argument[1:] if negated else argument:
        inside |= _of_class(kind, value)
    if negated:
        # A letter beyond Latin-1 that is excluded says nothing about the others.
        return ALPHABET - (inside - {OTHER})
    return inside


def _of_class(kind: Any, value: Any) -> frozenset[int]:
    if kind is names.LITERAL:
        return frozenset({min(value, OTHER)})
    if kind is names.RANGE:
        low, high = value
        return frozenset(min(code, OTHER) for code in range(low, min(high, OTHER) + 1)) | (
            {OTHER} if high >= OTHER else frozenset()
        )
    by_name = {
        names.CATEGORY_DIGIT: DIGITS,
        names.CATEGORY_NOT_DIGIT: ALPHABET - DIGITS,
        names.CATEGORY_SPACE: SPACES,
        names.CATEGORY_NOT_SPACE: ALPHABET - SPACES,
        names.CATEGORY_WORD: WORDS,
        names.CATEGORY_NOT_WORD: ALPHABET - WORDS,
    }
    if kind is names.CATEGORY and value in by_name:
        return by_name[value]
    raise _NotLinearError("has a class that is not offered")
