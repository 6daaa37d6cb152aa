"""What `docker save` writes: which of its bytes a node needs that holds some of the layers already. Pure.

dockerd opens the file of a layer only when it does not hold that layer on top of those below it
(daemon: image/tarexport/load.go, from 1.10 to 28), and compares what it then reads with the layer's digest.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The tables of an archive are a few thousand bytes; a member beyond this is none.
MAX_TABLE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file of the archive with its headers and padding: the bytes from `start` to before `end`."""

    name: str
    start: int
    end: int
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """`layers` are the image's diff digests, lowest first; `files` the member that holds each."""

    size: int
    members: tuple[Member, ...]
    layers: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Ranges (start, end) of an archive's bytes, in order; together they are an archive again."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self.ranges)

    def after(self, offset: int) -> Iterator[tuple[int, int]]:
        """The ranges of what comes after the parcel's own first `offset` bytes."""
        for start, end in self.ranges:
            skipped = min(offset, end - start)
            offset -= skipped
            if start + skipped < end:
                yield start + skipped, end


def read_archive(file: IO[bytes], *, size: int) -> Archive:
    """The table of contents of an archive with one image; only headers and small tables are read.

    Raises ValueError for anything that is none.
    """
    members: list[Member] = []
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as packed:
            found = packed.getmembers()
            ends = [*(one.offset for one in found[1:]), *(_blocks(one) for one in found[-1:])]
            for one, end in zip(found, ends, strict=True):
                link = (
                    _beside(one.name, one.linkname) if one.issym() else one.linkname if one.islnk() else None
                )
                members.append(Member(name=one.name, start=one.offset, end=end, link=link))
            manifest = _table(packed, "manifest.json")[0]
            config = _table(packed, manifest["Config"])
            files = tuple(posixpath.normpath(str(path)) for path in manifest["Layers"])
            layers = tuple(str(digest) for digest in config["rootfs"]["diff_ids"])
    except (tarfile.TarError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not an archive of docker save: {type(error).__name__}: {error}") from error
    if len(files) != len(layers) or not layers:
        raise ValueError(f"an archive of {len(files)} files for {len(layers)} layers")
    return Archive(size=size, members=tuple(members), layers=layers, files=files)


def _blocks(member: tarfile.TarInfo) -> int:
    """Where the member's last block ends."""
    held = member.size if member.isreg() else 0
    return member.offset_data + -(-held // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _beside(name: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _table(packed: tarfile.TarFile, name: str) -> Any:
    member = packed.getmember(name)
    if member.size > MAX_TABLE_BYTES:
        raise ValueError(f"{name} has {member.size} bytes")
    held = packed.extractfile(member)
    if held is None:
        raise ValueError(f"{name} is no file")
    return json.loads(held.read())


def depth(layers: tuple[str, ...], images: Iterable[tuple[str, ...]]) -> int:
    """How many of the lowest `layers` one of the `images` has in the same order, and so a node holds."""
    return max((_common(layers, image) for image in images), default=0)


def _common(layers: tuple[str, ...], image: tuple[str, ...]) -> int:
    same = 0
    for ours, theirs in zip(layers, image, strict=False):
        if ours != theirs:
            break
        same += 1
    return same


def parcel(archive: Archive, *, held: int) -> Parcel:
    """The archive without the files of its lowest `held` layers."""
    links = {one.name: one.link for one in archive.members if one.link is not None}
    needed: set[str] = set()
    for name in archive.files[held:]:
        # A layer that stands twice in an image is written once; the other is a link to it.
        while name not in needed:
            needed.add(name)
            name = links.get(name, name)  # noqa: PLW2901 - the way along the links
    left_out = set(archive.files[:held]) - needed
    ranges = [(one.start, one.end) for one in archive.members if posixpath.normpath(one.name) not in left_out]
    if archive.members and archive.members[-1].end < archive.size:
        ranges.append((archive.members[-1].end, archive.size))
    return Parcel(ranges=tuple(joined(ranges)))


def joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same bytes in as few ranges as can be, in order."""
    open_start = open_end = -1
    for start, end in sorted(ranges):
        if start <= open_end:
            open_end = max(open_end, end)
            continue
        if open_end > open_start:
            yield open_start, open_end
        open_start, open_end = start, end
    if open_end > open_start:
        yield open_start, open_end
