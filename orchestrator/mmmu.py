"""Stored answers + answer key → acc(MMMU), and the proofs it stands on. Pure, but for the two readers.

The rules for reading an answer are those of MMMU's own evaluation (eval_utils.py), without its random choice:
an answer that cannot be read is wrong.

A multiple choice, after the punctuation , . ! ? ; : ' around it is taken away:
1. letters of options in round brackets, anywhere: "(B)";
2. else letters of options that stand alone between spaces: "B", "it is B";
3. else, in an answer of more than five words, options whose text is in it, whatever the case.
Where a step finds several, the one that stands last counts. Where no step finds any, the answer is unread.

A short answer is right when an accepted answer is part of what it says, or is a number in it, rounded to two
decimals. What it says: in each of its lines, the words after the last "could be", "so", "is", "thus",
"therefore", "final", "answer" or "result" (and "=" in the last line) that leaves least; where no line
has any of these, all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.load import read_stored
from orchestrator.multimodal.questions import Key, KeyEntry, letters
from orchestrator.verdict.proofs import Proof

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Of the normal distribution, for 95 %.
Z = 1.959963984540054
#: How many ids a proof names.
MAX_NAMED = 5
_AROUND = ",.!?;:'"
_SAYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBER = re.compile(
    r"-?\b\d{1,3}(?:,\d{3})+\b"  # 12,345
    r"|-?\d+(?:\.\d+)?[eE][+-]?\d+"  # 1.2e-3
    r"|-?(?:\d+\.\d+|\.\d+|\d+\b)"
)
#: No answer that a person would count as one is longer; the rest is not looked at.
MAX_ANSWER_CHARS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said to one question, decoded, nothing removed."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """`unread_lines` of the file are no answers at all."""

    values: tuple[Answer, ...]
    unread_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """`read` is the letter, or null for an answer that could not be read; for short answers the text."""

    id: str
    subject: str
    read: str | None
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`correct` of `n` as a fraction, with Wilson's 95 % interval."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`total` and `by_subject` are there only when every proof holds: no proof, no number."""

    total: Share | None
    by_subject: dict[str, Share]
    num_unread: int
    proofs: tuple[Proof, ...]
    judged: tuple[Judged, ...]


def score(
    answers: Answers, key: Key, *, key_sha256: str, planned_key_sha256: str, exit_code: int | None
) -> Score:
    """`key_sha256` is of the key file that was read, `planned_key_sha256` of the manifest of the questions;
    `exit_code` is the evaluation's, null when it never ended by itself. Never raises on what a model said.
    """
    given = {answer.id: answer.text for answer in answers.values}
    judged = tuple(judge(entry, given[entry.id]) for entry in key.entries if entry.id in given)
    proofs = (
        _every_question_once(answers, key),
        _same_key(key_sha256, planned_key_sha256),
        Proof(name="evaluation_exit", held=exit_code == 0, detail=_exit_words(exit_code)),
    )
    proven = all(proof.held for proof in proofs) and bool(judged)
    subjects = tuple(dict.fromkeys(entry.subject for entry in key.entries))
    return Score(
        total=share(judged) if proven else None,
        by_subject={
            subject: share(tuple(one for one in judged if one.subject == subject)) for subject in subjects
        }
        if proven
        else {},
        num_unread=sum(one.read is None for one in judged),
        proofs=proofs,
        judged=judged,
    )


def _every_question_once(answers: Answers, key: Key) -> Proof:
    wanted = [entry.id for entry in key.entries]
    counts = Counter(answer.id for answer in answers.values)
    wrong = {
        "without an answer": [one for one in wanted if not counts[one]],
        "answered more than once": [one for one in wanted if counts[one] > 1],
        "not in the key": sorted(counts.keys() - set(wanted)),
    }
    said = [f"{len(ids)} {what}: {_named(ids)}" for what, ids in wrong.items() if ids]
    if answers.unread_lines:
        said.append(f"{answers.unread_lines} lines that are no answers")
    held = not said and bool(wanted)
    detail = "; ".join(said) or f"{len(wanted)} questions, each answered once"
    return Proof(name="answers_once", held=held, detail=detail)


def _named(ids: list[str]) -> str:
    return ", ".join(ascii(one)[1:-1][:80] for one in ids[:MAX_NAMED]) + (" …" if ids[MAX_NAMED:] else "")


def _same_key(seen: str, planned: str) -> Proof:
    detail = f"sha256 {seen}" if seen == planned else f"sha256 {seen}, planned {planned}"
    return Proof(name="answer_key", held=seen == planned, detail=detail)


def _exit_words(exit_code: int | None) -> str:
    return "the evaluation never ended by itself" if exit_code is None else f"exit code {exit_code}"


def judge(entry: KeyEntry, text: str) -> Judged:
    """One answer held against the key."""
    text = text[:MAX_ANSWER_CHARS]
    if entry.kind == "multiple-choice":
        read = choice(text, entry.options)
        correct = read in entry.answers
    else:
        read = text.strip() or None
        correct = read is not None and short_answer_fits(read, entry.answers)
    return Judged(id=entry.id, subject=entry.subject, read=read, correct=correct)


def choice(text: str, options: tuple[str, ...]) -> str | None:
    """The letter that an answer chooses, None when it cannot be read; the module says by which rules."""
    for mark in _AROUND:
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        last = {letter: text.rfind(form.format(letter)) for letter in letters(options)}
        if max(last.values(), default=-1) >= 0:
            return max(last, key=last.__getitem__)
    if len(text.split()) <= 5:
        return None
    lowered = text.lower()
    last = {
        letter: lowered.rfind(option.lower())
        for letter, option in zip(letters(options), options, strict=True)
        if option
    }
    return max(last, key=last.__getitem__) if max(last.values(), default=-1) >= 0 else None


def short_answer_fits(text: str, accepted: tuple[str, ...]) -> bool:
    """Whether a short answer says one of the accepted ones; the module says by which rules."""
    said: set[str | float] = set()
    for part in _sayings(text):
        for piece in (part, *(found.group() for found in _NUMBER.finditer(part))):
            said.update(_normal(piece))
    for wanted in (form for answer in accepted for form in _normal(answer)):
        if isinstance(wanted, float):
            if wanted in said:
                return True
        elif any(isinstance(one, str) and wanted in one for one in said):
            return True
    return False


def _sayings(text: str) -> list[str]:
    lowered = text.strip().strip(".").lower()
    lines = lowered.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        marks = (*_SAYS, "=") if number == len(lines) else _SAYS
        tails = [line.rsplit(mark, 1)[1].strip() for mark in marks if mark in line]
        shortest = min((tail for tail in tails if tail), key=len, default="")
        if shortest and shortest not in _AROUND:
            found.append(shortest)
    return found or [lowered]


def _normal(text: str) -> tuple[str | float, ...]:
    """A number rounded to two decimals, or the text in lower case; one character only as its own word."""
    text = text.strip()
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        lowered = text.lower()
        return (f" {lowered}", f"{lowered} ") if len(lowered) == 1 else (lowered,)
    return (round(number, 2),) if math.isfinite(number) else (text.lower(),)


def share(judged: tuple[Judged, ...]) -> Share:
    """Raises ValueError for none at all."""
    n, correct = len(judged), sum(one.correct for one in judged)
    if n == 0:
        raise ValueError("no question, no share")
    low, high = wilson(correct, n)
    return Share(correct=correct, n=n, accuracy=correct / n, low=low, high=high)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's score interval for a share, 95 %: it stays within 0 and 1 and holds for small n too."""
    fraction = correct / n
    middle = (fraction + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(fraction * (1 - fraction) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def read_key(path: Path) -> tuple[Key, str]:
    """The answer key and the SHA-256 of its file. Raises ConfigError (E602, E725)."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            Problem(
                code="E725",
                file=str(path),
                message=f"the answer key cannot be read: {error.strerror}",
                help="it is made with its questions, by nx8 data prepare, and stays on this host",
            )
        ) from error
    return read_stored(path, Key), digest


def read_answers(lines: Iterable[bytes]) -> Answers:
    """One JSON object a line, with `id` and `text`; what is none is counted, never guessed."""
    values, unread = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            item = None
        if isinstance(item, dict) and isinstance(item.get("id"), str) and isinstance(item.get("text"), str):
            values.append(Answer(id=item["id"], text=item["text"]))
        else:
            unread += 1
    return Answers(values=tuple(values), unread_lines=unread)
