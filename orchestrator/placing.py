"""Where the ranks of a cell start, and what they find there: launchers, containers, device and data. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.data import Manifest
from orchestrator.plan import (
    DataPlan,
    DevicePlan,
    ImagePlan,
    IndexPlan,
    InitialPlan,
    Job,
    Launch,
    QuestionsPlan,
    SamplesPlan,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cases import Data
    from orchestrator.cluster import ImageSource
    from orchestrator.multimodal.lists import Samples
    from orchestrator.render import Context
    from orchestrator.selection import Selection

#: What a rehearsal changes, in the words of plan and result.
REHEARSAL = "torch device cpu, no plug-in, backend gloo; everything else is the vendor's, served by stand-ins"
#: The same where the device's config asks for what no CPU computes.
REHEARSAL_OF_CASE = (
    "torch device cpu, no plug-in, backend gloo, a CPU's precision and attention; all else the vendor's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The paths and the interpreter that a run uses, and where its ranks meet, decided at the edge.

    `master_address` is where the others reach the first node, when the cluster file alone does not say;
    `stand_in` the folder of what stands in for an external program in a rehearsal on this machine.
    """

    python: str
    trainer: Path
    data_dir: Path
    run_dir: Path
    master_port: int = 0
    master_address: str | None = None
    stand_in: Path | None = None


def device_plan(selection: Selection) -> DevicePlan:
    """How torch reaches the device; a rehearsal overrides exactly this, and nothing else of the vendor."""
    if selection.cluster.rehearsal:
        return DevicePlan(type="cpu", plugin=None, backend="gloo", deepspeed_accelerator="cpu")
    torch = selection.vendor.torch
    return DevicePlan(
        type=torch.device_type,
        plugin=torch.plugin,
        backend=torch.backend,
        deepspeed_accelerator=torch.deepspeed_accelerator,
    )


def data_plan(selection: Selection, place: Place, data: Data, source: Manifest | Samples) -> DataPlan:
    folder = _data_folder(selection, place)
    if isinstance(source, Manifest):
        index = source.index
        return DataPlan(
            file=f"{folder}/{source.name}.{'bin' if index else 'tokens'}",
            sha256=source.sha256,
            num_tokens=source.num_tokens,
            dtype=source.dtype,
            index=None if index is None else IndexPlan(file=f"{folder}/{source.name}.idx", **asdict(index)),
        )
    manifest = source.manifest
    images = None if manifest.images_in_set else f"{folder}/{data.images or ''}"
    return DataPlan(
        file=f"{folder}/{manifest.name}/manifest.json",
        sha256=source.sha256,
        num_tokens=manifest.num_tokens,
        dtype="int32",
        samples=SamplesPlan(num_samples=manifest.num_samples, order=data.order or "shuffled", images=images),
    )


def questions_plan(
    selection: Selection, place: Place, source: Manifest | Samples, max_new_tokens: int
) -> QuestionsPlan:
    assert not isinstance(source, Manifest), "an evaluation is a prepared set"
    return QuestionsPlan(
        file=f"{_data_folder(selection, place)}/{source.manifest.name}/manifest.json",
        sha256=source.sha256,
        num_questions=source.manifest.num_samples,
        max_new_tokens=max_new_tokens,
    )


def initial_plan(
    selection: Selection, place: Place, *, weights: Mapping[str, str], before: str | None, folder: str
) -> InitialPlan | None:
    """`weights` has the SHA-256 of each folder's list; `folder` is the projector's, that the cell `before`
    leaves in its first node's output.
    """
    if before is None and not weights:
        return None
    local = selection.cluster.transport == "local"
    root = f"{place.run_dir}/cells/{before}/node0" if local else docker.CONTAINER_JOB
    return InitialPlan(
        folders=tuple(f"{_data_folder(selection, place)}/{name}" for name in weights),
        manifests=tuple(weights.values()),
        projector=None if before is None else f"{root}/{folder}",
    )


def _data_folder(selection: Selection, place: Place) -> str:
    return str(place.data_dir) if selection.cluster.transport == "local" else docker.CONTAINER_DATA


def image_plan(context: Context | None, origin: ImageSource) -> ImagePlan | None:
    if context is None:
        return None
    return ImagePlan(
        tag=context.tag,
        base=context.base,
        dockerfile=context.dockerfile,
        context_sha256=context.sha256,
        build_args=context.build_args,
        origin=origin,
        needs=context.needs or None,
    )


def launches(selection: Selection, place: Place, job: Job, context: Context | None) -> tuple[Launch, ...]:
    per_node = selection.cluster.devices_per_node
    make = _local_launch if context is None else _container_launch
    return tuple(
        make(
            selection,
            place,
            job,
            context,
            node=node.name,
            node_rank=rank,
            ranks=tuple(range(rank * per_node, (rank + 1) * per_node)),
        )
        for rank, node in enumerate(selection.cluster.nodes)
    )


def _local_launch(
    selection: Selection,
    place: Place,
    job: Job,
    _context: Context | None,
    *,
    node: str,
    node_rank: int,
    ranks: tuple[int, ...],
) -> Launch:
    cell_dir = place.run_dir / "cells" / job.cell_id
    return Launch(
        node=node,
        node_rank=node_rank,
        ranks=ranks,
        argv=(
            place.python,
            str(place.trainer / "launch.py"),
            *_launcher_words(selection, job, str(cell_dir), node_rank, "127.0.0.1", place.master_port),
        ),
        environment=dict(selection.vendor.environment),
        host_output=str(cell_dir / f"node{node_rank}"),
    )


def _container_launch(
    selection: Selection,
    place: Place,
    job: Job,
    context: Context | None,
    *,
    node: str,
    node_rank: int,
    ranks: tuple[int, ...],
) -> Launch:
    cluster = selection.cluster
    first = cluster.nodes[0]
    assert context is not None
    node_job_dir = f"{cluster.work_dir}/runs/{job.run_id}/{job.cell_id}"
    name = f"nx8-{job.run_id}-{job.cell_id}-n{node_rank}"
    words = _launcher_words(
        selection,
        job,
        docker.CONTAINER_JOB,
        node_rank,
        place.master_address or first.fabric_address or first.address,
        place.master_port,
    )
    spec = docker.container_spec(
        selection.vendor,
        engine=job.engine,
        image=context.tag,
        name=name,
        command=("python3", f"{docker.CONTAINER_TRAINER}/launch.py", *words, *_lease_words(selection)),
        num_devices=cluster.devices_per_node,
        node_job_dir=node_job_dir,
        node_data_dir=cluster.data_dir,
        labels={
            "nx8.run": job.run_id,
            "nx8.cell": job.cell_id,
            "nx8.node_rank": str(node_rank),
            "nx8.nonce": job.nonce,
        },
        environment=_over(selection),
    )
    return Launch(
        node=node,
        node_rank=node_rank,
        ranks=ranks,
        argv=docker.create_argv(spec),
        environment={},
        host_output=str(place.run_dir / "cells" / job.cell_id / f"node{node_rank}"),
        container=name,
        node_job_dir=node_job_dir,
    )


def _lease_words(selection: Selection) -> tuple[str, ...]:
    """What the launcher in a container watches, as nobody holds its standard input."""
    limit = f"{selection.cluster.lease_s:g}"
    return ("--lease", f"{docker.CONTAINER_JOB}/lease", "--lease-limit", limit)


def _over(selection: Selection) -> dict[str, str]:
    """What makes torch's own collectives and the vendor's use the network that the inventory names, not the
    one that the host name means.
    """
    interface = selection.cluster.interface
    given = selection.vendor.interface_environment(interface)
    return {"GLOO_SOCKET_IFNAME": interface, **given} if interface else given


def _launcher_words(
    selection: Selection, job: Job, folder: str, node_rank: int, master_addr: str, master_port: int
) -> tuple[str, ...]:
    """The arguments of cases/trainer/launch.py, as docs/contract.md has them."""
    cluster = selection.cluster
    launcher = "fork" if cluster.rehearsal else selection.vendor.launcher
    if job.program is not None:
        launcher = "torchrun"  # there is nothing of it to fork
    return (
        "--job",
        f"{folder}/job.json",
        "--output",
        f"{folder}/node{node_rank}",
        "--launcher",
        launcher,
        "--node-rank",
        str(node_rank),
        "--num-nodes",
        str(len(cluster.nodes)),
        "--master-addr",
        master_addr,
        "--master-port",
        str(master_port),
        "--local-world-size",
        str(cluster.devices_per_node),
    )
