"""The result document → Report: documents, rows, notes and sections in one language, ready for any format.
Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import ConfigError, Problem
from orchestrator.messages import Language, proof_text, reason_text, say
from orchestrator.report.columns import Notes, config_text
from orchestrator.report.figures import facts_of_cell, facts_of_run
from orchestrator.report.reference import Reference, Row, columns_of, references, table_rows
from orchestrator.results import SCHEMA, WRONG_SHAPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What stands below the tables about one cell. `proofs`: (name, held, detail)."""

    cell_id: str
    heading: str
    verdict: str
    facts: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    proofs: tuple[tuple[str, bool, str], ...]
    cause_rank: int | None
    traceback: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Texts as they are: the writer of a format escapes them. `notes` are numbered from 1, as
    TableCell.notes. `rows` are all cells', in their order; `references` has them again, case by case.
    """

    language: Language
    run_id: str
    columns: tuple[str, ...]
    headings: dict[str, str]
    references: tuple[Reference, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of all cells alone, their notes numbered from 1."""

    columns: tuple[str, ...]
    headings: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build(result: Mapping[str, Any], language: Language) -> Report:
    """The report on one result document. Raises ConfigError (E801) when it is not of our schema."""
    return guarded(result, lambda: _report(result, language))


def table(result: Mapping[str, Any], language: Language) -> Table:
    """The rows alone. Raises ConfigError (E801) when `result` is not of our schema."""
    return guarded(result, lambda: _table(result, language))


def guarded(result: Mapping[str, Any], make: Callable[[], T]) -> T:
    """What `make` makes of `result`. Raises ConfigError (E801) when that is not of our schema, or holds a
    number that JSON does not have.
    """
    if result.get("schema") != SCHEMA:
        raise _no_result(f"its schema is {result.get('schema')!r}, not {SCHEMA}")
    try:
        if not _finite(result):
            raise _no_result("it holds a number that is not finite")
        return make()
    except WRONG_SHAPE as error:
        raise _no_result(f"{type(error).__name__}: {error}") from error


def _finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(_finite(one) for one in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(one) for one in value)
    return not isinstance(value, float) or math.isfinite(value)


def _no_result(why: str) -> ConfigError:
    help_ = "nx8 parse makes it again from the raw files"
    return ConfigError(Problem(code="E801", message=f"the result cannot be reported: {why}", help=help_))


def _report(result: Mapping[str, Any], language: Language) -> Report:
    notes = Notes()
    columns = columns_of(result["cells"])
    made = references(result, notes, language)
    # The same cells once more, in all columns of the run: every note has its number already.
    rows = table_rows(result["cells"], columns, notes, language)
    return Report(
        language=language,
        run_id=result["run"]["run_id"],
        columns=columns,
        headings=_headings(columns, language),
        references=made,
        rows=rows,
        notes=notes.texts,
        facts=facts_of_run(result, language),
        sections=tuple(_section(cell, language) for cell in result["cells"]),
    )


def _table(result: Mapping[str, Any], language: Language) -> Table:
    notes = Notes()
    columns = columns_of(result["cells"])
    rows = table_rows(result["cells"], columns, notes, language)
    return Table(columns=columns, headings=_headings(columns, language), rows=rows, notes=notes.texts)


def _headings(columns: tuple[str, ...], language: Language) -> dict[str, str]:
    return {name: say(f"column.{name}", language) for name in columns}


def _section(cell: Mapping[str, Any], language: Language) -> Section:
    return Section(
        cell_id=cell["cell_id"],
        heading=config_text(cell, language),
        verdict=cell["verdict"],
        facts=facts_of_cell(cell, language),
        reasons=tuple(reason_text(reason, language) for reason in cell["reasons"]),
        proofs=tuple(
            (proof_text(proof["name"], language), proof["held"], proof["detail"]) for proof in cell["proofs"]
        ),
        cause_rank=cell["cause_rank"],
        traceback=cell["traceback"],
    )
