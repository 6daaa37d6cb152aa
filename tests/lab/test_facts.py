"""What a node is, read over SSH from a real kernel and a real docker; and versions inside a real image."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import docker, facts, hosts, versions
from orchestrator.cluster import Cluster
from orchestrator.load import load
from orchestrator.preflight import Looked, node_facts
from orchestrator.remote.pool import Pool
from orchestrator.vendors import Vendor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VENDOR = "mthreads"
SAMPLE = Path(__file__).parents[1] / "data" / "probes" / f"{VENDOR}-two_devices.txt"
TOOL = "/usr/local/bin/mthreads-gmi"


def parts(bed: Any) -> tuple[Cluster, Vendor]:
    workspace = bed.workspace
    return load(workspace.cluster_file("lab"), Cluster), load(workspace.vendor_file(VENDOR), Vendor)


@contextmanager
def connected(bed: Any) -> Iterator[Pool]:
    cluster, _ = parts(bed)
    known = hosts.known_hosts_file(bed.workspace, "lab", cluster)
    with Pool.open(cluster, cluster.nodes, known) as pool:
        yield pool


@contextmanager
def tool(bed: Any, node: Any, script: str) -> Iterator[None]:
    """Another probe tool on one node."""
    bed.on(node, f"mv {TOOL} {TOOL}.kept && cat > {TOOL} && chmod 755 {TOOL}", stdin=script.encode())
    try:
        yield
    finally:
        bed.on(node, f"mv {TOOL}.kept {TOOL}")


def test_a_node_says_what_it_is_and_why_it_does_not_know_the_rest(labs: Callable[..., Any]) -> None:
    bed = labs(VENDOR)
    cluster, vendor = parts(bed)
    with connected(bed) as pool:
        remote = pool[cluster.nodes[0].name]
        looked = Looked(hello=remote.hello(), docker="20.10", free_bytes=1)
        found = node_facts(remote, looked, cluster, vendor)
    host = facts.host()
    assert (found.cpu_model, found.cpu_cores, found.kernel) == (host.cpu_model, host.cpu_cores, host.kernel)
    assert found.memory_bytes == host.mem_total_bytes
    assert found.uid == 0
    # The stand-ins' own probe counts them; which model they would be, they do not say.
    assert found.accelerator_count == cluster.devices_per_node
    assert found.accelerator_model is None
    assert [link.kind for link in found.network] == ["virtual Ethernet"]
    for name in ("accelerator_model", "driver", "firmware", "network"):
        assert found.unknown[name]
    assert not {"cpu_model", "kernel", "accelerator_count"} & set(found.unknown)


def test_a_vendor_s_tool_names_the_devices_of_its_node(labs: Callable[..., Any]) -> None:
    bed = labs(VENDOR)
    _, vendor = parts(bed)
    prints = f"#!/bin/sh\ncat <<'END'\n{SAMPLE.read_text('utf-8')}\nEND\n"
    with tool(bed, bed.nodes[0], prints), connected(bed) as pool:
        accelerators, found = versions.on_node(pool[bed.nodes[0].name], vendor)
    assert (accelerators.model, accelerators.count) == ("MTT S4000", 2)
    assert found.versions["driver"] == "2.2.0"
    assert accelerators.unknown == {}


def test_a_tool_that_hangs_is_said_and_keeps_nobody_waiting(labs: Callable[..., Any]) -> None:
    bed = labs(VENDOR)
    _, vendor = parts(bed)
    with tool(bed, bed.nodes[0], "#!/bin/sh\nexec sleep 600\n"), connected(bed) as pool:
        remote = pool[bed.nodes[0].name]
        accelerators, found = versions.on_node(remote, vendor, limit_s=1.0)
        assert remote.run(("true",), timeout_s=60).rc == 0
    assert accelerators.count is None
    assert "killed after" in accelerators.unknown["accelerator_count"]
    assert found.versions["driver"] is None


def test_versions_are_read_inside_an_image_once(labs: Callable[..., Any]) -> None:
    bed = labs(VENDOR)
    _, vendor = parts(bed)
    # Its own: the nodes are shared, and a run before this one keeps what it read in work_dir.
    folder = "/srv/nx8/versions-read-once"
    with connected(bed) as pool:
        remote = pool[bed.nodes[0].name]
        done = remote.run(docker.image_argv("nx8-lab/base:latest"), timeout_s=60)
        image = docker.read_image(done.stdout)
        assert isinstance(image, docker.ImageFacts)

        def read() -> versions.Versions:
            return versions.in_image(remote, image.id, vendor, folder=folder, labels={"nx8.run": "test"})

        try:
            first = read()
            (kept,) = remote.list(folder)
            changed = {**first.versions, "torch": "read from the kept file"}
            path = f"{folder}/{kept}"
            remote.write(path, json.dumps({"versions": changed, "unknown": first.unknown}).encode())
            second = read()
        finally:
            bed.on(bed.nodes[0], f"rm -rf {shlex.quote(folder)}")
        left = bed.on(bed.nodes[0], "docker ps -aq --filter label=nx8.run=test")
    assert str(first.versions["torch"]).startswith("2.")
    assert first.versions["deepspeed"]
    assert first.versions["torch_musa"] is None
    assert "torch_musa" in first.unknown
    assert "musa_version_query" in first.unknown["musa_toolkits"]
    assert second.versions["torch"] == "read from the kept file"
    assert left == ""


def test_an_image_that_cannot_be_started_leaves_every_version_unknown(labs: Callable[..., Any]) -> None:
    bed = labs(VENDOR)
    _, vendor = parts(bed)
    with connected(bed) as pool:
        remote = pool[bed.nodes[0].name]
        found = versions.in_image(remote, "sha256:" + "0" * 64, vendor, folder="/srv/nx8/versions-unread")
        kept = remote.stat("/srv/nx8/versions-unread")[0]["exists"]
    assert set(found.versions.values()) == {None}
    assert all("exited" in why for why in found.unknown.values())
    assert not kept
