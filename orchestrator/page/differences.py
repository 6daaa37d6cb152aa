"""What stood around two runs, entry by entry, and which of it changed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.changes import ORDER, Kind, between
from orchestrator.history.record import environment_of
from orchestrator.messages import MESSAGES
from orchestrator.page.words import Span, plain, word

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from orchestrator.changes import Change

#: Facts of a machine in the order of the published documents.
FACTS = ("machine_model", "accelerator_model", "cpu_model", "os", "kernel", "driver", "firmware", "docker")
#: The first word of an entry's key → what kind of change it is; of all others, of the system.
KINDS: dict[str, Kind] = {
    "driver": "driver",
    "firmware": "firmware",
    "kernel": "kernel",
    "image": "image",
    "rank": "packages",
    "config": "config",
    "nodes": "nodes",
    "commit": "source",
    "version": "source",
}
ABSENT = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    key: str
    kind: Kind
    label: Span
    before: str
    now: str

    @property
    def changed(self) -> bool:
        return self.before != self.now


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Every entry of either result, and what else changed around them; the changed ones that explain most
    first. A result's parts that are of another shape than ours are no entries.
    """
    one, other = dict(_entries(before)), dict(_entries(now))
    found = [
        Difference(
            key=key,
            kind=KINDS.get(key.partition(":")[0], "system"),
            label=(other.get(key) or one[key])[0],
            before=one[key][1] if key in one else ABSENT,
            now=other[key][1] if key in other else ABSENT,
        )
        for key in {**one, **other}
    ]
    changes = between(environment_of(before["environment"]), environment_of(now["environment"]))
    found += (_difference(change) for change in changes if not _has_entry(change, {**one, **other}))
    return tuple(sorted(found, key=lambda each: (not each.changed, ORDER.index(each.kind))))


def _has_entry(change: Change, keys: Collection[str]) -> bool:
    """Is it one of the entries already, for all nodes together?"""
    what = change.what if "nodes" in keys else change.what.removeprefix("host ").removeprefix("versions ")
    if change.kind in ("nodes", "source") or what in (*FACTS, "network", "image id"):
        return True
    return f"node:{what}" in keys or f"rank:{what}" in keys


def _difference(change: Change) -> Difference:
    where = ", ".join(change.where)
    return Difference(
        key=f"{change.kind}:{change.what}:{where}",
        kind=change.kind,
        label=plain(f"{change.what} ({where})" if where else change.what),
        before=ABSENT if change.before is None else change.before,
        now=ABSENT if change.after is None else change.after,
    )


def _entries(result: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Span, str]]]:
    """key → (label, text)."""
    environment = result["environment"]
    nodes = {str(name): node for name, node in (environment.get("nodes") or {}).items()}
    machines = nodes or {"": environment.get("host") or {}}
    for fact in FACTS:
        text = _over(machines, fact)
        if text:
            yield fact, (Span(*MESSAGES[f"entry.{fact}"]), text)
    network = {name: _links(machine) for name, machine in machines.items()}
    if any(network.values()):
        yield "network", (word("diff.network"), _grouped(network))
    if nodes:
        yield "nodes", (word("diff.nodes"), ", ".join(sorted(nodes)))
    names = dict.fromkeys(name for machine in machines.values() for name in (machine.get("versions") or {}))
    for name in names:
        yield (
            f"node:{name}",
            (
                plain(name),
                _grouped({k: str((m.get("versions") or {}).get(name) or "") for k, m in machines.items()}),
            ),
        )
    for tag, image in (environment.get("images") or {}).items():
        identifier = image.get("id") if isinstance(image, dict) else image
        # The tag names the content; what is compared is the image of the same vendor and engine.
        name = str(tag).partition(":")[0]
        yield f"image:{name}", (word("diff.image", tag=name), str(identifier))
    yield from _of_ranks(result)
    for cell in result["cells"]:
        yield (
            f"config:{cell['cell_id']}",
            (
                Span(*(f"{text} ({cell['cell_id']})" for text in word("diff.config"))),
                str(cell["config_hash"])[:12],
            ),
        )
    git = environment.get("git") or {}
    if git.get("commit"):
        yield "commit", (word("diff.commit"), str(git["commit"])[:12] + (" *" if git.get("dirty") else ""))
    yield "version", (word("diff.version"), str(result.get("nx8_version")))


def _of_ranks(result: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Span, str]]]:
    found: dict[str, dict[str, None]] = {}
    for cell in result["cells"]:
        for rank in cell["ranks"]:
            for name, version in rank["versions"].items():
                if version:
                    found.setdefault(str(name), {})[str(version)] = None
    for name, versions in found.items():
        yield f"rank:{name}", (word("diff.rank", name=name), ", ".join(versions))


def _over(machines: Mapping[str, Mapping[str, Any]], fact: str) -> str:
    return _grouped({name: str(machine.get(fact) or "") for name, machine in machines.items()})


def _grouped(texts: Mapping[str, str]) -> str:
    """Once where all nodes agree, else each text with its nodes."""
    by_text: dict[str, list[str]] = {}
    for name, text in texts.items():
        by_text.setdefault(text, []).append(name)
    if len(by_text) == 1:
        return next(iter(by_text))
    return "; ".join(f"{text or ABSENT} ({', '.join(names)})" for text, names in by_text.items())


def _links(machine: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{link.get('interface')} {link.get('kind')} {link.get('rate_gbps') or ABSENT} Gb/s"
        for link in machine.get("network") or ()
    )
