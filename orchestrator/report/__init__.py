"""One result document → the published table and what stands around it, as Markdown, CSV or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.report.json_text import json_text
from orchestrator.report.markdown import report_text
from orchestrator.report.separated import csv_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.messages import Language

_WRITERS = {"md": report_text, "csv": csv_text, "json": json_text}


def document(result: Mapping[str, Any], form: str, language: Language = "zh") -> str:
    """The report on `result` as `md`, `csv` or `json`. Raises ConfigError (E801) for a result that is not
    one.
    """
    return _WRITERS[form](result, language)
