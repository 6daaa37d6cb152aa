"""The files that ranks and launchers left: regular files of any content, and nothing else is read."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.monitor import MonitorLog, read_monitor
from orchestrator.parse import collecting
from orchestrator.parse.events import EventReader, RankLog
from orchestrator.parse.program import ProgramLog, read_program
from orchestrator.parse.stacks import MAX_STACKS_BYTES, Stand, read_stacks
from orchestrator.parse.status import MAX_STATUS_BYTES, NodeStatus, StatusProblem, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.plan import Cell
    from orchestrator.results import CellFolder, NodeFolder

CHUNK_BYTES = 1 << 20


@collecting.paused()
def read_logs(folder: CellFolder, cell: Cell) -> dict[int, RankLog]:
    """The log of every rank that has an events file, planned or not: an unplanned one is a finding too.

    Only regular files are read: a link or a pipe in the raw files counts as missing.
    """
    planned = {rank for launch in cell.launches for rank in launch.ranks}
    logs: dict[int, RankLog] = {}
    for launch in cell.launches:
        node = folder.node(launch.node_rank)
        # A planned rank's file counts in its own node's folder only.
        extra = set(_rank_folders(node)) - planned
        for rank in (*launch.ranks, *sorted(extra)):
            log = read_log(node, rank)
            if log is not None:
                logs[rank] = log
    return logs


def read_log(node: NodeFolder, rank: int) -> RankLog | None:
    """The log of one rank; None when it left no events file."""
    if node.path.is_symlink() or node.rank(rank).path.is_symlink():
        return None
    chunks = read_chunks(node.rank(rank).events)
    if chunks is None:
        return None
    reader = EventReader(rank)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


def read_programs(folder: CellFolder, cell: Cell) -> dict[int, ProgramLog]:
    """What every planned rank of an external program printed; nothing where our own trainer ran."""
    if cell.job.program is None:
        return {}
    found: dict[int, ProgramLog] = {}
    for launch in cell.launches:
        node = folder.node(launch.node_rank)
        for rank in launch.ranks:
            if node.path.is_symlink() or node.rank(rank).path.is_symlink():
                continue
            chunks = read_chunks(node.rank(rank).stdout)
            if chunks is not None:
                found[rank] = read_program(chunks, rank=rank, dialect=cell.job.program.dialect)
    return found


def read_statuses(folder: CellFolder, cell: Cell) -> dict[int, NodeStatus | StatusProblem]:
    """The status of every planned node that has one, or what is wrong with it."""
    statuses: dict[int, NodeStatus | StatusProblem] = {}
    for launch in cell.launches:
        data = read_bytes(folder.node(launch.node_rank).status, most=MAX_STATUS_BYTES)
        if data is not None:
            statuses[launch.node_rank] = read_status(data)
    return statuses


def read_stands(folder: CellFolder, cell: Cell) -> dict[int, Stand]:
    """Where each planned rank stood, of those that were asked on their own node."""
    found: dict[int, Stand] = {}
    for launch in cell.launches:
        data = read_bytes(folder.node(launch.node_rank).stacks, most=MAX_STACKS_BYTES)
        if data is not None:
            stands = read_stacks(data, nonce=cell.job.nonce)
            found |= {stand.rank: stand for stand in stands if stand.rank in launch.ranks}
    return found


def read_monitors(folder: CellFolder, cell: Cell) -> dict[int, MonitorLog]:
    """What the vendor's probe saw on every node that kept it."""
    if cell.probe is None:
        return {}
    found: dict[int, MonitorLog] = {}
    for launch in cell.launches:
        chunks = read_chunks(folder.node(launch.node_rank).monitor)
        if chunks is not None:
            found[launch.node_rank] = read_monitor(
                b"".join(chunks).splitlines(), cell.probe, capacity_bytes=cell.device_memory_bytes
            )
    return found


def _rank_folders(node: NodeFolder) -> list[int]:
    """Numbers of the folders named rank<R>, R in its plain decimal form."""
    names = (
        [entry.name.removeprefix("rank") for entry in node.path.glob("rank*")] if node.path.is_dir() else []
    )
    return [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name[:18])) == name]


def regular_files(root: Path) -> Iterator[Path]:
    """Every regular file below `root`, links not followed, in the order of their path."""
    found = []
    for parent, _folders, names in os.walk(root):
        found += [os.path.join(parent, name) for name in names]  # noqa: PTH118
    for name in sorted(found):
        path = root / os.path.relpath(name, root)
        if stat.S_ISREG(path.lstat().st_mode):
            yield path


def described(path: Path, root: Path) -> dict[str, object]:
    """Path below `root`, size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    for chunk in read_chunks(path) or ():
        digest.update(chunk)
        size += len(chunk)
    return {"path": path.relative_to(root).as_posix(), "size": size, "sha256": digest.hexdigest()}


def read_bytes(path: Path, *, most: int) -> bytes | None:
    """The file's bytes, one more than `most` at the longest; None when it is missing or no regular file."""
    chunks = read_chunks(path)
    if chunks is None:
        return None
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > most:
            break
    return bytes(data[: most + 1])


def read_chunks(path: Path) -> Iterator[bytes] | None:
    """The file in pieces; None when missing or anything but a regular file. Raises ConfigError (E706)."""
    try:
        # Never waits on a pipe and never follows a link: these files came from nodes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if path.is_symlink():
            return None
        raise ConfigError(Problem(code="E706", message=f"{path} cannot be read: {error.strerror}")) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return _read(descriptor)


def _read(descriptor: int) -> Iterator[bytes]:
    with os.fdopen(descriptor, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
