"""What the nodes of a cluster should have for the cases that have a config for it: read from files of this
machine in a fraction of a second. No data is hashed here, and nothing is made.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator import data, multimodal, weights
from orchestrator.cluster import Cluster, ImageSource
from orchestrator.errors import ConfigError, Nx8Error, Problem
from orchestrator.hosts import fabric_address
from orchestrator.images import TAG
from orchestrator.images.build import labels
from orchestrator.load import read_stored
from orchestrator.multimodal.preparedset import MANIFEST
from orchestrator.options import Options, needs_of, works_of
from orchestrator.request import contexts_of, data_dir
from orchestrator.selection import select
from orchestrator.vendors import Device, Vendor

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cases import Data, Evaluation
    from orchestrator.selection import Selection, Site
    from orchestrator.workspace import Workspace

DOCKER_HUB, DOCKER_HUB_SERVER = "docker.io", "registry-1.docker.io"
HTTPS = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """A file that nodes need below their data folder; `name` is what `nx8 data push` calls it."""

    name: str
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImage:
    """An image by its tag, with the labels that only one of the very same context has."""

    tag: str
    base: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """All that checks hold a node against. `unplanned` are reasons why cases, data or images of some kind
    could not be looked for: problems of this machine's files. `addresses`: node → where the others' ranks
    reach it; `no_address`: node → why there is none. `registries`: host:port of each that nodes may have to
    reach. `pulled`: the reference that every node takes from one.
    """

    cluster_name: str
    cluster: Cluster
    vendor_name: str
    vendor: Vendor
    port: int
    engines: tuple[str, ...]
    files: tuple[WantedFile, ...] = ()
    images: tuple[WantedImage, ...] = ()
    unplanned: tuple[Problem, ...] = ()
    registries: tuple[str, ...] = ()
    pulled: str | None = None
    addresses: dict[str, str] = field(default_factory=dict)
    no_address: dict[str, Problem] = field(default_factory=dict)

    @property
    def device(self) -> Device:
        return self.vendor.devices[self.cluster.device]

    @property
    def is_local(self) -> bool:
        return self.cluster.transport == "local"


def expected(workspace: Workspace, site: Site, cases: tuple[str, ...]) -> Expected:
    """Never raises for what is wrong with cases or data: it goes into `unplanned`."""
    files: list[WantedFile] = []
    images: list[WantedImage] = []
    problems: list[Problem] = []
    engines: set[str] = set()
    try:
        selection = select(workspace, cases=cases, vendor=site.vendor_name, cluster=site.cluster_name)
        engines = set(needs_of(selection, Options()))
        folder = data_dir(workspace, selection)
        for name, how in _needed(selection).items():
            try:
                files += _files(folder, name, how=how)
            except ConfigError as error:
                # What is built in is made when a run starts.
                problems += () if how is None else error.problems
        images = [
            WantedImage(tag=context.tag, base=context.base, labels=labels(context))
            for context in contexts_of(workspace, selection, Options()).values()
        ]
    except Nx8Error as error:
        problems += error.problems
    addresses, no_address = _addresses(site.cluster)
    return Expected(
        cluster_name=site.cluster_name,
        cluster=site.cluster,
        vendor_name=site.vendor_name,
        vendor=site.vendor,
        # As a run has it: another one every time.
        port=20000 + secrets.randbelow(10000),
        engines=tuple(sorted(engines)),
        files=tuple(files),
        images=tuple(images),
        unplanned=tuple(problems),
        registries=_registries(site.cluster.image, images),
        pulled=None if site.cluster.image.reference is None else TAG.sub("", site.cluster.image.reference),
        addresses=addresses,
        no_address=no_address,
    )


def _registries(source: ImageSource, images: list[WantedImage]) -> tuple[str, ...]:
    """Of the images that nodes pull themselves, or build from, and of the login; nothing where this machine
    builds and hands on.
    """
    if source.source == "host":
        return ()
    references = [source.reference] if source.reference is not None else [one.base for one in images]
    hosts = [_host_of(reference) for reference in references]
    hosts += [_host_of(f"{source.login.registry}/-")] if source.login is not None else []
    places = [host if ":" in host else f"{host}:{HTTPS}" for host in hosts if host != "localhost"]
    return tuple(dict.fromkeys(places))


def _host_of(reference: str) -> str:
    """The registry's host, as docker takes a reference apart: without a dot, a port or `localhost` the first
    part is a folder of Docker Hub, whose images are served from another host than it is called by.
    """
    first, slash, _ = reference.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost"):
        first = DOCKER_HUB
    return DOCKER_HUB_SERVER if first == DOCKER_HUB else first


def _addresses(cluster: Cluster) -> tuple[dict[str, str], dict[str, Problem]]:
    """Of a cluster of several nodes, where each is met, and why one cannot be."""
    found: dict[str, str] = {}
    problems: dict[str, Problem] = {}
    for node in cluster.nodes if len(cluster.nodes) > 1 else ():
        try:
            found[node.name] = fabric_address(cluster, node)
        except Nx8Error as error:
            problems[node.name] = error.problems[0]
    return found, problems


def _needed(selection: Selection) -> dict[str, str | None]:
    """Name of every set, token file and folder of weights → how it is made; None where a run does."""
    found: dict[str, str | None] = {}
    for chosen in selection.cases:
        for work in works_of(chosen.case, selection):
            wanted: list[Data | Evaluation] = [work.data, *([work.evaluation] if work.evaluation else [])]
            found |= {one.name: None if one.builtin else one.prepare for one in wanted}
            found |= {name: f"nx8 data weights {name}" for name in work.weights}
    return found


def _files(folder: Path, name: str, *, how: str | None) -> list[WantedFile]:
    """By the manifests alone. Raises ConfigError where there is none here."""
    if multimodal.is_set(folder, name):
        listing = folder / name / MANIFEST
        manifest = read_stored(listing, multimodal.SetManifest)
        listed = [(f"{name}/{one.name}", one.sha256, one.bytes) for one in manifest.files]
        listed.append((f"{name}/{MANIFEST}", data.file_sha256(listing), listing.stat().st_size))
    elif (folder / name / weights.MANIFEST).is_file():
        held, digest = weights.listed(folder, name)
        listing = folder / name / weights.MANIFEST
        listed = [(f"{name}/{one.name}", one.sha256, one.bytes) for one in held.files]
        listed.append((f"{name}/{weights.MANIFEST}", digest, listing.stat().st_size))
    else:
        listing = data.manifest_file(folder, name)
        found = read_stored(listing, data.Manifest) if listing.is_file() else None
        indexed = found is not None and found.index is not None
        tokens = {data.token_file(folder, name, indexed=indexed): found.sha256 if found else ""}
        if found is not None and found.index is not None:
            tokens[data.index_file(folder, name)] = found.index.sha256
        missing = [str(path) for path in (*tokens, listing) if not path.is_file()]
        if missing:
            raise ConfigError(
                Problem(
                    code="E714",
                    message=f"the data {name} is not there: {', '.join(missing)} missing",
                    help=f"make it once: {how}",
                )
            )
        listed = [(path.name, digest, path.stat().st_size) for path, digest in tokens.items()]
    return [WantedFile(name=name, path=path, sha256=digest, bytes=size) for path, digest, size in listed]
