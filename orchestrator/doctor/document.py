"""Findings for programs: one JSON document, and the line that Nagios and its kin show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.doctor.findings import Check, Findings

SCHEMA = 1
WORDS = {0: "OK", 1: "WARNING", 2: "CRITICAL", 3: "UNKNOWN"}


def document(findings: Findings) -> dict[str, Any]:
    """As orchestrator/schemas/doctor.schema.json describes it."""
    return {
        "schema": SCHEMA,
        "cluster": findings.cluster,
        "vendor": findings.vendor,
        "device": findings.device,
        "num_nodes": findings.num_nodes,
        "devices_per_node": findings.devices_per_node,
        "rehearsal": findings.rehearsal,
        "at_utc": findings.at_utc,
        "seconds": findings.seconds,
        "severity": findings.severity,
        "exit_code": int(findings.exit_code),
        "usable": list(findings.usable),
        "here": [_check(check) for check in findings.here],
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "login": node.login,
                "severity": node.severity,
                "checks": [_check(check) for check in node.checks],
            }
            for node in findings.nodes
        ],
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "severity": check.severity,
        "code": check.code,
        "owner": check.owner,
        "text_en": check.text("en"),
        "text_zh": check.text("zh"),
        "fix_en": check.fix_text("en"),
        "fix_zh": check.fix_text("zh"),
        "shown": check.shown or None,
    }


def nagios(findings: Findings) -> str:
    """One line; `|` would begin performance data, so it stands nowhere else."""
    bad = [(node, check) for node, check in findings.problems if check.severity == "bad"]
    warned = [(node, check) for node, check in findings.problems if check.severity == "warn"]
    said = [f"{node or 'here'} {check.code} {check.text('en')}" for node, check in (*bad, *warned)[:3]]
    more = len(bad) + len(warned) - len(said)
    rest = f"; {more} more" if more > 0 else ""
    usable = f"{len(findings.usable)} of {findings.num_nodes} nodes can run"
    line = f"NX8 {WORDS[findings.nagios]} - {findings.cluster}: {'; '.join([usable, *said])}{rest}"
    return f"{line.replace('|', '/')} | usable={len(findings.usable)} bad={len(bad)} warn={len(warned)}"
