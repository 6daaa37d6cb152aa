"""MMMU(val) → prompts and images for the trainer and, apart from them, the answer key.

Two forms of a subject's folder are read, both with the columns of the published data set:

    <Subject>/validation-*.parquet    as published; needs pyarrow
    <Subject>/validation.jsonl        one object a line; image_1 … are names of files beside it

The prompt is that of the published evaluation (MMMU's llava1.5.yaml): question, options, one line on how to
answer; it shows the first image of each question.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import ConfigError, Problem
from orchestrator.multimodal.conversations import PLACEHOLDER, Conversation, is_image_name
from orchestrator.multimodal.layout import Named, missing_part
from orchestrator.multimodal.preparedset import (
    IMAGE_FOLDER,
    SetForm,
    SetManifest,
    SetWriter,
    listed_sources,
    new_folder,
    refuse_taken,
)
from orchestrator.multimodal.template import encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.multimodal.description import Questions
    from orchestrator.multimodal.preparedset import StoredFile
    from orchestrator.tokenizers import Tokenizer

QUESTIONS = "questions.jsonl"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_COLUMNS = ("id", "question", "options", "answer", "question_type", *_IMAGES)
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}

Kind = Literal["multiple-choice", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`image` is the content of the first of `num_images` images."""

    id: str
    subject: str
    kind: Kind
    text: str
    options: tuple[str, ...]
    answers: tuple[str, ...]
    image: bytes
    image_suffix: str
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """`answers`: the right letter of a multiple choice, or every accepted short answer."""

    id: str
    subject: str
    kind: Kind
    options: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The answer key of one set of questions. It stays on the host; the trainer never sees it."""

    schema: Literal[1]
    name: str
    entries: tuple[KeyEntry, ...]


class MisfitError(ValueError):
    """A row that is no question."""


def key_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.key.json"


def prepare_questions(
    root: Path, questions: Questions, *, name: str, tokenizer: Tokenizer, folder: Path
) -> SetManifest:
    """Makes `folder`/`name` and its key from what lies under `root`.

    Raises ConfigError: E716 for missing parts, E720 for a name that is taken, E723 without pyarrow where it
    is needed, E724 for rows that are no questions.
    """
    refuse_taken(folder, name)
    files = _files(root / questions.root, questions.subjects)
    found, problems = [], Named()
    for subject, paths in files.items():
        for row, where in _rows(paths):
            try:
                found.append(_question(row, subject=subject, beside=paths[0].parent))
            except MisfitError as error:
                problems.add(Problem(code="E724", file=where, message=str(error)))
    for question_id in _repeated([question.id for question in found]):
        problems.add(Problem(code="E724", message=f"the question {question_id} is there twice"))
    problems.raise_any(f"{len(found)} questions")
    sources = sorted(path for paths in files.values() for path in paths)
    with new_folder(folder, name) as beside:
        return write_questions(
            found,
            questions,
            name=name,
            tokenizer=tokenizer,
            folder=beside,
            key=key_file(folder, name),
            source=listed_sources(sources, root=root),
        )


def _files(root: Path, subjects: tuple[str, ...]) -> dict[str, list[Path]]:
    files, missing = {}, []
    for subject in subjects:
        found = sorted((root / subject).glob("validation-*.parquet"))
        lines = root / subject / "validation.jsonl"
        files[subject] = [lines] if lines.is_file() else found
        if not (root / subject).is_dir():
            missing.append(missing_part(root / subject, "folder"))
        elif not files[subject]:
            missing.append(missing_part(root / subject / "validation-00000-of-00001.parquet", "file"))
    if missing:
        raise ConfigError(missing)
    return files


def _rows(paths: list[Path]) -> Iterator[tuple[Any, str]]:
    for path in paths:
        rows = _parquet(path) if path.suffix == ".parquet" else _lines(path)
        for number, row in enumerate(rows, 1):
            yield row, f"{path}:{number}"


def _parquet(path: Path) -> list[Any]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            Problem(
                code="E723",
                file=str(path),
                message="reading Parquet needs the package pyarrow",
                help="pip install pyarrow, or lay out validation.jsonl as docs/data.md has it",
            )
        ) from error
    try:
        table = parquet.read_table(path)
        return list(table.select([name for name in table.column_names if name in _COLUMNS]).to_pylist())
    except Exception as error:  # pyarrow's own classes all derive from bare ones
        raise ConfigError(
            Problem(code="E724", file=str(path), message=f"not a Parquet file that can be read: {error}")
        ) from error


def _lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                Problem(code="E724", file=f"{path}:{number}", message="this line is not JSON")
            ) from error
    return rows


def _question(row: Any, *, subject: str, beside: Path) -> Question:
    """The typed value of one row. Raises MisfitError."""
    if not isinstance(row, dict):
        raise MisfitError("not an object")
    if not (isinstance(row.get("id"), str) and _ID.fullmatch(row["id"])):
        raise MisfitError(f"id {ascii(row.get('id'))[:80]}: letters, digits, '_', '.' and '-' are wanted")
    kind, text = row.get("question_type"), row.get("question")
    if kind not in {"multiple-choice", "open"}:
        raise MisfitError(f"question_type {ascii(kind)[:80]}: multiple-choice or open is wanted")
    if not isinstance(text, str) or PLACEHOLDER in text:
        raise MisfitError(f"no question, or one with {PLACEHOLDER} in it")
    options = _texts(row.get("options")) if kind == "multiple-choice" else ()
    answers = _answers(row.get("answer"), kind=kind, options=options)
    image, suffix = _image(row.get("image_1"), beside)
    return Question(
        id=row["id"],
        subject=subject,
        kind=kind,
        text=text,
        options=options,
        answers=answers,
        image=image,
        image_suffix=suffix,
        num_images=sum(row.get(name) is not None for name in _IMAGES),
    )


def _texts(value: Any) -> tuple[str, ...]:
    """A list of texts, or the published columns' way to write one: Python's repr."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise MisfitError("options or answers are no list of texts")
    return tuple(value)


def _answers(value: Any, *, kind: str, options: tuple[str, ...]) -> tuple[str, ...]:
    if kind == "open":
        as_list = isinstance(value, list) or (isinstance(value, str) and value.startswith("["))
        answers = _texts(value) if as_list else (value,)
        if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
            raise MisfitError("no answer")
        return answers
    if not 2 <= len(options) <= 26:
        raise MisfitError(f"{len(options)} options")
    if value not in letters(options):
        raise MisfitError(f"the answer {ascii(value)[:20]} is none of {', '.join(letters(options))}")
    return (value,)


def letters(options: tuple[str, ...]) -> tuple[str, ...]:
    """A, B, C … for each option."""
    return tuple(chr(ord("A") + at) for at in range(len(options)))


def _image(value: Any, beside: Path) -> tuple[bytes, str]:
    content: Any
    if isinstance(value, str) and is_image_name(value):
        try:
            content = (beside / value).read_bytes()
        except OSError as error:
            raise MisfitError(f"its image {beside / value}: {error.strerror}") from None
    else:
        content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes) or not content:
        raise MisfitError("no first image")
    return content, next((suffix for magic, suffix in _SUFFIXES.items() if content.startswith(magic)), ".bin")


def _repeated(ids: list[str]) -> list[str]:
    seen: set[str] = set()
    return [one for one in ids if one in seen or seen.add(one)]  # type: ignore[func-returns-value]


def prompt(question: Question) -> str:
    """The published evaluation's words for one question."""
    if question.kind == "open":
        return f"{question.text}\nAnswer the question using a single word or phrase."
    choices = "".join(
        f"({letter}) {option}\n"
        for letter, option in zip(letters(question.options), question.options, strict=True)
    )
    return f"{question.text}\n{choices}\nAnswer with the option's letter from the given choices directly."


def write_questions(
    found: list[Question],
    questions: Questions,
    *,
    name: str,
    tokenizer: Tokenizer,
    folder: Path,
    key: Path,
    source: StoredFile | None,
) -> SetManifest:
    """Writes the files of a set of questions into the empty `folder`, and the answers to `key`."""
    from orchestrator.results import write_atomic

    images = folder / IMAGE_FOLDER
    images.mkdir()
    form = SetForm(
        kind="questions",
        name=name,
        dataset=questions.dataset,
        template="v1-prompt",
        image=questions.image,
        image_positions=questions.image_positions,
        model_max_length=None,
        images_in_set=True,
    )
    content = _key(found, name=name)
    with (
        SetWriter(folder, form=form, tokenizer=tokenizer, images=images) as writer,
        (folder / QUESTIONS).open("x", encoding="utf-8", newline="\n") as listing,
    ):
        for number, question in enumerate(found):
            image = f"{question.id}{question.image_suffix}"
            (images / image).write_bytes(question.image)
            words = prompt(question)
            turns = (("human", f"{PLACEHOLDER}\n{words}"),)
            asked = Conversation(number=number, image=image, turns=turns)
            tokens = encode(asked, template="v1-prompt", tokenizer=tokenizer)
            writer.add(tokens, image=image, words=asked.words)
            listing.write(json.dumps(_listed(question, image=image, words=words), ensure_ascii=True) + "\n")
        listing.close()
        write_atomic(key, content)
        return writer.finish(
            source=source, key_sha256=hashlib.sha256(content).hexdigest(), further=(QUESTIONS,)
        )


def _listed(question: Question, *, image: str, words: str) -> dict[str, Any]:
    return {
        "id": question.id,
        "subject": question.subject,
        "kind": question.kind,
        "image": image,
        "num_images": question.num_images,
        "prompt": words,
    }


def _key(found: list[Question], *, name: str) -> bytes:
    entries = tuple(
        KeyEntry(id=one.id, subject=one.subject, kind=one.kind, options=one.options, answers=one.answers)
        for one in found
    )
    document = asdict(Key(schema=1, name=name, entries=entries))
    return (json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
