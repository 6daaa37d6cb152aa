"""Our folder for images on a node: what is put there for a while, and that it goes again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Nx8Error
from orchestrator.images.links import patiently

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote
    from orchestrator.ui import View

CLEAR_LIMIT_S = 90.0
LOGIN, HAND_ON = FOLDERS = ("login", "hand-on")
#: Whoever wants to end a run does not wait long for a node that is gone.
CLEAR_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A folder of the same name on every node. One run at a time has it: whoever uses it holds the nodes."""

    root: str

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def sweep(self, pool: Pool, nodes: tuple[str, ...]) -> None:
        """Removes what a run left that was killed, or lost a node: a login above all."""

        def look(remote: Remote) -> None:
            paths = [self.path(name) for name in FOLDERS]
            for path, found in zip(paths, remote.stat(*paths), strict=True):
                if found["exists"]:
                    remote.remove_tree(path, root=self.root)

        pool.each(look, nodes=nodes)

    @contextmanager
    def opened(self, pool: Pool, nodes: tuple[str, ...], name: str, view: View) -> Iterator[None]:
        """An empty folder `name` (mode 0700) on each of `nodes`; it is removed afterwards, and what a run
        that was killed left there is removed before.
        """

        def make(remote: Remote) -> None:
            remote.make_dirs(self.root, marker=True)
            remote.remove_tree(self.path(name), root=self.root)
            remote.make_dirs(self.path(name))

        def clear(remote: Remote) -> tuple[str, ...]:
            return patiently(
                lambda: remote.remove_tree(self.path(name), root=self.root), limit_s=CLEAR_PATIENCE_S
            )

        try:
            pool.each(make, nodes=nodes)
            yield
        finally:
            for node, left in pool.settle(clear, nodes=nodes, limit_s=CLEAR_LIMIT_S).items():
                if left:
                    why = left.problems[0].message if isinstance(left, Nx8Error) else "; ".join(left)
                    view.phase("warning", f"{node}: remove {self.path(name)} there by hand: {why}")
