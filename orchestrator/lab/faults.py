"""What can go wrong with a node, done to a real one: for tests and rehearsals. Each returns when it has
happened, and has an opposite where one makes sense. Processes are ended by pid, never by name.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.lab import host, nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.lab.state import Lab, LabNode

LIMIT_S = 30.0
FILL = """\
import sys
with open(sys.argv[1], "wb", 0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
"""
SSHD, DOCKERD = "sshd", "dockerd"
SILENT = """\
import socket, sys
listening = socket.create_server((sys.argv[1], 22), reuse_port=False)
kept = []
while True:
    kept.append(listening.accept())
"""


def stop_daemon(node: LabNode, daemon: str, *, signum: int = signal.SIGKILL) -> None:
    """Ends sshd (its open sessions too) or dockerd. Containers live on, as they do on a real node."""
    found = _daemon(node, daemon)
    doomed = [found, *_below(found.pid)] if found and daemon == SSHD else [found] if found else []
    for process in doomed:
        process.kill(signum)
    host.until(
        lambda: not any(process.alive for process in doomed),
        limit_s=LIMIT_S,
        waiting_for=lambda: f"{node.name}: {daemon} does not end",
    )


def start_daemons(node: LabNode) -> None:
    """Starts again what was stopped. Both may not answer yet when this returns: see box.await_ready."""

    def both() -> bool:
        if all(_daemon(node, daemon) for daemon in (SSHD, DOCKERD)):
            return True
        # Asked again: a daemon whose last threads are still ending counts as running there.
        node.init.kill(signal.SIGUSR1)
        return False

    host.until(both, limit_s=LIMIT_S, waiting_for=lambda: f"{node.name}: its daemons do not start")


def cut_link(node: LabNode) -> None:
    """From now on no packet passes; nobody is told."""
    host.run(["ip", "link", "set", node.link, "down"], doing=f"cutting {node.name}'s link")


def mend_link(node: LabNode) -> None:
    host.run(["ip", "link", "set", node.link, "up"], doing=f"mending {node.name}'s link")


@contextmanager
def full_disk(lab: Lab, node: LabNode, folder: str = "/srv", *, size_mib: int = 1) -> Iterator[None]:
    """While open, `folder` of the node is a file system of `size_mib` MiB without a free byte; what was there
    before is out of sight.
    """
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "tmpfs", folder]
    host.run(lab.inside(node, *mount), doing=f"mounting over {folder}")
    try:
        fill = lab.inside(node, "python3", "-c", FILL, f"{folder}/full")
        host.run(fill, doing=f"filling {folder}", limit_s=120)
        yield
    finally:
        host.run(lab.inside(node, "umount", "-l", folder), doing=f"unmounting {folder}")


def change_host_key(lab: Lab, node: LabNode) -> Callable[[], None]:
    """The node shows another host key to who connects from now on. Returns what brings the old one back."""
    path = node.root / "etc/ssh/ssh_host_ed25519_key"
    kept = path.read_bytes()

    def show(key: bytes) -> None:
        path.write_bytes(key)
        path.chmod(0o600)
        listener = _daemon(node, SSHD)
        if listener:
            # sshd reads its keys again, and listens again, under the same pid.
            listener.kill(signal.SIGHUP)
        _await_ssh_port(lab, node)

    other = node.folder / "other_host_key"
    nodes.make_key(other, f"not {node.name}")
    show(other.read_bytes())
    return lambda: show(kept)


@contextmanager
def silent_sshd(lab: Lab, node: LabNode) -> Iterator[None]:
    """While open, port 22 of the node accepts every connection and says nothing."""
    stop_daemon(node, SSHD)
    nsenter = host.program("nsenter")
    assert nsenter is not None
    argv = [*lab.inside(node, "python3", "-c", SILENT, node.address)]
    pid = os.posix_spawn(nsenter, argv, {"PATH": host.PATH}, setsid=True)
    children: list[host.Process] = []
    try:
        _await_ssh_port(lab, node)
        children = [*_below(pid)]
        yield
    finally:
        for process in [*children, *_below(pid)]:
            process.kill()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        start_daemons(node)
        _await_ssh_port(lab, node)


def script_probe(node: LabNode, values: list[dict[str, Any]] | None) -> None:
    """From now on the node's probe reports these values, by device: quantity → °C, W, bytes or a fraction,
    over the real ones. None takes them back.
    """
    import json

    path = node.root / "etc/nx8/accelerator.json"
    settings = json.loads(path.read_text())
    settings["script"] = values
    beside = path.with_name("accelerator.json.new")
    beside.write_text(json.dumps(settings))
    beside.replace(path)


def _await_ssh_port(lab: Lab, node: LabNode) -> None:
    """Until something listens on the node's port 22; asked of the node's kernel, not by connecting."""
    del lab
    local = f"{_hex(node.address)}:0016"

    def listens() -> bool:
        lines = Path(f"/proc/{node.init.pid}/net/tcp").read_text().splitlines()[1:]
        return any(line.split()[1] == local and line.split()[3] == "0A" for line in lines)

    host.until(listens, limit_s=LIMIT_S, waiting_for=lambda: f"{node.name}: nothing listens on its ssh port")


def _hex(address: str) -> str:
    """An IPv4 address as /proc/net/tcp writes it: as a number of the machine's own byte order."""
    import socket
    import sys

    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


def _daemon(node: LabNode, daemon: str) -> host.Process | None:
    """A daemon of the node by the pid its process 1 noted, as this machine numbers it."""
    try:
        inner = int((node.root / f"run/nx8-{daemon}.pid").read_text())
    except (OSError, ValueError):
        return None
    for pid in host.children(node.init.pid):
        if _inner_pid(pid) == inner:
            return host.process(pid)
    return None


def _inner_pid(pid: int) -> int | None:
    """The pid that a process of a node has there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), None)


def _below(pid: int) -> list[host.Process]:
    """The processes started by `pid`, and by those in turn."""
    found = []
    for child in host.children(pid):
        if process := host.process(child):
            found += [process, *_below(child)]
    return found
