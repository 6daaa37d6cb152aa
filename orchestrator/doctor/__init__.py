"""`nx8 doctor`: what every planned node of a cluster has and lacks, each problem with its owner and a line
that mends it. Looks, and changes nothing on any node.

    expected.py  what the nodes should have: cluster, vendor, the cases' data and images
    looking.py   asks one node everything, within seconds        seen.py  its answers
    checks/      answers → checks, row by row. Pure              findings.py  checks as values
    table.py     checks → the table and the list of problems     document.py  checks → JSON, and Nagios' line
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator.doctor.checks import judged
from orchestrator.doctor.checks.making import both, warn
from orchestrator.doctor.expected import Expected, expected
from orchestrator.doctor.findings import Check, Findings, NodeFindings
from orchestrator.doctor.looking import Here, met
from orchestrator.doctor.looking import look as looked_at
from orchestrator.doctor.seen import Seen
from orchestrator.errors import Nx8Error
from orchestrator.hosts import known_hosts_file
from orchestrator.remote.connection import Settings
from orchestrator.remote.errors import RemoteError
from orchestrator.remote.pool import Pool
from orchestrator.selection import site_of

if TYPE_CHECKING:
    from orchestrator.remote.remote import Remote
    from orchestrator.workspace import Workspace

__all__ = ["Check", "Findings", "NodeFindings", "look"]

#: All of it, in seconds: a node is named as bad by then, whatever it does or does not do.
LIMIT_S = 15.0
#: Shares of that: reaching a node and logging in, nodes trying to reach each other in the end, and what is
#: left over for whoever is late.
CONNECT_SHARE = 0.55
MEET_SHARE = 0.13
MARGIN_SHARE = 0.045


def look(
    workspace: Workspace,
    *,
    cluster: str | None = None,
    vendor: str | None = None,
    cases: tuple[str, ...] = (),
    nodes: tuple[str, ...] = (),
    limit_s: float = LIMIT_S,
) -> Findings:
    """Every planned node in parallel, within `limit_s`; `cases` are those whose data and images are looked
    for, without any every case that has a config for the cluster; `nodes` those of the cluster and its spares
    that are asked, without any all of the cluster.

    Raises ConfigError for a cluster or vendor file that cannot be used, PreflightError (E214, E215) for files
    of SSH; whatever is wrong with nodes is in the findings.
    """
    began, at = time.monotonic(), datetime.now(UTC)
    site = site_of(workspace, vendor=vendor, cluster=cluster)
    if nodes:
        site = replace(site, cluster=site.cluster.on(nodes))
    wanted = expected(workspace, site, cases)
    if wanted.is_local:
        seen = [_this_machine(workspace, wanted, limit_s)]
    else:
        seen = _nodes(workspace, wanted, limit_s=limit_s - (time.monotonic() - began))
    return Findings(
        cluster=wanted.cluster_name,
        vendor=wanted.vendor_name,
        device=wanted.cluster.device,
        num_nodes=len(wanted.cluster.nodes),
        devices_per_node=wanted.cluster.devices_per_node,
        rehearsal=wanted.cluster.rehearsal,
        at_utc=at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        nodes=judged(seen, wanted),
        here=_here(wanted),
    )


def _here(wanted: Expected) -> tuple[Check, ...]:
    """What of this machine's own files would end a run before it reaches a node: the nodes can run all the
    same, so it is a warning.
    """
    return tuple(
        warn(
            "here",
            problem.code,
            f"本机：{problem.message}",
            f"this machine: {problem.message}",
            owner="user",
            fix=both(problem.help.splitlines()[0]) if problem.help else None,
        )
        for problem in wanted.unplanned
    )


def _this_machine(workspace: Workspace, wanted: Expected, limit_s: float) -> Seen:
    name = wanted.cluster.nodes[0].name
    base = Seen(name=name, address="")
    return looked_at(Here(name, workspace.home), wanted, base=base, limit_s=limit_s)


def _nodes(workspace: Workspace, wanted: Expected, *, limit_s: float) -> list[Seen]:
    cluster = wanted.cluster
    known = known_hosts_file(workspace, wanted.cluster_name, cluster)
    margin_s = limit_s * MARGIN_SHARE
    deadline = time.monotonic() + limit_s - margin_s
    meet_s = limit_s * MEET_SHARE if len(cluster.nodes) > 1 else 0.0
    with Pool(Settings.of(cluster, known), cluster.nodes) as pool:

        def one(remote: Remote) -> Seen:
            # Before the pool's own limit: then it is said where it stalled.
            remote.connect(limit_s=limit_s * CONNECT_SHARE)
            left_s = deadline - meet_s - time.monotonic() - margin_s
            return looked_at(remote, wanted, base=_base(remote), limit_s=left_s)

        found = pool.settle(one, limit_s=deadline - meet_s - time.monotonic())
        seen = {
            name: value if isinstance(value, Seen) else _failed(pool[name], value)
            for name, value in found.items()
        }
        if meet_s:
            seen |= _met(pool, seen, wanted, deadline)
    return list(seen.values())


def _met(pool: Pool, seen: dict[str, Seen], wanted: Expected, deadline: float) -> dict[str, Seen]:
    """Those that answered, with how they reach each other; who did not answer, or has no address where
    others could, is no peer here.
    """
    peers = {
        name: wanted.addresses[name]
        for name, one in seen.items()
        if one.failure is None and name in wanted.addresses
    }
    if len(peers) < 2:
        return {}
    limit_s = max(0.5, deadline - time.monotonic() - 0.3)

    def one(remote: Remote) -> Any:
        try:
            return met(remote, wanted, peers, limit_s * 0.7)
        except (ValueError, KeyError, TypeError) as error:
            return str(error)

    found = pool.settle(one, nodes=tuple(peers), limit_s=limit_s)
    result = {}
    for name, value in found.items():
        if isinstance(value, Nx8Error | str):
            why = value if isinstance(value, str) else value.problems[0].message
            result[name] = replace(seen[name], missed={**seen[name].missed, "meet": why})
        else:
            result[name] = replace(seen[name], met=value)
    return result


def _base(remote: Remote) -> Seen:
    """Who is asked, and the command by which a person gets there."""
    it = remote.link.connection
    words = ["ssh"]
    words += ["-p", str(it.port)] if it.port != 22 else []
    own = remote.node.key or remote.settings.cluster.ssh.key
    words += ["-i", own] if own else []
    if remote.link.gateway is not None:
        gateway = remote.link.gateway.connection
        words += ["-J", f"{gateway.user}@{gateway.host}:{gateway.port}"]
    words.append(f"{it.user}@{it.host}")
    return Seen(name=remote.name, address=remote.where, login=tuple(words), user=it.user)


def _failed(remote: Remote, error: Nx8Error) -> Seen:
    phase = error.phase if isinstance(error, RemoteError) else remote.link.phase
    return replace(_base(remote), failure=error.problems[0], phase=phase)
