"""What history is made from: run folders, and the archive that keeps runs whose folders were removed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.history.record import Accepted, RunRecord, from_line, record_of, to_line
from orchestrator.results import WRONG_SHAPE, RunFolder, read_result, serialise, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCEPTED = "accepted.json"
SCHEMA = "nx8.accepted/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A run that history cannot take, and why."""

    run_id: str
    why: str


def database_of(results: Path) -> Path:
    return results / "history.sqlite"


def archive_of(results: Path) -> Path:
    return results / "archive"


def read_run(folder: RunFolder) -> RunRecord | Unread | None:
    """What history keeps of one run; None while it has no result."""
    if not folder.result.is_file():
        return None
    try:
        return record_of(read_result(folder), _plan(folder), read_accepted(folder))
    except ConfigError as error:
        return Unread(run_id=folder.run_id, why=error.problems[0].message)
    except WRONG_SHAPE as error:
        return Unread(run_id=folder.run_id, why=f"its result is of another shape: {error!r}")


def _plan(folder: RunFolder) -> dict[str, Any] | None:
    try:
        plan = json.loads(folder.plan.read_bytes())
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def read_accepted(folder: RunFolder) -> tuple[Accepted, ...]:
    """Who accepted the run, when and why; nothing where nobody did. Raises as WRONG_SHAPE says."""
    try:
        document = json.loads((folder.path / ACCEPTED).read_bytes())
    except FileNotFoundError:
        return ()
    return tuple(
        Accepted(
            who=str(one["who"]),
            at_utc=str(one["at_utc"]),
            reason=str(one["reason"]),
            cell_id=None if one["cell_id"] is None else str(one["cell_id"]),
        )
        for one in document["accepted"]
    )


def write_accepted(folder: RunFolder, accepted: tuple[Accepted, ...]) -> None:
    """Raises CellError (E701)."""
    document = {"schema": SCHEMA, "accepted": [asdict(one) for one in accepted]}
    write_atomic(folder.path / ACCEPTED, serialise(document))


def archived(results: Path) -> Iterator[RunRecord | Unread]:
    """Every run of results/archive/<year>-<month>.jsonl; a damaged line is named and passed over."""
    for path in sorted(archive_of(results).glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                yield from_line(line)
            except ValueError as error:
                yield Unread(run_id=f"{path.name}:{number}", why=str(error))


def archive(results: Path, record: RunRecord) -> None:
    """Adds one run to the archive of its month, in one step; whoever calls holds the archive.

    Raises CellError (E701).
    """
    path = archive_of(results) / f"{record.created_utc[:7]}.jsonl"
    before = path.read_bytes() if path.is_file() else b""
    kept = [line for line in before.splitlines(keepends=True) if not _is_of(line, record.run_id)]
    write_atomic(path, b"".join(kept) + to_line(record))


def _is_of(line: bytes, run_id: str) -> bool:
    try:
        return bool(json.loads(line).get("run_id") == run_id)
    except (ValueError, AttributeError):
        return False


def unknown(message: str, help_: str | None = None) -> ConfigError:
    return ConfigError(Problem(code="E734", message=message, help=help_))
