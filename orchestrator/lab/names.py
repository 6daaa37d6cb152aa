"""What a lab is called on the machine: every name follows from its home folder and its own name, so `down`
finds what an interrupted `up` left, and two labs never meet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ipaddress

    from orchestrator.workspace import Workspace

#: The first address of a node within its subnet; below are the bridge and room for a test's own.
FIRST_ADDRESS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of one lab. `tag` is short: a link's name has 15 characters at most."""

    home: Path
    name: str

    @classmethod
    def of(cls, workspace: Workspace, name: str) -> Names:
        return cls(home=workspace.home, name=name)

    @property
    def tag(self) -> str:
        return hashlib.sha256(f"{self.home}\0{self.name}".encode()).hexdigest()[:6]

    @property
    def folder(self) -> Path:
        return self.home / "results" / "lab" / self.name

    @property
    def state(self) -> Path:
        return self.folder / "lab.json"

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def cluster_file(self) -> Path:
        return self.home / "cluster" / f"{self.name}.yaml"

    @property
    def known_hosts(self) -> Path:
        return self.home / "cluster" / f"{self.name}.known_hosts"

    @property
    def bridge(self) -> str:
        return f"nx8b{self.tag}"

    def link(self, index: int) -> str:
        """The host's end of a node's link; `peer` is the other one until the node calls it eth0."""
        return f"nx8v{self.tag}-{index}"

    def peer(self, index: int) -> str:
        return f"nx8p{self.tag}-{index}"

    def node(self, index: int) -> str:
        return f"node{index}"

    def node_folder(self, node: str) -> Path:
        return self.folder / "nodes" / node

    def cgroup(self, node: str) -> str:
        return f"nx8-{self.tag}-{node}"

    @property
    def firewall_rule(self) -> tuple[str, ...]:
        """Where bridged packets pass the firewall too, this machine's own docker may have set it to DROP."""
        between = ("-i", self.bridge, "-o", self.bridge)
        return ("FORWARD", *between, "-m", "comment", "--comment", "nx8 lab", "-j", "ACCEPT")


def address(subnet: ipaddress.IPv4Network, index: int) -> str:
    return str(subnet[FIRST_ADDRESS + index - 1])


def room(subnet: ipaddress.IPv4Network) -> int:
    """How many nodes a subnet has addresses for."""
    return max(0, subnet.num_addresses - FIRST_ADDRESS - 1)
