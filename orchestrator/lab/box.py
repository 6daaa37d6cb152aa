"""`nx8 lab up`, `down` and `status`: the whole lab as one thing that is there or is not."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Nx8Error, PreflightError, Problem
from orchestrator.lab import cache, host, nodes, standins, state
from orchestrator.lab.names import Names, address, room
from orchestrator.lab.state import LabNode
from orchestrator.load import load
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator.lab.cache import Parts, Sources
    from orchestrator.lab.state import Lab
    from orchestrator.workspace import Workspace

READY_LIMIT_S = 120.0
#: Taken in this order, the first that this machine has no route into.
SUBNETS = tuple(f"10.{77 + n // 256}.{n % 256}.0/24" for n in range(512))
MARK = "# Written by `nx8 lab up`; `nx8 lab down` removes it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What `nx8 lab up` was asked for. Without `device` it is the vendor's first; with `disk_mib` a node's
    /srv is a file system of its own of that size, in memory.
    """

    vendor: str
    nodes: int = 2
    devices: int = 2
    device: str | None = None
    subnet: str | None = None
    name: str = "lab"
    disk_mib: int | None = None


def up(workspace: Workspace, wish: Wish, *, sources: Sources, say: Callable[[str], None]) -> Lab:
    """A running lab and its cluster file. Whatever goes wrong, what was begun is taken down again.

    Raises ConfigError for a wish that cannot be, PreflightError where this machine cannot carry it or a node
    does not come up, BusyError when another `nx8 lab` works on the same lab.
    """
    names = Names.of(workspace, wish.name)
    vendor, device = _chosen(workspace, wish)
    host.require()
    with host.alone(names.tag, doing=f"lab {wish.name}"):
        _refuse_existing(workspace, names)
        _unseen_by_git(names.folder.parent)
        parts = cache.ready(sources) or cache.prepare(
            sources,
            say=say,
            importing=lambda tar, root, lower: _import(names, tar, root, lower),
        )
        try:
            return _made(workspace, names, wish, vendor, device, parts, say)
        except BaseException:
            _take_down(names)
            raise


def down(workspace: Workspace, name: str) -> bool:
    """Removes all of a lab, however it ended; False where there was nothing.

    Raises BusyError while another `nx8 lab` works on it, PreflightError naming what would not go.
    """
    names = Names.of(workspace, name)
    host.require()
    with host.alone(names.tag, wait_s=10.0, doing=f"lab {name}"):
        return _take_down(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What `status` says of a node; `docker` is the version that its daemon answers over ssh, if it does."""

    node: LabNode
    alive: bool
    docker: str | None


def status(lab: Lab) -> tuple[NodeStatus, ...]:
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda node: _status(lab, node), lab.nodes))


def _status(lab: Lab, node: LabNode) -> NodeStatus:
    alive = node.init.alive
    return NodeStatus(node=node, alive=alive, docker=docker_version(lab, node) if alive else None)


def docker_version(lab: Lab, node: LabNode) -> str | None:
    """The way a run goes: over ssh, with the lab's key and host keys, by the docker CLI there."""
    try:
        answer = subprocess.run(
            lab.ssh(node, "docker", "version", "--format", "{{.Server.Version}}"),
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _chosen(workspace: Workspace, wish: Wish) -> tuple[Vendor, str]:
    path = workspace.vendor_file(wish.vendor)
    if not path.is_file():
        raise ConfigError(
            Problem(
                code="E113",
                message=f"vendor {wish.vendor!r} is not known here: {workspace.shown(path)} is missing",
                help=f"known: {', '.join(workspace.vendor_names()) or 'none'}",
            )
        )
    vendor = load(path, Vendor, shown_as=workspace.shown(path))
    device = wish.device or next(iter(vendor.devices))
    if device not in vendor.devices:
        raise ConfigError(
            Problem(
                code="E110",
                message=f"device {device!r} is not one of vendor {wish.vendor!r}",
                help=f"its devices: {', '.join(vendor.devices)}",
            )
        )
    return vendor, device


def _unseen_by_git(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / ".gitignore").write_text("*\n")


def _refuse_existing(workspace: Workspace, names: Names) -> None:
    if names.state.exists() or names.folder.joinpath("nodes").exists():
        lab = state.read(workspace, names.name)
        running = len(state.alive(lab.nodes)) if lab else 0
        raise ConfigError(
            Problem(
                code="E288",
                message=f"lab {names.name!r} is there already"
                + (
                    f": {running} of {len(lab.nodes)} nodes run, vendor {lab.vendor}"
                    if lab
                    else ", half made"
                ),
                help=f"nx8 lab status --name {names.name}   nx8 lab down --name {names.name}",
            )
        )
    if names.cluster_file.exists() and not names.cluster_file.read_text().startswith(MARK):
        raise ConfigError(
            Problem(
                code="E288",
                file=workspace.shown(names.cluster_file),
                message="this cluster file was not written by `nx8 lab up`, and is not overwritten",
                help="nx8 lab up --name OTHER",
            )
        )


def _made(
    workspace: Workspace,
    names: Names,
    wish: Wish,
    vendor: Vendor,
    device: str,
    parts: Parts,
    say: Callable[[str], None],
) -> Lab:
    names.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (names.folder / "nodes").mkdir(mode=0o755)
    key = nodes.make_key(names.key, f"nx8-{names.name}")
    subnet = _bridge(names, wish)
    members = [(index, names.node(index), address(subnet, index)) for index in range(1, wish.nodes + 1)]
    hosts = "".join(["127.0.0.1 localhost\n", *(f"{ip} {name}\n" for _, name, ip in members)])

    def made(member: tuple[int, str, str]) -> tuple[LabNode, str]:
        index, name, ip = member
        folder = names.node_folder(name)
        stand = standins.of(vendor, num_devices=wish.devices, cgroup=names.cgroup(name))
        host_key = nodes.lay_out(
            folder, name=name, address=ip, hosts=hosts, key=key, cgroup=names.cgroup(name), standins=stand
        )
        cache.seed(parts, folder / "docker")
        nodes.name_images(folder / "docker", stand.references, parts.image_id)
        node = nodes.start(
            names,
            index=index,
            name=name,
            address=ip,
            prefix=subnet.prefixlen,
            lower=parts.node_root,
            bridge=names.bridge,
            disk_mib=wish.disk_mib,
        )
        _note(node)
        return node, f"{name},{ip} {host_key}\n"

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(made, member) for member in members]
        done = [one.result() for one in waiting]
    lab = state.Lab(
        names=names,
        vendor=wish.vendor,
        device=device,
        devices=wish.devices,
        subnet=str(subnet),
        nodes=tuple(node for node, _ in done),
    )
    state.save(lab)
    names.known_hosts.write_text("".join(line for _, line in done))
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda node: await_ready(lab, node), lab.nodes):
            pass
    names.cluster_file.write_text(cluster_text(lab))
    say(f"{len(lab.nodes)} nodes on {lab.subnet}: {workspace.shown(names.cluster_file)}")
    return lab


def _note(node: LabNode) -> None:
    """So that `down` knows a node's processes even when nobody lived to write the lab's state."""
    pids = {role: [one.pid, one.started] for role, one in (("holder", node.holder), ("init", node.init))}
    (node.folder / "processes.json").write_text(json.dumps(pids))


def await_ready(lab: Lab, node: LabNode) -> str:
    """Docker's version on the node, once it answers over ssh; else PreflightError (E283) with its logs."""
    socket = node.root / "run/docker.sock"

    def answer() -> str | None:
        if not node.init.alive:
            raise PreflightError(
                Problem(
                    code="E287",
                    message="\n    ".join(
                        [f"{node.name}: ended while starting", *nodes.log_lines(node.folder)]
                    ),
                )
            )
        with suppress(OSError):
            if socket.is_socket():
                return docker_version(lab, node)
        return None

    return host.until(
        answer,
        limit_s=READY_LIMIT_S,
        waiting_for=lambda: "\n    ".join(
            [f"{node.name}: docker does not answer over ssh", *nodes.log_lines(node.folder, node.root)]
        ),
    )


def _bridge(names: Names, wish: Wish) -> ipaddress.IPv4Network:
    """The lab's bridge, with an address of its subnet for this machine."""
    with host.alone("subnet", wait_s=30.0, doing="choosing a subnet"):
        subnet = _subnet(wish)
        host.run(["ip", "link", "add", names.bridge, "type", "bridge"], doing="making the bridge")
        own = f"{subnet[1]}/{subnet.prefixlen}"
        host.run(["ip", "address", "add", own, "dev", names.bridge], doing="addressing the bridge")
        host.run(["ip", "link", "set", names.bridge, "up"], doing="raising the bridge")
    host.run(["iptables", "-w", "10", "-I", *names.firewall_rule], doing="letting the bridge's packets pass")
    return subnet


def _subnet(wish: Wish) -> ipaddress.IPv4Network:
    taken = _networks()
    for text in (wish.subnet,) if wish.subnet else SUBNETS:
        try:
            subnet = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise ConfigError(
                Problem(code="E289", message=f"--subnet {text}: {error}", help="for example 10.77.0.0/24")
            ) from None
        if room(subnet) < wish.nodes:
            if wish.subnet is None:
                break
            raise ConfigError(
                Problem(
                    code="E289",
                    message=f"--subnet {text}: has room for {room(subnet)} nodes, not {wish.nodes}",
                )
            )
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    which = wish.subnet or f"each of {SUBNETS[0]} … {SUBNETS[-1]}"
    raise ConfigError(
        Problem(
            code="E289",
            message=f"{which} is too small or overlaps a network of this machine",
            help="name a free one: nx8 lab up --subnet 192.168.200.0/24",
        )
    )


def _networks() -> list[ipaddress.IPv4Network]:
    routes = json.loads(host.run(["ip", "-4", "-j", "route", "show", "table", "all"], doing="reading routes"))
    found = []
    for route in routes:
        if route.get("dst") not in (None, "default") and route.get("type", "unicast") in ("unicast", "local"):
            with suppress(ValueError):
                found.append(ipaddress.IPv4Network(route["dst"]))
    return found


def cluster_text(lab: Lab) -> str:
    """The lab as a cluster file. JSON's strings are YAML's too."""
    say = json.dumps
    listed = "\n".join(f"  - {{name: {node.name}, host: {node.address}}}" for node in lab.nodes)
    return f"""\
{MARK}
# yaml-language-server: $schema=../orchestrator/schemas/cluster.schema.json
schema: 1
description: {say(f"a rehearsal on this machine: {len(lab.nodes)} nodes x {lab.devices} stand-ins")}
vendor: {lab.vendor}
device: {lab.device}
transport: ssh
rehearsal: true
devices_per_node: {lab.devices}
nodes:
{listed}
work_dir: /srv/nx8
data_dir: /srv/nx8/data
interface: eth0
ssh:
  user: root
  key: {say(str(lab.names.key))}
  config: null
"""


def _take_down(names: Names) -> bool:
    """Ends and removes all that goes by these names; whatever fails is said after the rest was tried."""
    found = names.state.exists()
    problems: list[Problem] = []
    folders = sorted((names.folder / "nodes").glob("*"))
    cgroups = {path.name for path in _cgroups(names)}
    with ThreadPoolExecutor(8) as pool:
        for problem in pool.map(lambda folder: _end(names, folder), folders):
            problems += problem
    for cgroup in cgroups | {path.name for path in _cgroups(names)}:
        try:
            nodes.end_cgroup(cgroup)
        except Nx8Error as error:
            problems += error.problems
        nodes.remove_cgroup(cgroup)
    left = sorted(path.name for path in _cgroups(names))
    if left:
        problems.append(Problem(code="E282", message=f"cgroups stay: {', '.join(left)}"))
    found |= bool(folders or cgroups)
    for link in _links(names):
        found = True
        with suppress(PreflightError):  # the other end may have taken it along
            host.run(["ip", "link", "delete", link], doing=f"removing {link}")
    while _has_rule(names):
        found = True
        host.run(["iptables", "-w", "10", "-D", *names.firewall_rule], doing="removing the firewall rule")
    if not problems:
        nodes.remove_folder(names.folder)
        _remove_cluster_file(names)
        rest = names.folder.parent
        if rest.is_dir() and [path.name for path in rest.iterdir()] == [".gitignore"]:
            (rest / ".gitignore").unlink()
            rest.rmdir()
        return found
    raise PreflightError(problems)


def _remove_cluster_file(names: Names) -> None:
    """A person's own file of that name stays, with its host keys."""
    if names.cluster_file.exists() and not names.cluster_file.read_text().startswith(MARK):
        return
    names.cluster_file.unlink(missing_ok=True)
    names.known_hosts.unlink(missing_ok=True)


def _end(names: Names, folder: Path) -> list[Problem]:
    """Ends the processes of one node, known by what was noted when they started."""
    try:
        noted = json.loads((folder / "processes.json").read_text())
        holder, init = (
            host.Process(pid=noted[role][0], started=noted[role][1]) for role in ("holder", "init")
        )
    except (OSError, ValueError, KeyError):
        # It never got as far as being noted: its set-up read the end of its input and ended.
        return []
    node = state.LabNode(
        name=folder.name,
        address="",
        folder=folder,
        link="",
        cgroup=names.cgroup(folder.name),
        holder=holder,
        init=init,
    )
    try:
        nodes.stop(node)
    except Nx8Error as error:
        return list(error.problems)
    return []


def _cgroups(names: Names) -> list[Path]:
    return [path for top in host.cgroup_folders("") for path in top.glob(f"nx8-{names.tag}-*")]


def _links(names: Names) -> list[str]:
    listed = json.loads(host.run(["ip", "-j", "link", "show"], doing="listing links") or "[]")
    ours = (names.bridge, names.link(0)[:-1], names.peer(0)[:-1])
    return [one["ifname"] for one in listed if one.get("ifname", "").startswith(ours)]


def _has_rule(names: Names) -> bool:
    try:
        host.run(["iptables", "-w", "10", "-C", *names.firewall_rule], doing="looking for the firewall rule")
    except PreflightError:
        return False
    return True


def _import(names: Names, tar: Path, full: Path, lower: Path) -> str:
    """Puts a root's tar into an empty data root, by a docker daemon that lives as long as that takes."""
    builder = Names(home=names.home, name=f"{names.name}.build")
    folder = builder.node_folder("builder")
    _take_down(builder)
    try:
        (builder.folder / "nodes").mkdir(parents=True, mode=0o700)
        nodes.lay_out(
            folder,
            name="builder",
            address="127.0.0.1",
            hosts="127.0.0.1 localhost\n",
            key="",
            cgroup=builder.cgroup("builder"),
            standins=standins.NONE,
        )
        (folder / "docker").symlink_to(full)
        node = nodes.start(
            builder, index=0, name="builder", address="192.0.2.1", prefix=32, lower=lower, bridge=None
        )
        _note(node)
        inside = state.Lab(names=builder, vendor="", device="", devices=0, subnet="", nodes=(node,)).inside(
            node
        )

        def answers() -> str | None:
            try:
                return host.run([*inside, "docker", "version"], doing="asking docker", limit_s=20)
            except PreflightError:
                return None

        host.until(
            answers,
            limit_s=READY_LIMIT_S,
            waiting_for=lambda: "\n    ".join(
                ["docker does not answer on the image's builder", *nodes.log_lines(folder, node.root)]
            ),
        )
        with tar.open("rb") as stream:
            changes = ('CMD ["/bin/bash"]', "ENV LANG=C.UTF-8")
            flags = [word for change in changes for word in ("--change", change)]
            output = host.run(
                [*inside, "docker", "import", *flags, "-", "nx8-lab/base:latest"],
                doing="importing the base image",
                limit_s=600,
                stdin=stream,
            )
        return output.strip().splitlines()[-1]
    finally:
        begun_s = time.monotonic()
        while True:
            try:
                _take_down(builder)
                break
            except PreflightError:
                if time.monotonic() - begun_s > nodes.END_LIMIT_S:
                    raise
