"""What the ranks of a run said, from the copies that stand here; followed while they grow."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.follow import Tail
from orchestrator.journal import followed
from orchestrator.load import read_stored
from orchestrator.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.results import RunFolder
    from orchestrator.signals import Signals

LOOK_S = 0.3
#: A line without an end is shown in pieces of this many characters.
MAX_LINE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which streams; None and "all" for every one."""

    node: str | None = None
    rank: int | None = None
    stream: str = "all"


@dataclass(slots=True)
class Source:
    """One file, decoded as it grows: a character is never split, whatever the pieces are."""

    name: str
    tail: Tail
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    _rest: str = ""

    def lines(self, *, last: bool = False) -> list[str]:
        """The lines that are whole by now; with `last` also what is left without an end."""
        text = self._rest + self._decoder.decode(self.tail.read(), final=last)
        *whole, self._rest = text.split("\n")
        if self._rest and (last or len(self._rest) > MAX_LINE):
            whole.append(self._rest)
            self._rest = ""
        return [printable(line) for line in whole]


def printable(line: str) -> str:
    """Without what moves a terminal's cursor or changes its colours, title or clipboard."""
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in line.rstrip("\r"))


def sources(folder: RunFolder, wanted: Wanted) -> list[Source]:
    """The files that are wanted. Raises ConfigError (E257) where the run has no such node or rank."""
    planned = read_stored(folder.plan, Plan)
    found = [
        Source(name, Tail(path))
        for cell in planned.cells
        for launch in cell.launches
        if wanted.node in (None, launch.node)
        for name, path in _files(folder, cell.cell_id, launch.node, launch.node_rank, launch.ranks, wanted)
    ]
    if not found:
        nodes = sorted({one.node for cell in planned.cells for one in cell.launches})
        ranks = max(cell.world_size for cell in planned.cells) - 1
        message = f"run {folder.run_id} has no such stream"
        help_ = f"its nodes are {', '.join(nodes)}, its ranks 0 to {ranks}"
        raise ConfigError(Problem(code="E257", message=message, help=help_))
    return found


def _files(
    folder: RunFolder, cell_id: str, node: str, node_rank: int, ranks: tuple[int, ...], wanted: Wanted
) -> Iterator[tuple[str, Path]]:
    files = folder.cell(cell_id).node(node_rank)
    if wanted.stream in ("all", "launcher") and wanted.rank is None:
        yield f"{node} launcher", files.launcher_log
    for rank in ranks:
        if wanted.rank in (None, rank):
            for stream in ("stdout", "stderr"):
                if wanted.stream in ("all", stream):
                    yield f"{node} rank {rank} {stream}", getattr(files.rank(rank), stream)


def follow_logs(
    folder: RunFolder,
    found: list[Source],
    *,
    say: Callable[[str], object],
    follow: bool,
    signals: Signals,
) -> None:
    """Says every line; with `follow` until nobody follows the run any more, or a signal comes."""
    going = True
    while going:
        # Asked before the last look, so that nothing is written after it.
        going = follow and signals.caught is None and followed(folder.journal)
        for source in found:
            for line in source.lines(last=not going):
                say(f"{source.name} | {line}" if len(found) > 1 else line)
        if going:
            signals.wait(timeout_s=LOOK_S)
