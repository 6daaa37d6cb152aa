"""The verdict in one sentence, and what is to be known beside it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.messages import reason_text
from orchestrator.page.words import Span, joined, plain, word
from orchestrator.report.columns import MEASURED, config_text
from orchestrator.report.numbers import per_cent, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.page.differences import Difference
    from orchestrator.page.gather import Gathered
    from orchestrator.page.trend import Trend

#: Kind → (how it looks, its sign): colour never stands alone.
LOOKS = {
    "measured": ("ok", "✓"),
    "improvement": ("ok", "▲"),
    "proxy": ("ok", "✓"),
    "warning": ("warn", "!"),
    "suspect": ("warn", "▼"),
    "partial": ("warn", "!"),
    "regression": ("bad", "▼"),
    "invalid": ("bad", "✗"),
    "failed": ("bad", "✗"),
    "not_run": ("bad", "✗"),
}
#: How many changed entries a banner names.
MOST_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    kind: str
    title: Span
    sentences: tuple[Span, ...]

    @property
    def look(self) -> str:
        return LOOKS[self.kind][0]

    @property
    def sign(self) -> str:
        return LOOKS[self.kind][1]


def banner_of(gathered: Gathered, changed: Sequence[Difference], warnings: Sequence[Span]) -> Banner:
    result = gathered.result
    cells = result["cells"]
    unproven = [cell for cell in cells if cell["verdict"] != MEASURED]
    moved = [trend for trend in gathered.trends.values() if trend.kind in ("regression", "suspect")]
    better = [trend for trend in gathered.trends.values() if trend.kind == "improvement"]
    sentences: list[Span] = []
    if unproven:
        kind = "partial" if len(unproven) < len(cells) else _unproven_kind(unproven)
        if kind == "partial":
            sentences.append(word("said.partial", n=len(cells), bad=len(unproven)))
        sentences += [_unproven(cell) for cell in unproven[:3]]
    elif moved:
        kind = "regression" if any(one.kind == "regression" for one in moved) else "suspect"
    elif warnings:
        kind = "warning"
    elif better:
        kind = "improvement"
    else:
        kind = "proxy" if all(cell["proxy"] is not None for cell in cells) else "measured"
    sentences += [_moved(gathered, trend) for trend in (*moved, *better)[:3]]
    if moved:
        sentences += _since(moved)
        if changed:
            what = [
                Span(*(f"{label} {one.before} → {one.now}" for label in one.label))
                for one in changed[:MOST_NAMED]
            ]
            sentences.append(word("said.changed", what=joined(what, "；", "; ")))
    if not sentences:
        sentences.append(_measured(cells))
    sentences += _nature(cells)
    return Banner(kind=kind, title=word(f"banner.{kind}"), sentences=tuple(sentences))


def config_span(cell: Mapping[str, Any]) -> Span:
    return Span(config_text(cell, "zh"), config_text(cell, "en"))


def _unproven_kind(cells: Sequence[Mapping[str, Any]]) -> str:
    verdicts = {str(cell["verdict"]).lower() for cell in cells}
    return next((kind for kind in ("failed", "invalid", "not_run") if kind in verdicts), "failed")


def _unproven(cell: Mapping[str, Any]) -> Span:
    reason = str(cell["reasons"][0]) if cell["reasons"] else "–"
    said = Span(reason_text(reason, "zh"), reason_text(reason, "en"))
    return word("said.unproven", config=config_span(cell), verdict=cell["verdict"], reason=said)


def _moved(gathered: Gathered, trend: Trend) -> Span:
    cell = next(one for one in gathered.result["cells"] if one["cell_id"] == trend.cell_id)
    value, median = trend.points[-1].value, trend.median
    assert value is not None
    assert median is not None
    down = trend.kind != "improvement"
    limit = trend.low if down else trend.high
    return word(
        "said.regression" if down else "said.improvement",
        config=config_span(cell),
        value=significant(value),
        median=significant(median),
        n=trend.n,
        change=per_cent(abs(value - median) / median, digits=1),
        limit=significant(limit or 0.0),
    )


def _since(moved: Sequence[Trend]) -> list[Span]:
    said = []
    for trend in moved[:1]:
        first = next((point for point in trend.points if point.run_id == trend.first_bad), None)
        if trend.kind == "suspect":
            said.append(word("said.suspect"))
        elif first is not None:
            said.append(word("said.first_bad", run=first.run_id, date=first.created_utc[:10]))
    return said


def _measured(cells: Sequence[Mapping[str, Any]]) -> Span:
    held = sum(proof["held"] for cell in cells for proof in cell["proofs"])
    if len(cells) != 1:
        return word("said.all_measured", n=len(cells), held=held)
    (cell,) = cells
    value = cell["metrics"]["tokens_per_second_per_device"]["value"]
    text = "–" if value is None else significant(value)
    return word("said.measured", config=config_span(cell), value=text, held=held)


def _nature(cells: Sequence[Mapping[str, Any]]) -> list[Span]:
    said = []
    of = dict.fromkeys(str(cell["proxy"]["of"]) for cell in cells if cell["proxy"] is not None)
    if of:
        said.append(word("said.proxy", of=joined([plain(one) for one in of], "、", ", ")))
    if any(cell.get("rehearsal") is not None for cell in cells):
        said.append(word("said.rehearsal"))
    return said
