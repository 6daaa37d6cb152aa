"""What differs between two runs, most suspect first. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.messages import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.messages import Language

#: What kind of thing changed, most suspect first: what moved a figure in most reports of slow nights.
Kind = Literal[
    "driver", "firmware", "kernel", "image", "packages", "config", "environment", "nodes", "system", "source"
]
ORDER: tuple[Kind, ...] = (
    "driver",
    "firmware",
    "kernel",
    "image",
    "packages",
    "config",
    "environment",
    "nodes",
    "system",
    "source",
)
#: The last part of a fact of a node → its kind.
_OF_NODE: dict[str, Kind] = {"driver": "driver", "firmware": "firmware", "kernel": "kernel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`what` went from `before` to `after` on `where` (node names; empty where it is not of a node).

    Null: not there, or not known. Of the kind `nodes`, what happened to them is `gone` or `come`.
    """

    kind: Kind
    what: str
    before: str | None
    after: str | None
    where: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """0 is the most suspect kind."""
        return ORDER.index(self.kind)

    def text(self, language: Language = "en") -> str:
        """driver 470.141.10 → 470.161.03 on node1,node2"""
        if self.kind == "nodes":
            return say(f"change.{self.what}", language, nodes=", ".join(self.where))
        before, after = (_short(value, language) for value in (self.before, self.after))
        change = say("change", language, what=self.what, before=before, after=after)
        return say("change.on", language, change=change, nodes=",".join(self.where)) if self.where else change

    def kind_text(self, language: Language = "en") -> str:
        return say(f"changed.{self.kind}", language)


def between(
    before: Mapping[str, str],
    after: Mapping[str, str],
    work_before: Mapping[str, str] | None = None,
    work_after: Mapping[str, str] | None = None,
) -> tuple[Change, ...]:
    """Every difference of two runs, ranked by kind; the same change on several nodes is one.

    `before` and `after` are flat environments (history.record.environment_of makes them of host.json);
    `work_…` how a cell was computed.
    """
    gone, come = _nodes(before) - _nodes(after), _nodes(after) - _nodes(before)
    found = [
        *_node_set(gone, come),
        *_differences(before, after, skipped=gone | come),
        *_differences(work_before or {}, work_after or {}, skipped=frozenset()),
    ]
    return tuple(sorted(_merged(found), key=lambda change: (change.rank, change.what, change.where)))


def _nodes(environment: Mapping[str, str]) -> frozenset[str]:
    return frozenset(key.split("/")[1] for key in environment if key.startswith("node/"))


def _node_set(gone: frozenset[str], come: frozenset[str]) -> Iterable[Change]:
    if gone:
        yield Change(kind="nodes", what="gone", before=None, after=None, where=tuple(sorted(gone)))
    if come:
        yield Change(kind="nodes", what="come", before=None, after=None, where=tuple(sorted(come)))


def _differences(
    before: Mapping[str, str], after: Mapping[str, str], *, skipped: frozenset[str]
) -> Iterable[Change]:
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        parts = key.split("/")
        if parts[0] == "node":
            if parts[1] in skipped:
                continue
            yield Change(kind=_kind(parts), what=_what(parts), before=one, after=other, where=(parts[1],))
        else:
            yield Change(kind=_kind(parts), what=_what(parts), before=one, after=other)


def _kind(parts: list[str]) -> Kind:
    head, last = parts[0], parts[-1]
    if head == "node":
        return next((kind for word, kind in _OF_NODE.items() if word in parts), "system")
    if head == "image":
        return "packages" if "versions" in parts else "image"
    if head in ("config", "variable"):
        return "config" if head == "config" else "environment"
    if head == "host":
        return "kernel" if last == "kernel" else "system"
    return "source"


def _what(parts: list[str]) -> str:
    head = parts[0]
    if head == "node":
        return " ".join(part for part in parts[2:] if part != "versions") or "node"
    if head == "image":
        named = " ".join(part for part in parts[2:] if part != "versions")
        return named if "versions" in parts else f"image {named}"
    if head == "host":
        return f"host {' '.join(parts[1:])}"
    return " ".join(parts[1:]) if head != "nx8" else f"nx8 {parts[-1]}"


def _merged(changes: Iterable[Change]) -> list[Change]:
    """One for all nodes on which the same happened."""
    by_same: dict[tuple[Kind, str, str | None, str | None], list[str]] = {}
    for one in changes:
        by_same.setdefault((one.kind, one.what, one.before, one.after), []).extend(one.where)
    return [
        Change(kind=kind, what=what, before=before, after=after, where=tuple(dict.fromkeys(where)))
        for (kind, what, before, after), where in by_same.items()
    ]


def _short(text: str | None, language: Language) -> str:
    if text is None:
        return say("change.absent", language)
    digest = re.fullmatch(r"(sha256:)?([0-9a-f]{40,64})", text)
    if digest:
        return (digest[1] or "") + digest[2][:12]
    return text if len(text) <= 80 else text[:79] + "…"
