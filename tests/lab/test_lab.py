"""The lab itself: what its nodes are, what they are not, and that nothing of it stays."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cluster import Cluster
from orchestrator.errors import ConfigError, PreflightError
from orchestrator.lab import box, cache, faults, host, names, nodes, standins, state
from orchestrator.load import load
from orchestrator.probe import Sample, read_probe, render_probe, stand_in
from orchestrator.vendors import Vendor
from orchestrator.workspace import Workspace
from tests.lab.conftest import HERE, require_host

if TYPE_CHECKING:
    from orchestrator.lab.names import Names

ROOT = Path(__file__).parents[2]
VENDORS = Workspace(home=ROOT).vendor_names()


def vendor_of(name: str) -> Vendor:
    return load(ROOT / "dockerfiles" / name / "vendor.yaml", Vendor, shown_as=name)


def tool() -> Any:
    """The probe tool's program, which runs on nodes and is no module of the package."""
    path = ROOT / "orchestrator/lab/files/accelerator.py"
    spec = importlib.util.spec_from_file_location("accelerator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def traces(of: Names) -> list[str]:
    """What on this machine still goes by a lab's names."""
    links = json.loads(subprocess.check_output(["ip", "-j", "link", "show"]))
    found = [f"link {one['ifname']}" for one in links if of.tag in one["ifname"]]
    rules = subprocess.check_output([host.program("iptables"), "-w", "-S"], text=True)
    found += [f"rule {line}" for line in rules.splitlines() if of.tag in line]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/*{of.tag}*")]
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if of.tag in line]
    found += [
        f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(of.folder) in line
    ]
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                command = (process / "cmdline").read_bytes()
                groups = (process / "cgroup").read_text()
                ended = host.process(int(process.name)) is None
            except OSError:
                continue
            if ended:  # only its exit status is left, for a parent that is not ours
                continue
            if str(of.folder).encode() in command or of.tag in groups:
                found.append(f"process {process.name} {command!r}")
    found += [f"file {path}" for path in (of.folder, of.cluster_file, of.known_hosts) if path.exists()]
    return found


# --- without nodes


@pytest.mark.parametrize("name", [name for name in VENDORS if vendor_of(name).probe is not None])
def test_the_stand_in_tool_writes_what_render_probe_writes(name):
    vendor = vendor_of(name)
    known = [
        {"memory_used": 3 << 30, "memory_total": 32 << 30},
        {"memory_used": 0, "memory_total": 32 << 30, "temperature": 41.0, "power": 77.5, "utilisation": 0.5},
    ]
    samples = [
        Sample(
            index=index,
            memory_used_bytes=values["memory_used"],
            memory_total_bytes=values["memory_total"],
            temperature_c=values.get("temperature"),
            power_w=values.get("power"),
            utilisation=values.get("utilisation"),
        )
        for index, values in enumerate(known)
    ]
    form = json.loads(json.dumps(stand_in(vendor.probe)))
    assert tool().drawn(known, form, list(standins.QUANTITIES)) == render_probe(samples, vendor.probe)


@pytest.mark.parametrize("name", VENDORS)
def test_stand_ins_come_from_the_vendors_data(name):
    vendor = vendor_of(name)
    made = standins.of(vendor, num_devices=2, cgroup="nx8-0-node1")
    assert made.devices == vendor.device_files(num_devices=2)
    if vendor.docker.runtime:
        assert vendor.docker.runtime in made.daemon["runtimes"]
    if vendor.docker.gpus:
        assert f"{standins.BIN}/{standins.GPUS_HOOK}" in made.programs
    assert set(made.references) == {image.reference for image in vendor.images.values()}


def test_references_are_written_as_docker_writes_them():
    digest = "sha256:" + "1" * 64
    table = standins.repositories(
        (f"nvcr.io/a/b:1@{digest}", "docker.io/library/python:3.11", "docker.io/rocm/x:2", "h:5000/y"), "ID"
    )["Repositories"]
    assert table == {
        "nvcr.io/a/b": {"nvcr.io/a/b:1": "ID", f"nvcr.io/a/b@{digest}": "ID"},
        "python": {"python:3.11": "ID"},
        "rocm/x": {"rocm/x:2": "ID"},
        "h:5000/y": {"h:5000/y:latest": "ID"},
    }


def test_missing_packages_are_named_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(host.shutil, "which", lambda name, path=None: None if name == "mmdebstrap" else name)
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    with pytest.raises(PreflightError, match="mmdebstrap") as caught:
        host.require()
    assert "apt-get install -y --no-install-recommends mmdebstrap" in str(caught.value)
    assert caught.value.exit_code == 3


def test_ci_never_skips_the_lab(monkeypatch):
    monkeypatch.setattr(host, "program", lambda _: None)
    with pytest.raises(pytest.fail.Exception, match="CI never skips the lab"):
        require_host(in_ci=True)
    with pytest.raises(pytest.skip.Exception, match="mmdebstrap"):
        require_host(in_ci=False)
    others = [path for path in HERE.glob("test_*.py") if path != Path(__file__)]
    assert not [path.name for path in others if "host.problems()" in path.read_text()]
    assert "\nexport CI=true" in (ROOT / ".ci" / "run").read_text()


def test_a_mirror_that_does_not_answer_is_said_at_once(tmp_path):
    sources = cache.Sources(
        folder=tmp_path, constraints=ROOT / "constraints.txt", mirror="http://127.0.0.1:9/debian"
    )
    with pytest.raises(PreflightError, match="cannot be read") as caught:
        cache.prepare(sources, say=lambda _: None, importing=lambda *_: "")
    assert "--mirror" in str(caught.value)


def test_a_program_that_takes_too_long_is_ended_with_what_it_said():
    with pytest.raises(PreflightError, match=r"waiting: not done within 0\.5 s\n +begun"):
        host.run(["sh", "-c", "echo begun; sleep 600"], doing="waiting", limit_s=0.5)


def test_another_process_with_the_same_pid_is_not_killed():
    other = host.Process(pid=os.getpid(), started=1)
    other.kill()
    assert not other.alive
    assert host.process(os.getpid()).alive


# --- with nodes


def test_every_node_answers_over_ssh_and_has_docker(lab):
    seen = box.status(lab.lab)
    assert len(seen) == 2
    assert all(one.alive and one.docker for one in seen)
    assert [lab.on(node, "hostname").strip() for node in lab.nodes] == ["node1", "node2"]


def test_the_account_bench_uses_docker_without_being_root(lab):
    assert lab.on(lab.nodes[0], "id", "-u", user="bench").strip() == "1000"
    assert lab.on(lab.nodes[0], "docker", "ps", "-q", user="bench") == ""


def test_the_cluster_file_is_a_valid_rehearsal(lab):
    cluster = load(lab.workspace.cluster_file("lab"), Cluster, shown_as="lab.yaml")
    assert cluster.rehearsal
    assert (cluster.transport, cluster.vendor, cluster.devices_per_node) == ("ssh", "mthreads", 2)
    assert [node.address for node in cluster.nodes] == [node.address for node in lab.nodes]
    assert cluster.device in vendor_of("mthreads").devices


def test_a_node_does_not_see_the_controllers_files(lab, tmp_path):
    secret = tmp_path / "only-here"
    secret.write_text("x")
    for place in (secret, ROOT, Path(sys.prefix)):
        lab.on(lab.nodes[0], "test", "!", "-e", str(place))
    # Nor do its own processes keep a way out.
    lab.on(lab.nodes[0], "test", "!", "-e", f"/proc/1/root{secret}")
    lab.on(lab.nodes[0], "touch", "/tmp/only-there")
    lab.on(lab.nodes[1], "test", "!", "-e", "/tmp/only-there")


def test_host_keys_differ_and_are_pinned(lab):
    lines = lab.lab.names.known_hosts.read_text().splitlines()
    keys = [line.split()[2] for line in lines]
    assert len(set(keys)) == len(lab.nodes)
    for node, key in zip(lab.nodes, keys, strict=True):
        assert key in lab.on(node, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")


def test_the_private_key_and_the_state_are_nobody_elses(lab):
    assert lab.lab.names.folder.stat().st_mode & 0o777 == 0o700
    assert lab.lab.names.key.stat().st_mode & 0o777 == 0o600


def test_the_probe_reports_what_the_ranks_of_this_node_hold(lab):
    vendor = vendor_of("mthreads")
    first, second = lab.nodes
    hold = "import time; kept = bytearray(b'x' * (300 << 20)); print('held', flush=True); time.sleep(600)"
    lab.on(first, "docker run -d --name holding -e LOCAL_RANK=1 nx8-lab/base python3 -c", f'"{hold}"')
    try:
        host.until(
            lambda: "held" in lab.on(first, "docker", "logs", "holding"),
            limit_s=60,
            waiting_for=lambda: "nothing is held",
        )
        reading = read_probe(lab.on(first, *vendor.probe.argv).encode(), vendor.probe)
        elsewhere = read_probe(lab.on(second, *vendor.probe.argv).encode(), vendor.probe)
    finally:
        lab.on(first, "docker", "rm", "-f", "holding")
    assert reading.num_unread == 0
    assert [sample.index for sample in reading.samples] == [0, 1]
    assert 300 << 20 <= reading.samples[1].memory_used_bytes < 400 << 20
    assert reading.samples[0].memory_used_bytes < 32 << 20
    assert all(sample.memory_used_bytes < 32 << 20 for sample in elsewhere.samples)
    assert all(sample.power_w is None and sample.temperature_c is None for sample in reading.samples)


def test_a_fault_test_may_script_the_probe(lab):
    vendor = vendor_of("mthreads")
    node = lab.nodes[0]
    faults.script_probe(node, [{"temperature": 91.0}, {"temperature": 40.0}])
    try:
        reading = read_probe(lab.on(node, *vendor.probe.argv).encode(), vendor.probe)
    finally:
        faults.script_probe(node, None)
    assert [sample.temperature_c for sample in reading.samples] == [91.0, 40.0]


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_docker_builds_from_the_vendors_reference_without_a_network(lab, buildkit):
    for image in vendor_of("mthreads").images.values():
        dockerfile = f"FROM {image.reference}\nRUN python3 -c 'import torch, deepspeed, numpy'\n"
        node = lab.nodes[0]
        lab.on(
            node, f"DOCKER_BUILDKIT={buildkit} docker build --no-cache -t built -", stdin=dockerfile.encode()
        )
        lab.on(node, "docker", "image", "rm", "built")


def test_every_node_has_the_same_image(lab):
    ask = ("docker", "image", "inspect", "--format", "'{{.Id}}'", "nx8-lab/base")
    assert len({lab.on(node, *ask) for node in lab.nodes}) == 1


def test_a_container_on_the_hosts_network_has_the_nodes_address(lab):
    for node in lab.nodes:
        run = ("docker", "run", "--rm", "--network", "host", "nx8-lab/base")
        assert node.address in lab.on(node, *run, "ip", "-4", "address", "show", "eth0")
    first, second = lab.nodes
    ping = f"import socket; socket.create_connection(('{second.address}', 22), 5)"
    lab.on(first, *run, "python3", "-c", f'"{ping}"')


def test_a_digest_names_the_base_image_too(lab):
    digest = "sha256:" + "a" * 64
    node = lab.nodes[1]
    ask = lab.on(node, "docker", "image", "inspect", "--format", "'{{.Id}}'", "nx8-lab/base").strip()
    faults.stop_daemon(node, faults.DOCKERD)
    nodes.name_images(node.folder / "docker", (f"registry.invalid/base:1@{digest}",), ask)
    faults.start_daemons(node)
    box.await_ready(lab.lab, node)
    dockerfile = f"FROM registry.invalid/base:1@{digest}\nRUN true\n"
    for buildkit in ("0", "1"):
        lab.on(node, f"DOCKER_BUILDKIT={buildkit} docker build -q -", stdin=dockerfile.encode())


def test_sshd_stops_and_starts_again(lab):
    node = lab.nodes[1]
    faults.stop_daemon(node, faults.SSHD)
    assert box.docker_version(lab.lab, node) is None
    faults.start_daemons(node)
    assert box.await_ready(lab.lab, node)


def test_a_changed_host_key_is_refused_until_the_old_one_is_back(lab):
    node = lab.nodes[1]
    restore = faults.change_host_key(lab.lab, node)
    try:
        refused = subprocess.run(lab.lab.ssh(node, "true"), capture_output=True, text=True, timeout=60)
        assert "HOST IDENTIFICATION HAS CHANGED" in refused.stderr
    finally:
        restore()
    assert box.await_ready(lab.lab, node)


def test_a_silent_sshd_accepts_and_says_nothing(lab):
    import socket

    node = lab.nodes[1]
    with faults.silent_sshd(lab.lab, node), socket.create_connection((node.address, 22), 10) as open_:
        open_.settimeout(1)
        with pytest.raises(TimeoutError):
            open_.recv(1)
    assert box.await_ready(lab.lab, node)


def test_a_cut_link_is_silence_and_mends(lab):
    node = lab.nodes[1]
    faults.cut_link(node)
    try:
        assert box.docker_version(lab.lab, node) is None
    finally:
        faults.mend_link(node)
    assert box.await_ready(lab.lab, node)


def test_a_full_disk_has_no_byte_left(lab):
    node = lab.nodes[0]
    with faults.full_disk(lab.lab, node, "/srv/nx8"):
        done = subprocess.run(
            lab.lab.ssh(node, "echo x > /srv/nx8/y"), capture_output=True, text=True, timeout=60
        )
        assert "No space left" in done.stderr
    lab.on(node, "test", "-d", "/srv/nx8/data")


# --- life and end


def test_up_again_says_so_and_down_leaves_nothing(labs, home, sources):
    workspace = Workspace(home=home)
    of = names.Names.of(workspace, "lab")
    box.up(workspace, box.Wish(vendor="cpu", nodes=1), sources=sources, say=print)
    try:
        assert traces(of)
        with pytest.raises(ConfigError, match="is there already: 1 of 1 nodes run"):
            box.up(workspace, box.Wish(vendor="cpu", nodes=1), sources=sources, say=print)
        lab = state.read(workspace, "lab")
        subprocess.run(
            lab.ssh(lab.nodes[0], "docker", "run", "-d", "--name", "left", "nx8-lab/base", "sleep", "900"),
            check=True,
            timeout=60,
        )
    finally:
        assert box.down(workspace, "lab")
    assert traces(of) == []
    assert not (home / "results" / "lab").exists()
    assert not box.down(workspace, "lab")


def test_an_up_that_fails_takes_itself_down(labs, home, sources, monkeypatch):
    workspace = Workspace(home=home)
    of = names.Names.of(workspace, "lab")
    monkeypatch.setattr(nodes, "SSHD", "ThisIsNoOption yes\n# {address}\n")
    monkeypatch.setattr(box, "READY_LIMIT_S", 3.0)
    with pytest.raises(PreflightError, match="Bad configuration option: ThisIsNoOption"):
        box.up(workspace, box.Wish(vendor="cpu", nodes=2), sources=sources, say=print)
    assert traces(of) == []


def test_what_an_interrupted_up_left_is_found_by_its_names(labs, home, sources):
    workspace = Workspace(home=home)
    of = names.Names.of(workspace, "lab")
    lab = box.up(workspace, box.Wish(vendor="cpu", nodes=1), sources=sources, say=print)
    # As if nobody had lived to write anything down.
    of.state.unlink()
    (lab.nodes[0].folder / "processes.json").unlink()
    assert box.down(workspace, "lab")
    assert traces(of) == []


def test_a_cluster_file_of_ones_own_is_not_overwritten(labs, home, sources):
    mine = home / "cluster" / "lab.yaml"
    mine.write_text("schema: 1\n")
    with pytest.raises(ConfigError, match="was not written by"):
        box.up(Workspace(home=home), box.Wish(vendor="cpu"), sources=sources, say=print)
    assert mine.read_text() == "schema: 1\n"


def test_a_subnet_that_is_taken_is_refused(lab, labs, home, sources):
    with pytest.raises(ConfigError, match="overlaps a network"):
        box.up(
            Workspace(home=home),
            box.Wish(vendor="cpu", nodes=1, subnet=lab.lab.subnet),
            sources=sources,
            say=print,
        )
