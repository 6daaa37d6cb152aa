"""The host keys a node shows, asked for without logging in there; its jump hosts are logged in to."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from orchestrator.remote.connection import Link, Quiet, Settings
from orchestrator.remote.errors import RemoteError, ours

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.cluster import Cluster, Node

#: What is asked for: one key of each family that sshd makes by itself.
KINDS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


def settings(cluster: Cluster, known_hosts: Path) -> Settings:
    return Settings.of(cluster, known_hosts)


def host_name(cluster: Cluster, node: Node) -> str:
    """The node's address, or its HostName in the SSH configuration. Raises RemoteError (E215)."""
    # No host key is needed for that.
    shared = Settings.of(cluster, Path(os.devnull))
    return str(shared.config.lookup(node.address).get("hostname", node.address))


def links(shared: Settings, nodes: Iterable[Node]) -> dict[str, Link]:
    """The way to each node, by its name; before them their jump hosts, each before those behind it."""
    to_nodes = {node.name: Link.to(shared, node) for node in nodes}
    found: dict[str, Link] = {}
    for link in to_nodes.values():
        for gateway in reversed(list(gateways(link))):
            found.setdefault(gateway.shown, gateway)
    return found | to_nodes


def gateways(link: Link) -> Iterable[Link]:
    """The jump hosts of a link, the nearest to it first."""
    while link.gateway is not None:
        link = link.gateway
        yield link


def shown_keys(link: Link) -> dict[str, bytes]:
    """Key type → key. Raises RemoteError when the host shows none, or for a jump host on the way to it."""
    ssh = link.settings.cluster.ssh
    deadline = time.monotonic() + ssh.connect_limit_s + ssh.auth_limit_s
    keys: dict[str, bytes] = {}
    for kinds in KINDS.values():
        try:
            key = shown_key(link, kinds, deadline)
        except paramiko.ssh_exception.IncompatiblePeer:
            continue  # sshd there has no key of this family
        except RemoteError:
            raise
        except Exception as error:
            raise ours(error, node=link.name, phase=link.phase, where=link.where) from error
        keys[key.get_name()] = key.asbytes()
    if not keys:
        raise RemoteError.of(
            "E212",
            f"it shows no host key of a type we accept ({link.where})",
            node=link.name,
            phase="host key",
            help="make an ed25519 host key there: ssh-keygen -A",
        )
    return keys


def shown_key(link: Link, kinds: tuple[str, ...], deadline: float) -> paramiko.PKey:
    it = link.connection
    link.phase = "connect"
    if link.gateway is not None:
        link.gateway.open(deadline)
    sock = it.open_gateway() if it.gateway else link.dialled(deadline)
    link.phase = "banner"
    left = max(0.5, deadline - time.monotonic())
    limit = min(link.settings.cluster.ssh.auth_limit_s, left)
    transport = Quiet(sock, limit_s=limit)
    try:
        transport.banner_timeout = limit
        options = transport.get_security_options()
        options.key_types = [kind for kind in kinds if kind in options.key_types]
        transport.start_client(timeout=left)
        return transport.get_remote_server_key()
    finally:
        with contextlib.suppress(Exception):
            transport.close()
