"""Many runs: kept in SQLite beside the run folders, made again from them, and read as series.

record.py makes rows of a result, store.py keeps them, files.py finds them again, questions.py asks. Nothing
here ever changes the end of a run: what goes wrong becomes one line.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Nx8Error
from orchestrator.history import store
from orchestrator.history.files import (
    ACCEPTED,
    Unread,
    archived,
    database_of,
    read_accepted,
    read_run,
)
from orchestrator.history.record import RunRecord
from orchestrator.history.store import DamagedError, HistoryError
from orchestrator.results import WRONG_SHAPE, RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DamagedError", "HistoryError", "Rebuilt", "Taken", "reading", "rebuild", "remember", "take_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was put in: how many runs, and which could not be read."""

    count: int
    unread: tuple[Unread, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    runs: int
    cells: int
    values: int
    unread: tuple[Unread, ...]


def take_up(connection: sqlite3.Connection, results: Path) -> Taken:
    """Puts in every run that has a result and is not in yet."""
    known = store.known_runs(connection)
    found = [read_run(folder) for folder in RunFolder.all(results / "runs") if folder.run_id not in known]
    records = [one for one in found if isinstance(one, RunRecord)]
    count = store.add(connection, records) if records else 0
    for folder in RunFolder.all(results / "runs"):
        if folder.run_id in known and (folder.path / ACCEPTED).is_file():
            with contextlib.suppress(*WRONG_SHAPE):
                store.add_accepted(connection, folder.run_id, read_accepted(folder))
    return Taken(count=count, unread=tuple(one for one in found if isinstance(one, Unread)))


def _all(connection: sqlite3.Connection, results: Path) -> tuple[Unread, ...]:
    """Everything there is: folders first, then the archive, whose runs have no folder any more."""
    taken = take_up(connection, results)
    kept = list(archived(results))
    store.add(connection, [one for one in kept if isinstance(one, RunRecord)])
    return (*taken.unread, *(one for one in kept if isinstance(one, Unread)))


def rebuild(results: Path) -> Rebuilt:
    """A new history.sqlite from run folders and archive. Raises HistoryError (E731, E732)."""
    with store.rebuilding(database_of(results)) as connection:
        unread = _all(connection, results)
        runs, cells, values = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("run", "cell", "value")
        )
    return Rebuilt(runs=runs, cells=cells, values=values, unread=unread)


def remember(results: Path, *, busy_s: float = store.BUSY_S) -> str | None:
    """Takes up what is not in yet, after a run. Never raises; returns a line where a person should know."""
    return _taken_up(results, busy_s)[0]


def _taken_up(results: Path, busy_s: float) -> tuple[str | None, bool]:
    """What a person should know, and whether the database can be used now."""
    path = database_of(results)
    try:
        try:
            with store.opened(path, busy_s=busy_s) as connection:
                store.check(connection, path)
                take_up(connection, results)
        except DamagedError as error:
            made = rebuild(results)
            what = f"made again from {made.runs} runs, the old file is {path.name}.old"
            return f"{error.problems[0].message}; {what}", True
    except Nx8Error as error:
        problem = error.problems[0]
        more = f" ({problem.help})" if problem.help else ""
        return f"{problem.code} {problem.message}; the run itself is stored{more}", False
    except (OSError, sqlite3.Error) as error:
        return f"E732 {path} cannot be used: {error}; the run itself is stored", False
    return None, True


@contextmanager
def reading(
    results: Path, *, busy_s: float = store.BUSY_S
) -> Iterator[tuple[sqlite3.Connection, str | None]]:
    """A database with every run there is, and a line where the file itself could not be used: then the answer
    comes from the run folders alone, kept in memory.
    """
    note, usable = _taken_up(results, busy_s) if (results / "runs").is_dir() else (None, True)
    path = database_of(results)
    with contextlib.ExitStack() as exits:
        connection: sqlite3.Connection | None = None
        if usable and path.exists():
            try:
                connection = exits.enter_context(store.opened(path, busy_s=busy_s))
            except HistoryError as error:
                note = str(error.problems[0].message)
        if connection is None:
            connection = exits.enter_context(contextlib.closing(store.in_memory()))
            _all(connection, results)
        # Outside of any `except`: what goes wrong with whoever reads is theirs.
        yield connection, note
