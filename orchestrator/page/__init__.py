"""The report page: one HTML file that needs no network; pictures of curves; a site of all runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Nx8Error, Problem
from orchestrator.history.files import ACCEPTED
from orchestrator.page.curves import thinned
from orchestrator.page.gather import earlier_results, gathered
from orchestrator.page.html import page_html
from orchestrator.page.model import view_of
from orchestrator.page.svg import POINTS, figure_svg
from orchestrator.page.words import word
from orchestrator.report.columns import config_text
from orchestrator.results import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from orchestrator.messages import Language
    from orchestrator.results import RunFolder
    from orchestrator.workspace import Workspace

__all__ = ["accepted_at", "curves_svg", "is_fresh", "page_of", "write_page"]

#: The curves of a picture for a README.
PICTURED = ("throughput", "loss")


def page_of(
    folder: RunFolder,
    workspace: Workspace | None,
    *,
    earlier: Sequence[Mapping[str, Any]] | None = None,
    index: str | None = None,
) -> str:
    """The page of one run. `earlier` are the results before it, oldest first; read from the folders beside
    it where they are not given.

    Raises ConfigError: E707 for a run without result, E801 for one of another shape.
    """
    if earlier is None:
        earlier = earlier_results(folder.path.parent, folder.run_id)
    return page_html(view_of(gathered(folder, workspace, earlier)), index=index)


def accepted_at(runs: Path) -> float:
    """When a person last accepted a run, Unix time; 0 where nobody did. It moves the trends of later ones."""
    return max((path.stat().st_mtime for path in runs.glob(f"*/{ACCEPTED}")), default=0.0)


def is_fresh(page: Path, folder: RunFolder, accepted_s: float) -> bool:
    """Is the page of a run as new as its result, and as the last word of `accepted_at`?"""
    newest = max(accepted_s, folder.result.stat().st_mtime if folder.result.exists() else 0.0)
    return page.exists() and page.stat().st_mtime >= newest


def write_page(folder: RunFolder, workspace: Workspace) -> str | None:
    """Writes report.html into the run's folder. Says why not, where it cannot: no run fails of its page."""
    try:
        write_atomic(folder.page, page_of(folder, workspace).encode("utf-8"))
    except Nx8Error as error:
        return error.problems[0].message
    return None


def curves_svg(folder: RunFolder, language: Language) -> str:
    """Throughput and loss of every MEASURED cell, one picture that follows its reader's colours.

    Raises ConfigError (E830) where no cell is MEASURED: a picture is shown without its proofs.
    """
    found = gathered(folder, None, ())
    which = 0 if language == "zh" else 1
    charts = []
    cells = [cell for cell in found.result["cells"] if cell["verdict"] == "MEASURED"]
    for cell in cells:
        curves = found.curves.get(str(cell["cell_id"]))
        for chart in curves.charts if curves else ():
            if chart.name in PICTURED:
                config = f"{config_text(cell, language)} · " if len(cells) > 1 else ""
                heading = f"{config}{word(f'chart.{chart.name}')[which]} ({chart.unit})"
                charts.append((heading, thinned(chart, POINTS)))
    if not charts:
        raise ConfigError(
            Problem(
                code="E830",
                message=f"run {folder.run_id} has no MEASURED cell with curves to draw",
                help=f"nx8 report {folder.run_id} --format html   shows raw records, marked as such",
            )
        )
    title = config_text(cells[0], language) if len(cells) == 1 else folder.run_id
    return figure_svg(charts, title)
