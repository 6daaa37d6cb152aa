"""What every planned node has and lacks, looked at in parallel before anything starts. Changes nothing."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator import docker, facts, versions
from orchestrator.errors import PreflightError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.cluster import Cluster
    from orchestrator.plan import Plan
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Completed, Remote
    from orchestrator.vendors import Vendor

COMMAND_LIMIT_S = 12.0
CONNECT_LIMIT_S = 12.5
#: Connecting and looking together: by then every bad node is named.
LOOK_LIMIT_S = 15.0
FACTS_LIMIT_S = versions.NODE_LIMIT_S + 15.0
#: Room for an image layer, logs and records; the image itself is checked by the build, which knows its size.
LEAST_FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What one node is. A fact that could not be read is null or empty, its reason in `unknown` by the fact's
    name; so is a version, by the name it has in vendor.yaml. `driver` and `firmware` are those of `versions`.
    """

    name: str
    address: str
    hostname: str | None
    machine_model: str | None
    cpu_model: str | None
    cpu_sockets: int | None
    cpu_cores: int | None
    cpus: int | None
    memory_bytes: int | None
    accelerator_model: str | None
    accelerator_count: int | None
    network: tuple[facts.Link, ...]
    os: str | None
    kernel: str | None
    driver: str | None
    firmware: str | None
    docker: str | None
    python: str | None
    uid: int | None
    gid: int | None
    boot_id: str | None
    clock_skew_s: float | None
    free_bytes: int | None
    versions: dict[str, str | None]
    unknown: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the first look at a node found. `docker` is the engine's version."""

    hello: dict[str, Any]
    docker: str | None
    free_bytes: int | None


def preflight(pool: Pool, planned: Plan, cluster: Cluster, vendor: Vendor) -> dict[str, NodeFacts]:
    """The facts of every node. Raises PreflightError with everything that keeps any of them from running the
    plan: no docker, no right to use it, folders behind links, too little room, a taken port.
    """
    first = planned.cells[0].launches[0]
    port = first.master_port

    def look(remote: Remote) -> Looked:
        problems: list[Problem] = []
        remote.connect(limit_s=CONNECT_LIMIT_S)
        hello = remote.hello(timeout_s=COMMAND_LIMIT_S)
        version = _docker(remote, problems)
        problems += _crooked(remote, cluster)
        free = remote.disk(str(cluster.work_dir), timeout_s=COMMAND_LIMIT_S).get("available_bytes")
        if isinstance(free, int) and free < LEAST_FREE_BYTES:
            room = f"{free / 1024**3:.1f} GiB free in {cluster.work_dir}, too little to run"
            problems.append(
                Problem(code="E234", message=f"{remote.name}: {room}", help="make room, or set work_dir")
            )
        taken = remote.name == first.node and remote.free_port("0.0.0.0", (port,)) is None  # noqa: S104 - a probe
        if taken:
            message = f"{remote.name}: port {port}, where ranks would meet, is taken"
            problems.append(
                Problem(code="E235", message=message, help="run again: every run takes another port")
            )
        if problems:
            raise PreflightError(problems)
        return Looked(hello=hello, docker=version, free_bytes=free)

    looked = pool.each(look, limit_s=LOOK_LIMIT_S)
    # In a second pass: a tool of the vendor that takes its time must not make its node a silent one.
    return pool.each(
        lambda remote: node_facts(remote, looked[remote.name], cluster, vendor), limit_s=FACTS_LIMIT_S
    )


def _crooked(remote: Remote, cluster: Cluster) -> Iterable[Problem]:
    """Folders that have another name too: nothing is ever removed on a way that a link could turn elsewhere,
    so a run could not clean up after itself there.
    """
    for key, path in (("work_dir", str(cluster.work_dir)), ("data_dir", cluster.data_dir)):
        link = link_on_the_way(remote, path)
        plain = posixpath.normpath(path)
        if link is not None:
            yield Problem(
                code="E247",
                message=f"{remote.name}: {key} {path} goes through a link: {link}",
                help=f"write the real path into the cluster file; on the node: realpath {shlex.quote(path)}",
            )
        elif plain != path:
            message = f"{remote.name}: {key} {path} is written in a roundabout way"
            yield Problem(code="E247", message=message, help=f"write {plain} into the cluster file")


class Stats(Protocol):
    """Who can say what stands at a path: a node, or this machine."""

    def stat(self, *paths: str, timeout_s: float = 10.0) -> tuple[dict[str, Any], ...]: ...


def link_on_the_way(remote: Stats, path: str) -> str | None:
    """The first link among `path` and the folders above it, None where there is none."""
    plain = posixpath.normpath(path)
    steps = [str(one) for one in (*reversed(PurePosixPath(plain).parents), PurePosixPath(plain))]
    found = remote.stat(*steps, timeout_s=COMMAND_LIMIT_S)
    return next(
        (step for step, one in zip(steps, found, strict=True) if one.get("kind") == "link"),
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSaid:
    """The engine's `version`, or why there is none: `code` (E231 … E233) and what docker itself said."""

    version: str | None = None
    code: str | None = None
    said: str = ""


def docker_said(done: Completed) -> DockerSaid:
    """Pure: from how `docker.version_argv()` ended."""
    said = done.stderr.decode("utf-8", "replace").strip()
    last = said.splitlines()[-1][:200] if said else f"exit {done.rc}"
    if not done.started:
        return DockerSaid(code="E231", said=last)
    if "permission denied" in said.lower():
        return DockerSaid(code="E232", said=last)
    if done.rc != 0:
        return DockerSaid(code="E233", said=last)
    found = docker.read_version(done.stdout)
    if not isinstance(found, Problem) and found.server:
        return DockerSaid(version=found.server)
    return DockerSaid(code="E233", said="docker's engine does not say its version")


def _docker(remote: Remote, problems: list[Problem]) -> str | None:
    """The engine's version; what is wrong with docker there becomes a problem that says what it is."""
    found = docker_said(remote.run(docker.version_argv(), timeout_s=COMMAND_LIMIT_S))
    if found.code is not None:
        message, fix = {
            "E231": ("docker is not installed", "install Docker Engine on the node"),
            "E232": (
                "this user may not use docker",
                "on the node: usermod -aG docker USER, then log in again",
            ),
            "E233": (f"docker does not answer: {found.said}", "on the node: systemctl start docker"),
        }[found.code]
        problems.append(Problem(code=found.code, message=f"{remote.name}: {message}", help=fix))
    return found.version


def node_facts(remote: Remote, looked: Looked, cluster: Cluster, vendor: Vendor) -> NodeFacts:
    """Raises LinkLost; whatever a tool of the vendor does not say is unknown, with its reason."""
    hello = looked.hello
    texts = remote.texts(facts.files_of(cluster.interface), limit_bytes=facts.MAX_FILE_BYTES)
    machine = facts.machine(texts, interface=cluster.interface)
    accelerators, told = versions.on_node(remote, vendor)
    named = {"driver": told.versions.get("driver"), "firmware": told.versions.get("firmware")}
    unknown = {
        **{
            name: "the node does not say it"
            for name in ("hostname", "os", "kernel", "memory_bytes", "cpus", "boot_id", "uid", "gid")
            if hello.get(name) is None
        },
        **dict.fromkeys(named, "the vendor's vendor.yaml has no command that reads it"),
        **machine.unknown,
        **accelerators.unknown,
        **told.unknown,
    }
    return NodeFacts(
        name=remote.name,
        address=remote.where,
        hostname=hello.get("hostname"),
        machine_model=machine.machine_model,
        cpu_model=machine.cpu_model,
        cpu_sockets=machine.cpu_sockets,
        cpu_cores=machine.cpu_cores,
        cpus=hello.get("cpus"),
        memory_bytes=hello.get("memory_bytes"),
        accelerator_model=accelerators.model,
        accelerator_count=accelerators.count,
        network=machine.network,
        os=hello.get("os"),
        kernel=hello.get("kernel"),
        driver=named["driver"],
        firmware=named["firmware"],
        docker=looked.docker,
        python=hello.get("python"),
        uid=hello.get("uid"),
        gid=hello.get("gid"),
        boot_id=hello.get("boot_id"),
        clock_skew_s=hello.get("skew_s"),
        free_bytes=looked.free_bytes,
        versions=told.versions,
        unknown={name: why for name, why in unknown.items() if named.get(name) is None},
    )
