"""Images on real engines: handed on layer by layer over links that break, pulled from a registry, built by
this machine's engine; a build that is cut; and nothing of it stays on a node.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.lab import faults
from tests.lab.conftest import IN_CI
from tests.lab.registry import USER, pushed, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Labs = Callable[..., Any]

pytestmark = pytest.mark.lab

DEADLINE_S = 600.0
VENDOR = "mthreads"
IMAGES = f"nx8-{VENDOR}-deepspeed"
#: Large enough that a link can be cut while it is on its way.
LARGE_MIB = 300


def nx8(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        (sys.executable, "-m", "orchestrator", "--home", str(home), *words),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=home,
        env={**os.environ, **environment},
    )


def cluster_file(bed: Any, name: str, image: str) -> str:
    """A second cluster file for the same nodes, with an image block; returns its name."""
    folder = bed.workspace.clusters
    text = (folder / "lab.yaml").read_text("utf-8")
    (folder / f"{name}.yaml").write_text(f"{text}image: {image}\n", "utf-8")
    shutil.copy(folder / "lab.known_hosts", folder / f"{name}.known_hosts")
    return name


def run(bed: Any, cluster: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return nx8(bed.workspace.home, "run", "llama2_7b", "--cluster", cluster, "--steps", "5", **environment)


def measured(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text("utf-8"))
    assert result["cells"][0]["verdict"] == "MEASURED"
    return result


def forget(bed: Any, *nodes: Any) -> None:
    """The nodes lose the images that Nx8 built, and keep their base."""
    for node in nodes or bed.nodes:
        bed.on(
            node,
            "docker image ls --quiet --filter label=nx8.context | sort -u | xargs -r docker image rm -f;"
            " docker image prune -f",
        )


def identifiers(bed: Any) -> set[str]:
    """What the nodes say is the image of the newest plan."""
    return {bed.on(node, f"docker image ls --no-trunc --quiet {IMAGES}").strip() for node in bed.nodes}


def left_on(bed: Any) -> list[str]:
    look = (
        "ls -A /srv/nx8/images 2>/dev/null | grep -v nx8-root;"
        " ls -d /tmp/nx8* 2>/dev/null; docker ps -aq; true"
    )
    return [f"{node.name}: {one}" for node in bed.nodes for one in bed.on(node, look).split()]


@contextlib.contextmanager
def appended(bed: Any, line: str) -> Iterator[None]:
    """The vendor's Dockerfile with one more instruction."""
    template = bed.workspace.vendors / VENDOR / "Dockerfile.j2"
    text = template.read_text("utf-8")
    template.write_text(f"{text}\n{line}\n", "utf-8")
    try:
        yield
    finally:
        template.write_text(text, "utf-8")


def test_a_node_is_sent_only_the_layers_it_lacks(labs: Labs) -> None:
    bed = labs(VENDOR)
    forget(bed)
    done = run(bed, "lab")
    measured(done)
    sent, whole = (
        float(one.replace(",", "")) for one in re.search(r"([\d,.]+) of ([\d,.]+) MB", done.stderr).groups()
    )
    assert sent < whole / 100
    assert len(identifiers(bed)) == 1
    assert left_on(bed) == []
    folder = Path(done.stdout.splitlines()[-1])
    assert list(folder.glob(".image-*")) == []
    assert "Step 1/" in (folder / "build-deepspeed.log").read_text("utf-8")


def test_a_link_that_is_cut_on_the_way_is_gone_on_with_where_it_stopped(labs: Labs) -> None:
    bed = labs(VENDOR)
    forget(bed)
    target = bed.nodes[1]
    arrived = target.root / "srv/nx8/images/hand-on/got.tar"
    sizes: list[int] = []
    done: list[subprocess.CompletedProcess[str]] = []
    noise = f"open('/large', 'wb').write(__import__('os').urandom({LARGE_MIB} << 20))"
    with appended(bed, f"RUN {json.dumps(['python3', '-c', noise])}"):
        runner = threading.Thread(target=lambda: done.append(run(bed, "lab")))
        runner.start()
        try:
            until(lambda: size_of(arrived) > 8 << 20, runner, done)
            faults.cut_link(target)
            until(lambda: not connected(target.address), runner, done)
            sizes.append(size_of(arrived))
        finally:
            faults.mend_link(target)
        while runner.is_alive():
            if (size := size_of(arrived)) > 0:
                sizes.append(size)
            runner.join(0.05)
    measured(done[0])
    assert 8 << 20 < sizes[0] < LARGE_MIB << 20
    assert sizes == sorted(sizes), "it began anew"
    assert len(identifiers(bed)) == 1
    assert left_on(bed) == []
    forget(bed)


def until(
    true: Callable[[], bool], runner: threading.Thread, done: list[subprocess.CompletedProcess[str]]
) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert runner.is_alive(), f"the run ended before: {done}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def connected(address: str) -> bool:
    """Whether this machine has a TCP connection to that node's sshd that its kernel has not given up."""
    listed = subprocess.run(
        ("ss", "-Htn", "state", "established", "dst", f"{address}:22"),
        capture_output=True,
        text=True,
        check=True,
    )
    return bool(listed.stdout.strip())


@pytest.mark.slow
def test_every_node_pulls_an_image_by_its_digest_after_a_login_that_leaves_nothing(
    labs: Labs, tmp_path: Path
) -> None:
    bed = labs(VENDOR)
    forget(bed)
    measured(run(bed, "lab"))
    password = "correct horse battery staple"
    with running(bed, tmp_path, password, in_ci=IN_CI) as registry:
        built = identifiers(bed)
        reference = pushed(bed, bed.nodes[0], registry, password, tag_of(bed), "nx8/llama")
        forget(bed)
        login = f"{{registry: '{registry.host}', user: '{USER}', password_env: LAB_REGISTRY}}"
        open_door = cluster_file(bed, "open", f"{{source: pull, reference: '{reference}'}}")
        pulling = cluster_file(bed, "pull", f"{{source: pull, reference: '{reference}', login: {login}}}")

        shut = run(bed, open_door)
        assert shut.returncode == 5, shut.stderr
        assert [shut.stderr.count(f"error[E317] {node.name}") for node in bed.nodes] == [1, 1]

        wrong = run(bed, pulling, LAB_REGISTRY="not it at all")
        assert wrong.returncode == 5, wrong.stderr
        assert [wrong.stderr.count(f"error[E318] {node.name}") for node in bed.nodes] == [1, 1]
        assert "not it at all" not in wrong.stdout + wrong.stderr

        missing = run(bed, pulling)
        assert missing.returncode == 2, missing.stderr
        assert "E315" in missing.stderr
        assert left_on(bed) == []

        done = run(bed, pulling, LAB_REGISTRY=password)
        result = measured(done)
        assert identifiers(bed) == built
        assert set(identities(result)) == built
        assert left_on(bed) == []
        for node in bed.nodes:
            assert bed.on(node, "ls -A /root/.docker 2>/dev/null || true") == ""
    bed.on(bed.nodes[1], "mkdir /srv/nx8/images/login; echo {} > /srv/nx8/images/login/config.json")
    again = run(bed, pulling, LAB_REGISTRY=password)
    assert left_on(bed) == [], "a killed run's login stays"
    measured(again)  # the registry is gone: what every node has is not asked for again
    with appended(bed, "LABEL another=context"):
        other = run(bed, pulling, LAB_REGISTRY=password)
    assert other.returncode == 5, other.stderr
    assert "E319" in other.stderr


def tag_of(bed: Any) -> str:
    listed = bed.on(bed.nodes[0], f"docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' {IMAGES}")
    return listed.split()[0]


def identities(result: dict[str, Any]) -> list[str]:
    """The identifiers of a result's images, however much else stands beside them."""
    found = result["environment"]["images"].values()
    return [one if isinstance(one, str) else one["id"] for one in found]


@pytest.mark.slow
def test_an_engine_of_this_machine_builds_and_the_nodes_get_it_from_here(labs: Labs) -> None:
    bed = labs(VENDOR)
    forget(bed)
    socket = f"{bed.nodes[0].root}/run/docker.sock"
    name = cluster_file(bed, "host", f"{{source: host, socket: {socket}}}")
    done = run(bed, name)
    result = measured(done)
    assert "on this machine" in done.stderr
    assert len(identifiers(bed)) == 1
    assert set(identities(result)) == identifiers(bed)
    assert left_on(bed) == []
    assert "Step 1/" in (Path(done.stdout.splitlines()[-1]) / "build-deepspeed.log").read_text("utf-8")


@pytest.mark.slow
def test_an_engine_of_this_machine_that_fails_or_is_not_there_is_exit_5(labs: Labs) -> None:
    bed = labs(VENDOR)
    forget(bed)
    gone = run(bed, cluster_file(bed, "gone", "{source: host, socket: /run/no-docker.sock}"))
    assert gone.returncode == 5, gone.stderr
    assert "E320" in gone.stderr
    socket = f"{bed.nodes[0].root}/run/docker.sock"
    with appended(bed, 'RUN ["python3", "-c", "raise SystemExit(\'the wheel is missing\')"]'):
        failed = run(bed, cluster_file(bed, "host2", f"{{source: host, socket: {socket}}}"))
    assert failed.returncode == 5, failed.stderr
    assert "E311" in failed.stderr
    assert "the wheel is missing" in failed.stderr


@pytest.mark.slow
def test_a_build_that_takes_too_long_is_exit_5_with_its_last_lines(labs: Labs) -> None:
    bed = labs(VENDOR)
    forget(bed)
    name = cluster_file(bed, "short", "{build_limit_s: 20}")
    slow = "print('still compiling', flush=True); __import__('time').sleep(600)"
    with appended(bed, f"RUN {json.dumps(['python3', '-c', slow])}"):
        done = run(bed, name)
    assert done.returncode == 5, done.stderr
    assert "error[E311]" in done.stderr
    assert "the build was cut" in done.stderr
    assert "still compiling" in done.stderr
    newest = bed.workspace.home / "results" / "runs" / "latest" / "build-deepspeed.log"
    assert "still compiling" in newest.read_text("utf-8")
    for node in bed.nodes:
        assert bed.on(node, "pgrep -f '[d]ocker build' || true") == ""
    assert not any("nx8" in one or "hand-on" in one for one in left_on(bed))


@pytest.mark.slow
def test_nodes_that_cannot_build_the_same_are_refused_before_they_build(labs: Labs) -> None:
    bed = labs(VENDOR)
    forget(bed)
    done = run(bed, cluster_file(bed, "each", "{source: each}"))
    assert done.returncode == 5, done.stderr
    assert [done.stderr.count(f"error[E316] {node.name}") for node in bed.nodes] == [1, 1]
    assert identifiers(bed) == {""}
    assert left_on(bed) == []
