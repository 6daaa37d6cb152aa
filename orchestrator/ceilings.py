"""results/ceilings/<cluster>/<node>.json: the most that the devices of a node were measured to do, kept for
the runs of the same day.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import ConfigError
from orchestrator.load import read_stored
from orchestrator.results import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orchestrator.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCeiling:
    """`tflops`: by type, the best batch of matrix products of each device, in the devices' order; None for a
    device without a proven figure. `at_utc` is when it was measured (ISO 8601), by run or command `by`.
    """

    schema: Literal[1]
    cluster: str
    node: str
    at_utc: str
    device: str
    torch: str | None
    image: str | None
    boot_id: str | None
    tflops: dict[str, tuple[float | None, ...]]


def file(home: Path, cluster: str, node: str) -> Path:
    return home / "results" / "ceilings" / cluster / f"{node}.json"


def store(home: Path, ceiling: NodeCeiling) -> Path:
    """Raises CellError (E701) when it cannot be written."""
    path = file(home, ceiling.cluster, ceiling.node)
    text = json.dumps(asdict(ceiling), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8"))
    return path


def stored(home: Path, cluster: str, nodes: Iterable[str]) -> dict[str, NodeCeiling | str]:
    """By node what was measured last, or why there is nothing to use."""
    found: dict[str, NodeCeiling | str] = {}
    for node in nodes:
        path = file(home, cluster, node)
        if not path.is_file():
            found[node] = "no ceiling was measured: nx8 doctor --deep"
            continue
        try:
            found[node] = read_stored(path, NodeCeiling)
        except ConfigError as error:
            found[node] = f"the stored ceiling cannot be read: {error.problems[0].message}"
    return found


def known(home: Path, selection: Selection) -> dict[str, object]:
    """Of the nodes of a run, for its host.json."""
    names = tuple(node.name for node in selection.cluster.nodes)
    return as_document(stored(home, selection.cluster_name, names))


def as_document(found: dict[str, NodeCeiling | str]) -> dict[str, object]:
    """For host.json: what a result is derived from stays with the run."""
    return {
        node: {"reason": one} if isinstance(one, str) else {"reason": None, **asdict(one)}
        for node, one in found.items()
    }
