"""A real sshd of our own on loopback addresses, for tests and measurements: own keys and configuration,
ended by its process id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster import Cluster, Node, Ssh

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
WHY_NOT = (
    None
    if SSHD and shutil.which("ssh-keygen") and os.geteuid() == 0
    else "needs root, sshd and ssh-keygen (apt-get install openssh-server)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sshd:
    folder: Path
    port: int
    pid: int

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def host_key(self, kind: str = "ed25519") -> str:
        return " ".join((self.folder / f"host_{kind}.pub").read_text().split()[:2])

    def pin(self, *addresses: str, key: str | None = None) -> None:
        lines = [f"[{address}]:{self.port} {key or self.host_key()}\n" for address in addresses]
        with self.known_hosts.open("a") as file:
            file.writelines(lines)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def node(self, name: str = "n1", address: str = "127.0.0.1", **changes: object) -> Node:
        return Node(
            name=name, **{"host": address, "port": self.port, "user": "root", "key": str(self.key), **changes}
        )  # type: ignore[arg-type]

    def children(self) -> list[int]:
        """The sshd processes that serve a connection."""
        found = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]


def make_key(path: Path, kind: str = "ed25519") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def sshd(folder: Path, *settings: str) -> Iterator[Sshd]:
    assert SSHD
    folder.mkdir(parents=True, exist_ok=True)
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # noqa: PTH103
    for kind in ("ed25519", "ecdsa", "rsa"):
        make_key(folder / f"host_{kind}", kind)
    make_key(folder / "id")
    # Where PyTest's own folders are open to others, StrictModes would refuse the file.
    (folder / "authorized_keys").write_text((folder / "id.pub").read_text())
    port = free_port()
    lines = [
        *settings,
        f"Port {port}",
        "ListenAddress 0.0.0.0",
        *(f"HostKey {folder}/host_{kind}" for kind in ("ed25519", "ecdsa", "rsa")),
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"PidFile {folder}/pid",
        "StrictModes no",
        "UsePAM no",
        "UseDNS no",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        "MaxStartups 1000",
        "LogLevel VERBOSE",
        # Nothing of the shell's start-up files of whoever runs the tests: bash reads them only at level 1.
        "SetEnv SHLVL=2",
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", folder / "log"])
    try:
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield Sshd(folder=folder, port=port, pid=server.pid)
    finally:
        children = subprocess.run(
            ["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=False
        )
        server.terminate()
        server.wait()
        for pid in children.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)


def cluster(*nodes: Node, **ssh: object) -> Cluster:
    return Cluster(
        schema=1,
        description="nodes on loopback",
        vendor="cpu",
        device="cpu",
        transport="ssh",
        devices_per_node=1,
        nodes=nodes,
        data_dir="/data",
        work_dir="/work",
        interface="lo",
        ssh=Ssh(**{"config": None, **ssh}),  # type: ignore[arg-type]
    )
