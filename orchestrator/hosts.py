"""The inventory's host keys: what nodes show, what is pinned, and how the two differ. Looks and stores; what
is trusted, a person decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import ConfigError, Nx8Error, Problem
from orchestrator.remote import known_hosts as hosts_file
from orchestrator.remote import scan
from orchestrator.remote.pool import in_parallel, together
from orchestrator.text import HostName, fits, wants

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator.cluster import Cluster, Node
    from orchestrator.remote.connection import Link
    from orchestrator.workspace import Workspace

State = Literal["new", "pinned", "changed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One key of one node or jump host: what it is now, and what it was if that differs."""

    node: str
    listed_as: str
    kind: str
    fingerprint: str
    state: State
    was: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What all nodes that answered show, and who did not. `waiting` were not asked: whoever answers for them
    does so through a jump host whose keys are not pinned.
    """

    file: Path
    keys: tuple[Shown, ...]
    found: dict[str, dict[str, bytes]]
    failed: Nx8Error | None
    waiting: tuple[str, ...] = ()

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


def survey(cluster: Cluster, file: Path, *, only: Collection[str] | None = None) -> Survey:
    """Asks nodes, spares and the jump hosts before them for their keys; those behind a jump host only when
    its own key is the pinned one. `only` names whom to ask, else it is all of them.
    """
    shared = scan.settings(cluster, file)
    links = scan.links(shared, (*cluster.nodes, *cluster.spares))
    limit_s = cluster.ssh.connect_limit_s + cluster.ssh.auth_limit_s + 0.5
    keys: list[Shown] = []
    found: dict[str, dict[str, bytes]] = {}
    failed: dict[str, Nx8Error] = {}
    waiting: list[str] = []
    for names in _by_distance(links, only):
        trusted = [name for name in names if _pinned_way(links[name], keys)]
        waiting += [name for name in names if name not in trusted]
        answers = in_parallel(lambda name: scan.shown_keys(links[name]), trusted, limit_s=limit_s)
        for name, answer in answers.items():
            listed_as = links[name].listed_as
            if isinstance(answer, Nx8Error):
                # A jump host that cannot be reached is said once, not for every node behind it.
                if str(answer) not in map(str, failed.values()):
                    failed[name] = answer
                continue
            known = {key.kind: key.blob for key in shared.known_hosts.of(listed_as)}
            found[listed_as] = answer
            keys += compared(name, listed_as, answer, known)
    for gateway in shared.gateways.values():
        gateway.close()
    return Survey(
        file=file,
        keys=tuple(keys),
        found=found,
        failed=together(failed) if failed else None,
        waiting=tuple(waiting),
    )


def _by_distance(links: Mapping[str, Link], only: Collection[str] | None) -> list[list[str]]:
    """The names to be asked by the number of jump hosts before them."""
    found: dict[int, list[str]] = {}
    for name, link in links.items():
        if only is None or name in only:
            found.setdefault(len(list(scan.gateways(link))), []).append(name)
    return [found[distance] for distance in sorted(found)]


def _pinned_way(link: Link, keys: list[Shown]) -> bool:
    """Every jump host on the way has pinned keys, and shows no other where it was asked just now."""
    for gateway in scan.gateways(link):
        states = {key.state for key in keys if key.listed_as == gateway.listed_as}
        known = link.settings.known_hosts.of(gateway.listed_as)
        if not known or "changed" in states or (states and "pinned" not in states):
            return False
    return True


def fabric_address(cluster: Cluster, node: Node) -> str:
    """Where ranks of other nodes reach this one: its `fabric_address`, else its address, which for
    an alias is its HostName in the SSH configuration. Raises ConfigError (E250) for one that is no address.
    """
    found = node.fabric_address or scan.host_name(cluster, node)
    if not fits(HostName, found):
        raise ConfigError(
            Problem(
                code="E250",
                message=f"{node.name}: ranks cannot meet at {found!r}: wants {wants(HostName)}",
                help="correct its HostName in the SSH configuration, or set `fabric_address` of the node",
            )
        )
    return found


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
    Changed keys are written only with `replace`, gone ones removed only then; revoked ones never, and the
    lines that revoke them stay.
    """
    keys: dict[str, dict[str, bytes]] = {}
    stored = hosts_file.load(survey.file).keys
    revoked = tuple(known for known in stored if known.revoked)
    for known in stored:
        for name in () if known.revoked else known.names:
            keys.setdefault(name, {})[known.kind] = known.blob
    refused = {known.blob for known in revoked}
    written = 0
    held = {(key.listed_as, key.kind) for key in survey.changed} if not replace else set()
    stopped = {key.listed_as for key in survey.changed} if not replace else set()
    for name, shown in survey.found.items():
        found = {kind: blob for kind, blob in shown.items() if blob not in refused}
        if name in stopped:
            continue
        before = keys.get(name, {})
        written += sum(before.get(kind) != blob for kind, blob in found.items() if (name, kind) not in held)
        keys[name] = dict(found)
    hosts_file.store(survey.file, keys, revoked=revoked)
    return written


def pinned(cluster: Cluster, file: Path) -> dict[str, tuple[hosts_file.HostKey, ...]]:
    """The stored keys of each jump host, node and spare; none for one that was never pinned."""
    shared = scan.settings(cluster, file)
    links = scan.links(shared, (*cluster.nodes, *cluster.spares))
    return {name: shared.known_hosts.of(link.listed_as) for name, link in links.items()}
