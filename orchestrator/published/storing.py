"""results/published/<name>.yaml, one file a document: written by us, readable by people, read strictly."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load, load_text
from orchestrator.load.source import MAX_BYTES, read_bytes
from orchestrator.parse.visible import encodable, visible
from orchestrator.published.lint import lint
from orchestrator.published.model import Document, Finding, KnownDevice
from orchestrator.published.reading import read_document
from orchestrator.results import write_atomic
from orchestrator.text import NAME_REGEX
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.workspace import Workspace

_HEAD = """\
# Published by others, not measured here. Made by `nx8 published import`; docs/published.md explains the keys.
# raw: Markdown as published; value: tokens/s, nats/token, GiB (mem: value/capacity), a fraction (MFU, acc).
"""
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NOT_BARE = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
#: What YAML does not take as it is, and what it may take for a line's end.
_ESCAPED = re.compile("[^ -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
#: How many names an error message lists.
MAX_LISTED = 10


def known_devices(workspace: Workspace) -> tuple[KnownDevice, ...]:
    """Every device of every vendor's folder with its known peaks. Raises ConfigError for a bad file."""
    return tuple(_known(workspace))


def _known(workspace: Workspace) -> Iterator[KnownDevice]:
    for name in workspace.vendor_names():
        path = workspace.vendor_file(name)
        vendor = load(path, Vendor, shown_as=workspace.shown(path))
        for device, described in vendor.devices.items():
            peaks = tuple(
                (dtype, peak.tflops, peak.source or "")
                for dtype, peak in described.peaks.items()
                if peak.tflops is not None
            )
            yield KnownDevice(vendor=name, name=device, peaks=peaks)


def yaml_text(document: Document) -> str:
    """The file's text. Raises ConfigError (E821) for a document that the reader would refuse as too large."""
    text = _HEAD + "\n".join(_mapping(document)) + "\n"
    try:
        stored = load_text(text, Document, shown_as=document.source.file)
    except ConfigError as error:
        first = error.problems[0]
        message = f"as YAML it could not be read back: {first.message}"
        raise ConfigError(
            Problem(code="E821", file=document.source.file, message=message, help="split the document")
        ) from error
    assert stored == document
    return text


def _mapping(document: Document) -> Iterator[str]:
    for field in fields(document):
        value = getattr(document, field.name)
        if field.name == "rows":
            yield "rows:" if value else "rows: []"
            for row in value:
                yield from _row(row)
        elif field.name == "blocks":
            yield "blocks:" if value else "blocks: []"
            for block in value:
                yield f"  - {_flow(block)}"
        else:
            yield f"{field.name}: {_flow(value)}"


def _row(row: Any) -> Iterator[str]:
    """One key a line, one line a cell."""
    dash = "-"
    for key, value in _said(row):
        if key != "cells":
            yield f"  {dash} {key}: {_flow(value)}"
            dash = " "
    yield f"  {dash} cells:" if row.cells else f"  {dash} cells: []"
    for cell in row.cells:
        yield f"      - {_flow(cell)}"


def _said(value: Any) -> list[tuple[str, Any]]:
    """The fields that differ from their default."""
    return [
        (field.name, getattr(value, field.name))
        for field in fields(value)
        if field.default is MISSING or getattr(value, field.name) != field.default
    ]


def _flow(value: Any) -> str:
    """Flow style on one line: {key: value, …}, [a, b]."""
    if is_dataclass(value):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in _said(value)) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return json.dumps(value, allow_nan=False)


def _quoted(text: str) -> str:
    if _BARE.fullmatch(text) and text.lower() not in _NOT_BARE:
        return text
    return _ESCAPED.sub(_escape, json.dumps(text, ensure_ascii=False))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def name_of(document: Document) -> str:
    """<vendor>-<case>-<device>x<nodes>x<devices>, as far as the document says; else its file's own name."""
    scales = dict.fromkeys(row.scale for row in document.rows if row.scale is not None)
    device = "x".join((document.device or "", *scales)) if len(scales) == 1 else document.device
    parts = (document.vendor, document.case, device)
    stem = document.source.file.rpartition(".")[0] or document.source.file
    name = "-".join(part for part in parts if part) if all(parts) else stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or "document"


class Shelf:
    """The folder of published documents."""

    def __init__(self, folder: Path, *, shown: str) -> None:
        self.folder = folder
        self.shown = shown

    @classmethod
    def of(cls, workspace: Workspace) -> Shelf:
        folder = workspace.home / "results" / "published"
        return cls(folder, shown=workspace.shown(folder))

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self.folder.glob("*.yaml")))

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def read(self, name: str) -> Document:
        """Raises ConfigError: E822 for a name that is not there, E1xx for a file that does not fit."""
        if not re.fullmatch(NAME_REGEX, name) or name not in self.names():
            raise ConfigError(self._unknown(name))
        return load(self.path(name), Document, shown_as=f"{self.shown}/{name}.yaml")

    def _unknown(self, name: str) -> Problem:
        names = self.names()
        listed = ", ".join(names[:MAX_LISTED]) + (
            f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        )
        return Problem(
            code="E822",
            message=f"there is no published document {name[:80]!a} in {self.shown}",
            help=f"there are: {listed}" if names else "nx8 published import FILE",
        )

    def write(
        self, documents: Iterable[Document], *, replace: bool = False, dry_run: bool = False
    ) -> tuple[Path, ...]:
        """Writes all or, when one may not be written, none; `dry_run` writes none in any case. Raises
        ConfigError (E823) for two documents of one name, or a stored one of another source; CellError (E701)
        for a disk.
        """
        given = tuple(documents)
        texts: dict[str, tuple[str, Document]] = {}
        problems: list[Problem] = []
        for document in given:
            name = name_of(document)
            earlier = texts[name][1] if name in texts else self._stored(name, replace=replace)
            if earlier is not None and earlier.source.sha256 != document.source.sha256:
                problems.append(_taken(name, document, earlier, stored=name not in texts))
            texts.setdefault(name, (yaml_text(document), document))
        if problems:
            raise ConfigError(problems)
        for name, (text, _) in () if dry_run else texts.items():
            write_atomic(self.path(name), text.encode())
            self.path(name).chmod(0o644)
        return tuple(self.path(name_of(document)) for document in given)

    def _stored(self, name: str, *, replace: bool) -> Document | None:
        return None if replace or not self.path(name).exists() else self.read(name)


def _taken(name: str, document: Document, earlier: Document, *, stored: bool) -> Problem:
    return Problem(
        code="E823",
        file=document.source.file,
        message=f"{name} is already the name of {earlier.source.file}, a document of other content",
        help="--replace takes the new one" if stored else "import one of them into another folder: --to DIR",
    )


def findings(document: Document, workspace: Workspace) -> tuple[Finding, ...]:
    """Judged by today's peaks: what is stored is the document alone."""
    return lint(document, known=known_devices(workspace))


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    path: Path
    document: Document
    findings: tuple[Finding, ...]


def import_all(
    files: Sequence[Path], *, shelf: Shelf, workspace: Workspace, replace: bool, dry_run: bool = False
) -> tuple[Imported, ...]:
    """Reads every file, then writes all of them, or with `dry_run` none. Raises ConfigError with the problems
    of all, and then nothing is written.
    """
    known = known_devices(workspace)
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in files:
        try:
            documents.append(_read(path, known))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    paths = shelf.write(documents, replace=replace, dry_run=dry_run)
    return tuple(
        Imported(path=path, document=document, findings=lint(document, known=known))
        for path, document in zip(paths, documents, strict=True)
    )


def _read(path: Path, known: tuple[KnownDevice, ...]) -> Document:
    """The document is called by its file's own name: folders are the reader's, not the source's."""
    data = read_bytes(path, shown=str(path), limit=MAX_BYTES, code="E102")
    return read_document(data, file=visible(encodable(path.name)), known=known)


def listed(shelf: Shelf, workspace: Workspace) -> list[dict[str, Any]]:
    known = known_devices(workspace)
    return [_listed(name, shelf.read(name), known) for name in shelf.names()]


def _listed(name: str, document: Document, known: tuple[KnownDevice, ...]) -> dict[str, Any]:
    scales = dict.fromkeys(row.scale for row in document.rows if row.scale is not None)
    found = lint(document, known=known)
    return {
        "name": name,
        "case": visible(document.case or "unknown", limit=60),
        "vendor": document.vendor or "unknown",
        "device": visible(document.device or "unknown", limit=60),
        "scales": ", ".join(scales) or "unknown",
        "rows": len(document.rows),
        "findings": ", ".join(dict.fromkeys(one.code for one in found)) or "none",
        "source": visible(document.source.file),
    }
