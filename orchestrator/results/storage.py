"""Writes files so that neither a crash nor a full disk leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from orchestrator.errors import CellError, Problem

if TYPE_CHECKING:
    from pathlib import Path


def make_folder(path: Path) -> None:
    """`path` and what is missing above it, each with mode 0700. Raises OSError."""
    for folder in reversed((path, *path.parents)):
        if not folder.is_dir():
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` (mode 0600) so that a reader, and a crash at any moment, sees all of it or what was
    before.

    A full disk shows at the latest when the bytes are forced out, before anything is renamed.
    Raises CellError (E701) for a full disk or a refused write; the file beside is removed.
    """
    try:
        make_folder(path.parent)
        replace_with(path, data, mode=0o600)
    except OSError as error:
        raise CellError(storage_problem(error, path, code="E701")) from error


def write_new(path: Path, data: bytes) -> bool:
    """Writes `data` (mode 0600) whole, or not at all where something is there already: False then.

    Raises CellError (E701) for a full disk or a refused write.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        make_folder(path.parent)
        try:
            _write_new(beside, data, 0o600)
            path.hardlink_to(beside)
            sync_folder(path.parent)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    except OSError as error:
        raise CellError(storage_problem(error, path, code="E701")) from error
    return True


def replace_with(path: Path, data: bytes, *, mode: int, exactly: bool = False) -> None:
    """Puts `data` in the place of `path` in one step; the file's mode is `mode`, less the umask unless
    `exactly`.

    Raises OSError, and leaves nothing beside.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(beside, data, mode)
        if exactly:
            beside.chmod(mode)
        beside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        # A signal in the middle must not leave its rubbish either.
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def link_atomic(link: Path, target: str) -> None:
    """Makes the symbolic link `link` hold `target`, in one step. Raises CellError (E701)."""
    beside = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
    try:
        beside.symlink_to(target)
        beside.replace(link)
        sync_folder(link.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise CellError(storage_problem(error, link, code="E701")) from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """What was made, renamed or removed in the folder outlives a loss of power from here on. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_problem(error: OSError, path: Path, *, code: str) -> Problem:
    """One clear problem out of an OSError, whatever its errno."""
    words = {
        errno.ENOSPC: ("the disk is full", "free some space there, then run again"),
        errno.EDQUOT: ("the disk quota is used up", "free some space there, then run again"),
        errno.EROFS: ("the file system is read-only", "choose another folder for results"),
        errno.EACCES: ("permission denied", "the folder must belong to the user who runs nx8"),
        errno.EPERM: ("not permitted", "the folder must belong to the user who runs nx8"),
    }
    what, help_ = words.get(error.errno or 0, (error.strerror or type(error).__name__, None))
    return Problem(code=code, message=f"{path} could not be written: {what}", help=help_)
