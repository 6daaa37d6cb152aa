"""results/history.sqlite: a cache of the run folders, for questions over many runs.

One writer at a time (WAL, BEGIN IMMEDIATE); a version of the schema in `user_version`, raised by migrations
in one transaction. Whatever is wrong with the file, the run folders can make it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import select
import sqlite3
import time
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import Exit, Nx8Error, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestrator.history.record import Accepted, CellRecord, RunRecord

#: "nx8h": tells our file from any other database.
APPLICATION_ID = 0x6E783868
#: How long a writer waits for another one, in seconds.
BUSY_S = 20.0
#: File systems on which processes of several machines share no memory, so that WAL does not work there.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"})
#: Each raises the version by one; a file is made by all of them in turn.
MIGRATIONS = (
    """
    CREATE TABLE fact (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, json TEXT NOT NULL);
    CREATE TABLE run (
      run_id TEXT PRIMARY KEY, at_s REAL NOT NULL, created_utc TEXT NOT NULL, cluster TEXT NOT NULL,
      vendor TEXT NOT NULL, exit_code INTEGER NOT NULL, duration_s REAL, nx8_version TEXT NOT NULL,
      environment INTEGER NOT NULL REFERENCES fact(id)) WITHOUT ROWID;
    CREATE TABLE series (
      id INTEGER PRIMARY KEY, scope TEXT NOT NULL, case_name TEXT NOT NULL, stage TEXT NOT NULL,
      vendor TEXT NOT NULL, device TEXT NOT NULL, scale TEXT NOT NULL, precision TEXT NOT NULL,
      fix_hp TEXT NOT NULL, cluster TEXT NOT NULL, steps INTEGER NOT NULL,
      UNIQUE (scope, case_name, stage, vendor, device, scale, precision, fix_hp, cluster, steps));
    CREATE TABLE metric (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT NOT NULL,
      direction TEXT NOT NULL);
    CREATE TABLE cell (
      id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run(run_id), cell_id TEXT NOT NULL,
      series INTEGER NOT NULL REFERENCES series(id), at_s REAL NOT NULL, verdict TEXT NOT NULL,
      degraded INTEGER NOT NULL, reason TEXT, work INTEGER NOT NULL REFERENCES fact(id),
      UNIQUE (run_id, cell_id));
    CREATE INDEX cell_of_series ON cell (series, at_s);
    CREATE TABLE value (
      cell INTEGER NOT NULL REFERENCES cell(id), metric INTEGER NOT NULL REFERENCES metric(id),
      value REAL NOT NULL, PRIMARY KEY (cell, metric)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE accepted (run_id TEXT NOT NULL REFERENCES run(run_id), cell_id TEXT NOT NULL,
      who TEXT NOT NULL, at_utc TEXT NOT NULL, reason TEXT NOT NULL,
      PRIMARY KEY (run_id, cell_id, at_utc)) WITHOUT ROWID;
    CREATE INDEX run_by_time ON run (at_s);
    """,
)
VERSION = len(MIGRATIONS)


LATER = "the run folders keep everything; the next nx8 that can write takes up what is missing"


class HistoryError(Nx8Error):
    """The file cannot be used as it is. Never ends a run: whoever needs answers reads the run folders."""

    exit_code = Exit.USAGE


class DamagedError(HistoryError):
    """What stands there is no database of ours, or one with broken pages."""


@contextlib.contextmanager
def opened(path: Path, *, busy_s: float = BUSY_S) -> Iterator[sqlite3.Connection]:
    """The database at `path`, made or migrated where needed; nobody rebuilds it meanwhile.

    Raises DamagedError (E730) or HistoryError: E731 locked, E732 full, read-only or not permitted, E733 made
    by a newer nx8; the same for what goes wrong inside the block.
    """
    with held(path, busy_s, exclusive=False), translated(path):
        connection = _open(path, busy_s)
        try:
            yield connection
        finally:
            connection.close()


def _open(path: Path, busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def in_memory() -> sqlite3.Connection:
    """An empty database that is gone with its connection: what answers when the file cannot."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _migrate(connection, 0)
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (tables or version) and application != APPLICATION_ID:
        raise DamagedError(_damaged(path, "it is another program's database"))
    if version > VERSION:
        message = f"{path} has version {version}, and this nx8 knows {VERSION}"
        raise HistoryError(Problem(code="E733", message=message, help="use the newer nx8 that wrote it"))
    wanted = "delete" if on_network(path) else "wal"
    connection.execute(f"PRAGMA journal_mode = {wanted}")
    connection.execute("PRAGMA synchronous = NORMAL")
    if version < VERSION:
        _migrate(connection, version)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """All that is missing, or nothing. Read again inside: another process may have been first."""
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number in range(version, VERSION):
            for statement in MIGRATIONS[number].split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, path) from error


def _named(error: sqlite3.Error, path: Path) -> HistoryError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DamagedError(_damaged(path, str(error)))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        message = f"{path} is locked by another process"
        return HistoryError(Problem(code="E731", message=message, help=LATER))
    if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return _unwritable(path, error)
    # A table or column that is not there: the file says that it is ours and is not.
    return DamagedError(_damaged(path, str(error)))


def _damaged(path: Path, why: str) -> Problem:
    help_ = "nx8 history rebuild makes it from the run folders"
    return Problem(code="E730", message=f"{path} is damaged: {why}", help=help_)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Looks at every page: a broken one is not always met by a question. Raises DamagedError (E730)."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise DamagedError(_damaged(path, str(found)[:200]))


def on_network(path: Path, mounts: str | None = None) -> bool:
    """Whether `path` lies on a file system that other machines share; `mounts` as /proc/self/mountinfo."""
    try:
        lines = (Path("/proc/self/mountinfo").read_text() if mounts is None else mounts).splitlines()
    except OSError:
        return False
    best, kind = "", ""
    resolved = str(path.absolute())
    for line in lines:
        before, _, after = line.partition(" - ")
        where = before.split()[4].encode().decode("unicode_escape")
        if (resolved + "/").startswith(where.rstrip("/") + "/") and len(where) >= len(best):
            best, kind = where, after.split()[0]
    return kind in NETWORK


def known_runs(connection: sqlite3.Connection) -> set[str]:
    return {run_id for (run_id,) in connection.execute("SELECT run_id FROM run")}


def add(connection: sqlite3.Connection, records: Iterable[RunRecord]) -> int:
    """Puts in what is not there yet, all in one transaction; returns how many runs were new."""
    count = 0
    with transaction(connection):
        for record in records:
            found = connection.execute("SELECT 1 FROM run WHERE run_id = ?", (record.run_id,)).fetchone()
            if found is None:
                _insert(connection, record)
                count += 1
            add_accepted(connection, record.run_id, record.accepted)
    return count


def _insert(connection: sqlite3.Connection, record: RunRecord) -> None:
    at_s = record.at_s
    connection.execute(
        "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.run_id,
            at_s,
            record.created_utc,
            record.cluster,
            record.vendor,
            record.exit_code,
            record.duration_s,
            record.nx8_version,
            _fact(connection, record.environment),
        ),
    )
    metrics = {name: _metric(connection, name, *about) for name, about in record.metrics.items()}
    for cell in record.cells:
        _insert_cell(connection, record.run_id, at_s, cell, metrics)


def _insert_cell(
    connection: sqlite3.Connection, run_id: str, at_s: float, cell: CellRecord, metrics: Mapping[str, int]
) -> None:
    done = connection.execute(
        "INSERT INTO cell (run_id, cell_id, series, at_s, verdict, degraded, reason, work)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run_id,
            cell.cell_id,
            _series(connection, cell),
            at_s,
            cell.verdict,
            cell.degraded,
            cell.reason,
            _fact(connection, cell.work),
        ),
    )
    connection.executemany(
        "INSERT INTO value VALUES (?, ?, ?)",
        [(done.lastrowid, metrics[name], value) for name, value in cell.values.items()],
    )


def _fact(connection: sqlite3.Connection, facts: Mapping[str, str]) -> int:
    """Nights that are alike share one."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    connection.execute("INSERT OR IGNORE INTO fact (sha256, json) VALUES (?, ?)", (digest, text))
    return _id(connection, "SELECT id FROM fact WHERE sha256 = ?", (digest,))


def _metric(connection: sqlite3.Connection, name: str, unit: str, direction: str) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO metric (name, unit, direction) VALUES (?, ?, ?)", (name, unit, direction)
    )
    return _id(connection, "SELECT id FROM metric WHERE name = ?", (name,))


def _series(connection: sqlite3.Connection, cell: CellRecord) -> int:
    key = tuple("" if part is None else part for part in astuple(cell.series))
    connection.execute(
        "INSERT OR IGNORE INTO series (scope, case_name, stage, vendor, device, scale, precision, fix_hp,"
        " cluster, steps) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        key,
    )
    return _id(
        connection,
        "SELECT id FROM series WHERE scope = ? AND case_name = ? AND stage = ? AND vendor = ? AND device = ?"
        " AND scale = ? AND precision = ? AND fix_hp = ? AND cluster = ? AND steps = ?",
        key,
    )


def _id(connection: sqlite3.Connection, query: str, values: tuple[object, ...]) -> int:
    (found,) = connection.execute(query, values).fetchone()
    return int(found)


def add_accepted(connection: sqlite3.Connection, run_id: str, accepted: Iterable[Accepted]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO accepted VALUES (?, ?, ?, ?, ?)",
        [(run_id, one.cell_id or "", one.who, one.at_utc, one.reason) for one in accepted],
    )


@contextlib.contextmanager
def rebuilding(path: Path, *, wait_s: float = 60.0) -> Iterator[sqlite3.Connection]:
    """A new database that takes the place of `path` when the block ends well; the old file is kept beside as
    history.sqlite.old. One process at a time. Raises HistoryError (E731, E732).
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    with held(path, wait_s, exclusive=True), translated(path):
        try:
            connection = _open(beside, BUSY_S)
            try:
                yield connection
                # One file alone is renamed: none of its pages may still be in the WAL.
                connection.execute("PRAGMA journal_mode = delete")
            finally:
                connection.close()
            _take_place(beside, path)
        except OSError as error:
            raise _unwritable(path, error.strerror) from error
        finally:
            for leftover in (beside, *_companions(beside)):
                with contextlib.suppress(OSError):
                    leftover.unlink()


def _take_place(beside: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(f"{path.name}.old")
        path.replace(old)
    for companion in _companions(path):
        companion.unlink(missing_ok=True)
    beside.replace(path)


def _companions(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal"))


@contextlib.contextmanager
def held(path: Path, wait_s: float, *, exclusive: bool) -> Iterator[None]:
    """A lock beside the database. SQLite's own do not outlive a rename: whoever still had the old file open
    would remove the new one's WAL when it closes.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(lock, error.strerror) from error
    try:
        _wait_for(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, wait_s, path)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, kind: int, wait_s: float, path: Path) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"{path} is held by another nx8 for {wait_s:.0f} s and more"
                raise HistoryError(Problem(code="E731", message=message, help=LATER)) from None
            select.select([], [], [], 0.02)
        else:
            return


def _unwritable(path: Path, why: object) -> HistoryError:
    return HistoryError(Problem(code="E732", message=f"{path} cannot be written: {why}", help=LATER))
