"""A stored run, recomputed from its raw files and compared. It never replaces what was stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.derive import derive, render
from orchestrator.errors import Exit
from orchestrator.load import read_stored
from orchestrator.parse import PARSER_VERSION
from orchestrator.plan import Plan
from orchestrator.report.markdown import report_text
from orchestrator.results import write_atomic

if TYPE_CHECKING:
    from orchestrator.results import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`same` is byte for byte; otherwise `written` holds the new result and `message` what moved."""

    same: bool
    written: Path | None
    message: str
    code: int = Exit.OK

    @property
    def exit_code(self) -> int:
        """0 when reproduced; the run's own where its result was written only now; 4 when it differs."""
        return self.code if self.same else Exit.CELL


def reparse(folder: RunFolder) -> Outcome:
    """Raises ConfigError when the plan or host.json of the run cannot be read."""
    plan = read_stored(folder.plan, Plan)
    now = render(derive(folder, plan))
    before = folder.result.read_bytes() if folder.result.is_file() else b""
    if now == before:
        return Outcome(
            same=True, written=None, message=f"{folder.run_id}: the stored result is reproduced byte for byte"
        )
    if not before:
        write_atomic(folder.result, now)
        write_atomic(folder.report, report_text(json.loads(now)).encode("utf-8"))
        return Outcome(
            same=True,
            written=folder.result,
            message=f"{folder.run_id} had no result yet: written {folder.result}",
            code=int(json.loads(now)["exit_code"]),
        )
    target = folder.reparsed(PARSER_VERSION)
    write_atomic(target, now)
    moved = (
        "\n".join(f"  {line}" for line in differences(_document(before), json.loads(now)))
        or "  its text only"
    )
    return Outcome(
        same=False,
        written=target,
        message=f"{folder.run_id}: today's result differs from the stored one, which stays as it is\n"
        f"{moved}\nwritten: {target}",
    )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What moved, a line each: verdicts with their first reason, then metrics."""
    old_cells = {cell["cell_id"]: cell for cell in before.get("cells") or () if _is_cell(cell)}
    lines = []
    for cell in now["cells"]:
        old = old_cells.get(cell["cell_id"], {"verdict": "nothing", "metrics": {}})
        if old["verdict"] != cell["verdict"]:
            why = f": {cell['reasons'][0]}" if cell["reasons"] else ""
            lines.append(f"{cell['cell_id']}: {old['verdict']} → {cell['verdict']}{why}")
        for name, metric in cell["metrics"].items():
            was = old["metrics"].get(name, {}).get("value")
            if was != metric["value"]:
                lines.append(f"{cell['cell_id']}: {name} {was} → {metric['value']}")
    return lines


def _is_cell(cell: Any) -> bool:
    """Whether a stored cell has the shape to be compared: the file may have been anybody's."""
    return (
        isinstance(cell, dict)
        and {"cell_id", "verdict"} <= cell.keys()
        and isinstance(cell.get("metrics"), dict)
        and all(isinstance(metric, dict) for metric in cell["metrics"].values())
    )


def _document(stored: bytes) -> dict[str, Any]:
    """The stored result, or an empty one where there is none that can be read."""
    try:
        document = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and isinstance(document.get("cells"), list) else {}
