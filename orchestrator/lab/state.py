"""results/lab/<name>/lab.json: what a lab is, for `status`, `down` and the fault hooks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.lab.host import Process
from orchestrator.lab.names import Names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One node of a lab. `holder` is the process whose end ends the node, `init` the node's process 1."""

    name: str
    address: str
    folder: Path
    link: str
    cgroup: str
    holder: Process
    init: Process

    @property
    def root(self) -> Path:
        """The node's root folder, as this machine sees it."""
        return Path(f"/proc/{self.init.pid}/root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A lab that is up."""

    names: Names
    vendor: str
    device: str
    devices: int
    subnet: str
    nodes: tuple[LabNode, ...]

    def node(self, name: str) -> LabNode:
        return next(node for node in self.nodes if node.name == name)

    def ssh(self, node: LabNode, *command: str, user: str = "root") -> tuple[str, ...]:
        """The argv of one command on a node, by the OpenSSH client and this lab's key and host keys alone.

        As ssh does, the words of `command` are joined and read by the login shell of the node.
        """
        options = {
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.names.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "5",
            "KexAlgorithms": "curve25519-sha256",
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ("ssh", "-F", "none", "-i", str(self.names.key), *flags, f"{user}@{node.address}", *command)

    def inside(self, node: LabNode, *command: str) -> tuple[str, ...]:
        """The argv of one command in the namespaces of a node, past its sshd."""
        return ("nsenter", "--target", str(node.init.pid), "-m", "-u", "-i", "-n", "-p", "--", *command)


def save(lab: Lab) -> None:
    from orchestrator.results import write_atomic

    described = asdict(lab) | {"schema": 1}
    described["names"] = {"name": lab.names.name}
    text = json.dumps(described, indent=2, default=str)
    write_atomic(lab.names.state, text.encode())


def read(workspace: Workspace, name: str) -> Lab | None:
    """The lab of that name as it was written down, or None. Raises ConfigError when that cannot be read."""
    names = Names.of(workspace, name)
    try:
        found = json.loads(names.state.read_text())
        nodes = tuple(_node(one, names) for one in found["nodes"])
        return Lab(
            names=names,
            vendor=found["vendor"],
            device=found["device"],
            devices=found["devices"],
            subnet=found["subnet"],
            nodes=nodes,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            Problem(
                code="E285",
                file=workspace.shown(names.state),
                message=f"this is not the state of a lab: {error}",
                help=f"nx8 lab down --name {name}",
            )
        ) from error


def _node(found: dict[str, object], names: Names) -> LabNode:
    def process(key: str) -> Process:
        held = found[key]
        assert isinstance(held, dict)
        return Process(pid=int(held["pid"]), started=int(held["started"]))

    name = str(found["name"])
    return LabNode(
        name=name,
        address=str(found["address"]),
        folder=names.node_folder(name),
        link=str(found["link"]),
        cgroup=str(found["cgroup"]),
        holder=process("holder"),
        init=process("init"),
    )


def alive(nodes: Sequence[LabNode]) -> list[LabNode]:
    return [node for node in nodes if node.init.alive]
