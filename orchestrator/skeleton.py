"""What `nx8 init` writes: the file of a new cluster, every key with its comment, and `<changeme>` where
nobody but its keeper can know. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster import RANGE, Node, expanded
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import CHANGEME
from orchestrator.text import AbsolutePath, HostName, Line, Name, NodeName, fits, wants

if TYPE_CHECKING:
    from orchestrator.vendors import Vendor

#: A value that YAML reads as it stands.
PLAIN = re.compile(r"[A-Za-z0-9./~_][A-Za-z0-9./~_@-]*(\[[0-9]+-[0-9]+\])?[A-Za-z0-9./~_@-]*")
ADDRESS = re.compile(r"[0-9.]+(\[[0-9]+-[0-9]+\][0-9.]*)?|.*:.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was said on the command line; None is what was not."""

    nodes: tuple[str, ...]
    vendor: str
    device: str | None = None
    devices_per_node: int | None = None
    description: str | None = None
    user: str | None = None
    port: int | None = None
    key: str | None = None
    jump: str | None = None
    interface: str | None = None
    data_dir: str | None = None
    work_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """The text of the file, and the lines (from 1) that still wait for their value."""

    text: str
    num_nodes: int
    open_lines: tuple[int, ...]


def skeleton(wish: Wish, vendor: Vendor) -> Skeleton:
    """Raises ConfigError (E221) with everything that cannot stand in a cluster file."""
    problems = [*_complaints(wish, vendor)]
    nodes: list[Node] = []
    try:
        nodes = _nodes(wish.nodes)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    number = sum(len(expanded(node)) for node in nodes)
    lines = [line for part in _parts(wish, vendor, nodes, number) for line in part]
    return Skeleton(
        text="\n".join(lines) + "\n",
        num_nodes=number,
        open_lines=tuple(at for at, line in enumerate(lines, 1) if CHANGEME in line.partition("#")[0]),
    )


def _complaints(wish: Wish, vendor: Vendor) -> list[Problem]:
    checked = (
        ("--user", wish.user, Name),
        ("--key", wish.key, Line),
        ("--jump", wish.jump, Line),
        ("--interface", wish.interface, Name),
        ("--data-dir", wish.data_dir, AbsolutePath),
        ("--work-dir", wish.work_dir, AbsolutePath),
        ("--description", wish.description, Line),
    )
    found = [
        Problem(code="E221", message=f"{option} {value!r}: wants {wants(kind)}")
        for option, value, kind in checked
        if value is not None and not fits(kind, value)
    ]
    if wish.device is not None and wish.device not in vendor.devices:
        known = ", ".join(vendor.devices)
        message = f"--device {wish.device!r} is not one of vendor {wish.vendor!r}"
        found.append(Problem(code="E221", message=message, help=f"its devices: {known}"))
    return found


def _nodes(asked: tuple[str, ...]) -> list[Node]:
    """Addresses get names, node1 and on; names stay. Raises ConfigError (E221)."""
    problems: list[Problem] = []
    words = [word for one in asked for word in re.split(r"[,\s]+", one) if word]
    sizes: list[int] = []
    for word in words:
        kind = HostName if ADDRESS.fullmatch(word) else NodeName
        try:
            if not fits(kind, word):
                raise ValueError(f"{word}: wants {wants(kind)}")
            # Its own range is counted, whatever the name of the node will be.
            sizes.append(len(expanded(Node(name=word)) if kind is NodeName else _members(word)))
        except ValueError as error:
            help_ = "for example --nodes 10.1.0.[11-14], or --nodes node[01-04]"
            problems.append(Problem(code="E221", message=f"--nodes {error}", help=help_))
    if not words:
        problems.append(Problem(code="E221", message="--nodes names no node"))
    if problems:
        raise ConfigError(problems)
    total = sum(sizes)
    width, at = len(str(total)), 1
    found = []
    for word, size in zip(words, sizes, strict=True):
        first, last = f"{at:0{width}d}", f"{at + size - 1:0{width}d}"
        at += size
        if not ADDRESS.fullmatch(word):
            found.append(Node(name=word))
        elif RANGE.search(word):
            found.append(Node(name=f"node[{first}-{last}]", host=word))
        else:
            found.append(Node(name=f"node{first}", host=word))
    names = [one.name for node in found for one in expanded(node)]
    hosts = [one.address for node in found for one in expanded(node)]
    for what, ones in (("name", names), ("address", hosts)):
        twice = sorted({one for one in ones if ones.count(one) > 1})
        if twice:
            message = f"--nodes has one {what} more than once: {', '.join(twice[:5])}"
            raise ConfigError(Problem(code="E221", message=message))
    return found


def _members(word: str) -> tuple[Node, ...]:
    """One node for each address of a range. Raises ValueError."""
    found = RANGE.search(word)
    return expanded(Node(name=f"n{found[0] if found else ''}", host=word))


def _parts(wish: Wish, vendor: Vendor, nodes: list[Node], number: int) -> list[list[str]]:
    only = next(iter(vendor.devices)) if len(vendor.devices) == 1 else None
    devices = ", ".join(vendor.devices)
    described = wish.description or f"{number} nodes of {vendor.display_name}"
    ssh = [
        _line("  user", wish.user, "the account there; it has to be in the group docker", example="ops"),
        _line("  port", wish.port, "22 where none is said", example="22"),
        _line(
            "  key",
            wish.key,
            "a path; keys and passwords themselves stand nowhere",
            example="~/.ssh/id_ed25519",
        ),
        _line("  jump", wish.jump, "the host on the way: gate, or user@gate:2222", example="gate"),
    ]
    return [
        [
            "# yaml-language-server: $schema=../orchestrator/schemas/cluster.schema.json",
            f"# Written by `nx8 init`. Give every {CHANGEME} its value; docs/bring-up.md goes on from there.",
            "schema: 1",
            f"description: {json.dumps(described, ensure_ascii=False)}   # one line for people",
            _line("vendor", wish.vendor, "a folder of dockerfiles/"),
            _line("device", wish.device or only or CHANGEME, f"one of its vendor.yaml: {devices}"),
            _line("transport", "ssh", "every node has sshd, Docker Engine and Python 3.6 or newer"),
            _line(
                "devices_per_node", wish.devices_per_node or CHANGEME, "ranks on each node: 8 for a full one"
            ),
            "nodes:",
        ],
        [line for node in nodes for line in _node(node)],
        [
            "# spares:                        # nodes that may stand in for others, written as nodes are",
            "#   - name: spare1",
            "ssh:"
            if wish.user or wish.port or wish.key or wish.jump
            else "# ssh:                           # without it ~/.ssh/config decides",
            *ssh,
            _line(
                "interface",
                wish.interface or (CHANGEME if number > 1 else None),
                "the network device ranks talk through; on a node: ip -br address",
                example="eth0",
            ),
            _line(
                "data_dir",
                wish.data_dir or "/srv/nx8/data",
                "token files and weights on every node; room for them",
            ),
            _line("work_dir", wish.work_dir or "/srv/nx8", "folders of runs; a real path, through no link"),
            "# site: {registry_mirror: …, pip_index: …, http_proxy: …, wheels: …}   # docs/clusters.md",
            "image: {source: build}         # the first node builds, the others get it; or each, pull, host",
        ],
    ]


def _line(key: str, value: str | int | None, comment: str, *, example: str = "") -> str:
    """`key: value   # comment`; commented out, with an example, where there is no value."""
    if value is None:
        return f"{f'# {key}: {example}':<32} # {comment}"
    text = str(value)
    shown = text if text == CHANGEME or isinstance(value, int) or PLAIN.fullmatch(text) else json.dumps(text)
    return f"{f'{key}: {shown}':<32} # {comment}"


def _node(node: Node) -> list[str]:
    lines = [_line("  - name", node.name, "how messages call it; a range is as many nodes")]
    if node.host is not None:
        lines.append(_line("    host", node.host, "where SSH reaches it"))
    lines.append(
        _line(
            "    fabric_address",
            None,
            "where ranks reach it, if that is another address",
            example="10.9.0.[11-14]",
        )
    )
    return lines
