"""Result → Prometheus textfile (exposition format 0.0.4). A cell without proof has no value, only a 0 in
`nx8_cell_measured`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.report.columns import MEASURED
from orchestrator.report.escape import label
from orchestrator.report.model import guarded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.messages import Language

Sample = tuple[dict[str, object], float]


def prometheus_text(result: Mapping[str, Any], language: Language = "en") -> str:  # noqa: ARG001 - as every writer
    """Families with HELP and TYPE, every one a gauge. Never a run's id on a series with a value: each run
    would be a new one. Raises ConfigError (E801).
    """
    return guarded(result, lambda: _families(result))


def _families(result: Mapping[str, Any]) -> str:
    cells = result["cells"]
    about = {
        "run_id": result["run"]["run_id"],
        "nx8_version": result["nx8_version"],
        "commit": (result["environment"]["git"] or {}).get("commit") or "",
    }
    run = {"cluster": result["run"]["cluster"], "vendor": result["run"]["vendor"]}
    lines = [
        *_family("nx8_run_info", "Which run the other series are from.", [({**run, **about}, 1)]),
        *_family(
            "nx8_run_timestamp_seconds",
            "When the run was planned, Unix time.",
            [(run, datetime.fromisoformat(result["run"]["created_utc"]).timestamp())],
        ),
        *_family(
            "nx8_run_exit_code",
            "Exit code of the run; 0 when every cell is measured.",
            [(run, result["exit_code"])],
        ),
        *_family(
            "nx8_cell_measured",
            "1 when every proof of the cell holds, else 0 and no figure.",
            [(_labels(result, cell), int(cell["verdict"] == MEASURED)) for cell in cells],
        ),
    ]
    names = dict.fromkeys(name for cell in cells for name in cell["metrics"])
    return "\n".join([*lines, *(line for name in names for line in _metric(result, name))]) + "\n"


def _metric(result: Mapping[str, Any], name: str) -> list[str]:
    """The family of one metric of result.json, over the proven cells that have it."""
    proven = [
        (_labels(result, cell), cell["metrics"][name])
        for cell in result["cells"]
        if cell["verdict"] == MEASURED and name in cell["metrics"]
    ]
    samples = [(labels, metric["value"]) for labels, metric in proven if metric["value"] is not None]
    if not samples:
        return []
    metric = proven[0][1]
    return _family(_named(name, metric["unit"]), f"{metric['formula']} ({metric['unit']}).", samples)


def _named(name: str, unit: str) -> str:
    """As Prometheus names series: the base unit, unabbreviated, at the end."""
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    if unit == "s":
        plain = f"{plain.removesuffix('_s')}_seconds"
    return f"nx8_{plain}_ratio" if unit == "fraction" else f"nx8_{plain}"


def _labels(result: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, object]:
    return {
        "cluster": result["run"]["cluster"],
        "vendor": cell["vendor"],
        "case": cell["case"],
        "cell": cell["cell_id"],
        "device": cell["device"],
        "scale": f"{cell['num_nodes']}x{cell['devices_per_node']}",
        "stage": cell["stage"] or "",
        "precision": cell["precision"]["label"],
        "proxy": "true" if cell["proxy"] is not None else "false",
        "rehearsal": "true" if cell.get("rehearsal") is not None else "false",
    }


def _family(name: str, help_: str, samples: Iterable[Sample]) -> list[str]:
    shown = label(help_).replace('\\"', '"')  # a quote is plain in HELP
    return [f"# HELP {name} {shown}", f"# TYPE {name} gauge", *(_sample(name, *one) for one in samples)]


def _sample(name: str, labels: Mapping[str, object], value: float) -> str:
    inner = ",".join(f'{key}="{label(str(text))}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {float(value)!r}"
