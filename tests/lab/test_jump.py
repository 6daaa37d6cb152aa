"""A node that only another node reaches: its keys and its commands go through that one, and nobody is trusted
on first sight.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestrator import hosts
from orchestrator.cluster import Cluster
from orchestrator.errors import PreflightError
from orchestrator.load import load
from orchestrator.remote.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 300.0


def pin(bed: Any, *words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(bed.workspace.home), "hosts", "pin", *words)
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL, check=False
    )


@contextmanager
def hidden(bed: Any) -> Iterator[str]:
    """The name of a cluster whose second node answers to the first one only; nothing is pinned for it."""
    first, last = bed.nodes
    folder = bed.workspace.clusters
    content = yaml.safe_load((folder / "lab.yaml").read_text("utf-8"))
    content["ssh"] |= {"known_hosts": None, "config": None, "connect_limit_s": 3.0}
    content["nodes"][1]["jump"] = f"root@{first.address}"
    (folder / "hidden.yaml").write_text(yaml.safe_dump(content), "utf-8")
    gate = bed.lab.subnet.rpartition(".")[0] + ".1"
    inside = bed.lab.inside(last, "ip", "route")
    subprocess.run((*inside, "add", "unreachable", f"{gate}/32"), check=True, capture_output=True)
    try:
        yield "hidden"
    finally:
        subprocess.run((*inside, "del", "unreachable", f"{gate}/32"), check=True, capture_output=True)
        for name in ("hidden.yaml", "hidden.known_hosts"):
            (folder / name).unlink(missing_ok=True)


def said(bed: Any, name: str) -> dict[str, str]:
    """What `hostname` prints on every node of a cluster."""
    cluster = load(bed.workspace.cluster_file(name), Cluster)
    known = hosts.known_hosts_file(bed.workspace, name, cluster)
    with Pool.open(cluster, cluster.nodes, known) as pool:
        done = pool.each(lambda remote: remote.run(("hostname",), timeout_s=60))
    return {node: one.stdout.decode().strip() for node, one in done.items()}


def test_a_node_behind_another_is_pinned_and_driven_through_it(labs: Callable[..., Any]) -> None:
    bed = labs("mthreads")
    first, last = bed.nodes
    with hidden(bed) as name:
        with pytest.raises(PreflightError) as unknown:
            said(bed, name)
        asked = pin(bed, "--cluster", name)
        stored = pin(bed, "--cluster", name, "--yes")
        heard = said(bed, name)
        content = yaml.safe_load((bed.workspace.clusters / f"{name}.yaml").read_text("utf-8"))
        del content["nodes"][1]["jump"]
        (bed.workspace.clusters / f"{name}.yaml").write_text(yaml.safe_dump(content), "utf-8")
        with pytest.raises(PreflightError) as direct:
            said(bed, name)
    assert {problem.code for problem in unknown.value.problems} == {"E204"}
    assert any(f"jump host root@{first.address}" in str(problem) for problem in unknown.value.problems)
    # Nobody said yes to the jump host's key, so nobody was asked through it.
    assert asked.returncode == 2, asked.stderr
    assert f"not asked, for the keys of a jump host on the way are not stored: {last.name}" in asked.stderr
    assert stored.returncode == 0, stored.stderr
    assert f"jump host root@{first.address}" in stored.stdout
    assert heard == {first.name: first.name, last.name: last.name}
    assert [problem.code for problem in direct.value.problems] == ["E202"]
    assert last.name in str(direct.value)
