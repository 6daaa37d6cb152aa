"""The result document → Report: rows, notes and sections in one language, ready for any format. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.messages import Language, say
from orchestrator.report.columns import COLUMNS, Notes, TableCell, table_cell
from orchestrator.report.figures import facts_of_cell, facts_of_run
from orchestrator.results import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; `texts` by column name, never by position."""

    cell_id: str
    verdict: str
    proxy: bool
    texts: dict[str, TableCell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What stands below the table about one cell. `proofs`: (name, held, detail)."""

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
    TableCell.notes.
    """

    language: Language
    title: str
    run_id: str
    columns: tuple[str, ...]
    headings: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def build(result: Mapping[str, Any], language: Language) -> Report:
    """The report on one result document. Raises ConfigError (E801) when it is not of our schema."""
    if result.get("schema") != SCHEMA:
        raise _no_result(f"its schema is {result.get('schema')!r}, not {SCHEMA}")
    try:
        return _report(result, language)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise _no_result(f"{type(error).__name__}: {error}") from error


def _no_result(why: str) -> ConfigError:
    help_ = "nx8 parse makes it again from the raw files"
    return ConfigError(Problem(code="E801", message=f"the result cannot be reported: {why}", help=help_))


def _report(result: Mapping[str, Any], language: Language) -> Report:
    notes = Notes()
    # One table for all cells: a column that any of them has; a cell without it shows `/`, not applicable.
    wanted = {name for cell in result["cells"] for name in cell["columns"]} | {"config"}
    columns = tuple(name for name in COLUMNS if name in wanted)
    rows = tuple(
        Row(
            cell_id=cell["cell_id"],
            verdict=cell["verdict"],
            proxy=cell["proxy"] is not None,
            texts={name: table_cell(name, cell, notes, language) for name in columns},
        )
        for cell in result["cells"]
    )
    cases = ", ".join(dict.fromkeys(cell["case"] for cell in result["cells"]))
    return Report(
        language=language,
        title=f"{say('title', language)}: {cases}"
        if language == "en"
        else f"{say('title', language)}：{cases}",
        run_id=result["run"]["run_id"],
        columns=columns,
        headings={name: say(f"column.{name}", language) for name in columns},
        rows=rows,
        notes=notes.texts,
        facts=facts_of_run(result, language),
        sections=tuple(
            _section(cell, row, language) for cell, row in zip(result["cells"], rows, strict=True)
        ),
    )


def _section(cell: Mapping[str, Any], row: Row, language: Language) -> Section:
    return Section(
        cell_id=cell["cell_id"],
        heading=row.texts["config"].text,
        verdict=cell["verdict"],
        facts=facts_of_cell(cell, language),
        reasons=tuple(cell["reasons"]),
        proofs=tuple((proof["name"], proof["held"], proof["detail"]) for proof in cell["proofs"]),
        cause_rank=cell["cause_rank"],
        traceback=cell["traceback"],
    )
