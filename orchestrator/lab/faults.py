"""What can go wrong with a node, done to a real one: for tests and rehearsals. Each returns when it has
happened, and has an opposite where one makes sense. Processes are ended by pid, never by name.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError, Problem
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
RANK_NAME = "nx8-rank"
OWN_DISK = "run/nx8-disk-size"
RESIZE = ("mount", "-o", "remount", "-o")
#: What follows it was appended by `nx8 lab fault NODE clock`. In a module that every Python reads when it
#: starts, also one that looks at no site (-S) and no environment (-I).
SKEW_MARK = "\n# nx8 lab fault: a wrong wall clock\n"
SKEWED_PYTHON = """\
import time as _nx8_time
_nx8_s, _nx8_ns = _nx8_time.time, _nx8_time.time_ns
_nx8_time.time = lambda: _nx8_s() + {seconds}
_nx8_time.time_ns = lambda: _nx8_ns() + int({seconds} * 1e9)
"""
SKEWED_DATE = """\
#!/bin/sh
# Written by `nx8 lab fault NODE clock`.
exec /bin/date --date="@$(awk -v t="$(/bin/date +%s.%N)" 'BEGIN {{ printf "%.9f", t {seconds} }}')" "$@"
"""
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


def kill_sessions(node: LabNode) -> int:
    """Ends every open ssh session of the node but not its listener; what the sessions started lives on, as it
    does on a real node. Returns how many sessions there were.
    """
    listener = _daemon(node, SSHD)
    below = _below(listener.pid) if listener else []
    sessions = [process for process in below if _comm(process.pid).startswith(SSHD)]
    first = [process for process in below if listener and _parent(process.pid) == listener.pid]
    for process in sessions:
        process.kill()
    return len(first)


def containers(lab: Lab, node: LabNode) -> tuple[str, ...]:
    """The ids of the node's running containers that carry our labels."""
    listed = host.run(
        lab.inside(node, "docker", "ps", "--quiet", "--no-trunc", "--filter", "label=nx8.run"),
        doing=f"listing {node.name}'s containers",
    )
    return tuple(listed.split())


def kill_containers(lab: Lab, node: LabNode) -> int:
    """SIGKILL to all of them at once; returns how many."""
    found = containers(lab, node)
    if found:
        host.run(lab.inside(node, "docker", "kill", *found), doing=f"killing {node.name}'s containers")
    return len(found)


def ranks(node: LabNode) -> dict[int, host.Process]:
    """The processes of the node's ranks, by rank. A rank calls itself nx8-rank<N>; what it starts inherits
    the name, so of several the one whose parent has another name is meant.
    """
    found: dict[int, host.Process] = {}
    for pid in sorted(nodes.cgroup_members(node.cgroup)):
        name = _comm(pid)
        if name.startswith(RANK_NAME) and name[len(RANK_NAME) :].isdigit() and _comm(_parent(pid)) != name:
            process = host.process(pid)
            if process is not None:
                found[int(name[len(RANK_NAME) :])] = process
    return found


def signal_rank(node: LabNode, signum: signal.Signals, *, rank: int | None = None) -> int:
    """Sends a signal to one rank of the node, by default to the last one; returns which rank that was.

    Raises PreflightError (E270) when no such rank runs there.
    """
    found = ranks(node)
    chosen = max(found, default=None) if rank is None else rank
    if chosen is None or chosen not in found:
        runs = ", ".join(str(one) for one in sorted(found)) or "none"
        raise PreflightError(
            Problem(
                code="E270",
                message=f"{node.name}: {'no rank' if rank is None else f'rank {rank} does not'} run there; "
                f"running: {runs}",
                help="a fault of a rank is made while a run trains there",
            )
        )
    found[chosen].kill(signum)
    return chosen


def resume_stopped(node: LabNode) -> int:
    """SIGCONT to every process of the node that is stopped; returns how many were."""
    stopped = [pid for pid in nodes.cgroup_members(node.cgroup) if _state(pid) == "T"]
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return len(stopped)


def limit_cpu(node: LabNode, share: float | None) -> None:
    """From now on all of the node's processes together get this share of one core; None takes it back."""
    period_us = 100_000
    quota_us = None if share is None else max(1000, round(share * period_us))
    for folder in host.cgroup_folders(node.cgroup):
        if (folder / "cpu.max").is_file():
            (folder / "cpu.max").write_text(f"{quota_us or 'max'} {period_us}\n")
        elif (folder / "cpu.cfs_quota_us").is_file():
            (folder / "cpu.cfs_quota_us").write_text(f"{quota_us or -1}\n")


def lose_packets(node: LabNode, share: float | None) -> None:
    """From now on this share of the packets to and from the node is dropped; None takes it back. By iptables'
    statistic match in the node's own network, which needs no netem.
    """
    _firewall(node, ["-F", "INPUT"], ["-F", "OUTPUT"])
    if share is None:
        return
    match = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.6f}", "-j", "DROP"]
    _firewall(node, ["-I", "INPUT", "-i", "eth0", *match], ["-I", "OUTPUT", "-o", "eth0", *match])


def _firewall(node: LabNode, *rules: list[str]) -> None:
    for rule in rules:
        argv = ["nsenter", "--target", str(node.init.pid), "-n", "--", "iptables", "-w", "10", *rule]
        host.run(argv, doing=f"setting {node.name}'s firewall")


def delay_packets(node: LabNode, delay_ms: float | None) -> None:
    """From now on every packet to the node arrives this much later; None takes it back.

    Raises PreflightError (E271) where this kernel has no netem.
    """
    if delay_ms is None:
        with suppress(PreflightError):  # there is none
            host.run(["tc", "qdisc", "del", "dev", node.link, "root"], doing="taking back a delay")
        return
    netem = ["tc", "qdisc", "replace", "dev", node.link, "root", "netem", "delay", f"{delay_ms:g}ms"]
    try:
        host.run(netem, doing="delaying packets")
    except PreflightError as error:
        raise PreflightError(
            Problem(
                code="E271",
                message=f"{node.name}: packets cannot be delayed on this machine: its kernel has no netem "
                f"(sch_netem), or tc is missing: {error.problems[0].message.splitlines()[-1].strip()}",
                help="`loss` needs no netem; or use a kernel with CONFIG_NET_SCH_NETEM and package iproute2",
            )
        ) from None


def skew_clock(node: LabNode, seconds: float | None) -> None:
    """From now on Python programs and `date` that start on the node read a wall clock that is wrong by this
    much; None sets it right. Namespaces cannot move the wall clock, so the node's programs are told.
    """
    date = node.root / "usr/local/bin/date"
    for module in (node.root / "usr/lib").glob("python3.*/encodings/__init__.py"):
        text = module.read_text("utf-8").partition(SKEW_MARK)[0]
        wrong = "" if seconds is None else SKEW_MARK + SKEWED_PYTHON.format(seconds=seconds)
        if module.read_text("utf-8") != text + wrong:
            module.write_text(text + wrong, "utf-8")
    if seconds is None:
        date.unlink(missing_ok=True)
        return
    date.write_text(SKEWED_DATE.format(seconds=f"{seconds:+g}"))
    date.chmod(0o755)


def fill_disk(lab: Lab, node: LabNode, folder: str = "/srv") -> bool:
    """Leaves the node no free byte below `folder`. Where that is a file system of the node's own (`nx8 lab up
    --disk`) it is filled as it is, under running containers too, and True is returned. Otherwise it is this
    machine's disk, and a full one is laid over it for whatever starts from now on.
    """
    if size := own_disk(node, folder):
        # In memory, so its limit is drawn in to what is used: nothing needs to be written.
        disk = os.statvfs(node.root / folder.lstrip("/"))
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        (node.root / OWN_DISK).write_text(size)
        host.run(lab.inside(node, *RESIZE, f"size={max(used, 4096)}", folder), doing=f"filling {folder}")
        return True
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "nx8-full", folder]
    host.run(lab.inside(node, *mount), doing=f"mounting over {folder}")
    host.run(lab.inside(node, "python3", "-c", FILL, f"{folder}/full"), doing=f"filling {folder}")
    return False


def free_disk(lab: Lab, node: LabNode, folder: str = "/srv") -> None:
    """Takes back what fill_disk did."""
    for words in _mounts(node):
        if words[:2] == ["nx8-full", folder]:
            host.run(lab.inside(node, "umount", "-l", folder), doing=f"unmounting {folder}")
    kept = node.root / OWN_DISK
    if kept.exists():
        host.run(lab.inside(node, *RESIZE, f"size={kept.read_text()}", folder), doing=f"freeing {folder}")
        kept.unlink()


def own_disk(node: LabNode, folder: str = "/srv") -> str | None:
    """The size of the node's own file system there as `mount` takes it, None where it has none; of one
    that is full already, the size it had before.
    """
    for words in _mounts(node):
        if words[:2] == ["nx8-disk", folder]:
            sizes = [word[5:] for word in words[3].split(",") if word.startswith("size=")]
            kept = node.root / OWN_DISK
            return kept.read_text() if kept.exists() else sizes[0]
    return None


def _mounts(node: LabNode) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/{node.init.pid}/mounts").read_text().splitlines()]


def reboot_id(node: LabNode, boot_id: str | None) -> None:
    """From now on the node's kernel says another boot id, as after a reboot; None takes it back."""
    place = "proc/sys/kernel/random/boot_id"
    nsenter = ["nsenter", "--target", str(node.init.pid), "-m", "-p", "--"]
    if boot_id is None:
        for _ in [words for words in _mounts(node) if words[1] == f"/{place}"]:  # one for each that was set
            host.run([*nsenter, "umount", f"/{place}"], doing="taking back a boot id")
        return
    file = node.root / "run/nx8-boot-id"
    file.write_text(f"{boot_id}\n")
    host.run([*nsenter, "mount", "--bind", "/run/nx8-boot-id", f"/{place}"], doing="setting a boot id")


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


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _fields(pid: int) -> list[str]:
    """Those of /proc/PID/stat after the name; none when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return next(iter(_fields(pid)), "")


def _parent(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[1]) if fields else 0


def _below(pid: int) -> list[host.Process]:
    """The processes started by `pid`, and by those in turn."""
    found = []
    for child in host.children(pid):
        if process := host.process(child):
            found += [process, *_below(child)]
    return found
