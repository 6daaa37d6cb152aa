"""Whether the host still wants this job: a counter in a file that it must keep changing."""

from __future__ import annotations

import time
from typing import Optional


class Lease:
    """Lapses when the file's text has not changed for `length_s` seconds of this process's monotonic clock.
    A file that is not there, or cannot be read, is one that does not change. Its second word is when it was
    changed, in microseconds of the node's monotonic clock: while imports run, nobody looks.
    """

    def __init__(self, path: str, length_s: float) -> None:
        self._path = path
        self._length_s = length_s
        self._look_s = min(1.0, length_s / 10)
        self._text = self._read()
        self._changed_s = time.monotonic()

    def next_look_s(self) -> float:
        """When it is worth looking again, on the monotonic clock."""
        now_s = time.monotonic()
        return min(now_s + self._look_s, max(now_s, self._changed_s + self._length_s + 0.05))

    def lapsed(self) -> bool:
        text = self._read()
        now_s = time.monotonic()
        if text is not None and text != self._text:
            self._text, self._changed_s = text, self._written_s(text, now_s)
        return now_s - self._changed_s > self._length_s

    def _written_s(self, text: bytes, now_s: float) -> float:
        """When the text was written; now, where it does not say so in a way that can be true here."""
        try:
            written_s = int(text.split()[1]) / 1e6
        except (IndexError, ValueError):
            return now_s
        return written_s if self._changed_s <= written_s <= now_s else now_s

    def _read(self) -> Optional[bytes]:
        try:
            with open(self._path, "rb") as file:
                return file.read(256)
        except OSError:
            return None
