"""How long 64 nodes take to run `true` and to hand over 1 MB each: our pool beside pdsh and OpenSSH, in one
run, taking turns; medians and their ratio.

    python -m tests.perf.fanout [--nodes 64] [--rounds 5]

One sshd serves 127.0.1.1 … 127.0.1.64, so its own forks and key exchanges weigh on every client alike. All is
cold: each round connects anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.remote import Pool
from tests import loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.remote import Remote

SIZE = 1_000_000
#: What ours may take of pdsh's time. The last has no target: pdsh has nothing like the node's entry, which
#: takes argument lists as data and starts a Python on each node, here all 64 on the client's own cores.
TARGETS = {"true": 0.25, "fetch 1 MB": 0.35, "true by the entry": None}


def measured(action: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds, the CPU of this process and the children it waited for."""
    before, cpu = time.perf_counter(), os.times()
    action()
    after = os.times()
    return time.perf_counter() - before, sum(after[:4]) - sum(cpu[:4])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if loopback.WHY_NOT:
        print(f"fanout: skipped: {loopback.WHY_NOT}")
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="nx8-fanout-") as folder,
        loopback.sshd(Path(folder) / "sshd") as server,
    ):
        return compare(server, Path(folder), options)


def compare(server: loopback.Sshd, folder: Path, options: argparse.Namespace) -> int:
    addresses = [f"127.0.1.{number}" for number in range(1, options.nodes + 1)]
    server.pin(*addresses)
    blob = folder / "blob"
    blob.write_bytes(os.urandom(SIZE))
    content = blob.read_bytes()
    cluster = loopback.cluster(*(server.node(f"n{number}", one) for number, one in enumerate(addresses)))
    ssh_options = [
        *("-F", "none", "-p", str(server.port), "-i", str(server.key), "-l", "root", "-o", "BatchMode=yes"),
        *("-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
    ]

    def ours(work: Callable[[Remote], bool]) -> Callable[[], None]:
        def action() -> None:
            with Pool.open(cluster, cluster.nodes, server.known_hosts) as pool:
                assert all(pool.each(work, limit_s=120).values())

        return action

    def pinged(remote: Remote) -> bool:
        return remote.ping(limit_s=60) > 0

    def ran(remote: Remote) -> bool:
        return remote.run(["true"], timeout_s=60).rc == 0

    def fetched(remote: Remote) -> bool:
        found: list[bytes] = []
        remote.fetch(str(blob), found.append)
        return b"".join(found) == content

    def openssh(*command: str) -> Callable[[], None]:
        def one(address: str) -> None:
            done = subprocess.run(
                ["ssh", *ssh_options, address, *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            )
            assert len(command) == 1 or done.stdout == content

        def action() -> None:
            with ThreadPoolExecutor(64) as workers:
                list(workers.map(one, addresses))

        return action

    def pdsh(*command: str) -> Callable[[], None]:
        environment = {**os.environ, "PDSH_SSH_ARGS": " ".join([*ssh_options, "%h"]), "PDSH_RCMD_TYPE": "ssh"}

        def action() -> None:
            with (folder / "pdsh.out").open("wb") as out:
                subprocess.run(
                    ["pdsh", "-S", "-N", "-f", "64", "-w", ",".join(addresses), *command],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    check=True,
                )

        return action

    clients = {"nx8": {"true": ours(pinged), "fetch 1 MB": ours(fetched), "true by the entry": ours(ran)}}
    if shutil.which("pdsh"):
        clients["pdsh"] = {
            "true": pdsh("true"),
            "fetch 1 MB": pdsh(f"cat {blob}"),
            "true by the entry": pdsh("true"),
        }
    if shutil.which("ssh"):
        clients["ssh"] = {"true": openssh("true"), "fetch 1 MB": openssh("cat", str(blob))}
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for task in TARGETS:
        clients["nx8"][task]()
        for _ in range(options.rounds):
            for client, tasks in clients.items():
                if task in tasks:
                    figures.setdefault(task, {}).setdefault(client, []).append(measured(tasks[task]))
    return report(figures, options)


def report(figures: dict[str, dict[str, list[tuple[float, float]]]], options: argparse.Namespace) -> int:
    missed = 0
    for task, clients in figures.items():
        print(f"{task} on {options.nodes} loopback nodes, cold, {options.rounds} rounds (median, min–max):")
        mine = statistics.median(wall for wall, _ in clients["nx8"])
        for client, pairs in clients.items():
            walls = [wall for wall, _ in pairs]
            median = statistics.median(walls)
            ratio = "" if client == "nx8" else f"   nx8 is {mine / median:.3f}× of it"
            cpu = statistics.median(cpu for _, cpu in pairs)
            print(
                f"  {client:5} {median:6.2f} s  ({min(walls):.2f}–{max(walls):.2f}), {cpu:.2f} s CPU{ratio}"
            )
        target = TARGETS[task]
        if target is None:
            print("  no target")
        elif "pdsh" in clients:
            got = mine / statistics.median(wall for wall, _ in clients["pdsh"])
            met = got <= target
            missed += not met
            print(f"  target: ≤ {target}× pdsh: {'met' if met else 'MISSED'}")
        else:
            print("  pdsh is not installed: no ratio")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
