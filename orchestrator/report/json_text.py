"""Report → JSON: documents and tables as a program reads them. schemas/report.schema.json describes it; the
raw figures with all that stands behind them are in result.json.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.parse.visible import visible
from orchestrator.report.model import build, guarded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.messages import Language
    from orchestrator.report.columns import TableCell
    from orchestrator.report.model import Report
    from orchestrator.report.reference import Block, Entry, Reference, Row

SCHEMA = "nx8.report/1"
MAX_CHARS = 2000


def json_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """One object; rows by column name, notes by number. Raises ConfigError (E801)."""
    report = build(result, language)
    document = {
        "schema": SCHEMA,
        "run_id": _shown(report.run_id),
        "language": report.language,
        "columns": [{"name": name, "heading": report.headings[name]} for name in report.columns],
        "rows": guarded(
            result,
            lambda: [_row(row, cell) for row, cell in zip(report.rows, result["cells"], strict=True)],
        ),
        "documents": [_reference(one, report) for one in report.references],
        "notes": {str(number): _shown(text) for number, text in enumerate(report.notes, start=1)},
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _shown(text: str) -> str:
    return visible(text, limit=MAX_CHARS)


def _row(row: Row, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cell_id": _shown(row.cell_id),
        "case": _shown(row.case),
        "verdict": row.verdict,
        "proxy": row.proxy,
        "reasons": [_shown(reason) for reason in cell["reasons"]],
        "texts": {name: _shown(one.text) for name, one in row.texts.items()},
        "metrics": {
            name: {key: metric[key] for key in ("value", "unit", "direction", "reason", "formula")}
            for name, metric in cell["metrics"].items()
        },
        "notes": sorted({number for one in row.texts.values() for number in one.notes}),
    }


def _reference(one: Reference, report: Report) -> dict[str, Any]:
    return {
        "case": _shown(one.case),
        "title": _shown(one.title),
        "environment": [_block(block) for block in one.environment],
        "batch": [_entry(entry) for entry in one.batch],
        "general": [
            {"name": row.name, "label": row.label, **_value(row.value), "remark": _shown(row.remark)}
            for row in one.general
        ],
        "preface": None if one.preface is None else _shown(one.preface),
        "columns": [{"name": name, "heading": report.headings[name]} for name in one.columns],
        "cells": [_shown(row.cell_id) for row in one.rows],
    }


def _block(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "heading": _shown(block.heading),
        "entries": [_entry(entry) for entry in block.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    value = {"text": None, "notes": []} if entry.value is None else _value(entry.value)
    return {"label": _shown(entry.label), **value, "children": [_entry(child) for child in entry.children]}


def _value(cell: TableCell) -> dict[str, Any]:
    return {"text": _shown(cell.text), "notes": list(cell.notes)}
