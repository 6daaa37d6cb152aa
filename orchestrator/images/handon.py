"""An image from where it is to nodes that lack it, without a registry: only the layers they lack, once read
and as often sent as there are nodes, and from where it stopped when a link was lost.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from orchestrator import docker
from orchestrator.errors import BuildError, Nx8Error, Problem
from orchestrator.images.archive import Archive, Parcel, depth, joined, parcel, read_archive
from orchestrator.images.links import Patience, patiently
from orchestrator.images.registry import raise_all
from orchestrator.images.room import HAND_ON
from orchestrator.images.spool import Filled, Filling
from orchestrator.remote.errors import RemoteError
from orchestrator.remote.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from orchestrator.images.room import Room
    from orchestrator.images.spool import Spool
    from orchestrator.remote.pool import Pool
    from orchestrator.ui import View

SAVE_LIMIT_S = 3600.0
LOAD_LIMIT_S = 3600.0
LOOK_LIMIT_S = 60.0
READ_LIMIT_S = 120.0
#: What is sent between two answers of a node.
SLICE_BYTES = 256 << 20
SLICE_LIMIT_S = 900.0
TABLE_BYTES = 1 << 16
#: Images that are asked about in one command.
MANY = 200


class NotLoaded(BuildError):  # noqa: N818 - what happened, as LinkLost
    """It arrived, and docker on the node did not take it."""


class Source(Protocol):
    """An archive of the image, somewhere."""

    @property
    def archive(self) -> Archive: ...

    def spooled(self, wanted: Parcel) -> AbstractContextManager[Spool]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSource:
    """An archive in a file of this machine."""

    file: IO[bytes]
    archive: Archive

    @contextmanager
    def spooled(self, wanted: Parcel) -> Iterator[Spool]:  # noqa: ARG002 - all of it is here
        yield Filled(self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSource:
    """An archive in a file of a node. What is wanted of it passes through a file without a name in
    `host_folder`, which is gone when nobody has it open, however we end.
    """

    remote: Remote
    path: str
    archive: Archive
    host_folder: Path

    @contextmanager
    def spooled(self, wanted: Parcel) -> Iterator[Spool]:
        # Never closed by hand: a node's thread that still reads must not meet another file's descriptor.
        file = tempfile.TemporaryFile(dir=self.host_folder, prefix=".image-")  # noqa: SIM115
        with Filling(
            file, wanted, lambda start, longest: _read(self.remote, self.path, start, longest)
        ) as one:
            yield one


def _read(remote: Remote, path: str, offset: int, longest: int) -> bytes:
    (piece,) = patiently(lambda: remote.read([(path, offset, longest)], timeout_s=READ_LIMIT_S))
    if not piece.data:
        why = piece.error or f"it ends before byte {offset}"
        raise BuildError(Problem(code="E312", message=f"{remote.name}: {path}: {why}"))
    return piece.data


class _NodeFile(io.RawIOBase):
    """A file of a node as tarfile wants one. Seeks cost nothing, and reads near each other one round trip."""

    def __init__(self, remote: Remote, path: str, size: int) -> None:
        self._remote, self._path, self._size = remote, path, size
        self._at = self._kept_at = 0
        self._kept = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if not (self._kept_at <= self._at and end <= self._kept_at + len(self._kept)):
            longest = min(self._size - self._at, max(TABLE_BYTES, end - self._at))
            self._kept_at = self._at
            self._kept = _read(self._remote, self._path, self._at, longest) if longest > 0 else b""
        data = self._kept[self._at - self._kept_at : end - self._kept_at]
        self._at += len(data)
        return data


@contextmanager
def saved(pool: Pool, name: str, tag: str, room: Room, host_folder: Path, view: View) -> Iterator[NodeSource]:
    """`docker save` on one node; its file is gone afterwards. Raises BuildError (E312)."""
    remote = pool[name]
    with room.opened(pool, (name,), HAND_ON, view):
        path = f"{room.path(HAND_ON)}/saved.tar"
        done = patiently(lambda: remote.run(docker.save_argv(tag, path=path), timeout_s=SAVE_LIMIT_S))
        if done.rc != 0:
            raise BuildError(_not_handed_on(remote, "docker image save", done.stderr, done.rc))
        size = int(remote.stat(path)[0].get("size", 0))
        archive = _listed(_NodeFile(remote, path, size), size, f"{name}: {path}")
        yield NodeSource(remote=remote, path=path, archive=archive, host_folder=host_folder)


def here(file: IO[bytes], *, size: int) -> HostSource:
    """An archive that was saved on this machine. Raises BuildError (E312)."""
    return HostSource(file=file, archive=_listed(file, size, "the archive of this machine's engine"))


def _listed(file: IO[bytes] | _NodeFile, size: int, what: str) -> Archive:
    try:
        return read_archive(file, size=size)  # type: ignore[arg-type]
    except ValueError as error:
        raise BuildError(Problem(code="E312", message=f"{what}: {error}")) from error


def hand_on(
    pool: Pool, source: Source, targets: tuple[str, ...], tag: str, *, wanted: str, room: Room, view: View
) -> None:
    """Every target holds the image `wanted` as `tag` when this returns.

    A node that does not take the layers it lacks gets the whole archive. Raises BuildError naming every node
    that could not be served: E312, or E314 for too little room.
    """
    with room.opened(pool, targets, HAND_ON, view):
        held = pool.each(lambda remote: _held(remote, source.archive.layers), nodes=targets)
        parcels = {name: parcel(source.archive, held=held[name]) for name in targets}
        whole = parcel(source.archive, held=0)
        heard = _served(pool, source, parcels, tag, wanted, room, view)
        again = {
            name: whole for name in targets if isinstance(heard[name], NotLoaded) and parcels[name] != whole
        }
        if again:
            heard |= _served(pool, source, again, tag, wanted, room, view)
        raise_all(heard)


def _held(remote: Remote, layers: tuple[str, ...]) -> int:
    """How many of the lowest `layers` the node holds."""
    if docker.keeps_blobs(remote.run(docker.info_argv(), timeout_s=LOOK_LIMIT_S).stdout):
        # containerd's store keeps what a registry sent, which may be no file of docker save's.
        return 0
    listed = remote.run(docker.all_images_argv(), timeout_s=LOOK_LIMIT_S).stdout.decode("ascii", "replace")
    names = sorted(set(listed.split()))
    deepest = 0
    for start in range(0, len(names), MANY):
        done = remote.run(docker.image_facts_argv(*names[start : start + MANY]), timeout_s=LOOK_LIMIT_S)
        deepest = max(deepest, depth(layers, docker.read_layers(done.stdout)))
    return deepest


def _served(
    pool: Pool, source: Source, parcels: dict[str, Parcel], tag: str, wanted: str, room: Room, view: View
) -> dict[str, Nx8Error | None]:
    """What became of each node: None, or why not."""
    ranges = joined(one for parcel in parcels.values() for one in parcel.ranges)
    sizes = sorted({one.size for one in parcels.values()})
    shown = " to ".join(f"{size / 1e6:,.2f}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    view.phase("image", f"{shown} of {source.archive.size / 1e6:,.2f} MB to {', '.join(parcels)}")
    with source.spooled(Parcel(ranges=tuple(ranges))) as spool:

        def serve(remote: Remote) -> None:
            path = f"{room.path(HAND_ON)}/got.tar"
            _require_room(remote, room.path(HAND_ON), parcels[remote.name].size)
            deliver(remote, parcels[remote.name], spool, path)
            _load(remote, path, tag, wanted)

        heard = pool.settle(serve, nodes=tuple(parcels), gang=True)
    return {name: value if isinstance(value, Nx8Error) else None for name, value in heard.items()}


def _require_room(remote: Remote, folder: str, size: int) -> None:
    free = int(remote.disk(folder)["available_bytes"])
    if free < size:
        raise BuildError(
            Problem(
                code="E314",
                message=f"{remote.name}: {size / 1e9:.1f} GB are to pass through {folder}, but "
                f"{free / 1e9:.1f} GB are free there",
                help="free some, or choose another `work_dir` in the cluster file",
            )
        )


def deliver(remote: Remote, wanted: Parcel, spool: Spool, path: str) -> None:
    """Writes the parcel to `path` on the node. A lost link is opened again, and it goes on after the bytes
    that are there. Raises BuildError or RemoteError.
    """
    patience = Patience()
    at = 0
    while at < wanted.size:
        before = at
        try:
            # Not forced to the disk: what does not hold together is noticed when docker reads it.
            at = remote.append(
                path, _slice(spool, wanted, at), offset=at, sync=False, timeout_s=SLICE_LIMIT_S
            )
        except RemoteError as error:
            patience.bear(error)
            at = _size(remote, path, patience)
        if at > before:
            patience.moved()


def _size(remote: Remote, path: str, patience: Patience) -> int:
    while True:
        try:
            return int(remote.stat(path)[0].get("size", 0))
        except RemoteError as error:
            patience.bear(error)


def _slice(spool: Spool, wanted: Parcel, offset: int) -> Iterator[bytes]:
    left = SLICE_BYTES
    for start, end in wanted.after(offset):
        taken = min(left, end - start)
        yield from spool.pieces(start, start + taken)
        left -= taken
        if not left:
            return


def _load(remote: Remote, path: str, tag: str, wanted: str) -> None:
    done = patiently(lambda: remote.run(docker.load_argv(path), timeout_s=LOAD_LIMIT_S))
    if done.rc != 0:
        raise NotLoaded(_not_handed_on(remote, "docker image load", done.stderr, done.rc))
    found = docker.read_image(remote.run(docker.image_argv(tag), timeout_s=LOOK_LIMIT_S).stdout)
    if not isinstance(found, docker.ImageFacts) or found.id != wanted:
        seen = found.id[:19] if isinstance(found, docker.ImageFacts) else "none"
        raise NotLoaded(
            Problem(
                code="E313",
                message=f"{remote.name}: {tag} is {seen} after loading, not {wanted[:19]}",
                help="do all nodes keep images in the same kind of store? see `docker info`, Storage Driver",
            )
        )


def _not_handed_on(remote: Remote, what: str, stderr: bytes, rc: int) -> Problem:
    return Problem(
        code="E312",
        message=f"{remote.name}: `{what}` failed: {docker.last_words(stderr, rc=rc)}",
        help="is there room on the node's docker disk?",
    )
