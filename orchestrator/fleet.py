"""A run's stages on nodes reached over SSH: connect, look, lock, hand out data and image, train, let go."""

from __future__ import annotations

import getpass
import os
import platform
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from orchestrator import data
from orchestrator.build import built
from orchestrator.containers import started
from orchestrator.errors import BusyError, Nx8Error, PreflightError, Problem
from orchestrator.hosts import known_hosts_file
from orchestrator.preflight import preflight
from orchestrator.remote.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator.containers import Containers
    from orchestrator.plan import Cell, Plan
    from orchestrator.remote.remote import Remote
    from orchestrator.render import Context
    from orchestrator.results import RunFolder
    from orchestrator.selection import Selection
    from orchestrator.ui import View
    from orchestrator.workspace import Workspace

COPY_LIMIT_S = 1800.0
UNLOCK_LIMIT_S = 30.0
#: A probe that nobody ends by itself ends after this long, in seconds.
MONITOR_LIMIT_S = 7 * 24 * 3600.0


class Fleet:
    """The connected nodes of one run. Leaving it releases the locks and closes every connection."""

    def __init__(self, workspace: Workspace, selection: Selection, view: View) -> None:
        self._workspace = workspace
        self._selection = selection
        self._view = view
        self._exits = ExitStack()
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        cluster = self._selection.cluster
        known = known_hosts_file(self._workspace, self._selection.cluster_name, cluster)
        self._view.phase("connect", f"{len(cluster.nodes)} nodes of {self._selection.cluster_name}")
        self._pool = self._exits.enter_context(Pool.open(cluster, cluster.nodes, known))
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

    def looked_at(self, planned: Plan) -> dict[str, Any]:
        """The facts of every node. Raises PreflightError naming all that cannot run the plan."""
        facts = preflight(self.pool, planned, self._selection.cluster, self._selection.vendor)
        return {name: asdict(one) for name, one in facts.items()}

    def prepare(
        self, planned: Plan, folder: RunFolder, contexts: Mapping[str, Context], data_dir: Path
    ) -> dict[str, str]:
        """Takes the nodes, brings data and images to them; returns each image's identifier, by its tag.

        Raises BusyError, PreflightError and BuildError.
        """
        self._exits.enter_context(self._locked(planned))
        for name in {cell.job.data.file.rpartition("/")[2] for cell in planned.cells}:
            hand_out(
                self.pool,
                name.removesuffix(".tokens"),
                source=data_dir,
                folder=self._selection.cluster.data_dir,
                nodes=self.names,
                view=self._view,
            )
        return {
            context.tag: built(
                self.pool,
                context,
                nodes=self.names,
                folder=f"{self._selection.cluster.work_dir}/images",
                log=folder.path / f"build-{engine}.log",
                view=self._view,
            )
            for engine, context in contexts.items()
        }

    @contextmanager
    def launched(self, cell: Cell, folder: RunFolder) -> Iterator[Containers]:
        with started(
            self.pool,
            cell,
            folder.cell(cell.cell_id),
            work_dir=str(self._selection.cluster.work_dir),
            limit_s=MONITOR_LIMIT_S,
        ) as containers:
            yield containers

    @contextmanager
    def _locked(self, planned: Plan) -> Iterator[None]:
        """One run at a time on a node: locks in the nodes' sorted order, all let go on the first loss."""
        work_dir = self._selection.cluster.work_dir
        owner = {
            "token": planned.identity.nonce,
            "run": planned.identity.run_id,
            "user": getpass.getuser(),
            "host": platform.node(),
            "pid": os.getpid(),
            "since": planned.identity.created_utc,
        }
        taken: list[str] = []
        path = f"{work_dir}/lock"
        try:
            for name in sorted(self.names):
                remote = self.pool[name]
                remote.make_dirs(str(work_dir))
                taken.append(name)  # before the answer, which may be lost; only our own lock is ever removed
                lock = remote.lock_dir(path, owner)
                if not lock.won:
                    taken.pop()
                    raise BusyError(_busy(name, path, lock.owner))
            yield
        finally:
            heard = self.pool.settle(
                lambda remote: remote.unlock_dir(path, owner), nodes=taken, limit_s=UNLOCK_LIMIT_S
            )
            for name, value in heard.items():
                if isinstance(value, Nx8Error):
                    self._view.phase("warning", f"{name} may still be locked: remove {path} there; {value}")
            self.pool.settle(
                lambda remote: remote.remove_tree(
                    f"{work_dir}/runs/{planned.identity.run_id}", root=f"{work_dir}/runs"
                ),
                nodes=taken,
                limit_s=UNLOCK_LIMIT_S,
            )


def hand_out(pool: Pool, name: str, *, source: Path, folder: str, nodes: tuple[str, ...], view: View) -> None:
    """Every node gets the token file `name` of `source` in its `folder`: what is missing is copied and proven
    by its SHA-256, what is there and wrong is named. Raises ConfigError or PreflightError (E237).
    """
    manifest = data.verify(source, name)
    target = f"{folder}/{name}.tokens"
    held = {
        node: value[0] for node, value in pool.each(lambda remote: remote.sha256(target), nodes=nodes).items()
    }
    wrong = [node for node, digest in held.items() if digest not in (None, manifest.sha256)]
    if wrong:
        raise PreflightError(_not_the_data(node, target, held[node], manifest.sha256) for node in wrong)
    missing = [node for node, digest in held.items() if digest is None]
    if not missing:
        return
    view.phase("data", f"{name} to {', '.join(missing)}")

    def copy(remote: Remote) -> None:
        remote.make_dirs(folder)
        arrived = remote.write(target, data.chunks(data.token_file(source, name)), timeout_s=COPY_LIMIT_S)
        if arrived != manifest.sha256:
            raise PreflightError(_not_the_data(remote.name, target, arrived, manifest.sha256))

    pool.each(copy, nodes=missing)


def _not_the_data(node: str, target: str, seen: str | None, wanted: str) -> Problem:
    return Problem(
        code="E237",
        message=f"{node}: {target} is not the data of the plan: its sha256 is {seen}",
        help=f"planned is {wanted}; remove the file there, or plan with that data",
    )


def _busy(node: str, path: str, owner: dict[str, Any] | None) -> Problem:
    if owner is None:
        return Problem(
            code="E601",
            message=f"{node}: {path} is taken, and does not say by whom",
            help="look there, then remove it",
        )
    who = f"{owner.get('user')} on {owner.get('host')} (pid {owner.get('pid')})"
    return Problem(
        code="E601",
        message=f"{node} is busy: run {owner.get('run')} of {who}, since {owner.get('since')}",
        help=f"wait for it; if that process is gone, remove {path} on the node",
    )
