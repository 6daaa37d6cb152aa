"""What starts on the nodes is what was proven, as the account that was asked for, everywhere or nowhere; and
it goes again whatever happens, or is named.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.test_rehearsal import VENDOR, left_on, other_cluster, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Labs = Callable[..., Any]

pytestmark = pytest.mark.lab

DEADLINE_S = 300.0
DOCKER = "/usr/bin/docker"
BENCH = "/srv/bench"
#: The second where it came when Python itself was about to end; a shell says 130 of both.
STOPPED = (130, -signal.SIGINT)


@contextlib.contextmanager
def docker_that(bed: Any, node: Any, command: str, does: str) -> Iterator[None]:
    """docker's client on a node, where `docker container COMMAND` first does something else in `sh`."""
    script = f'#!/bin/sh\nif [ "$1 $2" = "container {command}" ]; then\n{does}\nfi\nexec {DOCKER}.real "$@"\n'
    bed.on(node, f"mv {DOCKER} {DOCKER}.real && cat > {DOCKER} && chmod 755 {DOCKER}", stdin=script.encode())
    try:
        yield
    finally:
        bed.on(node, f"mv {DOCKER}.real {DOCKER}")


def bench_cluster(bed: Any) -> str:
    """The same nodes by the account `bench`, with folders of its own."""
    for node in bed.nodes:
        bed.on(node, f"mkdir -p {BENCH}/data && chown -R bench:bench {BENCH} && chmod 700 {BENCH}")
    other_cluster(
        bed,
        "bench",
        lambda text: text.replace("user: root", "user: bench").replace("/srv/nx8", BENCH),
    )
    return "bench"


def folder_of(done: subprocess.CompletedProcess[str]) -> Path:
    return Path(done.stdout.splitlines()[-1])


def newest_run(bed: Any) -> Path:
    return (bed.workspace.home / "results" / "runs" / "latest").resolve()


def nothing_ran(bed: Any) -> bool:
    return not list(newest_run(bed).glob("cells/*/node*/launcher.log"))


def test_an_account_other_than_root_trains_and_leaves_nothing(labs: Labs) -> None:
    bed = labs(VENDOR)
    done = run(bed, "--steps", "5", cluster=bench_cluster(bed))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = folder_of(done)
    cell = json.loads((folder / "result.json").read_text("utf-8"))["cells"][0]
    assert cell["verdict"] == "MEASURED"
    assert cell["metrics"]["memory_used_bytes"]["value"] > 0
    seen = json.loads((folder / "host.json").read_text("utf-8"))["containers"][cell["cell_id"]]
    for node in bed.nodes:
        account = ":".join(bed.on(node, "id -u; id -g", user="bench").split())
        assert account != "0:0"
        assert seen[node.name]["user"] == account
        assert seen[node.name]["exit_code"] == 0
        assert bed.on(node, f"ls {BENCH}/runs").split() == []
    assert left_on(bed) == []


def test_a_lock_of_another_account_is_respected_and_says_whose_it_is(labs: Labs) -> None:
    bed = labs(VENDOR)
    cluster = bench_cluster(bed)
    last = bed.nodes[-1]
    owner = json.dumps({"token": "t", "run": "theirs", "user": "ann", "host": "h", "pid": 1, "since": "noon"})
    bed.on(last, "mkdir /tmp/nx8.lock && cat > /tmp/nx8.lock/owner.json", stdin=owner.encode())
    try:
        done = run(bed, cluster=cluster)
    finally:
        bed.on(last, "rm -r /tmp/nx8.lock")
    assert done.returncode == 6, done.stderr
    assert re.search(f"{last.name} is busy: run theirs of ann", done.stderr)
    assert left_on(bed) == []


def test_a_container_whose_creation_was_not_confirmed_is_found_by_its_label(labs: Labs) -> None:
    bed = labs(VENDOR)
    renamed = f"""shift 2
for word; do
  shift
  case "$word" in --name=*) word="--name=other" ;; esac
  set -- "$@" "$word"
done
{DOCKER}.real container create "$@" > /dev/null
echo the answer was lost >&2
exit 1"""
    with docker_that(bed, bed.nodes[1], "create", renamed):
        done = run(bed)
        assert done.returncode == 3, done.stderr
        assert re.search(
            r"error\[E236\] node2: the container was not created: the answer was lost", done.stderr
        )
        assert nothing_ran(bed)
        assert left_on(bed) == []


def test_a_container_of_another_image_than_was_proven_is_not_started(labs: Labs) -> None:
    bed = labs(VENDOR)
    other = """shift 2
for word; do
  shift
  case "$word" in nx8-*:*) word="nx8-lab/base" ;; esac
  set -- "$@" "$word"
done
set -- container create "$@\""""
    with docker_that(bed, bed.nodes[1], "create", other):
        done = run(bed)
    assert done.returncode == 3, done.stderr
    assert re.search(
        r"error\[E246\] node2: its container is of image sha256:[0-9a-f]{64}; proven", done.stderr
    )
    assert nothing_ran(bed)
    assert left_on(bed) == []


LISTEN = """import os, socket, sys
taken = socket.socket()
taken.bind(("0.0.0.0", int(sys.argv[1])))
taken.listen(1)
if os.fork() == 0:
    os.setsid()
    for number in range(3):
        os.close(number)
    taken.settimeout(300)
    try:
        taken.accept()
    except OSError:
        pass
"""


def test_a_port_that_was_taken_meanwhile_is_named_and_nothing_starts(labs: Labs) -> None:
    bed = labs(VENDOR)
    first = bed.nodes[0]
    bed.on(first, "cat > /tmp/listen.py", stdin=LISTEN.encode())
    taken = """port=$(echo "$*" | sed 's/.*--master-port \\([0-9]*\\).*/\\1/')
echo "$port" > /tmp/taken-port
python3 /tmp/listen.py "$port\""""
    with docker_that(bed, first, "create", taken):
        done = run(bed)
    port = bed.on(first, "cat /tmp/taken-port").strip()
    free = f"import socket; socket.create_connection(('127.0.0.1', {port}), 10).close()"
    bed.on(first, f'python3 -c "{free}"')
    assert done.returncode == 3, done.stderr
    assert f"error[E235] {first.name}: port {port}, where ranks would meet, is taken" in done.stderr
    assert nothing_ran(bed)
    assert left_on(bed) == []


def test_a_container_that_cannot_be_removed_is_named_and_keeps_its_node_locked(labs: Labs) -> None:
    bed = labs(VENDOR)
    node = bed.nodes[1]
    with docker_that(bed, node, "rm", "echo the layer is busy >&2; exit 1"):
        done = run(bed, "--steps", "5")
    try:
        # What was measured stays measured: the number does not depend on it.
        assert done.returncode == 0, done.stderr
        run_id = folder_of(done).name
        by_hand = f"docker rm --force --volumes $(docker ps -aq --filter label=nx8.run={run_id})"
        assert f"{node.name}: a container of run {run_id} may still be there" in done.stderr
        assert by_hand in done.stderr
        assert f"{node.name} is let go by its own lease" in done.stderr
        assert [one.partition(":")[0] for one in left_on(bed)] == [node.name] * 2
        busy = run(bed)
        assert busy.returncode == 6
        assert f"{node.name} is busy: run {run_id}" in busy.stderr
    finally:
        bed.on(
            node, "docker rm --force --volumes $(docker ps -aq --filter label=nx8.run); rm -r /tmp/nx8.lock"
        )
    assert left_on(bed) == []


def test_pressing_ctrl_c_twice_leaves_nothing_behind(labs: Labs) -> None:
    bed = labs(VENDOR)
    argv = (sys.executable, "-m", "orchestrator", "--home", str(bed.workspace.home))
    argv += ("run", "llama2_7b", "--cluster", "lab", "--steps", "450")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + DEADLINE_S
        running = "docker ps -q --filter label=nx8.run"
        while not all(bed.on(node, running).split() for node in bed.nodes):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
        presses = 0
        while process.poll() is None:
            assert time.monotonic() < deadline
            if presses < 2:
                process.send_signal(signal.SIGINT)
            presses += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        said = process.communicate()[0]
    assert process.returncode in STOPPED, said
    assert left_on(bed) == []
    result = json.loads((newest_run(bed) / "result.json").read_text("utf-8"))
    assert "SIGINT" in result["cells"][0]["reasons"][0]


@pytest.mark.parametrize("stage", [pytest.param("image inspect", marks=pytest.mark.slow), "container create"])
def test_a_signal_while_nodes_are_prepared_leaves_nothing_behind(stage: str, labs: Labs) -> None:
    """Ctrl-C, and once more while the locks are let go."""
    bed = labs(VENDOR)
    node = bed.nodes[1]
    bed.on(node, "rm -f /tmp/reached")
    script = f'#!/bin/sh\nif [ "$1 $2" = "{stage}" ]; then touch /tmp/reached; fi\nexec {DOCKER}.real "$@"\n'
    bed.on(node, f"mv {DOCKER} {DOCKER}.real && cat > {DOCKER} && chmod 755 {DOCKER}", stdin=script.encode())
    argv = (sys.executable, "-m", "orchestrator", "--home", str(bed.workspace.home))
    argv += ("run", "llama2_7b", "--cluster", "lab", "--steps", "450")
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            deadline = time.monotonic() + DEADLINE_S
            while not bed.on(node, "ls /tmp/reached 2>/dev/null || true"):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
            presses = 0
            while process.poll() is None:
                assert time.monotonic() < deadline
                if presses < 2:
                    process.send_signal(signal.SIGINT)
                presses += 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            said = process.communicate()[0]
    finally:
        bed.on(node, f"mv {DOCKER}.real {DOCKER}; rm -f /tmp/reached")
    assert process.returncode in STOPPED, said
    assert left_on(bed) == []
