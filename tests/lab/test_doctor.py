"""`nx8 doctor` on real nodes: whatever is wrong with one of them is named, with its node and what mends it,
and nothing is left behind.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from orchestrator import ceilings, schemas
from orchestrator.cluster import Cluster
from orchestrator.lab import box, faults, host
from orchestrator.load import load
from orchestrator.request import data_dir
from orchestrator.selection import select
from orchestrator.sources import prepared
from orchestrator.workspace import Workspace
from tests.lab.conftest import require_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.lab.cache import Sources
    from orchestrator.lab.state import Lab, LabNode

    Bed = tuple[Workspace, Lab]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 300.0
#: A python3 whose wall clock is wrong, for what is sent over SSH: -I -S -c CODE, or -I -S - REQUEST.
SKEWED = """\
#!/usr/bin/python3 -I
import sys, time
_real = time.time
time.time = lambda: _real() + 300
words = [word for word in sys.argv[1:] if word not in ("-I", "-S")]
code = words[1] if words[0] == "-c" else sys.stdin.read()
sys.argv = ["-c", *words[2:]] if words[0] == "-c" else words
exec(compile(code, "<skewed>", "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Iterator[Bed]:
    """Four nodes that nobody else uses: this file breaks them for good."""
    require_host()
    home = tmp_path_factory.mktemp("doctor-home")
    for noun in ("cases", "dockerfiles"):
        shutil.copytree(ROOT / noun, home / noun, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "cluster").mkdir()
    workspace = Workspace(home=home)
    wish = box.Wish(vendor="mthreads", nodes=4, devices=2)
    lab = box.up(workspace, wish, sources=sources, say=lambda _: None)
    for node in lab.nodes:
        say_driver(node, "2.2.0")
    yield workspace, lab
    box.down(workspace, lab.names.name)


def doctor(bed: Bed, *words: str, cluster: str = "lab") -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(bed[0].home), "doctor", "--cluster", cluster)
    # Longer than its 15 s: a machine on which tests run may be very busy, and then answers come late.
    argv = (*argv, "--limit", "90")
    return subprocess.run((*argv, *words), capture_output=True, text=True, timeout=DEADLINE_S)


def inside(bed: Bed, node: LabNode, script: str) -> str:
    argv = bed[1].inside(node, "sh", "-c", script)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def say_driver(node: LabNode, version: str, *, devices: int = 2) -> None:
    """What the stand-in's tool says in its head, and how many devices it shows."""
    path = node.root / "etc/nx8/accelerator.json"
    settings = json.loads(path.read_text())
    kept = [line for line in settings["form"]["head"] if "Driver" not in line]
    settings["form"]["head"] = [*kept, f"Driver Version                 :  {version}"]
    settings["devices"] = devices
    path.write_text(json.dumps(settings))


def snapshot(bed: Bed, node: LabNode) -> set[str]:
    """Files and containers of a node, and its processes but for those that look."""
    places = "/tmp /srv /root /home /var/tmp /run /etc /usr/local /var/lib/docker/containers"
    # docker's own folders of its first container stay, as its log does.
    own_of_docker = "-path /run/docker -prune -o -path /run/containerd -prune -o -print"
    files = inside(bed, node, f"find {places} {own_of_docker} 2>/dev/null || true").splitlines()
    processes = inside(bed, node, "ps -eo pid=,args= --no-headers").splitlines()
    own = ("ps -eo", "sh -c ps", "find ")
    return set(files) | {line.strip() for line in processes if not any(word in line for word in own)}


def test_a_sound_cluster_passes_and_says_so_in_both_languages(bed: Bed) -> None:
    before = {node.name: snapshot(bed, node) for node in bed[1].nodes}
    done = doctor(bed, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(schemas.texts()["doctor.schema.json"]))
    assert document["usable"] == ["node1", "node2", "node3", "node4"]
    assert not [one for one in problems(document) if one[1] != "E229"], "this machine's own limits may be low"
    assert_nothing_left(bed, before)


def test_a_docker_daemon_that_hangs_makes_its_node_unusable(bed: Bed) -> None:
    two = bed[1].nodes[1]
    inside(bed, two, "kill -STOP $(cat /run/docker.pid)")
    try:
        done = doctor(bed, "--json")
    finally:
        inside(bed, two, "kill -CONT $(cat /run/docker.pid)")
    assert done.returncode == 3, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["usable"] == ["node1", "node3", "node4"]
    (said,) = (one for one in problems(document) if one[2] == "docker")
    assert said[:2] == ("node2", "E233")
    assert "systemctl restart docker" in str(said[4])


def test_deep_measures_two_nodes_in_containers_and_keeps_what_they_can_do(bed: Bed) -> None:
    workspace, lab = bed
    two = load(workspace.cluster_file("lab"), Cluster)
    text = workspace.cluster_file("lab").read_text().replace("devices_per_node: 2", "devices_per_node: 1")
    others = (f"  - {{name: {node.name}, host: {node.address}}}\n" for node in lab.nodes[2:])
    for line in others:
        assert line in text
        text = text.replace(line, "")
    known = lab.names.known_hosts.name
    text = text.replace("\nssh:\n", f"\nssh:\n  known_hosts: {known}\n")
    workspace.cluster_file("two").write_text(text)
    assert len(two.nodes) == 4
    before = {node.name: snapshot(bed, node) for node in lab.nodes}
    done = doctor(bed, "--deep", "--least", "0.05", "--json", cluster="two")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(schemas.texts()["doctor.schema.json"]))
    deep = document["deep"]
    assert [(one["node"], one["index"]) for one in deep["devices"]] == [("node1", 0), ("node2", 0)]
    for one in deep["devices"]:
        for name in ("gemm:fp32", "memory"):
            assert one["figures"][name]["value"], one["figures"][name]
        assert one["figures"]["all_reduce"]["reason"] == "one rank alone has nobody to reduce with"
    (pair,) = deep["pairs"]
    assert pair["nodes"] == ["node1", "node2"]
    assert pair["figure"]["algbw"] > 0, pair
    assert pair["figure"]["busbw"] > 0
    assert pair["figure"]["details"]["ranks"] == 2
    assert (deep["skipped"], deep["failed"]) == ({}, {})
    kept = ceilings.stored(workspace.home, "two", ("node1", "node2"))
    assert all(isinstance(one, ceilings.NodeCeiling) for one in kept.values()), kept
    assert_nothing_left(bed, before)


def test_fifteen_faults_on_four_nodes_are_named_with_node_and_fix(bed: Bed) -> None:
    workspace, lab = bed
    _, two, three, _ = lab.nodes
    selection = select(workspace, cases=("llama2_7b",), vendor=None, cluster="lab")
    folder = data_dir(workspace, selection)
    prepared(selection, folder, write=True)
    (tokens,) = folder.glob("*.tokens")
    cluster = workspace.cluster_file("lab")
    cluster.write_text(cluster.read_text().replace("name: node3,", "name: node3, user: bench,"))
    with ExitStack() as exits:
        plant(bed, exits, tokens)
        before = {node.name: snapshot(bed, node) for node in lab.nodes}
        done = doctor(bed, "llama2_7b", "--json")
        assert done.returncode == 3, done.stdout + done.stderr
        document = json.loads(done.stdout)
        found = problems(document)
        wanted = {
            ("node1", "E225", "driver", "2.1.1"),
            ("node1", "E222", "runtime", "runc"),
            ("node1", "E224", "idle", "3 GiB"),
            ("node1", "E237", "data", "sha256"),
            ("node2", "E233", "docker", "docker"),
            ("node2", "E234", "disk", "/srv/nx8"),
            ("node2", "E229", "system", "swap"),
            ("node2", "E226", "clock", "300"),
            ("node2", "E227", "peers", "node1"),
            ("node3", "E232", "docker", "bench"),
            ("node3", "E223", "devices", "1 devices, 2 are planned"),
            ("node3", "E227", "names", "node3"),
            ("node3", "E224", "idle", "run 20261121T"),
            ("node3", "E225", "same", "mtu 1400"),
            ("node4", "E203", "ssh", "banner"),
        }
        unnamed = [
            fault
            for fault in sorted(wanted)
            if not any(seen[:3] == fault[:3] and fault[3] in seen[3] and seen[4] for seen in found)
        ]
        assert not unnamed, f"{unnamed}\nof\n" + "\n".join(map(str, found))
        # Of the faults that were planted on a node, none is said of another.
        extra = {seen[:3] for seen in found} - {fault[:3] for fault in wanted}
        assert extra <= {
            *((node.name, "E229", "system") for node in lab.nodes),
            *((node.name, "E237", "data") for node in (two, three)),
            ("node3", "E234", "disk"),
        }, extra
        assert document["usable"] == []
        assert_nothing_left(bed, before)
        # What does not answer in its own time is no more usable: this look is for its last line.
        shown = doctor(bed, "llama2_7b", "--lang", "zh", "--limit", "15")
        assert shown.returncode == 3
        assert "0/4 个节点可用（退出码 3）" in shown.stdout.splitlines()[-1]
        print(shown.stdout)


def plant(bed: Bed, exits: ExitStack, tokens: Path) -> None:
    lab = bed[1]
    one, two, three, four = lab.nodes
    # node1: another driver, docker without the vendor's runtime, a device in use, data of other bytes.
    say_driver(one, "2.1.1")
    daemon = one.root / "etc/docker/daemon.json"
    daemon.write_text(json.dumps({**json.loads(daemon.read_text()), "default-runtime": "runc"}))
    faults.stop_daemon(one, faults.DOCKERD)
    faults.start_daemons(one)
    host.until(
        lambda: box.docker_version(lab, one) is not None, limit_s=120, waiting_for=lambda: "dockerd of node1"
    )
    faults.script_probe(one, [{"memory_used": 3 * 1024**3}, {}])
    wrong = bytes(len(tokens.read_bytes()))
    (one.root / "srv/nx8/data" / tokens.name).write_bytes(wrong)
    # node2: no docker, no room, swap, a clock 300 s ahead, and node1's firewall drops what it sends.
    faults.stop_daemon(two, faults.DOCKERD)
    exits.enter_context(faults.full_disk(lab, two))
    swaps = "Filename Type Size Used Priority\\n/dev/sda2 partition 8388604 0 -2\\n"
    inside(bed, two, f"printf '{swaps}' > /root/swaps; mount --bind /root/swaps /proc/swaps")
    python = two.root / "usr/local/bin/python3"
    python.write_text(SKEWED)
    python.chmod(0o755)
    inside(bed, one, f"iptables -I INPUT -s {two.address} -p tcp --dport 20000:29999 -j DROP")
    # node3: no right to use docker, a device gone, no name of its own, held by another run, a smaller MTU.
    inside(bed, three, "gpasswd -d bench docker")
    say_driver(three, "2.2.0", devices=1)
    # Written, not replaced: the file may be mounted.
    inside(
        bed, three, "grep -v node3 /etc/hosts > /root/hosts; cat /root/hosts > /etc/hosts; hostname node3x"
    )
    inside(bed, three, "hostname node3; mkdir /tmp/nx8.lock")
    owner = {"run": "20261121T000000Z-other", "user": "li", "host": "ctl", "pid": 7, "since": "today"}
    (three.root / "tmp/nx8.lock/owner.json").write_text(json.dumps(owner))
    inside(bed, three, "chmod -R a+rX /tmp/nx8.lock; ip link set eth0 mtu 1400")
    # node4: its sshd accepts and says nothing.
    exits.enter_context(faults.silent_sshd(lab, four))


def problems(document: dict[str, Any]) -> list[tuple[str, str, str, str, str | None]]:
    return [
        (node["name"], check["code"], check["name"], check["text_en"], check["fix_en"])
        for node in document["nodes"]
        for check in node["checks"]
        if check["severity"] in ("warn", "bad")
    ]


def assert_nothing_left(bed: Bed, before: dict[str, set[str]]) -> None:
    left: dict[str, set[str]] = {}

    def gone() -> bool:
        # Sessions of sshd end a moment after ours has.
        left.update({node.name: snapshot(bed, node) - before[node.name] for node in bed[1].nodes})
        return not any(left.values())

    host.until(gone, limit_s=60, waiting_for=lambda: f"left behind: {left}")
