"""Result → MLPerf log lines: `:::MLLOG {json}`, as mlperf_logging writes them (mllog/mllog.py).

Every line is a point in time with the time that the run was planned: a result holds no other wall clock.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.parse.visible import visible
from orchestrator.report.columns import MEASURED
from orchestrator.report.model import guarded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.messages import Language

MAX_CHARS = 2000


def mllog_text(result: Mapping[str, Any], language: Language = "en") -> str:  # noqa: ARG001 - as every writer
    """One line a value, cell after cell. Raises ConfigError (E801)."""
    return guarded(result, lambda: "".join(_lines(result)))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    time_ms = int(datetime.fromisoformat(result["run"]["created_utc"]).timestamp() * 1000)
    for cell in result["cells"]:
        for key, value, about in _values(result, cell):
            metadata = {"file": "result.json", "lineno": 0, "cell": cell["cell_id"], **about}
            yield _line(time_ms, key, value, metadata)


def _values(
    result: Mapping[str, Any], cell: Mapping[str, Any]
) -> Iterator[tuple[str, object, dict[str, object]]]:
    """Keys of mllog/constants.py where it has one; metrics by their names in result.json."""
    batch, steps = cell["batch"], cell["steps"]
    scale = f"{cell['num_nodes']}x{cell['devices_per_node']}"
    yield "submission_benchmark", cell["case"], {}
    yield "submission_platform", f"{scale} {cell['vendor']} {cell['device']}", {}
    yield "nx8_run_id", result["run"]["run_id"], {}
    yield "nx8_verdict", cell["verdict"], {"reasons": list(cell["reasons"])}
    yield "nx8_proxy", cell["proxy"] is not None, {}
    yield "nx8_rehearsal", cell.get("rehearsal") is not None, {}
    yield "seed", cell["seed"], {}
    yield "global_batch_size", batch["global_batch_size"], {}
    yield "gradient_accumulation_steps", batch["gradient_accumulation_steps"], {}
    yield "max_sequence_length", batch["sequence_length"], {}
    yield "num_warmup_steps", steps["warmup_steps"], {}
    yield "max_steps", steps["warmup_steps"] + steps["measured_steps"], {}
    if cell["verdict"] == MEASURED:
        for name, metric in cell["metrics"].items():
            if metric["value"] is not None:
                yield name, metric["value"], {"unit": metric["unit"], "formula": metric["formula"]}


def _line(time_ms: int, key: str, value: object, metadata: Mapping[str, object]) -> str:
    content = {
        "namespace": "",
        "time_ms": time_ms,
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": metadata,
    }
    text = json.dumps(_shown(content), allow_nan=False)
    # A reader looks for the mark anywhere in a line, and would start over at a second one.
    return f":::MLLOG {text.replace(':::', ':' + chr(92) + 'u003a:')}\n"


def _shown(value: object) -> object:
    if isinstance(value, str):
        return visible(value, limit=MAX_CHARS)
    if isinstance(value, dict):
        return {str(_shown(key)): _shown(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return value
