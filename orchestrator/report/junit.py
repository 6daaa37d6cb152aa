"""Result → JUnit XML: a suite for the run, a test case for each cell; whatever is not MEASURED is a failure.

What is skipped would look well in a CI's summary, so a cell that never ran is a failure, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from orchestrator.messages import Language, proof_text, reason_text
from orchestrator.report.columns import MEASURED, config_text
from orchestrator.report.escape import xml, xml_lines
from orchestrator.report.model import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping


def junit_text(result: Mapping[str, Any], language: Language = "zh") -> str:
    """One `testsuites` element, UTF-8. Raises ConfigError (E801)."""
    return guarded(result, lambda: _suites(result, language))


def _suites(result: Mapping[str, Any], language: Language) -> str:
    cells = result["cells"]
    counts = {
        "tests": len(cells),
        "failures": sum(cell["verdict"] != MEASURED for cell in cells),
        "errors": 0,
        "skipped": 0,
        "time": f"{sum(_time_s(cell) for cell in cells):.3f}",
    }
    suite = {
        "name": result["run"]["run_id"],
        **counts,
        "timestamp": str(result["run"]["created_utc"]).partition("+")[0],
        "hostname": (result["environment"]["host"] or {}).get("hostname") or "",
    }
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<testsuites{_attributes({'name': 'nx8', **counts})}>",
        f"  <testsuite{_attributes(suite)}>",
        *_properties(_of_run(result), indent="    "),
        *(line for cell in cells for line in _case(cell, language)),
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _case(cell: Mapping[str, Any], language: Language) -> list[str]:
    named = {
        "classname": f"{cell['vendor']}.{cell['case']}",
        "name": f"{cell['cell_id']}: {config_text(cell, language)}",
        "time": f"{_time_s(cell):.3f}",
    }
    return [
        f"    <testcase{_attributes(named)}>",
        *_properties(_of_cell(cell), indent="      "),
        *(_failure(cell, language) if cell["verdict"] != MEASURED else []),
        "    </testcase>",
    ]


def _failure(cell: Mapping[str, Any], language: Language) -> list[str]:
    reasons = [reason_text(reason, language) for reason in cell["reasons"]]
    broken = [
        f"{proof_text(proof['name'], language)}: {proof['detail']}"
        for proof in cell["proofs"]
        if not proof["held"]
    ]
    said = {"type": cell["verdict"], "message": reasons[0] if reasons else cell["verdict"]}
    text = "\n".join([*map(xml, reasons), "", *map(xml, broken), "", xml_lines(cell["traceback"] or "")])
    return [f"      <failure{_attributes(said)}>{escape(text.strip())}</failure>"]


def _of_run(result: Mapping[str, Any]) -> dict[str, object]:
    return {
        "cluster": result["run"]["cluster"],
        "vendor": result["run"]["vendor"],
        "nx8_version": result["nx8_version"],
        "commit": (result["environment"]["git"] or {}).get("commit"),
        "exit_code": result["exit_code"],
    }


def _of_cell(cell: Mapping[str, Any]) -> dict[str, object]:
    """What ran, and the figures of a proven cell."""
    planned = {
        "verdict": cell["verdict"],
        "case": cell["case"],
        "device": cell["device"],
        "scale": f"{cell['num_nodes']}x{cell['devices_per_node']}",
        "stage": cell["stage"],
        "precision": cell["precision"]["label"],
        "parallel": cell["parallel"]["label"],
        "fix_hp": cell["fix_hp"],
        "proxy": cell["proxy"] is not None,
        "rehearsal": cell.get("rehearsal") is not None,
    }
    proven = cell["metrics"].items() if cell["verdict"] == MEASURED else ()
    return {**planned, **{name: metric["value"] for name, metric in proven}}


def _properties(values: Mapping[str, object], *, indent: str) -> list[str]:
    lines = [
        f"{indent}  <property{_attributes({'name': name, 'value': _word(value)})}/>"
        for name, value in values.items()
        if value is not None
    ]
    return [f"{indent}<properties>", *lines, f"{indent}</properties>"]


def _word(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _attributes(values: Mapping[str, object]) -> str:
    return "".join(f" {name}={quoteattr(xml(str(value)))}" for name, value in values.items())


def _time_s(cell: Mapping[str, Any]) -> float:
    return float(cell["host_seen"]["launcher_wall_s"] or 0.0)
