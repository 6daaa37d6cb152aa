"""Stored runs of many nights: one true result, said again with another date and other figures."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.derive import derive, render
from tests.cellmaker import PROXY, honest, make_cell, write_run

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
SPEED = "tokens_per_second_per_device"
CELL = "llama2_7b-1x2"


@functools.cache
def _template() -> tuple[bytes, bytes]:
    """result.json and plan.json as a run leaves them."""
    with tempfile.TemporaryDirectory() as root:
        folder, plan = write_run(Path(root), honest(make_cell()))
        return render(derive(folder, plan)), folder.plan.read_bytes()


def result(
    night: int, speed: float = 3000.0, *, change: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """The result of the run of a night, as `change` then leaves it."""
    document = json.loads(_template()[0])
    at = FIRST + timedelta(days=night)
    document["run"]["run_id"] = run_id(night)
    document["run"]["created_utc"] = at.isoformat(timespec="seconds")
    document["phases"] = [{"name": "train", "seconds": 100.0}]
    document["cells"][0]["metrics"][SPEED]["value"] = speed
    if change is not None:
        change(document)
    return document


def run_id(night: int) -> str:
    return f"{FIRST + timedelta(days=night):%Y%m%dT%H%M%SZ}-llama2_7b-nvidia-{night:06d}"


def stored(results: Path, night: int, speed: float = 3000.0, **said: Any) -> Path:
    """The folder of that run."""
    return store(results, result(night, speed, **said))


def store(results: Path, document: dict[str, Any]) -> Path:
    folder = results / "runs" / document["run"]["run_id"]
    folder.mkdir(parents=True)
    (folder / "plan.json").write_bytes(_template()[1])
    (folder / "result.json").write_text(json.dumps(document), "utf-8")
    return folder


def as_proxy(document: dict[str, Any]) -> None:
    document["cells"][0]["proxy"] = {"why": PROXY.why, "of": PROXY.of}


def as_rehearsal(document: dict[str, Any]) -> None:
    as_proxy(document)
    document["cells"][0]["rehearsal"] = "stand-ins"


def as_failed(document: dict[str, Any]) -> None:
    cell = document["cells"][0]
    cell["verdict"], cell["reasons"] = "FAILED", ["rank 1 exited 1"]


def as_degraded(document: dict[str, Any]) -> None:
    cell = document["cells"][0]
    cell["degraded"] = [{"what": "straggler", "node": "node1", "rank": 1, "factor": 1.3}]


def many_cells(document: dict[str, Any], count: int) -> None:
    """The cell as `count` cells of different cases."""
    one = document["cells"][0]
    document["cells"] = []
    for number in range(count):
        cell = copy.deepcopy(one)
        cell["case"], cell["cell_id"] = f"case{number:02d}", f"case{number:02d}-1x2"
        document["cells"].append(cell)
