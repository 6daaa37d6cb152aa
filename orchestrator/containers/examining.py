"""What is looked at before a cell that stands still is ended: where its ranks stand, what the probe and the
kernel of each node say. Nothing here decides anything, and nothing that fails here changes how a cell ends.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.errors import Nx8Error
from orchestrator.hung import DMESG, LOOK_LIMIT_S, PROBE, STACKS, kernel_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.containers.onnode import OnNode
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote

COMMAND_LIMIT_S = 10.0


def examine(nodes: Iterable[OnNode], pool: Pool) -> None:
    """All nodes at once, within LOOK_LIMIT_S and three commands each."""
    by_name = {node.launch.node: node for node in nodes if not node.ended}

    def look(remote: Remote) -> None:
        _look(by_name[remote.name])

    pool.settle(look, nodes=by_name, limit_s=LOOK_LIMIT_S + 3 * COMMAND_LIMIT_S)


def _look(node: OnNode) -> None:
    asked = _ran(node, docker.signal_argv(str(node.launch.container), "USR1"))
    said = {DMESG: kernel_words(_ran(node, ("dmesg",)) or b"")}
    if node.probe_argv:
        said[PROBE] = _ran(node, node.probe_argv) or b""
    for name, words in said.items():
        with suppress(OSError):  # a full disk here
            node.keep(name, words)
    if asked is not None:
        _await_stacks(node)


def _ran(node: OnNode, argv: tuple[str, ...]) -> bytes | None:
    """Both outputs of a command; None where it could not be asked for."""
    try:
        done = node.remote.run(argv, timeout_s=COMMAND_LIMIT_S)
    except Nx8Error:
        return None
    return done.stdout + done.stderr


def _await_stacks(node: OnNode) -> None:
    """Until the launcher has written them; they come home with the other files."""
    deadline = time.monotonic() + LOOK_LIMIT_S
    pause = threading.Event()
    path = f"{node.node_output}/{STACKS}"
    while time.monotonic() < deadline:
        try:
            (found,) = node.remote.stat(path)
        except Nx8Error:
            return
        if found.get("exists"):
            return
        pause.wait(0.2)
