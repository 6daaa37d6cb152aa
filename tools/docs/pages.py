"""All pages that are made, and all that is wrong with any page."""

from __future__ import annotations

from tools.docs import errors, links, metrics, verbs


def made() -> dict[str, str]:
    """Every generated page: file name below docs/ → its text."""
    return {"errors.md": errors.page("en"), "errors.zh.md": errors.page("zh"), "cli.md": verbs.page()}


def stale() -> list[str]:
    return [name for name, text in made().items() if _stored(name) != text]


def write() -> list[str]:
    """Writes what is not fresh; returns those names."""
    written = []
    for name, text in made().items():
        if _stored(name) != text:
            (errors.DOCS / name).write_text(text, "utf-8")
            written.append(name)
    return written


def wrong() -> list[str]:
    """One line for each thing, whatever page it is on; what pages show is run by walk.py."""
    return [*errors.misused(), *errors.unwritten(), *verbs.unwritten(), *links.wrong(), *metrics.wrong()]


def _stored(name: str) -> str | None:
    path = errors.DOCS / name
    return path.read_text("utf-8") if path.exists() else None
