"""Findings as text for a terminal: one node × check table, then every problem with the line that mends it."""

from __future__ import annotations

import re
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
    for group in _groups(findings, language):
        lines += [*_problem(group, language, signs)]
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


class _Group:
    """One problem, of one node or of several that have the very same."""

    def __init__(self, check: Check, nodes: list[str], fix: str | None) -> None:
        self.check = check
        self.nodes = nodes
        self.fix = fix


def _groups(findings: Findings, language: Language) -> list[_Group]:
    """What keeps a run from starting first, then node by node; what several nodes share is said once."""
    logins = {node.name: node.login for node in findings.nodes}
    found: dict[tuple[str | None, ...], list[tuple[str, Check]]] = {}
    for name, check in findings.problems:
        fix = check.fix_text(language)
        command = _command(fix, logins.get(name, ""))
        key = (check.severity, check.code, check.text(language), fix if command is None else command)
        found.setdefault(key, []).append((name, check))
    groups = []
    for ones in found.values():
        names = list(dict.fromkeys(name for name, _ in ones if name))
        first = ones[0][1].fix_text(language)
        fixes = {check.fix_text(language) for _, check in ones}
        fix = first if len(fixes) < 2 else _loop(first or "", [logins[name] for name in names])
        groups.append(_Group(ones[0][1], names, fix))
    return groups


def _command(fix: str | None, login: str) -> str | None:
    """What a fix does on its node, without the way there; None where it does not begin by logging in."""
    return fix.removeprefix(login) if fix and login and fix.startswith(f"{login} ") else None


def _loop(fix: str, logins: list[str]) -> str:
    """The same for several nodes; their ways differ in the last word, or this is the first node's fix."""
    ways = {login.rpartition(" ")[0] for login in logins}
    command = _command(fix, logins[0])
    if command is None or len(ways) != 1:
        return fix
    places = " ".join(login.rpartition(" ")[2] for login in logins)
    return f"for at in {places}; do {ways.pop()} $at{command}; done"


def _problem(group: _Group, language: Language, marks: dict[Severity, str]) -> list[str]:
    check = group.check
    owner = OWNERS[check.owner or "node"]
    whose = owner.zh if language == "zh" else owner.en
    where = folded(group.nodes)
    lines = [
        f"{marks[check.severity]} {where}{' ' if where else ''}{check.code} [{whose}] {check.text(language)}"
    ]
    if group.fix:
        lines.append(f"    {group.fix}")
    return lines


def folded(names: Sequence[str]) -> str:
    """Node names as people write them: node1,node[03-07] where the numbers follow each other."""
    found: list[str] = []
    run: list[tuple[str, str]] = []

    def close() -> None:
        if len(run) > 2:
            found.append(f"{run[0][0]}[{run[0][1]}-{run[-1][1]}]")
        else:
            found.extend(head + number for head, number in run)
        run.clear()

    for name in names:
        number = re.search(r"[0-9]+$", name)
        head, digits = (name[: number.start()], number[0]) if number else (name, "")
        if run and digits and head == run[-1][0] and len(digits) == len(run[-1][1]):
            follows = int(digits) == int(run[-1][1]) + 1
        else:
            follows = False
        if run and not follows:
            close()
        run.append((head, digits))
    close()
    return ",".join(found)


def _verdict(findings: Findings, *, zh: bool) -> str:
    bad = sum(check.severity == "bad" for _, check in findings.problems)
    warnings = sum(check.severity == "warn" for _, check in findings.problems)
    ready, planned = len(findings.usable), findings.num_nodes
    if zh:
        counts = f"{bad} 个错误，{warnings} 个警告" if bad or warnings else "没有问题"
        return f"{counts}。{ready}/{planned} 个节点可用（退出码 {int(findings.exit_code)}）"
    error, warning = ("s" if number != 1 else "" for number in (bad, warnings))
    counts = f"{bad} error{error}, {warnings} warning{warning}" if bad or warnings else "nothing is wrong"
    return f"{counts}. {ready} of {planned} nodes can run (exit {int(findings.exit_code)})"


def cells(text: str) -> int:
    """Terminal cells: East Asian wide characters take two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, width: int) -> str:
    return text + " " * max(0, width - cells(text))
