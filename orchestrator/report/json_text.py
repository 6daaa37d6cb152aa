"""Report → JSON: the table as a program reads it. The numbers themselves, with every digit, are in
result.json.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.parse.visible import visible
from orchestrator.report.model import build

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.messages import Language

SCHEMA = "nx8.report/1"


def json_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """One object; rows by column name, notes by number. Raises ConfigError (E801)."""
    report = build(result, language)
    document = {
        "schema": SCHEMA,
        "run_id": report.run_id,
        "language": report.language,
        "columns": [{"name": name, "heading": report.headings[name]} for name in report.columns],
        "rows": [
            {
                "cell_id": row.cell_id,
                "verdict": row.verdict,
                "proxy": row.proxy,
                "texts": {name: visible(cell.text) for name, cell in row.texts.items()},
                "notes": sorted({number for cell in row.texts.values() for number in cell.notes}),
            }
            for row in report.rows
        ],
        "notes": {
            str(number): visible(text, limit=2000) for number, text in enumerate(report.notes, start=1)
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
