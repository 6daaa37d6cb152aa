"""Result documents that others published: read, checked, kept as YAML, written as Markdown again."""

from __future__ import annotations

from orchestrator.published.lint import findings_of, lint
from orchestrator.published.model import Column, Document, Finding, KnownDevice, Row
from orchestrator.published.reading import read_document

__all__ = [
    "Column",
    "Document",
    "Finding",
    "KnownDevice",
    "Row",
    "findings_of",
    "lint",
    "read_document",
]
