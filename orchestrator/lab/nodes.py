"""One node of a lab: what lies in its root, how it starts, and how it ends without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import PreflightError, Problem
from orchestrator.lab import host
from orchestrator.lab.standins import repositories, shipped
from orchestrator.lab.state import LabNode

if TYPE_CHECKING:
    from orchestrator.lab.names import Names
    from orchestrator.lab.standins import StandIns

SETUP_LIMIT_S = 60.0
END_LIMIT_S = 30.0
#: The user and group id of the account `bench` in the nodes' root.
BENCH = 1000
SSHD = """\
Port 22
ListenAddress {address}
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
"""


def make_key(path: Path, comment: str) -> str:
    """A new key pair; returns the public half as `type base64`."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    host.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path],
        doing=f"making {path.name}",
    )
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def lay_out(
    folder: Path, *, name: str, address: str, hosts: str, key: str, cgroup: str, standins: StandIns
) -> str:
    """Writes the files of a node's root that are its own; returns its public host key."""
    root = folder / "files"
    for made in (folder, root, folder / "up", folder / "srv"):
        made.mkdir(mode=0o755)
    for path in ("etc/ssh", "etc/docker", "etc/nx8", "root/.ssh", "home/bench/.ssh", "usr/local/bin"):
        (root / path).mkdir(parents=True)
    host_key = make_key(root / "etc/ssh/ssh_host_ed25519_key", name)
    (root / "etc/ssh/sshd_config").write_text(SSHD.format(address=address))
    (root / "etc/hostname").write_text(f"{name}\n")
    (root / "etc/hosts").write_text(hosts)
    # No name server and no route out: a node of a lab is on no network but the lab's.
    (root / "etc/resolv.conf").write_text("options timeout:1 attempts:1\n")
    daemon = {
        "cgroup-parent": _containers_below(cgroup),
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "storage-driver": "overlay2",
        **standins.daemon,
    }
    (root / "etc/docker/daemon.json").write_text(json.dumps(daemon, indent=1))
    _program(root / "usr/local/lib/nx8/node_init.py", shipped("node_init.py"))
    _lay_out_accounts(root, key)
    _lay_out_standins(root, standins)
    for work in (folder / "srv/nx8", folder / "srv/nx8/data"):
        # Root's, as the cluster file's user is root; whoever works as `bench` is given a folder by its test.
        work.mkdir(mode=0o755)
        os.chown(work, 0, 0)
    return host_key


def _lay_out_accounts(root: Path, key: str) -> None:
    for home in ("root", "home/bench"):
        keys = root / home / ".ssh/authorized_keys"
        keys.write_text(f"{key}\n")
        keys.chmod(0o600)
        keys.parent.chmod(0o700)
        keys.parent.parent.chmod(0o700)
    _own(root / "home/bench", BENCH)


def _lay_out_standins(root: Path, standins: StandIns) -> None:
    for path, text in standins.programs.items():
        _program(_place(root, path), text)
    for path, text in standins.texts.items():
        place = _place(root, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for path in standins.folders:
        place = _place(root, path)
        if not place.exists():  # it may be the probe tool itself
            place.mkdir(parents=True)
    for path in standins.devices:
        place = _place(root, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        # As /dev/null: it opens, and does nothing.
        os.mknod(place, 0o020666, os.makedev(1, 3))
        place.chmod(0o666)


def _place(root: Path, path: str) -> Path:
    """Where an absolute path of the node is; /bin, /lib and the like are links into /usr there."""
    path = path.lstrip("/")
    return root / "usr" / path if path.split("/")[0] in ("bin", "sbin", "lib", "lib64") else root / path


def name_images(data_root: Path, references: tuple[str, ...], image_id: str) -> None:
    """Gives the base image every name that the vendor's Dockerfiles begin from."""
    table = data_root / "image" / "overlay2" / "repositories.json"
    table.write_text(json.dumps(repositories((*references, "nx8-lab/base:latest"), image_id)))
    table.chmod(0o600)


def _own(folder: Path, uid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _containers_below(cgroup: str) -> str:
    """In a v2 tree a group with controllers below holds no processes of its own."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    return f"/{cgroup}/containers" if v2 else f"/{cgroup}"


def start(
    names: Names,
    *,
    index: int,
    name: str,
    address: str,
    prefix: int,
    lower: Path,
    bridge: str | None,
    disk_mib: int | None = None,
) -> LabNode:
    """The node's process 1 and, from it, sshd and dockerd, which may not be ready yet.

    Raises PreflightError (E287) with its log when it does not get that far. What it made is then ended again.
    """
    folder = names.node_folder(name)
    cgroup = names.cgroup(name)
    _make_cgroup(cgroup)
    to_node, from_node, pid = _spawn(folder, lower, name, f"{address}/{prefix}", names.peer(index), disk_mib)
    holder = host.process(pid)
    try:
        if holder is None or _line(from_node) != "ready":
            raise PreflightError(_broken(folder, name))
        init = _init_of(holder, folder, name)
        for one in (holder, init):
            _join_cgroup(cgroup, one.pid)
        _link(names, index, holder.pid, bridge)
        os.write(to_node, b"go\n")
    except BaseException:
        if holder is not None:
            holder.kill()
        raise
    finally:
        os.close(to_node)
        os.close(from_node)
    return LabNode(
        name=name,
        address=address,
        folder=folder,
        link=names.link(index),
        cgroup=cgroup,
        holder=holder,
        init=init,
    )


def _spawn(
    folder: Path, lower: Path, name: str, address: str, link: str, disk_mib: int | None
) -> tuple[int, int, int]:
    unshare = host.program("unshare")
    assert unshare is not None
    with as_file(files("orchestrator.lab.files").joinpath("node_setup.sh")) as script:
        argv = [unshare, "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"]
        argv += ["--propagation", "private", "sh", str(script), str(folder), str(lower), name, address, link]
        argv += [] if disk_mib is None else [str(disk_mib)]
        their_in, to_node = os.pipe()
        from_node, their_out = os.pipe()
        try:
            pid = os.posix_spawn(
                unshare,
                argv,
                {"PATH": host.PATH, "LANG": "C.UTF-8"},
                setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, their_in, 0),
                    (os.POSIX_SPAWN_DUP2, their_out, 1),
                    (os.POSIX_SPAWN_OPEN, 2, str(folder / "init.log"), os.O_WRONLY | os.O_CREAT, 0o600),
                ],
            )
        except BaseException:
            os.close(to_node)
            os.close(from_node)
            raise
        finally:
            os.close(their_in)
            os.close(their_out)
    return to_node, from_node, pid


def _line(descriptor: int) -> str:
    """One line of a starting node, or '' when it ends or takes too long."""
    deadline = time.monotonic() + SETUP_LIMIT_S
    text = b""
    while not text.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return ""
        piece = os.read(descriptor, 64)
        if not piece:
            return ""
        text += piece
    return text.decode().strip()


def _init_of(holder: host.Process, folder: Path, name: str) -> host.Process:
    for pid in host.children(holder.pid):
        if found := host.process(pid):
            return found
    raise PreflightError(_broken(folder, name))


def _broken(folder: Path, name: str) -> Problem:
    return Problem(code="E287", message="\n    ".join([f"{name}: did not start", *log_lines(folder)]))


def log_lines(folder: Path, root: Path | None = None) -> list[str]:
    """The last lines a node's set-up and its daemons wrote."""
    logs = [folder / "init.log"]
    if root is not None:
        logs += [root / "var/log/sshd.log", root / "var/log/dockerd.log"]
    lines = []
    for log in logs:
        with contextlib.suppress(OSError):
            lines += [f"{log.name}: {line}" for line in log.read_text(errors="replace").splitlines()[-8:]]
    return lines


def _make_cgroup(name: str) -> None:
    for folder in host.cgroup_folders(name):
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (folder / setting).is_file() and (folder.parent / "cgroup.controllers").is_file() is False:
                (folder / setting).write_text((folder.parent / setting).read_text())
        if (folder / "cgroup.controllers").is_file():
            (folder / "daemons").mkdir(exist_ok=True)
            wanted = " ".join(f"+{one}" for one in (folder / "cgroup.controllers").read_text().split())
            (folder / "cgroup.subtree_control").write_text(wanted)


#: Limits on a node cover sshd and dockerd too; the other trees only sort containers.
OWN_CONTROLLERS = {"cpu", "memory", "pids", "freezer"}


def _join_cgroup(name: str, pid: int) -> None:
    for folder in host.cgroup_folders(name):
        if (folder / "daemons").is_dir():
            (folder / "daemons" / "cgroup.procs").write_text(f"{pid}\n")
        elif folder.parent.name in OWN_CONTROLLERS:
            (folder / "cgroup.procs").write_text(f"{pid}\n")


def _link(names: Names, index: int, pid: int, bridge: str | None) -> None:
    own, peer = names.link(index), names.peer(index)
    host.run(["ip", "link", "add", own, "type", "veth", "peer", "name", peer], doing=f"making link {own}")
    host.run(["ip", "link", "set", peer, "netns", str(pid)], doing=f"moving link {peer}")
    if bridge is not None:
        host.run(["ip", "link", "set", own, "master", bridge, "up"], doing=f"plugging in link {own}")


def stop(node: LabNode) -> None:
    """Ends a node: its process 1 and with it everything in its pid namespace."""
    # Its holder waits for it, and ends when it has taken its exit status.
    (node.init if node.init.alive else node.holder).kill()

    def ended() -> bool:
        return not (node.holder.alive or node.init.alive or cgroup_members(node.cgroup))

    host.until(
        ended,
        limit_s=END_LIMIT_S,
        waiting_for=lambda: f"{node.name}: processes {sorted(cgroup_members(node.cgroup))} do not end",
    )
    node.holder.reap()


def end_cgroup(name: str) -> None:
    """Ends what is left in a node's own group: nothing but the node's processes was ever put there."""

    seen: set[int] = set()

    def empty() -> bool:
        left = cgroup_members(name)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        seen.update(left)
        return not left

    host.until(
        empty, limit_s=END_LIMIT_S, waiting_for=lambda: f"{name}: {sorted(cgroup_members(name))} do not end"
    )
    for pid in seen:
        host.reap(pid)


def cgroup_members(name: str) -> set[int]:
    found: set[int] = set()
    for folder in host.cgroup_folders(name):
        for procs in folder.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found |= {int(word) for word in procs.read_text().split()}
    return found


def remove_cgroup(name: str) -> None:
    """Removes the empty groups of a node that has ended, those of its containers first."""
    for folder in host.cgroup_folders(name):
        below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
        for path in (*below, folder):
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_folder(folder: Path) -> None:
    if folder.is_dir():
        if folder.is_symlink():
            folder.unlink()
            return
        shutil.rmtree(folder)
