"""All runs as a folder of static pages: an index with the trend of every series, and each run's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Nx8Error
from orchestrator.page import accepted_at, is_fresh, page_of
from orchestrator.page.banner import LOOKS, config_span
from orchestrator.page.gather import readable
from orchestrator.page.html import index_html
from orchestrator.page.svg import trend_svg
from orchestrator.page.trend import MOST, Trend, identity, trend_of
from orchestrator.page.words import Span, plain, word
from orchestrator.report.columns import MEASURED
from orchestrator.report.numbers import significant
from orchestrator.report.output import write_file
from orchestrator.results import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.page.trend import Identity
    from orchestrator.workspace import Workspace

#: How many runs an index lists unless said otherwise.
LISTED = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRow:
    config: Span
    case: str
    svg: str
    latest: str
    kind: Span
    look: str
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """`figures`: (configuration, token/p/s or –, verdict, look)."""

    run_id: str
    created: str
    link: str
    figures: tuple[tuple[Span, str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexView:
    series: tuple[SeriesRow, ...]
    runs: tuple[RunRow, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Every run that has a result to show, oldest first."""

    runs: tuple[tuple[RunFolder, Mapping[str, Any]], ...]

    @classmethod
    def read(cls, runs: Path) -> History:
        found = ((folder, readable(folder)) for folder in RunFolder.all(runs))
        return cls(runs=tuple((folder, result) for folder, result in found if result is not None))

    @property
    def results(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(result for _, result in self.runs)

    def before(self, run_id: str) -> Sequence[Mapping[str, Any]]:
        return [result for folder, result in self.runs if folder.run_id < run_id][-MOST:]


def index_view(history: History, *, listed: int = LISTED, link: Callable[[str], str]) -> IndexView:
    """`link` makes the address of a run's page of its name."""
    shown = history.runs[-listed:]
    return IndexView(
        series=tuple(_series(history.results, link)),
        runs=tuple(_run(folder, result, link) for folder, result in reversed(shown)),
        left_out=len(history.runs) - len(shown),
    )


def _series(results: Sequence[Mapping[str, Any]], link: Callable[[str], str]) -> Iterator[SeriesRow]:
    """The newest cell of every kind, newest first."""
    seen: set[Identity] = set()
    for n in range(len(results) - 1, -1, -1):
        result = results[n]
        for cell in result["cells"]:
            kind = identity(cell, str(result["run"]["cluster"]))
            if kind in seen:
                continue
            seen.add(kind)
            trend = trend_of(result, cell, results[:n])
            run_id = str(result["run"]["run_id"])
            yield SeriesRow(
                config=config_span(cell),
                case=str(cell["case"]),
                svg=trend_svg(trend, 'aria-hidden="true"', small=True),
                latest=_figure(cell),
                kind=word(f"trend.{trend.kind}") if cell["verdict"] == MEASURED else plain(cell["verdict"]),
                look=_look(trend, cell),
                link=link(run_id),
            )


def _run(folder: RunFolder, result: Mapping[str, Any], link: Callable[[str], str]) -> RunRow:
    return RunRow(
        run_id=folder.run_id,
        created=str(result["run"]["created_utc"])[:19].replace("T", " "),
        link=link(folder.run_id),
        figures=tuple(
            (
                config_span(cell),
                _figure(cell),
                str(cell["verdict"]),
                "ok" if cell["verdict"] == MEASURED else "bad",
            )
            for cell in result["cells"]
        ),
    )


def _figure(cell: Mapping[str, Any]) -> str:
    value = cell["metrics"]["tokens_per_second_per_device"]["value"]
    return "–" if value is None or cell["verdict"] != MEASURED else significant(float(value))


def _look(trend: Trend, cell: Mapping[str, Any]) -> str:
    if cell["verdict"] != MEASURED:
        return "bad"
    return LOOKS[trend.kind][0] if trend.kind in LOOKS else "ok" if trend.kind == "in_band" else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What `write_site` did: pages written, those that were up to date, and (run, why) of those it could
    not make.
    """

    index: Path
    written: int
    kept: int
    failed: tuple[tuple[str, str], ...]


def write_site(workspace: Workspace, folder: Path, *, listed: int = LISTED) -> Made:
    """The site in `folder`, which is made. A run's page is written again when its result is newer, or
    a run was accepted since.

    Raises ConfigError (E840) where it cannot be written.
    """
    from orchestrator.errors import ConfigError
    from orchestrator.results.storage import make_folder, storage_problem

    try:
        make_folder(folder.absolute())
    except OSError as error:
        raise ConfigError(storage_problem(error, folder, code="E840")) from error
    history = History.read(workspace.runs)
    accepted = accepted_at(workspace.runs)
    written = kept = 0
    failed: list[tuple[str, str]] = []
    for run, _ in history.runs[-listed:]:
        page = folder / f"{run.run_id}.html"
        if is_fresh(page, run, accepted):
            kept += 1
            continue
        try:
            text = page_of(run, workspace, earlier=history.before(run.run_id), index="index.html")
        except Nx8Error as error:
            failed.append((run.run_id, str(error.problems[0].message)))
            continue
        write_file(page, text)
        written += 1
    missing = {name for name, _ in failed}
    view = index_view(history, listed=listed, link=lambda name: "" if name in missing else f"{name}.html")
    index = folder / "index.html"
    write_file(index, index_html(view))
    return Made(index=index, written=written, kept=kept, failed=tuple(failed))
