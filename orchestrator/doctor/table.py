"""Findings as text for a terminal: one node × check table, then every problem with the line that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from orchestrator.doctor.checks import ROWS
from orchestrator.doctor.findings import worst
from orchestrator.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.doctor.findings import Check, Findings, NodeFindings, Severity
    from orchestrator.messages import Language

MARKS: dict[Severity, str] = {"ok": "✓", "warn": "!", "bad": "✗", "unasked": "–"}
#: For terminals whose encoding has none of these.
ASCII_MARKS: dict[Severity, str] = {"ok": "+", "warn": "!", "bad": "x", "unasked": "-"}
OWNERS = {
    "node": Message("节点", "node"),
    "user": Message("用户", "user"),
    "vendor": Message("厂商", "vendor"),
}
#: A cell says no more than this beside its mark.
CELL = 12
SEPARATOR = "  "


def text(
    findings: Findings,
    language: Language = "en",
    *,
    width: int = 100,
    marks: dict[Severity, str] | None = None,
) -> str:
    """All of it, without a newline at its end."""
    signs = marks or MARKS
    zh = language == "zh"
    lines = [_head(findings, zh=zh), ""]
    for columns in _columns(findings, language, width):
        lines += [*_block(columns, findings, language, signs), ""]
    lines += [line for name, check in findings.problems for line in _problem(name, check, language, signs)]
    if findings.problems:
        lines.append("")
    lines.append(_verdict(findings, zh=zh))
    return "\n".join(lines)


def _head(findings: Findings, *, zh: bool) -> str:
    nodes, each = findings.num_nodes, findings.devices_per_node
    size = f"{nodes} × {each} = {nodes * each}"
    rehearsal = ("（演练）" if zh else " (rehearsal)") if findings.rehearsal else ""
    what = f"{findings.cluster}{rehearsal}  {findings.vendor} {findings.device}"
    return (
        f"{what}  {size} 张加速卡  用时 {findings.seconds:g} s"
        if zh
        else f"{what}  {size} devices  looked at in {findings.seconds:g} s"
    )


class _Column:
    """A node, or several that are all well in the same way."""

    def __init__(self, title: str, node: NodeFindings) -> None:
        self.title = title
        self.node = node


def _columns(findings: Findings, language: Language, width: int) -> list[list[_Column]]:
    """Blocks of columns, each as wide as the terminal; of many nodes, those that are well share a column."""
    nodes = list(findings.nodes)
    columns = [_Column(node.name, node) for node in nodes]
    label = max(cells(_label(name, language)) for name in _names(nodes))
    if len(nodes) > _fit(columns, width - label - 2):
        well = [node for node in nodes if not node.problems]
        if len(well) > 1:
            title = f"其余 {len(well)} 个" if language == "zh" else f"{len(well)} others"
            columns = [_Column(node.name, node) for node in nodes if node.problems]
            columns.append(_Column(title, well[0]))
    blocks: list[list[_Column]] = []
    while columns:
        number = max(1, _fit(columns, width - label - 2))
        blocks.append(columns[:number])
        columns = columns[number:]
    return blocks


def _fit(columns: Sequence[_Column], width: int) -> int:
    """How many of the columns, from the first on, stand beside each other."""
    used = 0
    for number, column in enumerate(columns):
        used += _width(column) + len(SEPARATOR)
        if used > width + len(SEPARATOR):
            return number
    return len(columns)


def _width(column: _Column) -> int:
    return max(
        cells(column.title), *(cells(_cell(column.node, name, MARKS)) for name in _names([column.node]))
    )


def _names(nodes: Sequence[NodeFindings]) -> list[str]:
    """The rows that any of the nodes has."""
    there = {check.name for node in nodes for check in node.checks}
    return [name for name in ROWS if name in there]


def _block(
    columns: Sequence[_Column], findings: Findings, language: Language, marks: dict[Severity, str]
) -> list[str]:
    names = _names(findings.nodes)
    label = max(cells(_label(name, language)) for name in names)
    widths = [_width(column) for column in columns]
    head = SEPARATOR.join(pad(column.title, size) for column, size in zip(columns, widths, strict=True))
    lines = [f"{' ' * label}{SEPARATOR}{head}".rstrip()]
    for name in names:
        row = SEPARATOR.join(
            pad(_cell(column.node, name, marks), size) for column, size in zip(columns, widths, strict=True)
        )
        lines.append(f"{pad(_label(name, language), label)}{SEPARATOR}{row}".rstrip())
    return lines


def _label(name: str, language: Language) -> str:
    return ROWS[name].zh if language == "zh" else ROWS[name].en


def _cell(node: NodeFindings, name: str, marks: dict[Severity, str]) -> str:
    checks = node.of(name)
    if not checks:
        return ""
    severity = worst(tuple(check.severity for check in checks))
    shown = next((check.shown for check in checks if check.severity == severity), "")
    return f"{marks[severity]} {shown[:CELL]}".rstrip()


def _problem(node: str, check: Check, language: Language, marks: dict[Severity, str]) -> list[str]:
    owner = OWNERS[check.owner or "node"]
    whose = owner.zh if language == "zh" else owner.en
    where = f"{node} " if node else ""
    lines = [f"{marks[check.severity]} {where}{check.code} [{whose}] {check.text(language)}"]
    fix = check.fix_text(language)
    if fix:
        lines.append(f"    {fix}")
    return lines


def _verdict(findings: Findings, *, zh: bool) -> str:
    bad = sum(check.severity == "bad" for _, check in findings.problems)
    warnings = sum(check.severity == "warn" for _, check in findings.problems)
    ready, planned = len(findings.usable), findings.num_nodes
    if zh:
        counts = f"{bad} 个错误，{warnings} 个警告" if bad or warnings else "没有问题"
        return f"{counts}。{ready}/{planned} 个节点可用（退出码 {int(findings.exit_code)}）"
    counts = f"{bad} errors, {warnings} warnings" if bad or warnings else "nothing is wrong"
    return f"{counts}. {ready} of {planned} nodes can run (exit {int(findings.exit_code)})"


def cells(text: str) -> int:
    """Terminal cells: East Asian wide characters take two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, width: int) -> str:
    return text + " " * max(0, width - cells(text))
