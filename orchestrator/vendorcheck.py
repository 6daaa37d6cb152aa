"""What a vendor's folder lacks: everything that a run would miss later is said here first. Looks, and changes
nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from orchestrator import docker, render
from orchestrator.cluster import Site
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load
from orchestrator.probe import QUANTITY_OF, Sample, read_probe, render_probe
from orchestrator.vendors import Engine, Vendor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.workspace import Workspace

ENGINES: tuple[str, ...] = get_args(Engine)
#: Every device says of these what its peak is, or why that is unknown.
DTYPES = ("fp32", "bf16", "fp16")
GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One folder: what it lacks, and what is allowed but has to be said."""

    vendor: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def check(workspace: Workspace, name: str) -> Checked:
    """Everything that dockerfiles/<name>/ lacks, not only the first."""
    path = workspace.vendor_file(name)
    try:
        vendor = load(path, Vendor, shown_as=workspace.shown(path))
    except ConfigError as error:
        return Checked(vendor=name, problems=error.problems, notes=())
    said = [
        *_missing(vendor),
        *_devices(vendor),
        *_images(workspace, name, vendor),
        *_containers(vendor),
        *_probe(workspace, name, vendor),
    ]
    shown = workspace.shown(path)
    problems = tuple(Problem(code="E245", file=shown, message=message) for message in said)
    return Checked(vendor=name, problems=problems, notes=tuple(_notes(vendor)))


def fixtures(workspace: Workspace, name: str) -> tuple[Path, ...]:
    """Samples of the vendor's probe output: <vendor>-<situation>.txt, with .json beside it."""
    return tuple(sorted((workspace.home / "tests" / "data" / "probes").glob(f"{name}-*.txt")))


def _missing(vendor: Vendor) -> Iterator[str]:
    if vendor.torch.device_type == "cpu":
        return
    given = vendor.docker
    if vendor.visible_devices is None:
        yield "visible_devices: which variable tells the stack its devices?"
    if not (given.devices or given.gpus or given.runtime or given.environment or given.privileged):
        yield "docker: nothing gives the container its devices (devices, gpus, runtime or its environment)"
    for where in ("node", "image"):
        if all(one.where != where for one in vendor.versions.values()):
            yield f"versions: no command reads a version on the {where}"


def _devices(vendor: Vendor) -> Iterator[str]:
    for name, device in vendor.devices.items():
        if device.memory_gib is not None and device.memory_source is None:
            yield f"devices.{name}: memory_gib needs memory_source: where is this figure published?"
        for dtype in DTYPES:
            if dtype not in device.peaks:
                yield f"devices.{name}.peaks: {dtype} is missing; an unknown one is null with a reason"


def _images(workspace: Workspace, name: str, vendor: Vendor) -> Iterator[str]:
    if all(package.module != "deepspeed" for package in vendor.packages_of("deepspeed")):
        yield "packages: deepspeed is missing; say how an image gets it"
    for engine in ENGINES:
        try:
            render.context(workspace, name, vendor, engine=engine, site=Site())
        except ConfigError as error:
            yield from (f"engine {engine}: {problem.message}" for problem in error.problems)


def _containers(vendor: Vendor) -> Iterator[str]:
    for engine in ENGINES:
        try:
            docker.container_spec(
                vendor,
                engine=engine,
                image="nx8:check",
                name="nx8-check",
                command=("python3",),
                num_devices=8,
                node_job_dir="/nx8",
            )
        except ConfigError as error:
            yield from (f"docker, engine {engine}: {problem.message}" for problem in error.problems)


def _probe(workspace: Workspace, name: str, vendor: Vendor) -> Iterator[str]:
    if vendor.probe is None:
        if vendor.probe_reason is None:
            yield "probe: is missing; where there can be none, say so in probe_reason"
        return
    samples = [
        Sample(
            index=index,
            temperature_c=40.0 + index,
            power_w=100.0,
            memory_used_bytes=16 * GIB,
            memory_total_bytes=64 * GIB,
            utilisation=0.5,
        )
        for index in range(2)
    ]
    reading = read_probe(
        render_probe(samples, vendor.probe).encode("utf-8"), vendor.probe, capacity_bytes=64 * GIB
    )
    wanted = [_offered(vendor, sample) for sample in samples]
    if [asdict(sample) for sample in reading.samples] != wanted or reading.num_unread:
        yield f"probe: its parser does not read what its layout prints: unread {list(reading.unread)}"
    found = fixtures(workspace, name)
    if not found:
        yield f"probe: no sample of its output, tests/data/probes/{name}-<situation>.txt and .json"
    for path in found:
        yield from _fixture(vendor, path, workspace)


def _offered(vendor: Vendor, sample: Sample) -> dict[str, Any]:
    """The sample without what this probe does not offer."""
    assert vendor.probe is not None
    offered = set(vendor.probe.quantities)
    if any(column.unit == "percent_of_capacity" for column in vendor.probe.quantities.values()):
        offered.add("memory_total")
    whole = asdict(sample)
    return {
        key: value if QUANTITY_OF.get(key, key) in {*offered, "index"} else None
        for key, value in whole.items()
    }


def _fixture(vendor: Vendor, path: Path, workspace: Workspace) -> Iterator[str]:
    assert vendor.probe is not None
    shown = workspace.shown(path)
    try:
        wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        yield f"probe: {shown} has no readable .json beside it: {error}"
        return
    if document(read_probe(raw, vendor.probe, capacity_bytes=wanted.get("capacity_bytes"))) != {
        key: value for key, value in wanted.items() if key != "capacity_bytes"
    }:
        yield f"probe: {shown} does not read as its .json says"


def document(reading: Any) -> dict[str, Any]:
    """A reading as its fixture's .json writes it."""
    return {
        "samples": [asdict(sample) for sample in reading.samples],
        "num_unread": reading.num_unread,
        "unread": list(reading.unread),
    }


def _notes(vendor: Vendor) -> Iterator[str]:
    for engine, image in vendor.images.items():
        if image.digest is None:
            yield f"image {engine} is not pinned: {image.not_pinned}"
        if image.not_published is not None:
            yield f"image {engine} is not published, name site.base_image: {image.not_published}"
    if vendor.torch.device_type != "cpu" and vendor.model is None:
        yield "no command names the accelerators: the model stays unknown in a run's facts"
    if vendor.torch.device_type != "cpu" and not vendor.interface_variables:
        yield "no variable tells its collectives the cluster's network device: they choose one themselves"
    if vendor.docker.privileged:
        yield f"containers are privileged: {vendor.docker.privileged_reason}"
    for name, device in vendor.devices.items():
        unknown = [dtype for dtype, peak in device.peaks.items() if peak.tflops is None]
        if unknown:
            yield f"{name}: no {', '.join(unknown)} peak, so no MFU there"
        for dtype, peak in device.peaks.items():
            yield from (
                f"{name}, {dtype}: public figures contradict each other: {one}" for one in peak.contradicted
            )
