"""Report → CSV: the table's columns by their heading, and beside them what a reader needs to trust a row."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from orchestrator.report.escape import field
from orchestrator.report.model import build

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.messages import Language

#: Columns of ours after the published ones.
EXTRA = ("verdict", "proxy", "run_id", "cell_id", "notes")


def csv_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """UTF-8 text, one heading line, lines ended by a newline. Raises ConfigError (E801)."""
    report = build(result, language)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(field(report.headings[name]) for name in report.columns), *EXTRA])
    for row in report.rows:
        cells = [row.texts[name] for name in report.columns]
        numbers = dict.fromkeys(number for cell in cells for number in cell.notes)
        extra = {
            "verdict": row.verdict,
            "proxy": "yes" if row.proxy else "no",
            "run_id": report.run_id,
            "cell_id": row.cell_id,
            "notes": "; ".join(report.notes[number - 1] for number in numbers),
        }
        writer.writerow([*(field(cell.text) for cell in cells), *(field(extra[name]) for name in EXTRA)])
    return text.getvalue()
