"""A run's stages on nodes reached over SSH: connect, look, lock, hand out data and image, train, let go."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from orchestrator import failpoints
from orchestrator.cluster import Cluster
from orchestrator.containers import monitor_limit_s, nodes_of, started
from orchestrator.containers.clearing import swept_everywhere, swept_over
from orchestrator.containers.onnode import said
from orchestrator.containers.salvaging import salvaged
from orchestrator.errors import BusyError, ConfigError, Nx8Error, PreflightError, Problem
from orchestrator.hosts import known_hosts_file
from orchestrator.images import Provider
from orchestrator.journal import moment_s
from orchestrator.lease import LOCK, Lease, owner_of
from orchestrator.load import load
from orchestrator.parcels import hand_out, needed
from orchestrator.preflight import preflight
from orchestrator.remote.connection import Settings
from orchestrator.remote.errors import RemoteError
from orchestrator.remote.patience import is_lost
from orchestrator.remote.pool import Pool
from orchestrator.versions import of_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator.containers import Containers
    from orchestrator.journal import Journal, Past
    from orchestrator.plan import Cell, Plan
    from orchestrator.remote.remote import Locked, Remote
    from orchestrator.render import Context
    from orchestrator.results import RunFolder
    from orchestrator.selection import Selection
    from orchestrator.signals import Signals
    from orchestrator.ui import View
    from orchestrator.workspace import Workspace

UNLOCK_LIMIT_S = 30.0


@contextmanager
def pool_of(workspace: Workspace, name: str) -> Iterator[tuple[Pool, Cluster]]:
    """Connections to all nodes of a cluster, each made when it is first asked. Raises ConfigError (E258)."""
    path = workspace.cluster_file(name)
    cluster = load(path, Cluster, shown_as=workspace.shown(path))
    if cluster.transport == "local":
        message = f"cluster {name} is this machine alone: nothing of a run outlives its process there"
        raise ConfigError(Problem(code="E258", message=message, help="nx8 ps"))
    with Pool(Settings.of(cluster, known_hosts_file(workspace, name, cluster)), cluster.nodes) as pool:
        yield pool, cluster


class Fleet:
    """The connected nodes of one run. Leaving it releases the locks and closes every connection."""

    def __init__(self, workspace: Workspace, selection: Selection, view: View, signals: Signals) -> None:
        self._workspace = workspace
        self._selection = selection
        self._view = view
        self._signals = signals
        self._images: dict[str, str] = {}
        self._time_limit_s: float | None = None
        self._containers: dict[str, Any] = {}
        self._exits = ExitStack()
        self._pool: Pool | None = None
        self._journal: Journal | None = None
        self._leases: dict[str, Lease] = {}

    def __enter__(self) -> Self:
        cluster = self._selection.cluster
        known = known_hosts_file(self._workspace, self._selection.cluster_name, cluster)
        self._view.phase("connect", f"{len(cluster.nodes)} nodes of {self._selection.cluster_name}")
        # Connected when they are looked at: one error then names those that are down and those that lack
        # something.
        self._pool = self._exits.enter_context(Pool(Settings.of(cluster, known), cluster.nodes))
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def pool(self) -> Pool:
        assert self._pool is not None, "the fleet is used inside its `with`"
        return self._pool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self._selection.cluster.nodes)

    def tell(self, event: str, **fields: Any) -> None:
        """To the journal; what concerns the way to a node also to whoever looks."""
        if self._journal is not None:
            self._journal.add(event, **fields)
        if event in ("drop", "reconnected", "lost"):
            words = {
                "drop": "the link broke, trying again",
                "reconnected": "the link is back",
                "lost": "lost",
            }
            why = f": {fields['why']}" if "why" in fields else ""
            self._view.phase("link", f"{fields['node']}: {words[event]}{why}")

    def looked_at(self, planned: Plan) -> dict[str, Any]:
        """The facts of every node. Raises PreflightError naming all that cannot run the plan."""
        facts = preflight(self.pool, planned, self._selection.cluster, self._selection.vendor)
        return {name: asdict(one) for name, one in facts.items()}

    def prepare(
        self,
        planned: Plan,
        folder: RunFolder,
        contexts: Mapping[str, Context],
        data_dir: Path,
        *,
        journal: Journal,
        past: Past | None = None,
    ) -> dict[str, Any]:
        """Takes the nodes, brings data and images to them; returns what each image is, by its tag. After
        another controller of the run (`past`) only what that one had not done.

        Raises ConfigError (E315), BusyError, PreflightError and BuildError.
        """
        cluster = self._selection.cluster
        self._journal = journal
        if past is not None and past.images is not None:
            self._images = dict(past.images["ids"])
            self._exits.enter_context(self._locked(planned, past=past))
            return dict(past.images["facts"])
        # Before anything is taken: it reads the password of a registry, where one is asked for.
        images = Provider.of(
            self.pool,
            cluster.image,
            nodes=self.names,
            work_dir=str(cluster.work_dir),
            home=self._workspace.home,
            folder=folder.path,
            view=self._view,
        )
        self._exits.enter_context(self._locked(planned, past=past))
        with self._signals.interruptible():
            try:
                self._images = self._handed_out(planned, images, contexts, data_dir)
            except RemoteError as error:
                if not is_lost(error):
                    raise
                self._view.phase("warning", f"{said(error)}; once more")
                self._images = self._handed_out(planned, images, contexts, data_dir)
            found = of_images(
                self.pool[self.names[0]],
                self._images,
                {one.tag: one.base for one in contexts.values()},
                self._selection.vendor,
                folder=f"{cluster.work_dir}/versions",
                labels={"nx8.run": planned.identity.run_id},
            )
        self.tell("prepared", images={"ids": self._images, "facts": found})
        failpoints.passed("prepared")
        return found

    def _handed_out(
        self, planned: Plan, images: Provider, contexts: Mapping[str, Context], data_dir: Path
    ) -> dict[str, str]:
        for name, elsewhere in needed(planned).items():
            hand_out(
                self.pool,
                name,
                source=data_dir,
                folder=self._selection.cluster.data_dir,
                nodes=self.names,
                view=self._view,
                images=elsewhere,
            )
        return images.provide(contexts)

    @contextmanager
    def launched(
        self, cell: Cell, folder: RunFolder, begun: dict[str, Any] | None = None
    ) -> Iterator[Containers]:
        """`begun` is the journal's entry of their start where another controller of this run made it."""
        if begun is None:
            self.tell("cell", cell=cell.cell_id, containers=[str(one.container) for one in cell.launches])
            failpoints.passed("cell.begun")
        with started(
            self.pool,
            cell,
            folder.cell(cell.cell_id),
            images=self._images,
            work_dir=str(self._selection.cluster.work_dir),
            monitor_limit_s=monitor_limit_s(cell, time_limit_s=self._time_limit_s),
            leases=self._leases,
            insisted=self._signals.insisted,
            begun_s=None if begun is None else moment_s(begun),
        ) as containers:
            self.tell("started", cell=cell.cell_id)
            try:
                yield containers
            finally:
                self._containers[cell.cell_id] = containers.record()

    def salvage(self, cell: Cell, folder: RunFolder) -> None:
        """Brings home what a cell wrote that nobody followed to its end; what is lacking is said."""
        cluster = self._selection.cluster
        self._view.phase("salvage", f"{cell.cell_id}: what it wrote that is on nodes only")
        nodes = nodes_of(self.pool, cell, folder.cell(cell.cell_id))
        for line in salvaged(
            self.pool,
            nodes,
            run_id=cell.job.run_id,
            runs=f"{cluster.work_dir}/runs",
            lease_s=cluster.lease_s,
            enough=self._signals.insisted,
        ):
            self._view.phase("warning", line)
        self._containers[cell.cell_id] = {name: node.record() for name, node in nodes.items()}

    def recall(self, cell_id: str, record: dict[str, Any]) -> None:
        """What another controller of this run had seen of a cell's containers."""
        self._containers[cell_id] = record

    def containers(self) -> dict[str, Any]:
        """By cell and node: the container as it was, for host.json."""
        return self._containers

    def remains(self) -> list[str]:
        """What stands on the nodes if we leave now, and when it goes by itself."""
        return [
            f"{name}: {LOCK} and the containers of {lease.owner['run']}; "
            f"its lease ends them in {lease.ends_in_s:.0f} s"
            for name, lease in self._leases.items()
        ]

    @contextmanager
    def _locked(self, planned: Plan, *, past: Past | None) -> Iterator[None]:
        """One run at a time on a node: locks in the nodes' sorted order, all let go on the first loss.

        From here on signals wait: what is taken is let go, also when they come again and again.
        """
        self._signals.held = True
        self._time_limit_s = planned.time_limit_s
        cluster = self._selection.cluster
        owner = _owner(planned, cluster)
        held = past.locked if past is not None else frozenset()
        leases = {
            name: Lease(self.pool[name], owner, lease_s=cluster.lease_s, tell=self.tell)
            for name in sorted(self.names)
        }
        resumed(
            self.pool,
            {name: lease for name, lease in leases.items() if name in held},
            planned.identity.run_id,
        )
        taken = [name for name in leases if name in held]
        try:
            for name, lease in leases.items():
                self._leases[name] = lease
                if name not in held:
                    taken.append(name)  # before the answer, which may be lost; only our own is ever removed
                    self._take(lease, taken)
                    self.tell("locked", node=name)
                failpoints.passed("lock.taken")
            failpoints.passed("locked")
            yield
        finally:
            self._let_go(taken, planned.identity.run_id, owner)

    def _take(self, lease: Lease, taken: list[str]) -> None:
        """Raises BusyError where another run holds the node, or a dead one's containers cannot be removed."""
        name = lease.remote.name
        lock = lease.take()
        if not lock.won:
            taken.pop()
            self._leases.pop(name)
            raise BusyError(_busy(name, LOCK, lock))
        if lock.over is not None:
            dead = lock.over.get("run")
            self._view.phase("lock", f"{name}: the lease of run {dead} had expired, and was taken over")
            swept_over(lease.remote, lock.over, root=f"{self._selection.cluster.work_dir}/runs")

    def _let_go(self, nodes: list[str], run_id: str, owner: dict[str, Any]) -> None:
        """Removes what may be left of the run, then the locks, but for a node where a container may still
        be: that one's lease is not renewed any more, and the node goes on by itself.
        """
        root = f"{self._selection.cluster.work_dir}/runs"
        for lease in self._leases.values():
            lease.hurry()
        left = swept_everywhere(self.pool, run_id, nodes=nodes, root=root)
        failpoints.passed("swept")
        for name, ones in left.items():
            for one in ones:
                self._view.phase("warning", f"{name}: {one}")
        kept = [name for name in nodes if any(one.container for one in left[name])]
        free = [name for name in nodes if name not in kept]
        for lease in self._leases.values():
            lease.pause()
        heard = self.pool.settle(lambda remote: _unlocked(remote, owner), nodes=free, limit_s=UNLOCK_LIMIT_S)
        silent = {name: value for name, value in heard.items() if isinstance(value, Nx8Error)}
        for name in (*kept, *silent):
            after = self._selection.cluster.lease_s
            self._view.phase(
                "warning", f"{name} is let go by its own lease, within {after:g} s; see `nx8 ps`, `nx8 clean`"
            )
        # False: the lock was not ours any more, as the node had ended our part.
        released = [name for name, value in heard.items() if value is True]
        self.tell("released", nodes=released, kept=[*kept, *silent])


def resumed(pool: Pool, leases: Mapping[str, Lease], run_id: str) -> None:
    """Goes on with what another controller of this run took, on all of its nodes at once. Raises
    PreflightError where a lease has expired since (E251), or a node cannot be asked (E260); then nothing was
    touched, none is renewed any more, and all end by themselves.
    """
    with ExitStack() as undo:
        for lease in leases.values():
            undo.callback(lease.pause)
        found = pool.settle(lambda remote: leases[remote.name].resume(), nodes=leases)
        silent = {name: value for name, value in found.items() if isinstance(value, Nx8Error)}
        lapsed = {name: value for name, value in found.items() if isinstance(value, str)}
        for name, error in silent.items():
            if leases[name].ends_in_s <= 0:
                lapsed[name] = (
                    f"{said(error)}; that was for longer than its lease of {leases[name].lease_s:g} s"
                )
        if lapsed:
            raise PreflightError(_lapsed(run_id, lapsed[name]) for name in leases if name in lapsed)
        if silent:
            raise PreflightError(_not_yet(run_id, error) for error in silent.values())
        undo.pop_all()


def _unlocked(remote: Remote, owner: dict[str, Any]) -> bool:
    released = remote.unlock_dir(LOCK, owner)
    failpoints.passed("unlocked")
    return released


def _owner(planned: Plan, cluster: Cluster) -> dict[str, Any]:
    """Who holds a node. Everyone there may read it, so the token only follows from the run's nonce."""
    return owner_of(
        token=hashlib.sha256(f"lock {planned.identity.nonce}".encode()).hexdigest()[:32],
        run_id=planned.identity.run_id,
        since=planned.identity.created_utc,
        lease_s=cluster.lease_s,
        runs=f"{cluster.work_dir}/runs",
    )


def _lapsed(run_id: str, why: str) -> Problem:
    return Problem(
        code="E251",
        message=f"run {run_id} cannot be resumed: {why}",
        help="what it had measured by then is kept; run again, and `nx8 clean` removes what is left on nodes",
    )


def _not_yet(run_id: str, error: Nx8Error) -> Problem:
    return Problem(
        code="E260",
        message=f"run {run_id} cannot be gone on with now: {said(error)}",
        help=f"mend that, then again within the lease: nx8 resume {run_id}",
    )


def _busy(node: str, path: str, lock: Locked) -> Problem:
    owner, lease = lock.owner, lock.lease
    if owner is None:
        return Problem(
            code="E601",
            message=f"{node}: {path} is taken, and does not say by whom",
            help="look there, then remove it",
        )
    who = f"{owner.get('user')} on {owner.get('host')} (pid {owner.get('pid')})"
    held = f"run {owner.get('run')} of {who}, since {owner.get('since')}"
    if lease is not None and lease.expired:
        return Problem(
            code="E601",
            message=f"{node} is busy: the lease of {held}, has expired, and the node is clearing it away",
            help="try again in a moment; if it stays, nx8 clean on that cluster names what does not go",
        )
    if lease is not None and lease.lease_s is not None:
        help_ = f"wait for it; it holds the node by a lease of {lease.lease_s:g} s, which ends when it dies"
    else:
        help_ = f"wait for it; if that process is gone, remove {path} on the node"
    return Problem(code="E601", message=f"{node} is busy: {held}", help=help_)
