"""Runs the measuring program: here, or in one container on each node of a job. Containers are created for it,
fed by standard input, and removed; no file is written anywhere.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator import docker
from orchestrator.containers.clearing import swept_everywhere, swept_over
from orchestrator.doctor.deep.figures import FAILED, NO_IMAGE, NOT_MEASURED, Measured, read
from orchestrator.doctor.deep.program import program
from orchestrator.doctor.expected import Expected, expected
from orchestrator.errors import BusyError, Nx8Error, Problem
from orchestrator.hosts import fabric_address, known_hosts_file
from orchestrator.lease import LOCK, Lease, owner_of
from orchestrator.remote.connection import Settings
from orchestrator.remote.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator import selection
    from orchestrator.cluster import Cluster
    from orchestrator.remote.remote import Remote
    from orchestrator.workspace import Workspace

CREATE_LIMIT_S = 120.0
COMMAND_LIMIT_S = 30.0
CONNECT_LIMIT_S = 10.0
#: Where the program stands in the container: nothing of the node is mounted there.
WORKDIR = "/tmp"  # noqa: S108 - the container's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one start of the program is asked for."""

    nonce: str
    figures: tuple[str, ...]
    least_s: float
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One group of nodes that measures together; they meet at the first on `port`."""

    nodes: tuple[str, ...]
    wanted: Wanted
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """How torch reaches the devices of a cluster, with which environment; a rehearsal is on the CPU."""

    expected: Expected
    trainer: Path
    device_type: str
    plugin: str | None
    backend: str

    @classmethod
    def of(cls, workspace: Workspace, found: selection.Site, *, cases: tuple[str, ...]) -> Site:
        it = expected(workspace, found, cases)
        torch = it.vendor.torch
        rehearsal = it.cluster.rehearsal
        return cls(
            expected=it,
            trainer=workspace.trainer,
            device_type="cpu" if rehearsal else torch.device_type,
            plugin=None if rehearsal else torch.plugin,
            backend="gloo" if rehearsal else torch.backend,
        )

    @property
    def engine(self) -> str:
        return self.expected.engines[0] if self.expected.engines else "ddp"

    @property
    def devices(self) -> int:
        return self.expected.cluster.devices_per_node

    def environment(self) -> dict[str, str]:
        interface = self.expected.cluster.interface
        given = self.expected.vendor.interface_environment(interface)
        return {"GLOO_SOCKET_IFNAME": interface, **given} if interface else given

    def request(self, job: Job, node: str, address: str) -> dict[str, Any]:
        """For cases/trainer/ceiling.py."""
        return {
            "nonce": job.wanted.nonce,
            "devices": self.devices,
            "first_rank": job.nodes.index(node) * self.devices,
            "world_size": len(job.nodes) * self.devices,
            "address": address,
            "port": job.port,
            "device_type": self.device_type,
            "plugin": self.plugin,
            "backend": self.backend,
            "figures": list(job.wanted.figures),
            "least_s": job.wanted.least_s,
            "limit_s": job.wanted.limit_s,
        }

    def read(self, text: bytes, job: Job, node: str) -> tuple[Measured, ...]:
        """Raises ValueError."""
        wanted = job.wanted
        return read(
            text,
            nonce=wanted.nonce,
            node=node,
            wanted=wanted.figures,
            least_s=wanted.least_s,
            num_devices=self.devices,
        )


class Place(Protocol):
    """Where jobs run. `images`: node → the image in which it was measured."""

    images: dict[str, str]

    def run(self, jobs: Sequence[Job], *, tell: dict[str, str]) -> list[tuple[Measured, ...]]:
        """Jobs of different nodes at once; what went wrong on a node goes into `tell`."""
        ...


class Local:
    """This machine alone, with its own Python."""

    def __init__(self, workspace: Workspace, site: Site) -> None:
        self._workspace = workspace
        self._site = site
        self.images: dict[str, str] = {}

    def run(self, jobs: Sequence[Job], *, tell: dict[str, str]) -> list[tuple[Measured, ...]]:
        return [self._one(job, tell) for job in jobs]

    def _one(self, job: Job, tell: dict[str, str]) -> tuple[Measured, ...]:
        (node,) = job.nodes
        site = self._site
        text = program(site.trainer, site.request(job, node, "127.0.0.1"))
        vendor = site.expected.vendor
        environment = {
            **os.environ,
            **vendor.environment_of(site.engine, num_devices=site.devices),
            **site.environment(),
        }
        try:
            done = subprocess.run(
                (sys.executable, "-"),
                input=text,
                capture_output=True,
                timeout=job.wanted.limit_s + 30.0,
                check=False,
                env=environment,
                cwd=self._workspace.home,
            )
        except subprocess.TimeoutExpired:
            tell[node] = f"{FAILED} it did not end within {job.wanted.limit_s:g} s"
            return ()
        try:
            return site.read(done.stdout, job, node)
        except ValueError as error:
            tell[node] = f"{FAILED} {error}: {docker.last_words(done.stderr, rc=done.returncode)}"
        return ()


class Containers:
    """A container of each node, in an image that is there."""

    def __init__(self, pool: Pool, site: Site, names: Sequence[str]) -> None:
        self._pool = pool
        self._site = site
        self.run_id = f"doctor-{secrets.token_hex(4)}"
        self.images: dict[str, str] = {}
        cluster = site.expected.cluster
        self._addresses = {
            node.name: fabric_address(cluster, node) for node in cluster.nodes if node.name in names
        }

    def find_images(self, names: Sequence[str], skipped: dict[str, str]) -> None:
        found = self._pool.settle(self._image, nodes=names, limit_s=COMMAND_LIMIT_S * 3)
        for name, image in found.items():
            if isinstance(image, str):
                self.images[name] = image
            else:
                why = image.problems[0].message if isinstance(image, Nx8Error) else self._lacking()
                skipped[name] = why if why.startswith(NO_IMAGE) else f"{NOT_MEASURED} {why}"

    def _image(self, remote: Remote) -> str | None:
        """The image of the cases, else the one that it is built from: both have the vendor's torch."""
        wanted = self._site.expected.images
        for tag in dict.fromkeys((*(one.tag for one in wanted), *(one.base for one in wanted))):
            done = remote.run(docker.image_argv(tag), timeout_s=COMMAND_LIMIT_S)
            found = docker.read_image(done.stdout) if done.rc == 0 else None
            if isinstance(found, docker.ImageFacts):
                return found.id
        return None

    def _lacking(self) -> str:
        tags = ", ".join(one.tag for one in self._site.expected.images) or "of its cases"
        return f"{NO_IMAGE} no image to measure in ({tags}): run a case once, it is brought there then"

    def run(self, jobs: Sequence[Job], *, tell: dict[str, str]) -> list[tuple[Measured, ...]]:
        job_of = {node: job for job in jobs for node in job.nodes}
        if not job_of:
            return []
        limit_s = CREATE_LIMIT_S + max(job.wanted.limit_s for job in jobs) + 2 * COMMAND_LIMIT_S
        found = self._pool.settle(
            lambda remote: self._one(remote, job_of[remote.name]), nodes=tuple(job_of), limit_s=limit_s
        )
        heard: dict[str, tuple[Measured, ...]] = {}
        for name, value in found.items():
            if isinstance(value, Nx8Error):
                tell[name] = f"{value.problems[0].code} {value.problems[0].message}"
            elif isinstance(value, str):
                tell[name] = value
            else:
                heard[name] = value
        return [tuple(one for node in job.nodes for one in heard.get(node, ())) for job in jobs]

    def _one(self, remote: Remote, job: Job) -> tuple[Measured, ...] | str:
        name = f"nx8-{self.run_id}-{job.wanted.nonce[:6]}"
        try:
            done = remote.run(self._create(remote, name), timeout_s=CREATE_LIMIT_S)
            if done.rc != 0:
                said = docker.last_words(done.stderr, rc=done.rc)
                return f"E236 its container was not created: {said}"
            request = self._site.request(job, remote.name, self._addresses[job.nodes[0]])
            done = remote.run(
                docker.attach_argv(name),
                stdin=program(self._site.trainer, request),
                timeout_s=job.wanted.limit_s + COMMAND_LIMIT_S,
            )
            try:
                return self._site.read(done.stdout, job, remote.name)
            except ValueError as error:
                return f"{FAILED} {error}: {docker.last_words(done.stderr, rc=done.rc)}"
        finally:
            remote.run(docker.remove_argv(name), timeout_s=COMMAND_LIMIT_S)

    def _create(self, remote: Remote, name: str) -> tuple[str, ...]:
        site = self._site
        spec = docker.container_spec(
            site.expected.vendor,
            engine=site.engine,
            image=self.images[remote.name],
            name=name,
            command=("python3", "-"),
            num_devices=site.devices,
            node_job_dir=WORKDIR,
            labels={"nx8.run": self.run_id, "nx8.deep": "1"},
            environment=site.environment(),
        )
        # Neither job nor data: only the driver's folders, where the vendor has some.
        mounts = tuple(one for one in spec.mounts if one.target != docker.CONTAINER_JOB)
        return docker.with_python(docker.create_argv(replace(spec, mounts=mounts, workdir=WORKDIR)))


@contextmanager
def opened(
    workspace: Workspace, site: Site, names: tuple[str, ...], skipped: dict[str, str]
) -> Iterator[Place]:
    """Where `names` are measured, held so that no run begins there meanwhile. Nodes that turn out not to be
    usable go into `skipped`. Raises BusyError (E601).
    """
    if site.expected.is_local:
        yield Local(workspace, site)
        return
    cluster = site.expected.cluster
    known = known_hosts_file(workspace, site.expected.cluster_name, cluster)
    nodes = [node for node in cluster.nodes if node.name in names]
    with Pool(Settings.of(cluster, known), nodes) as pool:
        pool.each(lambda remote: remote.connect(limit_s=CONNECT_LIMIT_S), limit_s=CONNECT_LIMIT_S + 3.0)
        place = Containers(pool, site, names)
        with held(pool, sorted(names), place.run_id, cluster, skipped):
            place.find_images(names, skipped)
            yield place


@contextmanager
def held(
    pool: Pool, names: Sequence[str], run: str, cluster: Cluster, skipped: dict[str, str]
) -> Iterator[None]:
    """The same lock and lease as a run's: a node is measured alone, without what a dead run left there, and
    ends what we left if we die. A node where a container of ours stays is let go by its lease, and goes into
    `skipped`. Raises BusyError (E601, E259).
    """
    root = f"{cluster.work_dir}/runs"
    owner = owner_of(
        token=secrets.token_hex(16),
        run_id=run,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        lease_s=cluster.lease_s,
        runs=root,
    )
    leases: dict[str, Lease] = {}
    try:
        for name in names:
            leases[name] = Lease(pool[name], owner, lease_s=cluster.lease_s, tell=_nothing)
            lock = leases[name].take()
            if not lock.won:
                del leases[name]
                holder = (lock.owner or {}).get("run", "?")
                message = f"{name} is busy: run {holder} has taken it meanwhile"
                raise BusyError(Problem(code="E601", message=message, help="wait until it has ended"))
            if lock.over is not None:
                swept_over(pool[name], lock.over, root=root)
        yield
    finally:
        left = swept_everywhere(pool, run, nodes=leases, root=root)
        for lease in leases.values():
            lease.pause()
        stay = {name: one for name, ones in left.items() for one in ones if one.container}
        skipped.update({name: f"E252 {one}" for name, one in stay.items()})
        free = tuple(leases.keys() - stay.keys())
        pool.settle(lambda remote: remote.unlock_dir(LOCK, owner), nodes=free, limit_s=COMMAND_LIMIT_S)


def _nothing(*_: object, **__: object) -> None:
    """Nobody keeps a journal of measurements."""
