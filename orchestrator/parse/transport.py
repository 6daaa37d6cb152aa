"""A log as bytes → the few lines of it that may matter, cleaned of what launchers and terminals add.

Pure and streaming: how the bytes are cut into chunks changes nothing, and a line without any marker is never
looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.linear import compiled
from orchestrator.parse.visible import visible_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A longer line is counted and never parsed or held.
MAX_LINE_BYTES = 1 << 16
#: Bytes worked on at once, so that one large chunk costs what many small ones do.
PIECE_BYTES = 1 << 18
MAX_SAMPLES = 5
#: More prefixes than this on one line are part of its text.
MAX_PREFIXES = 8

#: Colours, cursor moves, and titles or links as terminals end them. All of it is zero wide.
_ESCAPES = compiled(r"\x1b(?:\[[0-9;?]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")

#: `[rank3]:`, `[default3]:` of torchrun, `[Rank 3]` of DeepSpeed.
RANK_LABEL = compiled(r"\[(rank|Rank|default|trainer) ?(\d{1,7})\]:? ?")
#: `3: ` of srun --label; `[1,3]<stdout>: ` of mpirun --tag-output.
SRUN_LABEL = compiled(r"(\d{1,7}): ")
MPI_LABEL = compiled(r"\[\d{1,7},(\d{1,7})\]<std(out|err)>: ?")
#: `2026-11-21 14:00:00,123 `, `[2026-11-21T14:00:00.123456Z] ` and their kin.
STAMP = compiled(r"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d([.,]\d{1,9})?(Z|[+-]\d\d:?\d\d)?\]?:? ?")
#: `node1: ` of pdsh. A name without a digit could be anything (`loss: `), so it is none.
HOST_LABEL = compiled(r"([A-Za-z0-9][A-Za-z0-9_.-]*): ")
#: `[INFO] ` and `[timer.py:264:stop] ` of loggers.
LEVEL = compiled(r"\[[A-Z]{4,8}\] ?")
PLACE = compiled(r"\[[a-z_]+\.py:\d{1,9}:[A-Za-z_]+\] ?")
SPACE = compiled(r"[ \t]+")
PREFIXES = (RANK_LABEL, SRUN_LABEL, MPI_LABEL, STAMP, LEVEL, PLACE, HOST_LABEL, SPACE)
NUMBERED = (RANK_LABEL, SRUN_LABEL, MPI_LABEL)
#: What may stand inside a marker and hide it: a line with these is cleaned before it is judged.
HIDING = (b"\x1b", b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line with a marker. `number` counts newlines from 1, as an editor does.

    `text` is without colours and NULs; `start` is where its own words begin, after what launchers put before
    them. `source` is who said it, in the launcher's words ("" where nobody is named), `rank` the number in
    that name: global or local, which the launcher does not say.
    """

    number: int
    text: str
    start: int
    source: str
    rank: int | None

    @property
    def words(self) -> str:
        return self.text[self.start :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What went by: newlines seen, lines too long to be read, and the beginning of a last line without an
    end.
    """

    num_bytes: int
    num_lines: int
    num_overlong: int
    overlong: tuple[str, ...]
    truncated: str | None


class LineReader:
    """Cuts a growing file into lines at `\\n` and `\\r`, and keeps those that hold one of `markers`."""

    def __init__(self, markers: Sequence[bytes]) -> None:
        self._markers = tuple(dict.fromkeys((*markers, *HIDING)))
        self._words = tuple(marker.decode() for marker in markers)
        self._pending = b""
        self._too_long = False
        self._num_bytes = self._newlines = self._num_overlong = 0
        self._overlong: list[str] = []

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines with a marker that `chunk` completes, in their order."""
        self._num_bytes += len(chunk)
        found: list[Line] = []
        for start in range(0, len(chunk), PIECE_BYTES):
            self._piece(chunk[start : start + PIECE_BYTES], found)
        return found

    def passed(self) -> Passed:
        """All that was read so far; changes nothing."""
        held = self._pending.strip(b"\0 \t")
        return Passed(
            num_bytes=self._num_bytes,
            num_lines=self._newlines + bool(self._pending or self._too_long),
            num_overlong=self._num_overlong,
            overlong=tuple(self._overlong),
            truncated=visible_bytes(held[:480]) if held and not self._too_long else None,
        )

    def _piece(self, piece: bytes, found: list[Line]) -> None:
        # Positions are the same in both; only the original knows which ends are lines of an editor.
        flat = piece.replace(b"\r", b"\n")
        last = flat.rfind(b"\n")
        if last < 0:
            self._hold(piece)
            return
        if self._too_long:
            skipped = flat.find(b"\n") + 1
            self._newlines += piece.count(b"\n", 0, skipped)
            self._too_long = False
            piece, flat, last = piece[skipped:], flat[skipped:], last - skipped
        if self._pending:
            piece, flat = self._pending + piece, self._pending + flat
            last += len(self._pending)
            self._pending = b""
        if last >= 0:
            self._whole_lines(piece, flat[: last + 1], found)
        self._hold(piece[last + 1 :])

    def _hold(self, tail: bytes) -> None:
        """Keeps a line's beginning until its end arrives, or only the news that it is too long."""
        if self._too_long:
            return
        self._pending += tail
        if len(self._pending) > MAX_LINE_BYTES:
            self._overran(self._pending)
            self._pending, self._too_long = b"", True

    def _overran(self, beginning: bytes) -> None:
        self._num_overlong += 1
        if len(self._overlong) < MAX_SAMPLES:
            self._overlong.append(visible_bytes(beginning[:480]))

    def _whole_lines(self, piece: bytes, flat: bytes, found: list[Line]) -> None:
        overlong = _overlong_spans(flat)
        for start, end in overlong:
            self._overran(flat[start:end])
        counted_to = 0
        for start, end in _hits(flat, self._markers, overlong):
            self._newlines += piece.count(b"\n", counted_to, start)
            counted_to = start
            text = _cleaned(piece[start:end])
            if any(word in text for word in self._words):
                found.append(_line(text, number=self._newlines + 1))
        self._newlines += piece.count(b"\n", counted_to, len(flat))


def _overlong_spans(flat: bytes) -> list[tuple[int, int]]:
    """(start, end) of the lines over the limit. Looks at one newline per 64 KiB where all is well."""
    spans = []
    start = 0
    while start < len(flat):
        newline = flat.rfind(b"\n", start, start + MAX_LINE_BYTES + 1)
        if newline < 0:
            newline = flat.find(b"\n", start + MAX_LINE_BYTES)
            spans.append((start, newline))
        start = newline + 1
    return spans


def _hits(
    flat: bytes, markers: Sequence[bytes], overlong: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """(start, end) of every line that holds a marker and is not too long, ascending."""
    hits: set[tuple[int, int]] = set()
    for marker in markers:
        place = flat.find(marker)
        while place >= 0:
            span = next((span for span in overlong if span[0] <= place < span[1]), None)
            if span is None:
                end = flat.find(b"\n", place)
                hits.add((flat.rfind(b"\n", 0, place) + 1, end))
            else:
                end = span[1]
            place = flat.find(marker, end)
    return sorted(hits)


def _cleaned(data: bytes) -> str:
    """Without what has no width; bytes that are no UTF-8 become U+FFFD."""
    text = data.decode("utf-8", "replace")
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if "\0" in text:
        text = text.replace("\0", "")
    return text


def _line(text: str, *, number: int) -> Line:
    start, names, rank = 0, [], None
    for _ in range(MAX_PREFIXES):
        match = next((match for regex in PREFIXES if (match := regex.match(text, start))), None)
        if match is None or (match.re is HOST_LABEL and not any(char.isdigit() for char in match[1])):
            break
        start = match.end()
        if match.re is HOST_LABEL or match.re in NUMBERED:
            names.append(match[0].strip(" :"))
        if match.re in NUMBERED:
            rank = int(match[2] if match.re is RANK_LABEL else match[1])
    return Line(number=number, text=text, start=start, source=" ".join(names), rank=rank)
