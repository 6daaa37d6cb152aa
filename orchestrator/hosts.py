"""The inventory's host keys: what nodes show, what is pinned, and how the two differ. Looks and stores; what
is trusted, a person decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import Nx8Error
from orchestrator.remote import known_hosts as hosts_file
from orchestrator.remote import scan
from orchestrator.remote.pool import in_parallel, together

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster
    from orchestrator.workspace import Workspace

State = Literal["new", "pinned", "changed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One key of one node: what it is now, and what it was if that differs."""

    node: str
    listed_as: str
    kind: str
    fingerprint: str
    state: State
    was: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What all nodes that answered show, and who did not."""

    file: Path
    keys: tuple[Shown, ...]
    found: dict[str, dict[str, bytes]]
    failed: Nx8Error | None

    @property
    def changed(self) -> tuple[Shown, ...]:
        return tuple(key for key in self.keys if key.state in ("changed", "gone"))

    @property
    def new(self) -> tuple[Shown, ...]:
        return tuple(key for key in self.keys if key.state == "new")


def known_hosts_file(workspace: Workspace, name: str, cluster: Cluster) -> Path:
    """Where a cluster's host keys stand: `ssh: {known_hosts: …}`, else <name>.known_hosts, both beside the
    cluster file.
    """
    return workspace.clusters / Path(cluster.ssh.known_hosts or f"{name}.known_hosts").expanduser()


def survey(cluster: Cluster, file: Path) -> Survey:
    """Asks all nodes and spares at once for their keys, without logging in."""
    shared = scan.settings(cluster, file)
    nodes = {node.name: node for node in (*cluster.nodes, *cluster.spares)}
    limit_s = cluster.ssh.connect_limit_s + cluster.ssh.auth_limit_s
    answers = in_parallel(
        lambda name: scan.shown_keys(shared, nodes[name]), list(nodes), limit_s=limit_s + 0.5
    )
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, Nx8Error)}
    keys: list[Shown] = []
    found: dict[str, dict[str, bytes]] = {}
    for name, answer in answers.items():
        if isinstance(answer, Nx8Error):
            continue
        listed_as = scan.listed_as(shared, nodes[name])
        known = {key.kind: key.blob for key in shared.known_hosts.of(listed_as)}
        found[listed_as] = answer
        keys += compared(name, listed_as, answer, known)
    return Survey(file=file, keys=tuple(keys), found=found, failed=together(failed) if failed else None)


def compared(node: str, listed_as: str, shown: dict[str, bytes], known: dict[str, bytes]) -> list[Shown]:
    """One line a key. A further type beside a pinned one that is unchanged is new; a type that is no longer
    shown is gone, unless another pinned one still is.
    """
    lines = []
    for kind, blob in shown.items():
        was = known.get(kind)
        state: State = "new" if was is None else "pinned" if was == blob else "changed"
        if state == "new" and known and not any(known.get(one) == shown[one] for one in shown):
            state = "changed"
        lines.append(
            Shown(
                node=node,
                listed_as=listed_as,
                kind=kind,
                fingerprint=hosts_file.fingerprint(blob),
                state=state,
                was=hosts_file.fingerprint(was) if was is not None and state == "changed" else None,
            )
        )
    lines += [
        Shown(
            node=node, listed_as=listed_as, kind=kind, fingerprint=hosts_file.fingerprint(blob), state="gone"
        )
        for kind, blob in known.items()
        if kind not in shown
    ]
    return lines


def store(survey: Survey, *, replace: bool) -> int:
    """Writes what was found into the file, keys of other hosts kept; returns how many keys are new there.
    Changed keys are written only with `replace`, gone ones removed only then.
    """
    keys: dict[str, dict[str, bytes]] = {}
    for known in hosts_file.load(survey.file).keys:
        for name in known.names:
            keys.setdefault(name, {})[known.kind] = known.blob
    written = 0
    held = {(key.listed_as, key.kind) for key in survey.changed} if not replace else set()
    stopped = {key.listed_as for key in survey.changed} if not replace else set()
    for name, found in survey.found.items():
        if name in stopped:
            continue
        before = keys.get(name, {})
        written += sum(before.get(kind) != blob for kind, blob in found.items() if (name, kind) not in held)
        keys[name] = dict(found)
    hosts_file.store(survey.file, keys)
    return written


def pinned(cluster: Cluster, file: Path) -> dict[str, tuple[hosts_file.HostKey, ...]]:
    """The stored keys of each node and spare; none for a node that was never pinned."""
    shared = scan.settings(cluster, file)
    nodes = (*cluster.nodes, *cluster.spares)
    return {node.name: shared.known_hosts.of(scan.listed_as(shared, node)) for node in nodes}
