"""docs/errors.md and docs/errors.zh.md from the catalogue; and rows somebody added to the page, into the
catalogue.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator import __version__, catalogue

if TYPE_CHECKING:
    from orchestrator.messages import Language

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROW = re.compile(r"^\| (E\d{3}) \| (.+) \| (\d{1,3}(?:, \d{1,3})*|–) \|$", re.MULTILINE)
CODE = re.compile(r"E\d{3}")

EXITS = {
    "ConfigError": 2,
    "PreflightError": 3,
    "CellError": 4,
    "BuildError": 5,
    "BusyError": 6,
    "TimeLimitError": 124,
}

HEAD = {
    "en": (
        "# Error codes",
        "",
        "A message says code, what, where and what next. This page says what each code means; exit codes are "
        "on [their own page](exit-codes.md).",
        "`nx8 explain E312` says the same on the terminal. Written by `make docs` from "
        "`orchestrator/catalogue/`. [中文](errors.zh.md)",
        "",
        "| code | meaning | exit |",
        "| --- | --- | --- |",
    ),
    "zh": (
        "# 错误代码",
        "",
        "每条消息说明代码、出了什么问题、在哪里、接下来做什么。"
        "本页解释每个代码；退出码见[另一页](exit-codes.md)。",
        "在终端上 `nx8 explain E312 --lang zh` 给出同样的内容。"
        "本页由 `make docs` 根据 `orchestrator/catalogue/` 生成。[English](errors.md)",
        "",
        "| 代码 | 含义 | 退出码 |",
        "| --- | --- | --- |",
    ),
}
FOOT = {
    "en": (
        "",
        "What happens to ranks is no error of `nx8` but a verdict with reasons: see the report, or `reasons` "
        "and `proofs` in `result.json`.",
        "",
        "## Causes and fixes",
    ),
    "zh": (
        "",
        "rank 出了什么事不是 `nx8` 的错误，而是带有原因的结论："
        "见报告，或 `result.json` 中的 `reasons` 与 `proofs`。",
        "",
        "## 原因与解决",
    ),
}
LABELS = {"en": ("Cause: ", "Fix: "), "zh": ("原因：", "解决：")}


def page(language: Language) -> str:
    """The whole page: the table of all codes, then cause and fix of each."""
    entries = catalogue.catalogue()
    lines = [*HEAD[language]]
    lines += [
        f"| {code} | {entry.meaning(language).title} | {entry.exits} |" for code, entry in entries.items()
    ]
    lines += FOOT[language]
    for code, entry in entries.items():
        meaning = entry.meaning(language)
        lines += ["", f"### {code}", "", meaning.title, ""]
        said = zip(LABELS[language], (meaning.cause, meaning.fix), strict=True)
        lines += [f"- {label}{text}" for label, text in said if text]
    return "\n".join(lines) + "\n"


def adopt() -> list[str]:
    """Takes every row of docs/errors.md whose code the catalogue does not know into the catalogue, without
    Chinese, cause and fix. The page may hold the marks of a merge. Returns what to say about it.
    """
    known = catalogue.catalogue()
    since = ".".join(__version__.split(".")[:2])
    said = []
    for code, title, number in sorted(ROW.findall((DOCS / "errors.md").read_text("utf-8"))):
        if code not in known:
            # A dash is a message that changes no exit code.
            first, *others = (int(one) for one in number.replace("–", "0").split(", "))
            exits = {"exit": first, "also": others} if others else {"exit": first}
            write_entry(code, {**exits, "since": since, "en": {"title": title}})
            said.append(f"{code}: taken over from docs/errors.md")
        elif title != known[code].en.title:
            said.append(f"{code}: docs/errors.md said {title!r}; the catalogue's words stay")
    catalogue.catalogue.cache_clear()
    return said


def write_entry(code: str, entry: dict[str, Any]) -> None:
    """Into its chapter, in the form in which chapters are kept: sorted, one value a line."""
    path = catalogue.chapter_file(code)
    chapter = yaml.safe_load(path.read_text("utf-8")) if path.exists() else {"schema": 1, "codes": {}}
    chapter["codes"][code] = entry
    path.write_text(chapter_text(chapter), "utf-8")


def chapter_text(chapter: dict[str, Any]) -> str:
    ordered = {"schema": chapter["schema"], "codes": dict(sorted(chapter["codes"].items()))}
    return yaml.safe_dump(ordered, allow_unicode=True, sort_keys=False, width=10_000)


def unwritten() -> list[str]:
    """What entries still lack, one line each."""
    return [
        f"{catalogue.chapter_file(code).relative_to(ROOT)}: {code} lacks {', '.join(entry.missing)}"
        for code, entry in catalogue.catalogue().items()
        if entry.missing
    ]


def misused() -> list[str]:
    """Codes without an entry, entries without a use, and codes raised with another exit code than theirs."""
    used, known = uses(), catalogue.catalogue()
    found = [
        f"{where}: {code} has no entry in orchestrator/catalogue/"
        for code, where in used.items()
        if code not in known
    ]
    found += [f"orchestrator/catalogue: {code} is used nowhere" for code in known if code not in used]
    found += [
        f"{where}: {code} leads to exit {number}, its entry says {known[code].exits}"
        for code, number, where in exits()
        if code in known and number not in (known[code].exit, *known[code].also)
    ]
    return found


def uses() -> dict[str, str]:
    """Every code that the sources can say → one place. Literals of Python, and `error[…]` of the Makefile."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = dict.fromkeys(re.findall(r"error\[(E\d{3})\]", makefile), "Makefile")
    for path, node in _nodes():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            found.setdefault(node.value, f"{path}:{node.lineno}")
    return found


def exits() -> list[tuple[str, int, str]]:
    """Codes whose error class stands around them: code, exit code and place."""
    return [
        (str(inner.value.value), EXITS[node.func.id], f"{path}:{node.lineno}")
        for path, node in _nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EXITS
        for inner in ast.walk(node)
        if isinstance(inner, ast.keyword) and inner.arg == "code" and isinstance(inner.value, ast.Constant)
    ]


@cache
def _nodes() -> tuple[tuple[Path, ast.AST], ...]:
    """What can hold a code, of every source: constants and calls."""
    return tuple(
        (path.relative_to(ROOT), node)
        for path in sorted((ROOT / "orchestrator").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant | ast.Call)
    )
