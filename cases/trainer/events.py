"""What happened, one JSON line a record; docs/contract.md names every record and field."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import zlib
from typing import Any, Dict, Optional, Tuple

VERSION = 1
EVENTS_NAME = "events.jsonl"


class EventWriter:
    """Appends records of one rank. The file must be new: a second life of a rank must not mix with the
    first.
    """

    def __init__(self, directory: str, nonce: str, rank: int) -> None:
        os.makedirs(directory, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(os.path.join(directory, EVENTS_NAME), flags, 0o644)
        self._nonce = nonce
        self._rank = rank
        self._seq = 0
        self._hash = hashlib.sha256()

    def write(self, event: str, **fields: Any) -> None:
        """Raises ValueError for NaN and infinities: they are not JSON, the caller says what they mean."""
        head = {
            "v": VERSION,
            "nonce": self._nonce,
            "rank": self._rank,
            "seq": self._seq,
            "t_s": round(time.monotonic(), 6),
            "event": event,
        }
        head.update(fields)
        # backslashreplace: a path that is not UTF-8 must not cost the record (json leaves lone surrogates
        # alone).
        body = json.dumps(head, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        line = sealed(body.encode("utf-8", "backslashreplace"))
        written = os.write(self._fd, line)
        if written != len(line):  # a disk that was nearly full
            raise OSError(errno.ENOSPC, "{}: {} of {} bytes written".format(EVENTS_NAME, written, len(line)))
        self._hash.update(line)
        self._seq += 1

    def end(self, steps: int) -> None:
        """The last record: it repeats how much came before, so that a cut file shows."""
        self.write("end", steps=steps, count=self._seq, sha256=self._hash.hexdigest())
        os.fsync(self._fd)
        os.close(self._fd)


def sealed(body: bytes) -> bytes:
    """The object's bytes with their CRC-32 as its last key, and the newline."""
    head = body[:-1]  # without the closing brace
    return head + b',"crc32":"%08x"}\n' % (zlib.crc32(head) & 0xFFFFFFFF)


def last_record(directory: str) -> Optional[Dict[str, Any]]:
    """The last complete record of a rank, or None: for the launcher, once the rank is gone."""
    try:
        with open(os.path.join(directory, EVENTS_NAME), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1024 * 1024))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return None
    if not lines or not lines[-1].endswith(b"\n"):
        return None
    try:
        record = json.loads(lines[-1].decode("utf-8"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def end_of(directory: str, nonce: str) -> Tuple[Optional[int], Optional[str]]:
    """`count` and `sha256` of the rank's end record; (None, None) without one of this run."""
    record = last_record(directory)
    if record is None or record.get("event") != "end" or record.get("nonce") != nonce:
        return None, None
    return record.get("count"), record.get("sha256")
