"""cluster/<name>.yaml → Cluster: where a run happens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from orchestrator.text import (
    AbsolutePath,
    EnvName,
    HostName,
    ImageReference,
    Line,
    Name,
    NodeName,
    Registry,
    RegistryUser,
)

Port = Annotated[int, Ge(1), Le(65535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One host of the cluster, or a range of them: `node[01-04]` with `host: 10.1.0.[11-14]` is four.

    What stands here wins over the cluster's `ssh`, and both over ~/.ssh/config. `host` is the address;
    without it the name is. `fabric_address` is where other nodes' ranks reach this one, when that is not the
    address that SSH uses; it may have a range as well.
    """

    name: NodeName
    host: HostName | None = None
    port: Port | None = None
    user: Name | None = None
    key: Line | None = None
    jump: Line | None = None
    fabric_address: HostName | None = None

    @property
    def address(self) -> str:
        return self.host or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """How the nodes are reached. Passwords never stand here: keys in files or in an agent.

    `known_hosts` is the inventory's own file of host keys, beside the cluster file; `nx8 hosts pin` writes
    it, and no connection is made to a host that it does not list.
    """

    user: Name | None = None
    port: Port | None = None
    key: Line | None = None
    jump: Line | None = None
    agent: bool = False
    config: Line | None = "~/.ssh/config"
    known_hosts: Line | None = None
    connect_limit_s: Annotated[float, Gt(0)] = 5.0
    auth_limit_s: Annotated[float, Gt(0)] = 8.0
    dead_link_s: Annotated[float, Gt(0)] = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a site puts in place of the public defaults when images are built. No secret: see
    docs/clusters.md.
    """

    registry_mirror: Line | None = None
    base_image: Line | None = None
    pip_index: Line | None = None
    http_proxy: Line | None = None
    https_proxy: Line | None = None
    no_proxy: Line | None = None
    wheels: Line | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who nodes are to a registry. The password itself never stands here: it is the first line of
    `password_file` (below the home folder, or absolute) or the value of the variable `password_env`, both on
    this machine.
    """

    registry: Registry
    user: RegistryUser
    password_file: Line | None = None
    password_env: EnvName | None = None

    def __post_init__(self) -> None:
        if (self.password_file is None) == (self.password_env is None):
            raise ValueError(
                "a login has its password from `password_file` or from `password_env`, one of them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Where the image of a run comes from.

    `build`: the first node builds it, the others get it from there. `each`: every node builds it, and all
    must come to the same. `pull`: every node takes `reference`, with its digest, from a registry. `host`: the
    Docker Engine at `socket` of this machine builds it, and every node gets it from here.
    """

    source: Literal["build", "each", "pull", "host"] = "build"
    reference: ImageReference | None = None
    socket: AbsolutePath | None = None
    login: Login | None = None
    build_limit_s: Annotated[float, Gt(0)] = 3600.0

    def __post_init__(self) -> None:
        if self.source == "pull" and (self.reference is None or "@sha256:" not in self.reference):
            raise ValueError("source 'pull' needs `reference` with its digest: registry/name@sha256:…")
        if self.source != "pull" and self.reference is not None:
            raise ValueError(f"`reference` is what source 'pull' takes, but source is {self.source!r}")
        if self.source != "host" and self.socket is not None:
            raise ValueError(f"`socket` is the engine of source 'host', but source is {self.source!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The nodes of one site and what is common to them.

    `devices_per_node` is the number of ranks started on each node. `data_dir` holds prepared token files:
    on the local transport relative to the home folder, else a path on every node. `work_dir` is where a
    node keeps the folders of runs. `interface` is the network device that ranks of different nodes talk
    through. `lease_s`: a node that no renewal has reached for so long ends its part of a run by itself.
    `rehearsal` marks a cluster whose accelerators are stand-ins: torch computes on the CPU, and no figure of
    it is ever compared. `cases`: a vendor alone means this file for these cases only. `tensor_across_nodes`
    lets a tensor group lie across nodes, where the network is up to it.
    """

    schema: Literal[1]
    description: Annotated[str, MinLen(1)]
    vendor: Name
    device: Name
    transport: Literal["local", "ssh"]
    devices_per_node: Annotated[int, Ge(1), Le(64)]
    nodes: Annotated[tuple[Node, ...], MinLen(1)]
    spares: tuple[Node, ...] = ()
    data_dir: Annotated[str, MinLen(1)] = "results/data"
    work_dir: AbsolutePath | None = None
    interface: Name | None = None
    labels: dict[Name, Line] = field(default_factory=dict)
    ssh: Ssh = field(default_factory=Ssh)
    site: Site = field(default_factory=Site)
    image: ImageSource = field(default_factory=ImageSource)
    rehearsal: bool = False
    cases: tuple[Name, ...] = ()
    tensor_across_nodes: bool = False
    lease_s: Annotated[float, Ge(5), Le(3600)] = 60.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(one for node in self.nodes for one in expanded(node)))
        object.__setattr__(self, "spares", tuple(one for node in self.spares for one in expanded(node)))
        names = [node.name for node in (*self.nodes, *self.spares)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"node names must differ: {', '.join(twice)} stands more than once")
        if self.transport == "local" and len(self.nodes) != 1:
            raise ValueError(
                f"transport 'local' is this machine alone, but {len(self.nodes)} nodes are listed"
            )
        if self.transport == "local" and self.image != ImageSource():
            raise ValueError("transport 'local' starts ranks without a container: it has no `image`")
        if self.transport == "ssh":
            missing = [key for key, value in (("work_dir", self.work_dir),) if value is None]
            if missing:
                raise ValueError(f"transport 'ssh' needs {', '.join(missing)}: a folder on every node")
            if not self.data_dir.startswith("/"):
                raise ValueError("transport 'ssh' needs data_dir as an absolute path, the same on every node")
            if len(self.nodes) > 1 and self.interface is None:
                raise ValueError(
                    "more than one node needs `interface`: the network device ranks talk through"
                )

    def on(self, names: tuple[str, ...]) -> Cluster:
        """The same cluster on the nodes of these names alone, spares among them, in this order. Raises
        ValueError for a name that it does not have.
        """
        known = {node.name: node for node in (*self.nodes, *self.spares)}
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(f"no node {', '.join(unknown)}; there are {', '.join(known)}")
        return replace(self, nodes=tuple(known[name] for name in names), spares=())

    @property
    def scale(self) -> str:
        """Device and size, as configs are named: `<device>x<nodes>x<devices>`, for example A800x1x8."""
        return f"{self.device}x{len(self.nodes)}x{self.devices_per_node}"


RANGE = re.compile(r"\[(\d+)-(\d+)\]")
MAX_RANGE = 1024


def expanded(node: Node) -> tuple[Node, ...]:
    """One node, or the nodes of its range. Raises ValueError for ranges that do not fit each other."""
    names = _expand(node.name)
    hosts, fabric = (
        _as_many(node, names, word, text)
        for word, text in (("host", node.host), ("fabric_address", node.fabric_address))
    )
    return tuple(
        replace(node, name=name, host=host, fabric_address=met_at)
        for name, host, met_at in zip(names, hosts, fabric, strict=True)
    )


def _as_many(node: Node, names: list[str], word: str, text: str | None) -> list[str] | list[None]:
    """An address of each node; none where none is given."""
    if text is None:
        return [None] * len(names)
    found = _expand(text)
    if len(found) != len(names):
        raise ValueError(
            f"{node.name} is {len(names)} nodes, but its {word} {text} is {len(found)} addresses"
        )
    return found


def _expand(text: str) -> list[str]:
    found = RANGE.search(text)
    if not found:
        return [text]
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MAX_RANGE:
        raise ValueError(f"{text}: a range goes up, and has {MAX_RANGE} members at most")
    width = len(found[1])
    head, tail = text[: found.start()], text[found.end() :]
    return [f"{head}{number:0{width}d}{tail}" for number in range(first, last + 1)]
