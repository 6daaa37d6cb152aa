"""Every link of every page leads somewhere: files, folders, headings; every page is reachable from README."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Where a reader begins, and where our pages are.
STARTS = ("README.md", "README.zh-CN.md")
PAGES = ("*.md", "docs/*.md", "cases/*/*.md", "cases/*/configs/*.md")
LINK = re.compile(r"!?\[[^\]\n]*\]\(<?([^()\s<>]+(?:\([^()\s]*\))?)>?(?: \"[^\"]*\")?\)")
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?:(?!\1).)+?\1")


def pages() -> list[Path]:
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def wrong() -> list[str]:
    """What is wrong with the links of all pages, one line each."""
    found = [problem for page in pages() for problem in _of_page(page)]
    return found + [
        f"{page.relative_to(ROOT)}: no page leads here from {STARTS[0]}" for page in unreachable()
    ]


def unreachable() -> list[Path]:
    """Pages of docs/ that nobody finds by following links from a README."""
    seen: set[Path] = set()
    waiting = [ROOT / name for name in STARTS]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        waiting += [target for target, _ in _targets(page)]
    return [page for page in sorted((ROOT / "docs").glob("*.md")) if page not in seen]


def _of_page(page: Path) -> list[str]:
    shown = page.relative_to(ROOT)
    found = []
    for target, anchor in _targets(page):
        name = target.relative_to(ROOT) if target.is_relative_to(ROOT) else target
        if not target.exists():
            found.append(f"{shown}: there is no {name}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            found.append(f"{shown}: {name} has no heading #{anchor}")
    return found


def _targets(page: Path) -> list[tuple[Path, str]]:
    """Where the page's links inside the repository lead: file or folder, and heading."""
    found = []
    for link in LINK.findall(_prose(page.read_text("utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        found.append(((page.parent / path).resolve() if path else page, anchor))
    return found


@cache
def anchors(page: Path) -> frozenset[str]:
    """The headings of a page as GitHub names them: lower case, no punctuation, '-' for a space, numbered when
    they repeat; and anchors that the page sets itself.
    """
    text = FENCE.sub("", page.read_text("utf-8"))
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#* *$", text, re.MULTILINE):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    numbered = {slug if n == 0 else f"{slug}-{n}" for slug, last in found.items() for n in range(last + 1)}
    return frozenset(numbered | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)))


def _prose(text: str) -> str:
    """Without code, in which a bracket is no link."""
    return CODE.sub("", FENCE.sub("", text))
