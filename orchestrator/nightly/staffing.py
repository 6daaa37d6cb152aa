"""Which nodes run tonight: bad ones are replaced by declared spares or left out, and it is said. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.messages import Message, words
from orchestrator.suites import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cluster import Cluster
    from orchestrator.suites import Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One run of the night: an entry of the suite at one number of nodes; null is all that are usable."""

    entry: Entry
    num_nodes: int | None

    @property
    def name(self) -> str:
        scale = "all nodes" if self.num_nodes is None else f"{self.num_nodes} nodes"
        stages = f" {'+'.join(self.entry.stages)}" if self.entry.stages else ""
        return f"{self.entry.case}{stages} {scale}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staffed:
    """The nodes of one run. `replaced`: node → the spare in its place; `left_out`: node → why. `missing` says
    why it cannot be run at all.
    """

    nodes: tuple[str, ...]
    replaced: dict[str, str]
    left_out: dict[str, Message]
    missing: Message | None = None


def items(suite: Suite) -> tuple[Item, ...]:
    """The runs of a night, in the order of the suite."""
    return tuple(
        Item(entry=entry, num_nodes=num_nodes)
        for entry in suite.cells
        for num_nodes in entry.nodes or (None,)
    )


def staffed(cluster: Cluster, item: Item, bad: Mapping[str, Message]) -> Staffed:
    """`bad`: node, spares among them → why it cannot be used.

    A run keeps its scale: a spare takes the place of a bad node, or another node of the cluster where it asks
    for fewer than all. One that asks for all and finds no spare takes those that are left, at their own
    scale, whose figures make another series.
    """
    wanted = len(cluster.nodes) if item.num_nodes is None else item.num_nodes
    if wanted > len(cluster.nodes):
        return Staffed(
            nodes=(),
            replaced={},
            left_out={},
            missing=words("night.asked_more", n=wanted, m=len(cluster.nodes)),
        )
    planned = [node.name for node in cluster.nodes[:wanted]]
    others = [node.name for node in (*cluster.nodes[wanted:], *cluster.spares) if node.name not in bad]
    nodes: list[str] = []
    replaced: dict[str, str] = {}
    left_out: dict[str, Message] = {}
    for name in planned:
        if name not in bad:
            nodes.append(name)
        elif others:
            replaced[name] = others.pop(0)
            nodes.append(replaced[name])
        else:
            left_out[name] = bad[name]
    missing = None
    if not nodes or (left_out and item.num_nodes is not None):
        why = Message(
            zh="；".join(f"{name}：{reason.zh}" for name, reason in left_out.items()),
            en="; ".join(f"{name}: {reason.en}" for name, reason in left_out.items()),
        )
        missing = words("night.usable", n=len(nodes), m=wanted, why=why)
    return Staffed(nodes=tuple(nodes), replaced=replaced, left_out=left_out, missing=missing)
