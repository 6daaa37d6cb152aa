"""doctor/: what a node answered becomes the right check, with whose it is and a line that mends it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator import doctor, schemas
from orchestrator.cluster import Cluster
from orchestrator.docker import EngineInfo, ImageFacts
from orchestrator.doctor import document, table
from orchestrator.doctor.checks import judged
from orchestrator.doctor.expected import Expected, WantedFile, WantedImage
from orchestrator.doctor.expected import expected as expected_of
from orchestrator.doctor.findings import Findings
from orchestrator.doctor.looking import NO_TIME, Here, examined, met
from orchestrator.doctor.seen import Disk, HeldFile, Met, Seen
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load, load_text
from orchestrator.preflight import DockerSaid
from orchestrator.selection import Site, site_of
from orchestrator.vendors import Vendor
from orchestrator.versions import Answer, node_commands
from orchestrator.workspace import Workspace
from tests import loopback

ROOT = Path(__file__).parents[1]
SHIPPED = Workspace(home=ROOT)
GIB = 1024**3


def wanted(vendor: str = "kunlunxin", *, nodes: int = 2, **given: Any) -> Expected:
    made = load(SHIPPED.vendor_file(vendor), Vendor)
    device = next(iter(made.devices))
    text = (
        f"schema: 1\ndescription: d\nvendor: {vendor}\ndevice: {device}\n"
        "transport: ssh\ndevices_per_node: 2\n"
        f"nodes:\n  - name: node[1-{nodes}]\n    host: 10.0.0.[1-{nodes}]\n"
        "interface: eth0\ndata_dir: /data\nwork_dir: /srv/nx8\n"
    )
    cluster = load_text(text, Cluster, shown_as="c")
    whole = {
        "addresses": {node.name: node.address for node in cluster.nodes},
        "cluster_name": "c", "cluster": cluster, "vendor_name": vendor, "vendor": made, "port": 20001,
        "engines": ("deepspeed",),
    }  # fmt: skip
    return Expected(**{**whole, **given})


def sound(number: int = 1, expected: Expected | None = None, **given: Any) -> Seen:
    """A node without a fault; `given` replaces what it answered."""
    it = expected or wanted()
    probe = it.vendor.probe
    said = ""
    if probe is not None:
        from orchestrator.probe import Sample, render_probe

        memory = round((it.device.memory_gib or 32) * GIB)
        ones = [Sample(index=at, memory_used_bytes=0, memory_total_bytes=memory) for at in range(2)]
        said = render_probe(ones, probe)
    files = it.vendor.device_files(num_devices=2)
    name = f"node{number}"
    base = Seen(
        name=name,
        address=f"ops@10.0.0.{number}:22",
        login=("ssh", f"ops@10.0.0.{number}"),
        user="ops",
        hello={
            "python": "3.10.1", "uid": 1000, "user": "ops", "cpus": 64, "cpus_allowed": 64,
            "kernel": "5.15.0", "os": "Linux", "skew_s": 0.01, "rtt_s": 0.002,
        },
        docker=DockerSaid(version="24.0.7"),
        engine=EngineInfo(
            runtimes=("runc", "vendor"), default_runtime="vendor", root_dir="/var/lib/docker"
        ),
        texts={
            "/sys/class/net/eth0/type": "1", "/sys/class/net/eth0/operstate": "up",
            "/sys/class/net/eth0/mtu": "1500", "/proc/swaps": "Filename\n", "/proc/loadavg": "0.1 0.1 0.1",
        },
        disks={
            key: Disk(
                path=path, at=path, total_bytes=900 * GIB, available_bytes=500 * GIB, free_inodes=10**7
            )
            for key, path in (("work_dir", "/srv/nx8"), ("data_dir", "/data"))
        },
        kinds=dict.fromkeys(files, "device"),
        answers={
            **{argv: Answer(why="not installed") for argv in node_commands(it.vendor)},
            **({probe.argv: Answer(text=said)} if probe is not None else {}),
        },
        looked={
            "hostname": name, "names": {name: {"addresses": ["10.0.0.1"]}}, "own": ["10.0.0.1"],
            "holders": [], "hidden": 0, "listening": [], "programs": {}, "limits": {},
        },
        met=Met(
            taken=None,
            reached=tuple(node.name for node in it.cluster.nodes if node.name != name),
            why={},
        ),
    )  # fmt: skip
    return dataclasses.replace(base, **given)


def found(seen: Seen, expected: Expected | None = None, *others: Seen) -> list[tuple[str, str | None, str]]:
    """(row, code, severity) of all that is not well with the first node."""
    it = expected or wanted()
    nodes = judged([seen, *others], it)
    for check in nodes[0].problems:
        assert check.fix is not None or check.code == "E208", check
        assert check.owner is not None
        assert check.message.zh != check.message.en
        assert "\n" not in (check.fix_text() or "")
    return [(check.name, check.code, check.severity) for check in nodes[0].problems]


def test_a_sound_node_has_no_problem_with_any_vendor() -> None:
    for vendor in SHIPPED.vendor_names():
        if vendor == "cpu":
            continue
        it = wanted(vendor)
        runtime = it.vendor.docker.runtime
        one = sound(expected=it)
        one = dataclasses.replace(
            one,
            engine=dataclasses.replace(one.engine, runtimes=("runc", *([runtime] if runtime else []))),
            looked={**one.looked, "programs": {"nvidia-container-runtime-hook": "/usr/bin/hook"}},
        )
        assert found(one, it) == [], vendor


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"docker": DockerSaid(code="E231"), "engine": None}, ("docker", "E231", "bad")),
        ({"docker": DockerSaid(code="E232"), "engine": None}, ("docker", "E232", "bad")),
        ({"docker": DockerSaid(code="E233", said="no"), "engine": None}, ("docker", "E233", "bad")),
        ({"docker": None, "engine": None, "missed": {"docker": "killed"}}, ("docker", "E233", "bad")),
        ({"kinds": {"/dev/xpu0": "device", "/dev/xpu1": None}}, ("devices", "E223", "bad")),
        ({"crooked": {"work_dir": "/srv"}}, ("disk", "E247", "bad")),
        ({"lock": {"run": "r", "user": "li", "host": "h", "pid": 1}}, ("idle", "E224", "bad")),
        ({"hello": {"skew_s": 40.0, "rtt_s": 0.01, "uid": 0}}, ("clock", "E226", "warn")),
        ({"met": Met(taken="in use", reached=("node2",), why={})}, ("peers", "E235", "bad")),
        (
            {"met": Met(taken=None, reached=(), why={"node2": "no answer"})},
            ("peers", "E227", "bad"),
        ),
        ({"missed": {"meet": "no answer"}, "met": None}, ("peers", "E208", "warn")),
    ],
)
def test_each_fault_is_one_problem_with_its_code(given: Any, expected: tuple[str, str, str]) -> None:
    assert found(sound(**given), None, sound(2)) == [expected]


@pytest.mark.parametrize(
    ("question", "rows"),
    [
        ("kernel", ["network"]),
        ("lock", ["idle"]),
        ("examine", ["idle", "disk", "system"]),
        ("devices", ["devices"]),
        ("links", ["disk"]),
        ("disk", ["disk"]),
        ("images", ["image"]),
        ("vendor", ["idle", "driver"]),
    ],
)
def test_what_was_not_answered_is_never_called_well(question: str, rows: list[str]) -> None:
    it = wanted(images=(WantedImage(tag="nx8-x:1", base="b", labels={}),))
    silent = sound(expected=it, missed={question: "too late"})
    assert found(silent, it, sound(2)) == [(row, "E208", "warn") for row in rows]
    (node, _) = judged([silent, sound(2)], it)
    assert all("too late" in check.text(language) for check in node.problems for language in ("zh", "en"))
    text = table.text(findings(silent, sound(2), expected=it))
    assert "! node1 E208" in text, "once, whatever the number of rows"


def test_a_node_whose_docker_hangs_is_not_usable() -> None:
    hung = sound(docker=None, engine=None, missed={"docker": "killed after 4 s"})
    made = findings(hung, sound(2))
    assert (made.usable, int(made.exit_code)) == (("node2",), 3)
    never_asked = sound(docker=None, engine=None, missed={"docker": NO_TIME})
    assert ("docker", "E208", "warn") in found(never_asked, None, sound(2))


def test_an_unanswered_question_hides_no_fault_and_makes_none() -> None:
    held = sound(lock={"run": "r"}, missed={"examine": "too late"})
    assert ("idle", "E224", "bad") in found(held, None, sound(2))
    gpus = wanted("nvidia")
    silent = sound(expected=gpus, looked={}, missed={"examine": "too late"})
    assert ("runtime", "E208", "warn") in found(silent, gpus, sound(2, expected=gpus))
    cpu = wanted("cpu")
    busy = sound(expected=cpu, texts={}, missed={"kernel": "too late"})
    assert ("idle", "E208", "warn") in found(busy, cpu)


def test_an_old_docker_is_refused() -> None:
    old = DockerSaid(version="19.03.1")
    assert found(sound(docker=old), None, sound(2, docker=old)) == [("docker", "E230", "bad")]


def test_a_runtime_that_docker_does_not_know_is_named_by_what_the_vendor_asks_for() -> None:
    it = wanted("mthreads")  # its runtime has to be docker's default, for nobody else reads its variable
    plain = EngineInfo(runtimes=("runc",), default_runtime="runc", root_dir=None)
    assert found(sound(expected=it, engine=plain), it) == [("runtime", "E222", "bad")]
    gpus = wanted("nvidia")
    assert ("runtime", "E222", "bad") in found(sound(expected=gpus), gpus)
    asks = dataclasses.replace(gpus.vendor.docker, runtime="x", gpus=False)
    named = dataclasses.replace(gpus, vendor=dataclasses.replace(gpus.vendor, docker=asks))
    assert ("runtime", "E222", "bad") in found(sound(expected=named), named)


def test_another_model_than_the_cluster_file_s_is_said() -> None:
    it = wanted()
    (argv,) = {it.vendor.model.argv}  # type: ignore[union-attr]
    said = sound().answers[argv].text.replace("R300", "P800")
    answers = {**sound().answers, argv: Answer(text=said)}
    assert found(sound(answers=answers), None, sound(2, answers=answers)) == [("devices", "E223", "warn")]


def test_rdma_ports_that_are_down_and_slow_settings_are_said() -> None:
    port = "/sys/class/infiniband/mlx5_0/ports/1"
    texts = {
        **sound().texts,
        f"{port}/state": "1: DOWN",
        f"{port}/link_layer": "InfiniBand",
        f"{port}/rate": "200 Gb/sec (4X HDR)",
        "/proc/sys/kernel/numa_balancing": "1\n",
        "/sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "/proc/swaps": "Filename Type Size Used Priority\n/swap.img file 8388604 0 -2\n",
    }
    rows = found(sound(texts=texts), None, sound(2, texts=texts))
    assert rows == [("network", "E228", "warn"), *[("system", "E229", "warn")] * 4]
    gone = {path: text for path, text in sound().texts.items() if "eth0" not in path}
    assert found(sound(texts=gone)) == [("network", "E228", "bad")]


def rdma(*ports: tuple[str, str, str], link: str = "16.0 GT/s PCIe", lanes: str = "16") -> dict[str, str]:
    """Device mlx5_<n> with one port each: state, what the wire does, rate."""
    texts = {}
    for at, (state, physical, rate) in enumerate(ports):
        device = f"/sys/class/infiniband/mlx5_{at}"
        texts |= {
            f"{device}/hca_type": "MT4129\n",
            f"{device}/ports/1/state": f"{state}\n",
            f"{device}/ports/1/phys_state": f"{physical}\n",
            f"{device}/ports/1/link_layer": "InfiniBand\n",
            f"{device}/ports/1/rate": f"{rate}\n",
            f"{device}/device/current_link_speed": f"{link if at == 0 else '16.0 GT/s PCIe'}\n",
            f"{device}/device/max_link_speed": "16.0 GT/s PCIe\n",
            f"{device}/device/current_link_width": f"{lanes if at == 0 else '16'}\n",
            f"{device}/device/max_link_width": "16\n",
        }
    return texts


UP = ("4: ACTIVE", "5: LinkUp", "200 Gb/sec (4X HDR)")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (rdma(UP, UP), None),
        (rdma(UP, ("1: DOWN", "3: Disabled", "10 Gb/sec (4X SDR)")), "mlx5_1:1 DOWN (Disabled)"),
        (rdma(UP, ("1: DOWN", "2: Polling", "10 Gb/sec (4X SDR)")), "mlx5_1:1 DOWN (Polling)"),
        (rdma(UP, ("4: ACTIVE", "5: LinkUp", "50 Gb/sec (1X HDR)")), "mlx5_1:1 50 Gb/s, others 200"),
        (rdma(UP, UP, link="8.0 GT/s PCIe"), "mlx5_0 8 GT/s x16 of 16 GT/s x16"),
        (rdma(UP, UP, lanes="8"), "mlx5_0 16 GT/s x8 of 16 GT/s x16"),
        (rdma(UP, UP, link="Unknown", lanes="0"), None),
    ],
)
def test_an_rdma_device_that_is_down_slow_or_on_a_narrow_link_is_said(
    texts: dict[str, str], words: str | None
) -> None:
    ones = [sound(at, texts={**sound().texts, **texts}) for at in (1, 2)]
    assert found(ones[0], None, ones[1]) == ([("network", "E228", "warn")] if words else [])
    if words:
        (check,) = judged(ones, wanted())[0].problems
        assert words in check.text()


def test_another_model_s_port_may_be_slower_and_an_interface_without_a_carrier_is_an_error() -> None:
    slower = ("4: ACTIVE", "5: LinkUp", "25 Gb/sec (1X EDR)")
    texts = {**sound().texts, **rdma(UP, slower), "/sys/class/infiniband/mlx5_1/hca_type": "MT4117"}
    assert found(sound(texts=texts), None, sound(2, texts=texts)) == []
    unplugged = {
        **sound().texts,
        "/sys/class/net/eth0/operstate": "unknown",
        "/sys/class/net/eth0/carrier": "0\n",
    }
    assert found(sound(texts=unplugged)) == [("network", "E228", "bad")]


def test_names_that_do_not_resolve_or_lead_elsewhere_are_said() -> None:
    one = sound()
    unknown = {**one.looked, "names": {"node1": {"addresses": [], "text": "unknown"}}}
    assert found(sound(looked=unknown)) == [("names", "E227", "bad")]
    elsewhere = {**one.looked, "own": []}
    assert found(sound(looked=elsewhere)) == [("names", "E227", "bad")]


def test_data_is_missing_wrong_by_size_or_wrong_by_its_checksum() -> None:
    file = WantedFile(name="text", path="text.tokens", sha256="a" * 64, bytes=10)
    it = wanted(files=(file,))

    def rows(held: HeldFile) -> list[tuple[str, str | None, str]]:
        return found(sound(files={"text.tokens": held}), it)

    assert rows(HeldFile(bytes=10, sha256="a" * 64)) == []
    assert rows(HeldFile(bytes=10, why="too large")) == []
    assert rows(HeldFile(bytes=None)) == [("data", "E237", "warn")]
    assert rows(HeldFile(bytes=11)) == [("data", "E237", "bad")]
    assert rows(HeldFile(bytes=10, sha256="b" * 64)) == [("data", "E237", "bad")]


def test_a_registry_matters_where_an_image_still_has_to_come_from_it() -> None:
    place = "nvcr.io:443"
    base = WantedImage(tag="nx8-x:1", base="nvcr.io/nvidia/pytorch:24.01-py3", labels={})
    it = wanted(images=(base,), registries=(place,))
    there = ImageFacts(
        id="sha256:" + "1" * 64, tags=(), digests=(), labels={}, size_bytes=1, created=None,
        architecture="amd64", os="linux",
    )  # fmt: skip
    lost = {**sound().looked, "registries": {place: "timed out"}}

    def rows(expected: Expected = it, **given: Any) -> list[tuple[str, str | None, str]]:
        return found(sound(expected=expected, **given), expected, sound(2, images=given.get("images", {})))

    assert rows(looked={**lost, "registries": {place: None}}) == []
    assert rows(looked=lost) == [("registry", "E261", "warn")]
    assert rows(looked=lost, images={base.tag: None, base.base: there}) == []
    assert rows(looked=lost, images={base.tag: there}) == []
    assert rows(looked=lost, missed={"images": "x"}) == [
        ("image", "E208", "warn"),
        ("registry", "E208", "warn"),
    ]
    assert rows(missed={"examine": "x"}, looked={**sound().looked}) == [
        (row, "E208", "warn") for row in ("idle", "disk", "registry", "system")
    ]
    pulled = dataclasses.replace(it, pulled="nvcr.io/ours/x@sha256:2")
    assert rows(pulled, looked=lost, images={base.tag: there}) == [("registry", "E261", "bad")]
    assert rows(pulled, looked=lost, images={base.tag: there, str(pulled.pulled): there}) == []
    site = dataclasses.replace(it.cluster.site, https_proxy="http://proxy:3128")
    behind = dataclasses.replace(it, cluster=dataclasses.replace(it.cluster, site=site))
    assert rows(behind, looked=lost) == []
    engine = sound().engine
    assert engine is not None
    assert rows(looked=lost, engine=dataclasses.replace(engine, proxied=True)) == []


@pytest.mark.parametrize(
    ("vendor", "more", "places"),
    [
        ("nvidia", "", ("nvcr.io:443",)),
        ("hygon", "", ("image.sourcefind.cn:5000",)),
        ("amd", "", ("registry-1.docker.io:443",)),
        ("kunlunxin", "", ()),
        ("nvidia", "site: {registry_mirror: 'harbor.x:8443/hub'}", ("harbor.x:8443",)),
        ("nvidia", "image: {source: host, socket: /run/docker.sock}", ()),
        ("nvidia", "image: {source: pull, reference: 'r.x/n@sha256:%s'}" % ("0" * 64), ("r.x:443",)),
        (
            "nvidia",
            "image: {login: {registry: harbor.x, user: u, password_env: P}}",
            ("nvcr.io:443", "harbor.x:443"),
        ),
    ],
)
def test_the_registries_of_a_cluster_are_those_that_its_nodes_pull_from(
    home: Path, vendor: str, more: str, places: tuple[str, ...]
) -> None:
    device = next(iter(load(SHIPPED.vendor_file(vendor), Vendor).devices))
    text = (
        f"schema: 1\ndescription: d\nvendor: {vendor}\ndevice: {device}\n"
        "transport: ssh\ndevices_per_node: 8\nnodes: [{name: n1, host: 10.0.0.1}]\n"
        f"interface: eth0\ndata_dir: /data\nwork_dir: /srv/nx8\n{more}\n"
    )
    (home / "cluster/c.yaml").write_text(text)
    (home / f"cases/llama2_7b/configs/{device}x1x8.yaml").write_text("schema: 1\n")
    workspace = Workspace(home=home)
    it = expected_of(workspace, site_of(workspace, vendor=None, cluster="c"), ("llama2_7b",))
    assert it.registries == places, it.unplanned
    assert (it.pulled is not None) == ("pull" in more)


def test_a_registry_is_tried_by_a_connection() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # and does not listen
        names = [f"127.0.0.1:{one.getsockname()[1]}" for one in (there, gone)]
        it = wanted(registries=(*names, "no-such-host.invalid:443"), addresses={})
        told = examined(Here("here", ROOT), it, 60.0)["registries"]
    assert told[names[0]] is None
    assert "refused" in told[names[1]]
    assert told["no-such-host.invalid:443"]


def test_the_odd_one_out_is_told_and_of_two_both() -> None:
    it = wanted(nodes=3)
    odd = sound(2, hello={**sound().hello, "kernel": "6.1.0"})
    nodes = judged([sound(1), odd, sound(3)], it)
    assert [[check.code for check in node.of("same")] for node in nodes] == [[None], ["E225"], [None]]
    nodes = judged([sound(1), odd], wanted())
    assert [node.of("same")[0].code for node in nodes] == ["E225", "E225"]


def test_a_node_that_nobody_reaches_is_the_one_that_is_told() -> None:
    it = wanted(nodes=3)
    without = {"node2": "refused"}
    nodes = judged(
        [
            sound(1, met=Met(taken=None, reached=("node3",), why=without)),
            sound(2, met=Met(taken=None, reached=("node1", "node3"), why={})),
            sound(3, met=Met(taken=None, reached=("node1",), why=without)),
        ],
        it,
    )
    assert [[check.code for check in node.of("peers")] for node in nodes] == [[None], ["E227"], [None]]


def test_peers_are_those_that_took_part_and_no_word_of_one_is_no_success() -> None:
    it = wanted(nodes=3)
    silent = Met(taken=None, reached=("node3",), why={})
    nodes = judged([sound(1, it, met=silent), sound(2, it), sound(3, it)], it)
    (told,) = nodes[0].of("peers")
    assert (told.severity, told.code) == ("bad", "E227")
    assert "node2 (10.0.0.2:20001) cannot be reached from here: no answer" in told.text()
    assert [node.of("peers")[0].severity for node in nodes[1:]] == ["ok", "ok"]
    alone = sound(1, met=Met(taken=None, reached=(), why={}))
    gone = sound(2, met=None, missed={"meet": "killed"})
    assert [node.of("peers")[0].severity for node in judged([alone, gone], wanted())] == ["unasked", "warn"]


def test_a_node_without_an_address_is_told_and_the_others_are_looked_at(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host n*\n  HostName %h.example.org\nHost odd\n  HostName -x\n")
    names = ("n1", "n2", "odd")
    cluster = loopback.cluster(*(loopback.Node(name=name) for name in names), config=str(config))
    cpu = load(SHIPPED.vendor_file("cpu"), Vendor)
    site = Site(cluster_name="c", cluster=cluster, vendor_name="cpu", vendor=cpu)
    made = expected_of(SHIPPED, site, ())
    it = dataclasses.replace(wanted(nodes=3), addresses=made.addresses, no_address=made.no_address)
    assert it.addresses == {"n1": "n1.example.org", "n2": "n2.example.org"}
    assert [(name, one.code) for name, one in it.no_address.items()] == [("odd", "E250")]
    nodes = [
        dataclasses.replace(sound(), name=name, met=Met(taken=None, reached=(other,), why={}))
        for name, other in (("n1", "n2"), ("n2", "n1"))
    ]
    found = judged([*nodes, dataclasses.replace(sound(), name="odd", met=None)], it)
    assert [[(one.severity, one.code) for one in node.of("peers")] for node in found] == [
        [("ok", None)], [("ok", None)], [("bad", "E250")],
    ]  # fmt: skip


def test_a_peer_that_says_nothing_within_a_short_time_is_said() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        port = deaf.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:  # its queue is full: further ones get no answer
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            it = dataclasses.replace(wanted(), port=port)
            found = met(Here("node1", ROOT), it, {"node2": "127.0.0.1"}, 0.3)
        finally:
            for one in waiting:
                one.close()
    assert (found.reached, found.why) == ((), {"node2": "no answer"})


def findings(*nodes: Seen, expected: Expected | None = None) -> Findings:
    it = expected or wanted(nodes=max(len(nodes), 1))
    return Findings(
        cluster="c", vendor="kunlunxin", device="R300", num_nodes=len(nodes), devices_per_node=2,
        rehearsal=False, at_utc="2026-01-01T00:00:00+00:00", seconds=1.0, nodes=judged(nodes, it),
    )  # fmt: skip


def test_the_document_fits_its_schema_and_the_codes_follow_from_the_worst_check() -> None:
    schema = json.loads(schemas.texts()["doctor.schema.json"])
    broken = Problem(code="E202", message="node2: not reachable: timed out", help="x")
    for nodes, code, nagios in (
        ([sound(1)], 0, 0),
        ([sound(1, hello={**sound().hello, "skew_s": 9.0})], 0, 1),
        ([sound(1), sound(2, failure=broken, phase="connect")], 3, 2),
    ):
        made = findings(*nodes)
        jsonschema.validate(document.document(made), schema)
        assert (int(made.exit_code), made.nagios) == (code, nagios)
        line = document.nagios(made)
        assert line.count("|") == 1
        assert "\n" not in line
    assert made.usable == ("node1",)


def test_many_nodes_fit_a_narrow_terminal_and_the_same_problem_is_said_once() -> None:
    swap = {**sound().texts, "/proc/swaps": "Filename\n/dev/sda2 partition 8388604 0 -2\n"}
    nodes = [sound(at, texts=swap) if at <= 5 else sound(at) for at in range(1, 41)]
    reached = tuple(f"node{at}" for at in range(1, 41))
    nodes = [dataclasses.replace(one, met=Met(taken=None, reached=reached, why={})) for one in nodes]
    for language in ("zh", "en"):
        text = table.text(findings(*nodes), language, width=80)
        body = text.split("\n!")[0].splitlines()[1:]
        assert max(table.cells(line) for line in body) <= 80
        assert "35 others" in text or "其余 35 个" in text
        assert text.count("E229") == 1
        assert "node[1-5] E229" in text
        places = " ".join(f"ops@10.0.0.{at}" for at in range(1, 6))
        assert f"for at in {places}; do ssh $at 'sudo swapoff -a'; done" in text


def test_who_holds_a_device_file_is_named(tmp_path: Path) -> None:
    device = tmp_path / "dev0"
    device.write_text("")
    vendor = load(SHIPPED.vendor_file("kunlunxin"), Vendor)
    held = dataclasses.replace(vendor, docker=dataclasses.replace(vendor.docker, devices=(str(device),)))
    it = dataclasses.replace(wanted(), vendor=held)
    code = f"import sys; file = open({str(device)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        (sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        looked = examined(Here("here", ROOT), it, 60.0)
        holder.communicate()
    assert [one["pid"] for one in looked["holders"]] == [holder.pid]
    assert looked["hostname"] in looked["names"]
    rows = found(sound(looked={**sound().looked, "holders": looked["holders"]}))
    assert rows == [("idle", "E224", "bad")]


def test_nodes_that_meet_hear_each_other_and_a_taken_port_is_noticed() -> None:
    import socket

    it = wanted()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        alone = met(Here("node1", ROOT), dataclasses.replace(it, port=port), {"node2": "127.0.0.1"}, 10.0)
    assert alone.taken is not None
    assert alone.reached == ("node2",)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    refused = met(Here("node1", ROOT), dataclasses.replace(it, port=port), {"node2": "127.0.0.2"}, 0.5)
    # It listens on every address itself, so it reaches itself there: only who spoke was heard.
    assert refused.taken is None
    assert time.monotonic() - began < 120


def test_this_machine_is_looked_at_without_ssh_or_docker(home: Path) -> None:
    made = doctor.look(Workspace(home=home), cluster="local")
    assert made.usable == ("localhost",)
    assert not made.node("localhost").of("docker")
    assert made.node("localhost").of("python3")[0].severity == "ok"
    with pytest.raises(ConfigError) as caught:
        doctor.look(Workspace(home=home), cluster="nowhere")
    assert caught.value.exit_code == 2
