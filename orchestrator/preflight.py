"""What every planned node has and lacks, looked at in parallel before anything starts. Changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import docker
from orchestrator.errors import PreflightError, Problem

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster
    from orchestrator.plan import Plan
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote
    from orchestrator.vendors import Vendor

COMMAND_LIMIT_S = 12.0
#: Room for an image layer, logs and records; the image itself is checked by the build, which knows its size.
LEAST_FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What one node is. A fact that could not be read is null, its reason in `unknown`."""

    name: str
    address: str
    hostname: str | None
    os: str | None
    kernel: str | None
    python: str | None
    boot_id: str | None
    cpus: int | None
    memory_bytes: int | None
    clock_skew_s: float | None
    docker: str | None
    free_bytes: int | None
    versions: dict[str, str | None]
    unknown: dict[str, str]


def preflight(pool: Pool, planned: Plan, cluster: Cluster, vendor: Vendor) -> dict[str, NodeFacts]:
    """The facts of every node. Raises PreflightError with everything that keeps any of them from running the
    plan: no docker, no right to use it, too little room, a taken port.
    """
    port = _master_port(planned)
    first = planned.cells[0].launches[0].node

    def look(remote: Remote) -> NodeFacts:
        problems: list[Problem] = []
        hello = remote.hello(timeout_s=COMMAND_LIMIT_S)
        version = _docker(remote, problems)
        free = remote.disk(str(cluster.work_dir), timeout_s=COMMAND_LIMIT_S).get("available_bytes")
        if isinstance(free, int) and free < LEAST_FREE_BYTES:
            room = f"{free / 1024**3:.1f} GiB free in {cluster.work_dir}, too little to run"
            problems.append(
                Problem(code="E234", message=f"{remote.name}: {room}", help="make room, or set work_dir")
            )
        taken = remote.name == first and remote.free_port("0.0.0.0", (port,)) is None  # noqa: S104 - a probe
        if taken:
            message = f"{remote.name}: port {port}, where ranks would meet, is taken"
            problems.append(
                Problem(code="E235", message=message, help="run again: every run takes another port")
            )
        if problems:
            raise PreflightError(problems)
        return _facts(remote, hello, version, free, vendor)

    return pool.each(look, limit_s=COMMAND_LIMIT_S + 3.0)


def _master_port(planned: Plan) -> int:
    argv = planned.cells[0].launches[0].argv
    return int(argv[argv.index("--master-port") + 1])


def _docker(remote: Remote, problems: list[Problem]) -> str | None:
    """The engine's version; what is wrong with docker there becomes a problem that says what it is."""
    done = remote.run(docker.version_argv(), timeout_s=COMMAND_LIMIT_S)
    said = done.stderr.decode("utf-8", "replace").strip()
    if not done.started:
        message, fix = "docker is not installed", "install Docker Engine on the node"
    elif "permission denied" in said.lower():
        message, fix = (
            "this user may not use docker",
            "on the node: usermod -aG docker USER, then log in again",
        )
    elif done.rc != 0:
        last = said.splitlines()[-1][:200] if said else f"exit {done.rc}"
        message, fix = f"docker does not answer: {last}", "on the node: systemctl start docker"
    else:
        found = docker.read_version(done.stdout)
        if not isinstance(found, Problem) and found.server:
            return found.server
        message, fix = "docker's engine does not say its version", "on the node: docker version"
    code = "E231" if not done.started else "E232" if "may not" in message else "E233"
    problems.append(Problem(code=code, message=f"{remote.name}: {message}", help=fix))
    return None


def _facts(
    remote: Remote, hello: dict[str, Any], version: str | None, free: int | None, vendor: Vendor
) -> NodeFacts:
    versions: dict[str, str | None] = {}
    unknown: dict[str, str] = {}
    for name, command in vendor.versions.items():
        if command.where != "node":
            continue
        done = remote.run(command.argv, timeout_s=COMMAND_LIMIT_S)
        found = re.search(command.regex, done.stdout.decode("utf-8", "replace")[:65536])
        versions[name] = found[1] if found else None
        if not found:
            unknown[name] = f"`{' '.join(command.argv)}` exited {done.rc} and did not say it"
    return NodeFacts(
        name=remote.name,
        address=remote.where,
        hostname=hello.get("hostname"),
        os=hello.get("os"),
        kernel=hello.get("kernel"),
        python=hello.get("python"),
        boot_id=hello.get("boot_id"),
        cpus=hello.get("cpus"),
        memory_bytes=hello.get("memory_bytes"),
        clock_skew_s=hello.get("skew_s"),
        docker=version,
        free_bytes=free,
        versions=versions,
        unknown=unknown,
    )
