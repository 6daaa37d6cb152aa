"""mmmu.py: answers are read by written rules, and a score stands only on its proofs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import mmmu, multimodal
from orchestrator.errors import ConfigError
from orchestrator.mmmu import Answer, Answers
from orchestrator.multimodal.questions import Key, KeyEntry

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ("a cat", "a dog's ear", "seven", "$5,000")
KEY_SHA256 = "ab" * 32


def entry(number: int, *, subject: str = "Art", answers: tuple[str, ...] = ("B",), **change: Any) -> KeyEntry:
    values = {"id": f"q{number}", "subject": subject, "kind": "multiple-choice", "options": OPTIONS}
    return KeyEntry(**{**values, "answers": answers, **change})


def key(*entries: KeyEntry) -> Key:
    return Key(schema=1, name="test", entries=entries)


def scored(answers: Answers, of: Key, **change: Any) -> mmmu.Score:
    known = {"key_sha256": KEY_SHA256, "planned_key_sha256": KEY_SHA256, "exit_code": 0}
    return mmmu.score(answers, of, **{**known, **change})


def said(**texts: str) -> Answers:
    return Answers(values=tuple(Answer(id=name, text=text) for name, text in texts.items()))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("(B) a dog's ear", "B"),
        ("The answer is B", "B"),
        ("The answer is (B).", "B"),
        ("Not (A) but (B)", "B"),
        ("Not (B) but (A)", "A"),
        ("A or B", "B"),
        ("(A) beats B", "A"),
        ("I think that it shows a dog's ear today", "B"),
        ("It shows SEVEN things of all sorts there", "C"),
        ("first a cat and then, later on, seven", "C"),
        ("", None),
        ("E", None),
        ("b", None),
        ("ABBA", None),
        ("a dog's ear", None),  # five words or fewer are not searched for an option
        ("no idea what this is meant to be", None),
    ],
)
def test_a_choice_is_read_by_the_rules_and_never_guessed(text: str, letter: str | None) -> None:
    assert mmmu.choice(text, OPTIONS) == letter
    judged = mmmu.judge(entry(1), text)
    assert (judged.read, judged.correct) == (letter, letter == "B")


@pytest.mark.parametrize(
    ("text", "accepted", "fits"),
    [
        ("24/7", ("24/7", "3.429"), True),
        ("3.43", ("24/7", "3.429"), True),
        ("The answer is 3.429", ("3.429",), True),
        ("x = 3.4288", ("3.429",), True),
        ("$1,250", ("1250",), True),
        ("-2", ("2",), False),
        ("12", ("2",), False),
        ("so it is a Burgundian style", ("burgundian",), True),
        ("Baroque", ("burgundian",), False),
        ("It is 5.\nTherefore the result is 7", ("7",), True),
        ("1e3", ("1000",), True),
        ("I", ("i",), True),
        ("iota", ("i",), False),
        ("", ("7",), False),
        ("inf", ("7",), False),
    ],
)
def test_a_short_answer_fits_by_its_words_or_by_its_number(
    text: str, accepted: tuple[str, ...], fits: bool
) -> None:
    judged = mmmu.judge(entry(1, kind="open", options=(), answers=accepted), text)
    assert judged.correct is fits


@given(text=st.text(), letter=st.sampled_from("ABCD"))
@settings(max_examples=200, deadline=None)
def test_whatever_a_model_says_is_judged_and_always_alike(text: str, letter: str) -> None:
    multiple, short = entry(1, answers=(letter,)), entry(2, kind="open", options=(), answers=("7", "seven"))
    for one in (multiple, short):
        assert mmmu.judge(one, text) == mmmu.judge(one, text)


def test_an_endless_answer_is_judged_soon() -> None:
    text = "is " * 2_000_000 + "7"
    assert not mmmu.judge(entry(1, kind="open", options=(), answers=("8",)), text).correct


def test_the_score_is_by_subject_and_in_all_with_an_interval() -> None:
    of = key(*(entry(number, subject="Art" if number < 4 else "Math") for number in range(10)))
    texts = {f"q{number}": "B" if number in (0, 1, 4, 5, 6) else "A" for number in range(10)}
    made = scored(said(**texts), of)
    assert all(proof.held for proof in made.proofs)
    assert made.total is not None
    assert (made.total.correct, made.total.n, made.total.accuracy) == (5, 10, 0.5)
    # Wilson's interval for 5 of 10, as in Brown, Cai and DasGupta (2001).
    assert made.total.low == pytest.approx(0.2366, abs=5e-5)
    assert made.total.high == pytest.approx(0.7634, abs=5e-5)
    assert {name: (one.correct, one.n) for name, one in made.by_subject.items()} == {
        "Art": (2, 4),
        "Math": (3, 6),
    }


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (323, 900, 0.3282, 0.3908)]
)
def test_wilsons_interval_holds_at_the_ends_too(correct: int, n: int, low: float, high: float) -> None:
    assert mmmu.wilson(correct, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_an_answer_that_cannot_be_read_is_wrong_and_counted() -> None:
    made = scored(said(q1="B", q2="no idea"), key(entry(1), entry(2)))
    assert made.total is not None
    assert (made.total.correct, made.total.n, made.num_unread) == (1, 2, 1)
    assert made.judged[1].read is None


TWO = key(entry(1), entry(2))
BOTH = said(q1="B", q2="B")


@pytest.mark.parametrize(
    ("answers", "change", "proof", "words"),
    [
        (said(q1="B"), {}, "answers_once", "1 without an answer: q2"),
        (
            Answers(values=(*BOTH.values, *BOTH.values[:1])),
            {},
            "answers_once",
            "1 answered more than once: q1",
        ),
        (said(q1="B", q2="B", q3="B"), {}, "answers_once", "1 not in the key: q3"),
        (replace(BOTH, unread_lines=2), {}, "answers_once", "2 lines that are no answers"),
        (BOTH, {"key_sha256": "cd" * 32}, "answer_key", f"planned {KEY_SHA256}"),
        (BOTH, {"exit_code": 1}, "evaluation_exit", "exit code 1"),
        (BOTH, {"exit_code": None}, "evaluation_exit", "never ended by itself"),
    ],
)
def test_without_a_proof_there_is_no_number(
    answers: Answers, change: dict[str, Any], proof: str, words: str
) -> None:
    made = scored(answers, TWO, **change)
    broken = {one.name: one.detail for one in made.proofs if not one.held}
    assert list(broken) == [proof]
    assert words in broken[proof]
    assert (made.total, made.by_subject) == (None, {})


def test_no_question_at_all_is_no_score() -> None:
    made = scored(Answers(values=()), key())
    assert made.total is None
    assert not made.proofs[0].held


def test_a_proof_names_a_few_and_lets_no_control_character_through() -> None:
    made = scored(said(**{f"x{number}\x1b[2J": "B" for number in range(9)}), TWO)
    detail = made.proofs[0].detail
    assert "9 not in the key: " in detail
    assert "…" in detail
    assert detail.isprintable()


def test_lines_of_answers_are_read_and_the_rest_is_counted() -> None:
    lines = [
        b'{"id": "q1", "text": "B", "tokens": [66]}\n',
        b"\n",
        b"half a li",
        b"[]",
        b'{"id": 1, "text": "B"}',
    ]
    assert mmmu.read_answers(lines) == Answers(values=(Answer(id="q1", text="B"),), unread_lines=3)


def test_a_stored_key_is_read_with_its_sha256_and_belongs_to_its_questions(tmp_path: Path) -> None:
    manifest = multimodal.prepare_proxy("mmmu-proxy", folder=tmp_path)
    path = tmp_path / "mmmu-proxy.key.json"
    of, digest = mmmu.read_key(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == manifest.key_sha256
    listed = (tmp_path / "mmmu-proxy" / "questions.jsonl").read_text().splitlines()
    assert [one.id for one in of.entries] == [json.loads(line)["id"] for line in listed]
    perfect = Answers(values=tuple(Answer(id=one.id, text=one.answers[0]) for one in of.entries))
    made = scored(perfect, of, key_sha256=digest, planned_key_sha256=str(manifest.key_sha256))
    assert made.total is not None
    assert (made.total.accuracy, made.num_unread, len(made.by_subject)) == (1.0, 0, 3)


def test_a_key_that_is_missing_or_cut_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "q.key.json"
    with pytest.raises(ConfigError, match="E725"):
        mmmu.read_key(path)
    path.write_text('{"schema": 1, "name": "q"')
    with pytest.raises(ConfigError, match="E602"):
        mmmu.read_key(path)
