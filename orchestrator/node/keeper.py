"""Ends on a node what nobody renews: `keeper.py LOCK`, started beside a lock that has a lease.

Standard library, Python 3.6 or later, sent as one file together with lock.py. It sleeps while the lease is
renewed. When it has expired, it lets the containers of that run end by themselves (the launcher inside
watches the lease too), then stops them, removes them, and removes the lock. It touches nothing without the
label of that run; the run's files stay for whoever collects them, or for `nx8 clean`.
"""

import json
import os
import signal
import subprocess
import sys
import time

from orchestrator.node.lock import (
    ENDING,
    OWNER,
    Held,
    as_bytes,
    cleared_away,
    document,
    put,
    same,
    state_of,
    this_boot,
)

# On a node both are one file

#: The longest a keeper sleeps: so soon it notices that its lock was removed by hand.
LOOK_S = 1.0
#: Of one command of docker, and how long a docker that does not answer is asked again.
DOCKER_LIMIT_S = 60.0
STUBBORN_S = 120.0
#: Of the grace after the expiry: what the launcher gets to end by itself, as it looks at the lease too, and
#: what docker then gives it between TERM and KILL.
OWN_END, STOP = 0.4, 0.5


def main(path):
    owner = document(os.path.join(path, OWNER))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        state = state_of(path)
        if state is None or not same(owner, state["owner"]):
            return 0
        if state["expired"] and begun(path, owner):
            return ended(path, owner)
        left = (state["lease_s"] or LOOK_S) - (state["age_s"] or 0.0)
        time.sleep(max(0.02, min(left, LOOK_S)))


def begun(path, owner):
    """From here on nobody renews. False when somebody did at the last moment."""
    with Held(path) as there:
        state = state_of(path) if there else None
        if state is None or not same(owner, state["owner"]) or not state["expired"]:
            return False
        age = "of an earlier boot" if state["age_s"] is None else "%.1f s old" % state["age_s"]
        put(os.path.join(path, ENDING), b"the lease expired: its last renewal was " + age.encode())
        return True


def ended(path, owner):
    """Ends and removes the containers of the run, then its lock; the lock stays while docker is silent, for
    whoever comes next: it is expired, and nobody watches it any more.
    """
    run, grace = owner["run"], float(owner.get("grace_s") or 10.0)
    deadline = time.monotonic() + STUBBORN_S
    while True:
        try:
            await_own_end(run, time.monotonic() + OWN_END * grace)
            for process in [
                started("container", "stop", "--time=%d" % round(STOP * grace), one)
                for one in listed(run, all=False)
            ]:
                process.wait(DOCKER_LIMIT_S)
            found = listed(run, all=True)
            testify(owner, found)
            for one in found:
                docker("container", "rm", "--force", "--volumes", one)
            if not listed(run, all=True):
                break
        except (OSError, subprocess.SubprocessError):
            pass  # docker is away or hangs: asked again
        if time.monotonic() > deadline:
            return 1
        time.sleep(1.0)
    with Held(path) as there:
        if there and same(owner, document(os.path.join(path, OWNER))):
            cleared_away(path)
    return 0


def await_own_end(run, until):
    while listed(run, all=False) and time.monotonic() < until:
        time.sleep(0.25)


def listed(run, all):
    words = ["container", "ls", "--no-trunc", "--filter=label=nx8.run=" + run, "--format={{.ID}}"]
    return docker(*(words + (["--all"] if all else []))).split()


def testify(owner, containers):
    """What the containers were when they were removed, in the run's folder if it is there."""
    folder = os.path.join(as_bytes(owner.get("runs") or "/nonexistent"), as_bytes(owner["run"]))
    if not os.path.isdir(folder) or not containers:
        return
    states = []
    for one in containers:
        try:
            found = json.loads(docker("container", "inspect", one))
            states.append({"id": one, "name": found[0].get("Name"), "state": found[0].get("State")})
        except (subprocess.SubprocessError, ValueError, LookupError):
            continue
    lost = {"why": "lease", "monotonic_s": time.monotonic(), "boot_id": this_boot(), "containers": states}
    put(os.path.join(folder, b"lost.json"), lost, 0o600)


def started(*words):
    return subprocess.Popen(("docker",) + words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def docker(*words):
    done = subprocess.run(
        ("docker",) + words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=DOCKER_LIMIT_S,
        check=True,
    )
    return done.stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main(os.fsencode(sys.argv[1])))
