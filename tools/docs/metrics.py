"""docs/metrics.md and its Chinese page say of every metric what the code says: name, unit, direction."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.metrics.logged import SPECS as OF_LOGS
from orchestrator.metrics.summary import SPECS

DOCS = Path(__file__).parents[2] / "docs"
#: page → how it writes a direction and, where it does not write it as the code does, a unit.
PAGES = {
    "metrics.md": ({"higher": "higher", "lower": "lower", "none": "–"}, {"1": "–"}),
    "metrics.zh.md": (
        {"higher": "高", "lower": "低", "none": "–"},
        {
            "1": "–",
            "s": "秒",
            "bytes": "字节",
            "fraction": "比例",
            "tokens/s": "token/秒|tokens/s",
            "steps": "步",
            "tokens/s/TFLOPS": "token/秒/TFLOPS",
        },
    ),
}


def wrong() -> list[str]:
    """Metrics that a page leaves out, or gives another unit or direction than the code."""
    return [problem for name in PAGES for problem in _of_page(name)]


def _of_page(name: str) -> list[str]:
    directions, units = PAGES[name]
    rows = _rows((DOCS / name).read_text("utf-8"))
    found = []
    for metric, (unit, direction, _) in {**OF_LOGS, **SPECS}.items():
        if metric not in rows:
            found.append(f"docs/{name}: {metric} is not there")
            continue
        said_units, said_directions = rows[metric]
        if not set(units.get(unit, unit).split("|")) & set(said_units):
            found.append(f"docs/{name}: {metric} is in {unit}, not in {', '.join(said_units)}")
        if directions[direction] not in said_directions:
            found.append(f"docs/{name}: better of {metric} is {direction}, not {', '.join(said_directions)}")
    return found


def _rows(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """metric → the units and directions of its row; `_p95_s` continues the name before it."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for names, units, directions in re.findall(r"^\| (`.+?) \| (.+?) \| (.+?) \| ", text, re.MULTILINE):
        first = ""
        for name in re.findall(r"`([a-z0-9_]+)`", names):
            whole = re.sub(r"_p\d+_s$", name, first) if name.startswith("_") else name
            first = first or whole
            found[whole] = (re.split(r"[,、] ?", units), re.split(r"[;；,、] ?", directions))
    return found
