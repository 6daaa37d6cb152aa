"""The whole path on real nodes: SSH, docker build, containers, ranks over both nodes, monitor, parse, table;
and every way in which a node can be bad is named before anything starts.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.lab import box, faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Labs = Callable[..., Any]
    FirstRun = Callable[[str], subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.lab

DEADLINE_S = 600.0
VENDOR = "mthreads"
CI_VENDORS = (VENDOR, "nvidia")
OTHER_VENDORS = ("kunlunxin", "cambricon")


def nx8(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, cwd=home)


def run(bed: Any, *words: str, cluster: str = "lab") -> subprocess.CompletedProcess[str]:
    return nx8(bed.workspace.home, "run", "llama2_7b", "--cluster", cluster, *words)


def left_on(bed: Any) -> list[str]:
    """Containers, run folders, monitors and locks of ours that stand on the nodes."""
    look = (
        "docker ps -aq --filter label=nx8.run &&"
        " { ls -d /srv/nx8/runs/* /tmp/nx8.lock* 2>/dev/null;"
        " pgrep -f '[m]onitor.py' || true; }"
    )
    return [f"{node.name}: {one}" for node in bed.nodes for one in bed.on(node, look).split()]


@pytest.fixture(scope="module")
def first_run(labs: Labs) -> FirstRun:
    """vendor → the first run on a lab of it, made once."""
    made: dict[str, subprocess.CompletedProcess[str]] = {}

    def of(vendor: str) -> subprocess.CompletedProcess[str]:
        if vendor not in made:
            made[vendor] = run(labs(vendor), "--steps", "20")
        return made[vendor]

    return of


@pytest.mark.parametrize(
    "vendor", [*CI_VENDORS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_VENDORS)]
)
def test_a_rehearsal_is_measured_through_the_vendor_s_own_probe(
    vendor: str, labs: Labs, first_run: FirstRun
) -> None:
    bed, done = labs(vendor), first_run(vendor)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    result = json.loads((folder / "result.json").read_text("utf-8"))
    cell = result["cells"][0]
    assert cell["verdict"] == "MEASURED"
    assert cell["rehearsal"]
    assert cell["proxy"]
    assert len(cell["ranks"]) == 4
    memory = cell["metrics"]["memory_used_bytes"]
    assert memory["details"]["basis"] == "vendor's probe"
    assert 0 < memory["value"] < cell["metrics"]["memory_capacity_bytes"]["value"]
    assert cell["metrics"]["mfu_published"]["value"] is None
    assert "（rehearsal）" in done.stdout
    images = result["environment"]["images"].values()
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", one["id"]) for one in images)
    assert all(one["versions"]["torch"] for one in images)
    assert set(result["environment"]["nodes"]) == {node.name for node in bed.nodes}
    assert left_on(bed) == []
    assert nx8(bed.workspace.home, "parse", folder.name).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_rehearsal_that_names_no_case_measures_all_of_them(labs: Labs) -> None:
    bed = labs(VENDOR)
    argv = (sys.executable, "-m", "orchestrator", "--home", str(bed.workspace.home), "run")
    words = ("--vendor", VENDOR, "--cluster", "lab", "--steps", "4")
    done = subprocess.run((*argv, *words), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text("utf-8"))
    assert {cell["case"] for cell in result["cells"]} == set(bed.workspace.case_names())
    assert {cell["verdict"] for cell in result["cells"]} == {"MEASURED"}


def test_a_second_run_finds_image_and_data_where_they_are(labs: Labs, first_run: FirstRun) -> None:
    bed = labs(VENDOR)
    assert first_run(VENDOR).returncode == 0
    done = run(bed, "--steps", "5")
    assert done.returncode == 0, done.stderr
    assert "on every node already" in done.stderr
    assert not re.search(r"^\S+ (build|data) ", done.stderr, re.MULTILINE)


def test_a_rank_that_raises_on_one_node_ends_the_cell_on_both_and_is_named(labs: Labs) -> None:
    bed = labs(VENDOR)
    events = bed.workspace.trainer / "events.py"
    text = events.read_text("utf-8")
    hook = (
        "\n\nimport os\n_write = EventWriter.write\n"
        "def _patched(self, event, **fields):\n"
        "    _write(self, event, **fields)\n"
        "    if event == 'step' and fields['step'] == 3 and os.environ['RANK'] == '3':\n"
        "        raise MemoryError('asked 2 GiB')\n"
        "EventWriter.write = _patched\n"
    )
    events.write_text(text + hook, "utf-8")
    try:
        done = run(bed)
    finally:
        events.write_text(text, "utf-8")
    assert done.returncode == 4, done.stderr
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text("utf-8"))
    assert result["cells"][0]["verdict"] == "FAILED"
    assert re.search("rank 3 raised MemoryError", result["cells"][0]["reasons"][0])
    assert left_on(bed) == []


def test_a_node_that_another_run_holds_is_busy_and_nothing_is_touched(labs: Labs) -> None:
    bed = labs(VENDOR)
    last = bed.nodes[-1]
    owner = json.dumps({"token": "t", "run": "theirs", "user": "ann", "host": "h", "pid": 1, "since": "noon"})
    bed.on(last, "mkdir -p /tmp/nx8.lock && cat > /tmp/nx8.lock/owner.json", stdin=owner.encode())
    try:
        done = run(bed)
    finally:
        bed.on(last, "rm -r /tmp/nx8.lock")
    assert done.returncode == 6, done.stderr
    assert "E601" in done.stderr
    assert last.name in done.stderr
    assert left_on(bed) == []


def test_a_build_that_fails_is_exit_5_with_its_last_lines_and_no_container(labs: Labs) -> None:
    bed = labs(VENDOR)
    before = [bed.on(node, "docker ps -aq").split() for node in bed.nodes]
    template = bed.workspace.vendors / VENDOR / "Dockerfile.j2"
    text = template.read_text("utf-8")
    program = (
        "print(*(f'said {n}.' for n in range(80)), sep='\\\\n'); raise SystemExit('the wheel is missing')"
    )
    template.write_text(f'{text}\nRUN ["python3", "-c", "{program}"]\n', "utf-8")
    try:
        done = run(bed)
    finally:
        template.write_text(text, "utf-8")
    assert done.returncode == 5, done.stderr
    assert "E311" in done.stderr
    assert "the wheel is missing" in done.stderr
    assert "said 79." in done.stderr
    assert "said 20." not in done.stderr
    assert left_on(bed) == []
    # Nor one of the builder's own, which has no label of ours.
    assert [bed.on(node, "docker ps -aq").split() for node in bed.nodes] == before


def other_cluster(bed: Any, name: str, change: Callable[[str], str]) -> None:
    """A second cluster file for the same nodes, with the same pinned keys."""
    folder = bed.workspace.clusters
    text = (folder / "lab.yaml").read_text("utf-8")
    (folder / f"{name}.yaml").write_text(change(text), "utf-8")
    shutil.copy(folder / "lab.known_hosts", folder / f"{name}.known_hosts")


@contextlib.contextmanager
def wrong_host_key(bed: Any) -> Iterator[str]:
    put_back = faults.change_host_key(bed.lab, bed.nodes[1])
    try:
        yield "lab"
    finally:
        put_back()


@contextlib.contextmanager
def unknown_host_key(bed: Any) -> Iterator[str]:
    other_cluster(bed, "stranger", lambda text: text)
    known = bed.workspace.clusters / "stranger.known_hosts"
    lines = known.read_text("utf-8").splitlines(keepends=True)
    known.write_text("".join(line for line in lines if bed.nodes[1].address not in line), "utf-8")
    yield "stranger"


@contextlib.contextmanager
def refused_login(bed: Any) -> Iterator[str]:
    key = bed.workspace.home / "other_key"
    key.unlink(missing_ok=True)
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), check=True)
    other_cluster(bed, "keyless", lambda text: re.sub(r'key: ".*"', f'key: "{key}"', text))
    yield "keyless"


@contextlib.contextmanager
def no_docker(bed: Any) -> Iterator[str]:
    bed.on(bed.nodes[1], "mv /usr/bin/docker /usr/bin/docker.away")
    try:
        yield "lab"
    finally:
        bed.on(bed.nodes[1], "mv /usr/bin/docker.away /usr/bin/docker")


@contextlib.contextmanager
def docker_not_allowed(bed: Any) -> Iterator[str]:
    bed.on(bed.nodes[1], "chmod 600 /var/run/docker.sock && mkdir -p /srv/bench && chown bench /srv/bench")
    bed.on(bed.nodes[0], "mkdir -p /srv/bench && chown bench /srv/bench")
    other_cluster(
        bed,
        "bench",
        lambda text: text.replace("user: root", "user: bench").replace("/srv/nx8\n", "/srv/bench\n"),
    )
    try:
        yield "bench"
    finally:
        bed.on(bed.nodes[1], "chmod 660 /var/run/docker.sock")


@contextlib.contextmanager
def docker_down(bed: Any) -> Iterator[str]:
    faults.stop_daemon(bed.nodes[1], faults.DOCKERD)
    try:
        yield "lab"
    finally:
        faults.start_daemons(bed.nodes[1])
        box.await_ready(bed.lab, bed.nodes[1])


@contextlib.contextmanager
def full_disk(bed: Any) -> Iterator[str]:
    with faults.full_disk(bed.lab, bed.nodes[1]):
        yield "lab"


@contextlib.contextmanager
def work_dir_behind_a_link(bed: Any) -> Iterator[str]:
    bed.on(bed.nodes[0], "mkdir -p /srv/linked")
    bed.on(bed.nodes[1], "ln -sfn nx8 /srv/linked")
    other_cluster(bed, "linked", lambda text: text.replace("/srv/nx8\n", "/srv/linked/work\n"))
    try:
        yield "linked"
    finally:
        bed.on(bed.nodes[1], "rm /srv/linked")


@contextlib.contextmanager
def node_down(bed: Any) -> Iterator[str]:
    faults.cut_link(bed.nodes[1])
    try:
        yield "lab"
    finally:
        faults.mend_link(bed.nodes[1])


@contextlib.contextmanager
def silent(bed: Any) -> Iterator[str]:
    with faults.silent_sshd(bed.lab, bed.nodes[1]):
        yield "lab"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (wrong_host_key, "E205"),
        (unknown_host_key, "E204"),
        (refused_login, "E206"),
        (no_docker, "E231"),
        (docker_not_allowed, "E232"),
        (docker_down, "E233"),
        (full_disk, "E234"),
        (work_dir_behind_a_link, "E247"),
        (node_down, "E202"),
        (silent, "E203"),
    ],
)
def test_a_bad_node_is_named_with_its_reason_and_nothing_starts(fault: Any, code: str, labs: Labs) -> None:
    bed = labs(VENDOR)
    before = sorted((bed.workspace.home / "results" / "runs").glob("*"))
    with fault(bed) as cluster:
        done = run(bed, cluster=cluster)
    assert done.returncode == 3, done.stderr
    assert f"error[{code}]" in done.stderr
    assert "node2" in done.stderr
    assert sorted((bed.workspace.home / "results" / "runs").glob("*")) == before
    assert left_on(bed) == []


def test_a_node_that_is_down_and_one_without_docker_stand_in_one_error(labs: Labs) -> None:
    bed = labs(VENDOR)
    bed.on(bed.nodes[0], "mv /usr/bin/docker /usr/bin/docker.away")
    try:
        with node_down(bed) as cluster:
            done = run(bed, cluster=cluster)
    finally:
        bed.on(bed.nodes[0], "mv /usr/bin/docker.away /usr/bin/docker")
    assert done.returncode == 3, done.stderr
    assert re.search(r"error\[E231\] node1", done.stderr)
    assert re.search(r"error\[E202\] node2", done.stderr)
    assert left_on(bed) == []


def test_data_is_pushed_to_every_node_and_a_wrong_file_is_named_by_node(labs: Labs) -> None:
    bed = labs(VENDOR)
    home = bed.workspace.home
    (home / "some.txt").write_text("some text\n" * 1000, "utf-8")
    assert nx8(home, "data", "prepare", str(home / "some.txt"), "--name", "some").returncode == 0
    done = nx8(home, "data", "push", "some", "--cluster", "lab")
    assert done.returncode == 0, done.stderr
    sums = {bed.on(node, "sha256sum /srv/nx8/data/some.tokens").split()[0] for node in bed.nodes}
    assert sums == {json.loads((home / "results" / "data" / "some.manifest.json").read_text())["sha256"]}
    bed.on(bed.nodes[1], "echo x >> /srv/nx8/data/some.tokens")
    wrong = nx8(home, "data", "push", "some", "--cluster", "lab")
    assert wrong.returncode == 3
    assert "E237" in wrong.stderr
    assert "node2" in wrong.stderr
    assert "node1" not in wrong.stderr
    # A link is not followed and not written over, whatever it leads to.
    bed.on(bed.nodes[1], "cd /srv/nx8/data && mv some.tokens /srv/theirs && ln -s /srv/theirs some.tokens")
    linked = nx8(home, "data", "push", "some", "--cluster", "lab")
    assert linked.returncode == 3
    assert "E237" in linked.stderr
    assert bed.on(bed.nodes[1], "readlink /srv/nx8/data/some.tokens; tail -n 1 /srv/theirs").split() == [
        "/srv/theirs",
        "x",
    ]
    bed.on(bed.nodes[1], "rm /srv/nx8/data/some.tokens /srv/theirs")
