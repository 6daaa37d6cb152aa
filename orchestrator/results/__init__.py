"""Names every file of one run, writes beside and then renames, finds runs again.

results/runs/<run_id>/plan.json host.json result.json report.md report.html
                      cells/<cell_id>/…      as docs/contract.md lays it out
results/runs/latest   → the run that started last
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.errors import ConfigError, Problem
from orchestrator.results.storage import link_atomic, make_folder, storage_problem, write_atomic
from orchestrator.results.storage import write_new as write_new

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "WRONG_SHAPE",
    "CellFolder",
    "NodeFolder",
    "RankFolder",
    "RunFolder",
    "read_result",
    "serialise",
    "write_atomic",
]

LATEST = "latest"
SCHEMA = "nx8.result/1"
#: What reading a stored document raises that is not of our shape.
WRONG_SHAPE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError, RecursionError)
#: Names joined by `+`, `-` and `.`: what becomes a folder holds neither separators nor a leading dot.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,126}")
#: How many runs an error message lists.
MAX_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFolder:
    path: Path

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def stdout(self) -> Path:
        return self.path / "stdout.log"

    @property
    def stderr(self) -> Path:
        return self.path / "stderr.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFolder:
    path: Path

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def monitor(self) -> Path:
        return self.path / "monitor.jsonl"

    @property
    def stacks(self) -> Path:
        return self.path / "stacks.json"

    @property
    def launcher_log(self) -> Path:
        return self.path / "launcher.log"

    def rank(self, rank: int) -> RankFolder:
        return RankFolder(path=self.path / f"rank{rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFolder:
    path: Path

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    def node(self, node_rank: int) -> NodeFolder:
        return NodeFolder(path=self.path / f"node{node_rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """One run's folder; `path` is absolute."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def host(self) -> Path:
        return self.path / "host.json"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def cells(self) -> Path:
        return self.path / "cells"

    def cell(self, cell_id: str) -> CellFolder:
        """Raises ConfigError (E704) for a name that could leave the folder."""
        return CellFolder(path=self.cells / _checked(cell_id, what="cell id"))

    def reparsed(self, parser_version: int) -> Path:
        """Where a result that another parser version recomputed goes: a stored one is never replaced."""
        return self.path / "reparse" / str(parser_version) / "result.json"

    @classmethod
    def create(cls, runs: Path, run_id: str) -> RunFolder:
        """Makes the new, empty folder of a run, mode 0700, and those above it.

        Raises ConfigError: E704 for a bad name, E702 if it exists already, E703 if it cannot be made.
        """
        folder = cls(path=runs.absolute() / _checked(run_id, what="run id"))
        if run_id == LATEST:
            raise ConfigError(Problem(code="E704", message=f"{LATEST!r} is no run id: it names the last run"))
        try:
            make_folder(runs.absolute())
            folder.path.mkdir(mode=0o700)
        except FileExistsError:
            message = f"run {run_id} exists already: {folder.path}"
            raise ConfigError(
                Problem(code="E702", message=message, help="a run is never overwritten")
            ) from None
        except OSError as error:
            raise ConfigError(storage_problem(error, folder.path, code="E703")) from error
        return folder

    @classmethod
    def all(cls, runs: Path) -> tuple[RunFolder, ...]:
        """Every run in `runs`, by name; a run is a folder with a plan. `latest`, a link, is none."""
        root = runs.absolute()
        try:
            found = sorted(root.iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigError(storage_problem(error, root, code="E703")) from error
        return tuple(
            cls(path=path)
            for path in found
            if _NAME.fullmatch(path.name) and not path.is_symlink() and (path / "plan.json").is_file()
        )

    @classmethod
    def find(cls, runs: Path, named: str) -> RunFolder:
        """The run that a person means: `latest`, a run id, or the path of a run's folder.

        Anything with a separator, and `.` and `..`, is a path. Raises ConfigError (E705) naming what exists.
        """
        if "\0" in named:
            _unknown(runs, f"{_shown(named)} is no run id")
        if os.sep in named or named in (".", ".."):
            folder = cls(path=Path(named).resolve())
        elif named == LATEST:
            folder = _latest(runs)
        elif _NAME.fullmatch(named):
            folder = cls(path=runs.absolute() / named)
        else:
            _unknown(runs, f"{_shown(named)} is no run id")
        try:
            found = folder.plan.is_file()
        except OSError:
            found = False  # a name too long to be one, or a folder that may not be entered
        if not found:
            _unknown(runs, f"there is no run {_shown(named)}: {_shown(str(folder.plan))} is missing")
        return folder

    def point_latest(self) -> None:
        """Makes `latest` beside this folder name it, in one step. Raises CellError (E701)."""
        link_atomic(self.path.parent / LATEST, self.run_id)


def serialise(document: Mapping[str, object]) -> bytes:
    """The bytes of result.json, the same for the same document. Raises ValueError for NaN or infinity."""
    text = json.dumps(document, sort_keys=False, indent=2, ensure_ascii=False, allow_nan=False)
    # A lone surrogate, from a path that is no UTF-8, becomes the JSON escape that it is.
    return (text + "\n").encode("utf-8", "backslashreplace")


def read_result(folder: RunFolder) -> dict[str, Any]:
    """The stored result of a run. Raises ConfigError (E707) when there is none or it is not one of ours."""
    try:
        document = json.loads(folder.result.read_bytes())
    except FileNotFoundError:
        message, help_ = f"run {folder.run_id} has no result.json", f"nx8 parse {folder.run_id}"
        raise ConfigError(Problem(code="E707", message=message, help=help_)) from None
    except OSError as error:
        message = f"{folder.result} cannot be read: {error.strerror}"
        raise ConfigError(Problem(code="E707", message=message)) from error
    except (ValueError, RecursionError):
        raise ConfigError(Problem(code="E707", message=f"{folder.result} is not JSON")) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ConfigError(Problem(code="E707", message=f"{folder.result} is not of the schema {SCHEMA}"))
    return document


def _latest(runs: Path) -> RunFolder:
    link = runs.absolute() / LATEST
    try:
        target = os.readlink(link)  # noqa: PTH115 - the text of the link is judged, not where it leads
    except OSError:
        _unknown(runs, f"there is no {LATEST} run yet")
    if not _NAME.fullmatch(target):
        _unknown(runs, f"{link} leads out of its folder, to {_shown(target)}")
    return RunFolder(path=link.parent / target)


def _unknown(runs: Path, message: str) -> NoReturn:
    names = [folder.run_id for folder in RunFolder.all(runs)]
    listed = ", ".join(reversed(names[-MAX_LISTED:]))
    more = f" and {len(names) - MAX_LISTED} older" if len(names) > MAX_LISTED else ""
    text = f"runs in {runs}, newest first: {listed}{more}" if names else f"{runs} holds no run"
    raise ConfigError(Problem(code="E705", message=message, help=text))


def _checked(name: str, *, what: str) -> str:
    if _NAME.fullmatch(name):
        return name
    message = f"{_shown(name)} is no {what}: letters, digits, '.', '_', '+' and '-', 127 at most"
    raise ConfigError(Problem(code="E704", message=message))


def _shown(name: str) -> str:
    """`ascii`, because this text may hold anything at all and goes to a terminal."""
    return ascii(name[:80])
