"""What stands on the nodes of a lab before and after: containers, images, processes, mounts, folders of runs,
locks, /tmp, firewall. And decoys: things of somebody else that must stay as they are, byte for byte.

`with undisturbed(bed): …` fails when anything is left behind, or anything else was touched.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 60.0
#: How long the last processes of a run may take to go: agents behind a link that was cut, IDLE_S.
SETTLE_S = 60.0

LOOK = """\
import hashlib, json, os, subprocess

def said(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return sorted(set(done.stdout.decode("utf-8", "replace").split("\\n")) - {""})

def ours():
    pid, found = os.getpid(), set()
    while pid > 1:
        found.add(pid)
        pid = int(open("/proc/%d/stat" % pid).read().rpartition(")")[2].split()[1])
    return found

def processes():
    mine, found = ours(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open("/proc/%s/cmdline" % name, "rb").read().split(b"\\0")
            parent = int(open("/proc/%s/stat" % name).read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        text = b" ".join(words).decode("utf-8", "replace").strip()
        if int(name) in mine or parent in mine or not text or text.startswith("sshd:"):
            continue
        found.append(text)
    return sorted(found)

def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

def files(top):
    return {
        os.path.join(folder, name): digest(os.path.join(folder, name))
        for folder, _, names in os.walk(top) for name in names
    }

def names(top):
    return sorted(os.listdir(top)) if os.path.isdir(top) else []

print(json.dumps({
    "containers": said("docker", "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"),
    "images": said("docker", "images", "-a", "-q", "--no-trunc"),
    "processes": processes(),
    "mounts": sorted(line.split(" ")[4] for line in open("/proc/self/mountinfo")),
    "runs": names("/srv/nx8/runs"),
    "tmp": names("/tmp"),
    "decoys": files("/srv/decoy"),
    "iptables": [line for line in said("iptables-save") if not line.startswith(("#", ":"))],
}))
"""


def look(bed: Any) -> dict[str, dict[str, Any]]:
    """What stands on each node, asked in its own namespaces, past its sshd."""
    found = {}
    for node in bed.nodes:
        argv = bed.lab.inside(node, "python3", "-c", LOOK)
        done = subprocess.run(argv, capture_output=True, timeout=LIMIT_S, check=True)
        found[node.name] = json.loads(done.stdout)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{node} {what}: + {added(then, now)} - {added(now, then)}"
        for node, seen in before.items()
        for what, then in seen.items()
        if (now := after[node][what]) != then
    ]


def added(then: Any, now: Any) -> list[Any]:
    if isinstance(now, dict):
        return sorted(f"{key} {value[:12]}" for key, value in now.items() if then.get(key) != value)
    rest = list(then)
    more = []
    for one in now:
        if one in rest:
            rest.remove(one)
        else:
            more.append(one)
    return more


def place_decoys(bed: Any) -> None:
    """A container, one that has ended, and files, of somebody who uses names that look like ours."""
    for node in bed.nodes:
        have = bed.on(node, "docker ps -a --format '{{.Names}}'").split()
        if "nx8-decoy" not in have:
            image = bed.on(node, "docker images -q nx8-lab/base").split()[0]
            create = (
                f"docker run --detach --network none --label nx8=decoy --name nx8-decoy {image} sleep 86400"
            )
            bed.on(node, create)
            bed.on(node, f"docker run --network none --label nx8.rung=1 --name nx8-decoy-ended {image} true")
        bed.on(
            node, "mkdir -p /srv/decoy/runs/x && echo kept > /srv/decoy/runs/x/file; touch /tmp/nx8.locked"
        )


@contextlib.contextmanager
def undisturbed(bed: Any) -> Iterator[None]:
    """Fails when the nodes are not as they were, SETTLE_S after the block at the latest."""
    place_decoys(bed)
    before = look(bed)
    yield
    deadline = time.monotonic() + SETTLE_S
    while (left := differences(before, look(bed))) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, "\n".join(left)
