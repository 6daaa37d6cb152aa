"""Stored runs, recomputed from their raw files and compared. What was stored is never replaced."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.derive import derive, render
from orchestrator.errors import Exit, Nx8Error
from orchestrator.load import read_stored
from orchestrator.parse import PARSER_CHANGES, PARSER_VERSION
from orchestrator.parse.visible import visible
from orchestrator.plan import Plan
from orchestrator.report.markdown import report_text
from orchestrator.results import RunFolder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One thing of a cell that today's parser sees otherwise; `what` is "verdict" or a metric's name.

    `before` is None where the stored result has none, `now` where today's has none, for `reason`.
    """

    cell_id: str
    what: str
    before: Any
    now: Any
    reason: str | None

    @property
    def change(self) -> float | None:
        """(now - before) / before, a fraction; None where either is no figure, there is nothing to divide by,
        or no float holds it.
        """
        if not _is_figure(self.before) or not _is_figure(self.now) or not self.before:
            return None
        try:
            change = float((self.now - self.before) / abs(self.before))
        except OverflowError:
            return None
        return change if math.isfinite(change) else None

    def __str__(self) -> str:
        by = "" if self.change is None else f" ({self.change:+.2%})"
        why = f": {self.reason}" if self.reason else ""
        what = f"{visible(self.cell_id)}: {visible(self.what)}"
        return f"{what} {_shown(self.before)} → {_shown(self.now)}{by}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one run. `same` is byte for byte, or written only now; `why` explains a difference."""

    run_id: str
    same: bool
    written: Path | None = None
    moved: tuple[Moved, ...] = ()
    why: tuple[str, ...] = ()
    code: int = Exit.OK

    @property
    def exit_code(self) -> int:
        """0 when reproduced; the run's own where its result was written only now; 4 when it differs."""
        return self.code if self.same else Exit.CELL

    @property
    def message(self) -> str:
        if self.same and self.written is None:
            return f"{self.run_id}: the stored result is reproduced byte for byte"
        if self.same:
            return f"{self.run_id} had no result yet: written {self.written}"
        moved = (
            "\n".join(f"  {one}" for one in self.moved) or "  no verdict and no figure moved, only its text"
        )
        why = "".join(f"\n  because {one}" for one in self.why)
        return (
            f"{self.run_id}: today's result differs from the stored one, which stays as it is\n"
            f"{moved}{why}\nwritten: {self.written}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A run whose plan or host.json today's parser cannot read; the others are parsed all the same."""

    run_id: str
    error: Nx8Error

    @property
    def exit_code(self) -> int:
        return self.error.exit_code

    @property
    def message(self) -> str:
        return "\n".join(f"{self.run_id}: {problem}" for problem in self.error.problems)


def reparse_all(runs: Path) -> Iterator[Outcome | Unreadable]:
    """Every stored run, oldest first."""
    for folder in RunFolder.all(runs):
        try:
            yield reparse(folder)
        except Nx8Error as error:
            yield Unreadable(run_id=folder.run_id, error=error)


def reparse(folder: RunFolder) -> Outcome:
    """Raises ConfigError when the plan or host.json of the run cannot be read."""
    plan = read_stored(folder.plan, Plan)
    document = derive(folder, plan)
    now = render(document)
    before = folder.result.read_bytes() if folder.result.is_file() else b""
    if now == before:
        return Outcome(run_id=folder.run_id, same=True)
    today = json.loads(now)
    if not before:
        write_atomic(folder.result, now)
        write_atomic(folder.report, report_text(today).encode("utf-8"))
        return Outcome(run_id=folder.run_id, same=True, written=folder.result, code=int(today["exit_code"]))
    target = folder.reparsed(PARSER_VERSION)
    write_atomic(target, now)
    stored = _document(before)
    return Outcome(
        run_id=folder.run_id,
        same=False,
        written=target,
        moved=tuple(differences(stored, today)),
        why=tuple(reasons(stored, today)),
    )


NOTHING: dict[str, Any] = {"verdict": None, "reasons": (), "metrics": {}}


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Moved]:
    """Verdicts with their first reason, then metrics and their details, cell by cell: today's, then those
    that only the stored result has.
    """
    old_cells = {cell["cell_id"]: cell for cell in before.get("cells") or () if _is_cell(cell)}
    cells = {cell["cell_id"]: cell for cell in now["cells"]}
    for cell_id in dict.fromkeys((*cells, *old_cells)):
        old, cell = old_cells.get(cell_id, NOTHING), cells.get(cell_id, NOTHING)
        if old["verdict"] != cell["verdict"]:
            yield Moved(
                cell_id=cell_id,
                what="verdict",
                before=old["verdict"],
                now=cell["verdict"],
                reason=next(iter(cell["reasons"]), None),
            )
        for name in dict.fromkeys((*cell["metrics"], *old["metrics"])):
            yield from _moved(cell_id, name, old["metrics"].get(name, {}), cell["metrics"].get(name, {}))


def _moved(cell_id: str, name: str, old: dict[str, Any], metric: dict[str, Any]) -> Iterator[Moved]:
    """Its value, or else what stands beside a value that stayed: the number of steps, their spread."""
    was, is_ = old.get("value"), metric.get("value")
    if was != is_:
        reason = metric.get("reason") if is_ is None else None
        yield Moved(cell_id=cell_id, what=name, before=was, now=is_, reason=reason)
        return
    before, now = _details(old), _details(metric)
    for key in dict.fromkeys((*now, *before)):
        if before.get(key) != now.get(key):
            what = f"{name}, its {key}"
            yield Moved(cell_id=cell_id, what=what, before=before.get(key), now=now.get(key), reason=None)


def _details(metric: dict[str, Any]) -> dict[str, Any]:
    found = metric.get("details")
    return found if isinstance(found, dict) else {}


def reasons(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Why two results of one run can differ: another parser, or other raw files."""
    was = before.get("parser_version")
    if was != PARSER_VERSION:
        yield f"it was parsed by parser {_shown(was)}, today's is {PARSER_VERSION}"
        first = was if isinstance(was, int) and was >= 0 else 0
        for version in range(first + 1, PARSER_VERSION + 1):
            yield f"parser {version}: {PARSER_CHANGES[version]}"
    touched = sorted(_touched(before, now))
    if touched:
        more = f" and {len(touched) - 5} more" if len(touched) > 5 else ""
        names = ", ".join(visible(name) for name in touched[:5])
        yield f"raw files are not those it was made from: {names}{more}"


def _touched(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """Names of raw files that were added, removed or changed since."""
    old, new = _digests(before), _digests(now)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _digests(document: dict[str, Any]) -> dict[str, Any]:
    found = {}
    groups = [("", document.get("files"))]
    groups += [
        (f"{cell['cell_id']}/", cell.get("files")) for cell in document.get("cells") or () if _is_cell(cell)
    ]
    for folder, files in groups:
        for file in files if isinstance(files, list) else ():
            if isinstance(file, dict) and isinstance(file.get("path"), str):
                found[f"{folder}{file['path']}"] = file.get("sha256")
    return found


def _is_cell(cell: Any) -> bool:
    """Whether a stored cell has the shape to be compared: the file may have been anybody's."""
    return (
        isinstance(cell, dict)
        and isinstance(cell.get("cell_id"), str)
        and "verdict" in cell
        and isinstance(cell.get("metrics"), dict)
        and all(isinstance(metric, dict) for metric in cell["metrics"].values())
    )


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """For a terminal: what a stored file holds may be anything at all."""
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else visible(str(value), limit=80)


def _document(stored: bytes) -> dict[str, Any]:
    """The stored result, or an empty one where there is none that can be read."""
    try:
        document = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and isinstance(document.get("cells"), list) else {}
