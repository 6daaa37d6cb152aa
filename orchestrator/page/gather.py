"""A run's folder, and what stands beside it, → everything that its page shows. The only part that reads."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.compare.likeness import Compared, compared
from orchestrator.compare.sides import Side, same_case, sides_of_published, sides_of_run
from orchestrator.derive.rawfiles import read_logs, read_monitors, read_programs, read_statuses
from orchestrator.errors import ConfigError, Nx8Error
from orchestrator.history.files import read_accepted
from orchestrator.load import read_stored
from orchestrator.page.curves import Curves, curves_of
from orchestrator.page.trend import MOST, Trend, identity, trend_of
from orchestrator.parse.program import transcribed
from orchestrator.parse.visible import visible_lines
from orchestrator.plan import Plan
from orchestrator.published.storing import Shelf, known_devices
from orchestrator.report.model import guarded
from orchestrator.results import WRONG_SHAPE, RunFolder, read_result

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.plan import Cell
    from orchestrator.published import KnownDevice
    from orchestrator.results import CellFolder
    from orchestrator.workspace import Workspace

#: Of a log, its end says most.
TAIL_LINES = 40
TAIL_BYTES = 64 << 10
#: How many ranks' logs a page shows for a cell.
TAILS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The end of one log, made printable."""

    file: str
    lines: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """`curves`, `tails` and `jobs` by cell id; `trends` has one of every cell, in their order, and `good`
    beside each the result of its last good run. `last_good` is the one that the whole run is compared with.
    """

    result: Mapping[str, Any]
    curves: Mapping[str, Curves] = field(default_factory=dict)
    trends: Mapping[str, Trend] = field(default_factory=dict)
    good: Sequence[Mapping[str, Any] | None] = ()
    last_good: Mapping[str, Any] | None = None
    tables: Sequence[Sequence[Compared]] = ()
    tails: Mapping[str, Sequence[Tail]] = field(default_factory=dict)
    jobs: Mapping[str, str] = field(default_factory=dict)
    dockerfiles: Mapping[str, str] = field(default_factory=dict)


def gathered(
    folder: RunFolder, workspace: Workspace | None, earlier: Sequence[Mapping[str, Any]]
) -> Gathered:
    """Everything for the page of one run. `earlier` are the results before it, oldest first.

    Raises ConfigError: E707 where the run has no result, E801 for one of another shape. What else is missing
    or unreadable is left out, as the report's own texts say it.
    """
    result = {**read_result(folder), "accepted": _accepted(folder)}
    return guarded(result, lambda: _gathered(result, folder, workspace, earlier))


def _gathered(
    result: Mapping[str, Any],
    folder: RunFolder,
    workspace: Workspace | None,
    earlier: Sequence[Mapping[str, Any]],
) -> Gathered:
    plan = _plan(folder)
    cells = {cell.cell_id: cell for cell in plan.cells} if plan else {}
    trends = {str(cell["cell_id"]): trend_of(result, cell, earlier) for cell in result["cells"]}
    by_run = {str(one["run"]["run_id"]): one for one in earlier}
    last = last_good(list(trends.values()))
    return Gathered(
        result=result,
        curves={name: _curves(folder.cell(name), cell) for name, cell in cells.items()},
        trends=trends,
        good=tuple(by_run.get(trend.last_good or "") for trend in trends.values()),
        last_good=by_run.get(last or ""),
        tables=tables(result, workspace) if workspace else (),
        tails={
            name: tails(folder.path, folder.cell(name), cells[name])
            for name, verdict in ((str(one["cell_id"]), one["verdict"]) for one in result["cells"])
            if name in cells and verdict != "MEASURED"
        },
        jobs={name: _indented(folder.cell(name).job) for name in cells},
        dockerfiles={
            cell.image.tag: cell.image.dockerfile for cell in cells.values() if cell.image is not None
        },
    )


def earlier_results(runs: Path, before: str, *, most: int = MOST) -> list[Mapping[str, Any]]:
    """The newest results of runs that were named before `before`, oldest first; unreadable ones are left
    out.
    """
    found: list[Mapping[str, Any]] = []
    for folder in reversed(RunFolder.all(runs)):
        if len(found) == most:
            break
        if folder.run_id < before:
            result = readable(folder)
            if result is not None:
                found.append(result)
    return found[::-1]


def readable(folder: RunFolder) -> Mapping[str, Any] | None:
    """The result of a run, None where it has none or one of another shape."""
    try:
        result = {**read_result(folder), "accepted": _accepted(folder)}
        for cell in result["cells"]:
            identity(cell, str(result["run"]["cluster"]))
            _ = cell["metrics"]["tokens_per_second_per_device"]["value"], cell["verdict"], cell["ranks"]
        return result if isinstance(result["environment"], dict) else None
    except (ConfigError, *WRONG_SHAPE):
        return None


def _accepted(folder: RunFolder) -> tuple[str | None, ...]:
    try:
        return tuple(one.cell_id for one in read_accepted(folder))
    except WRONG_SHAPE:
        return ()


def last_good(trends: Sequence[Trend]) -> str | None:
    """Which run a whole run is compared with: where cells fell out of their bands the one before the first
    of them did, for what changed since then explains it; else the newest good one of any cell.
    """
    fallen = [trend.last_good for trend in trends if trend.first_bad and trend.last_good]
    known = [trend.last_good for trend in trends if trend.last_good]
    return min(fallen) if fallen else max(known, default=None)


def tables(result: Mapping[str, Any], workspace: Workspace) -> list[Sequence[Compared]]:
    """Each cell beside the published rows of its case. A document that cannot be read is left out: `nx8
    published show` says why.
    """
    shelf = Shelf.of(workspace)
    documents = []
    for name in shelf.names():
        try:
            documents.append((name, shelf.read(name)))
        except Nx8Error:
            continue
    found: list[Sequence[Compared]] = []
    rows: dict[str, list[Side]] = {}
    known: tuple[KnownDevice, ...] = ()
    for side in sides_of_run(str(result["run"]["run_id"]), result):
        beside: list[Side] = []
        for name, document in documents:
            if same_case(document.case, side.facts["case"]):
                if name not in rows:
                    known = known or known_devices(workspace)
                    rows[name] = sides_of_published(name, document, known)
                beside += rows[name]
        if beside:
            found.append(compared([side, *beside]))
    return found


def tails(root: Path, folder: CellFolder, cell: Cell) -> list[Tail]:
    """The ends of the logs of the ranks that did not end well, of the first ranks where all did."""
    statuses = read_statuses(folder, cell)
    bad = {
        one.rank
        for status in statuses.values()
        for one in getattr(status, "ranks", ())
        if one.exit_code not in (0, None) or (one.signal and not one.killed)
    }
    found: list[Tail] = []
    for launch in cell.launches:
        node = folder.node(launch.node_rank)
        for rank in launch.ranks:
            if len(found) < TAILS and (rank in bad or not bad):
                for path in (node.rank(rank).stderr, node.rank(rank).stdout):
                    tail = _tail(path, root)
                    if tail is not None:
                        found.append(tail)
                        break
        if len(found) < TAILS and not bad:
            tail = _tail(node.launcher_log, root)
            if tail is not None:
                found.append(tail)
    return found[:TAILS]


def _tail(path: Path, root: Path) -> Tail | None:
    """The end of a regular file; None for any other, and for an empty one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        size = os.fstat(descriptor).st_size
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode("utf-8", "backslashreplace")
    lines = text.splitlines()[-TAIL_LINES:]
    if not lines:
        return None
    return Tail(
        file=path.relative_to(root).as_posix(), lines=len(lines), text=visible_lines("\n".join(lines))
    )


def _plan(folder: RunFolder) -> Plan | None:
    try:
        return read_stored(folder.plan, Plan)
    except Nx8Error:
        return None


def _curves(folder: CellFolder, cell: Cell) -> Curves:
    logs = read_logs(folder, cell)
    if cell.job.program is not None:  # what an external program printed stands for records
        logs = transcribed(cell, logs, read_programs(folder, cell))
    return curves_of(cell, logs, read_monitors(folder, cell))


def _indented(path: Path) -> str:
    try:
        return json.dumps(json.loads(path.read_bytes()), indent=2, ensure_ascii=False)
    except (OSError, ValueError, RecursionError):
        return ""
