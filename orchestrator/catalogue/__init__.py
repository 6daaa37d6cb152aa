"""What every error code means, in Chinese and English: the only place that says so.

One file for each hundred of codes; `nx8 explain` and docs/errors.md are made from them. An entry without
`zh`, cause or fix was taken over from a row of docs/errors.md (`make docs`) and still wants words: a test
names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from orchestrator.load import load
from orchestrator.text import Pattern

if TYPE_CHECKING:
    from orchestrator.messages import Language

FOLDER = Path(__file__).parent
#: First digit of a code → its file, which is also what the codes of that hundred are about.
FILES = {
    "0": "setup",
    "1": "configuration",
    "2": "nodes",
    "3": "images",
    "4": "devices",
    "5": "training",
    "6": "leases",
    "7": "storage",
    "8": "reports",
}

Words = Annotated[str, Pattern(r"^[^\x00-\x1f\x7f|]{2,600}$", "words on one line, without '|'")]
Version = Annotated[str, Pattern(r"^[0-9]+\.[0-9]+$", "a version such as '0.1'")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A code in one language: what it is, how it comes about, and what helps, whatever the details are."""

    title: Words
    cause: Words | None = None
    fix: Words | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One code. `exit` is nx8's exit code when nothing worse happened (docs/exit-codes.md); `also` lists
    others it can lead to, where the same thing goes wrong in another part.
    """

    exit: int
    also: tuple[int, ...] = ()
    since: Version
    en: Meaning
    zh: Meaning | None = None

    @property
    def exits(self) -> str:
        return ", ".join(str(code) for code in (self.exit, *self.also))

    def meaning(self, language: Language) -> Meaning:
        """In `language` where that is written, else in English."""
        return self.zh if language == "zh" and self.zh is not None else self.en

    @property
    def missing(self) -> tuple[str, ...]:
        """The words still to be written, such as 'zh.fix'."""
        return tuple(
            f"{language}.{part}"
            for language, meaning in (("en", self.en), ("zh", self.zh))
            for part in ("title", "cause", "fix")
            if meaning is None or getattr(meaning, part) is None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One file of the catalogue."""

    schema: Literal[1]
    codes: dict[Annotated[str, Pattern(r"^E[0-9]{3}$", "a code such as E101")], Entry]


def chapter_file(code: str) -> Path:
    """Where the entry of `code` stands."""
    return FOLDER / f"{FILES[code[1]]}.yaml"


@cache
def catalogue() -> dict[str, Entry]:
    """Every entry by its code, in order. Raises ConfigError where a file of ours does not fit."""
    found: dict[str, Entry] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        found |= load(path, Chapter, shown_as=f"orchestrator/catalogue/{path.name}").codes
    return dict(sorted(found.items()))


def normalised(text: str) -> str:
    """'e312' and '312' are E312; anything else stays what it is."""
    return f"E{match[1]}" if (match := re.fullmatch(r"[eE]?([0-9]{3})", text.strip())) else text.strip()


def nearest(code: str, known: tuple[str, ...]) -> str:
    """The known code that `code` was most likely meant to be: the longest common beginning, then the next
    number.
    """
    number = int("".join(re.findall(r"[0-9]", code))[:3] or 0)

    def distance(other: str) -> tuple[int, int]:
        common = next((n for n in range(len(other), 0, -1) if code[:n] == other[:n]), 0)
        return -common, abs(number - int(other[1:]))

    return min(known, key=distance)
