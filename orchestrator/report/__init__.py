"""One result document → each case's published document and what stands around it, in any form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.report.json_text import json_text
from orchestrator.report.junit import junit_text
from orchestrator.report.markdown import report_text
from orchestrator.report.mllog import mllog_text
from orchestrator.report.prometheus import prometheus_text
from orchestrator.report.separated import csv_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.messages import Language

FORMS: dict[str, Callable[[Mapping[str, Any], Language], str]] = {
    "md": report_text,
    "csv": csv_text,
    "json": json_text,
    "junit": junit_text,
    "prometheus": prometheus_text,
    "mllog": mllog_text,
}


def document(result: Mapping[str, Any], form: str, language: Language = "zh") -> str:
    """The report on `result` in one of FORMS. Raises ConfigError (E801) for a result that is not one."""
    return FORMS[form](result, language)
