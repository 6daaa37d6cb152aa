"""Is everything there that a stage is made from? Looks, names what is missing file by file, makes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.multimodal.conversations import Conversation, MisfitError, misfit, read
from orchestrator.multimodal.template import suits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.multimodal.description import Description

#: How many missing files, and how many samples that do not fit, are named one by one; the rest is counted.
MAX_NAMED = 20


def check(root: Path, description: Description) -> int:
    """How many samples there are, all with their images. Raises ConfigError: E716 for a missing part of the
    layout, E717 for missing or empty images, E718 and E719 for conversations that cannot be read.
    """
    missing = list(missing_parts(root, description))
    if missing:
        raise ConfigError(missing)
    source, images = root / description.source, root / description.images
    seen: set[str] = set()
    problems = Named()
    count = 0
    for item in read(source):
        count += 1
        if not isinstance(item, Conversation):
            problems.add(item)
            continue
        try:
            suits(item, template=description.template)
        except MisfitError as error:
            problems.add(misfit(source, item.number, str(error)))
        if item.image is not None and item.image not in seen:
            seen.add(item.image)
            problem = missing_image(images, item.image, number=item.number)
            if problem is not None:
                problems.add(problem)
    if count == 0:
        problems.add(Problem(code="E718", file=str(source), message="not one conversation in it"))
    problems.raise_any(f"{count} samples with {len(seen)} images")
    return count


class Named:
    """Collects problems by code: the first of each are kept, the others counted."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Problem]] = {}
        self._counts: dict[str, int] = {}

    def add(self, problem: Problem) -> None:
        kept = self._kept.setdefault(problem.code, [])
        self._counts[problem.code] = self._counts.get(problem.code, 0) + 1
        if len(kept) < MAX_NAMED:
            kept.append(problem)

    def raise_any(self, among: str) -> None:
        """Raises ConfigError with what was kept and, where that is not all, how many there are `among`."""
        problems = [
            problem for code in self._kept for problem in (*self._kept[code], *self._rest(code, among))
        ]
        if problems:
            raise ConfigError(problems)

    def _rest(self, code: str, among: str) -> Iterator[Problem]:
        rest = self._counts[code] - len(self._kept[code])
        if rest:
            yield Problem(code=code, message=f"and {rest} more like these among {among}")


def missing_parts(root: Path, description: Description) -> Iterator[Problem]:
    source = root / description.source
    if not source.is_file():
        yield missing_part(source, "file")
    for folder in description.folders:
        if not (root / folder).is_dir():
            yield missing_part(root / folder, "folder")


def missing_part(path: Path, what: str) -> Problem:
    return Problem(
        code="E716",
        file=str(path),
        message=f"this {what} is missing",
        help="docs/data.md shows the whole layout and where its parts come from",
    )


def missing_image(images: Path, name: str, *, number: int) -> Problem | None:
    """None when the image is there and not empty."""
    path = images / name
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Problem(
            code="E717", file=str(path), message=f"the image of sample {number}: {why}", help=_twin(path)
        )
    if empty:
        return Problem(code="E717", file=str(path), message=f"the image of sample {number} is an empty file")
    return None


def _twin(path: Path) -> str | None:
    """OCR-VQA's images come in several formats, and the conversations name all of them .jpg."""
    found = [path.with_suffix(suffix) for suffix in (".png", ".gif", ".jpeg", ".JPG")]
    there = next((twin for twin in found if twin.is_file()), None)
    return f"{there.name} is there: store it as {path.name}, in that format" if there else None
