"""The same image on every node: built once, handed to the others, proven equal before anything starts."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.errors import BuildError, Nx8Error, Problem
from orchestrator.results import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Completed, Remote
    from orchestrator.render import Context
    from orchestrator.ui import View

BUILD_LIMIT_S = 3600.0
INSPECT_LIMIT_S = 20.0
#: Bytes that wait between the node that saves and the one that loads, at most.
IN_FLIGHT = 16
LAST_LINES = 50


def built(pool: Pool, context: Context, *, nodes: tuple[str, ...], folder: str, log: Path, view: View) -> str:
    """Makes sure that every node holds the image of `context`; returns its identifier, equal everywhere.

    An image that all of them hold already is used as it is; `folder` is where a node may put it down on the
    way. Raises BuildError: E311 with the last lines of a failed build, E312 when it could not be handed on,
    E313 when identifiers differ in the end.
    """
    found = image_ids(pool, context.tag, nodes)
    if len(set(found.values())) == 1 and (only := found[nodes[0]]) is not None:
        view.phase("image", f"{context.tag}  {only[:19]}, on every node already")
        return only
    builder = next((name for name in nodes if found[name] is not None), nodes[0])
    if found[builder] is None:
        view.phase("build", f"{context.tag} on {builder}, from {context.base}")
        build(pool[builder], context, log=log)
        found = image_ids(pool, context.tag, nodes)
    wanted = found[builder]
    missing = tuple(name for name in nodes if found[name] != wanted)
    if missing:
        view.phase("image", f"{context.tag}  from {builder} to {', '.join(missing)}")
        hand_on(pool, builder, missing, context.tag, folder=folder)
        found = image_ids(pool, context.tag, nodes)
    if wanted is None or set(found.values()) != {wanted}:
        seen = ", ".join(f"{name}: {(one or 'none')[:19]}" for name, one in found.items())
        raise BuildError(Problem(code="E313", message=f"{context.tag} is not the same on every node: {seen}"))
    return wanted


def image_ids(pool: Pool, tag: str, nodes: tuple[str, ...]) -> dict[str, str | None]:
    """The identifier of `tag` on each node; None where there is none."""

    def ask(remote: Remote) -> str | None:
        done = remote.run(docker.image_argv(tag), timeout_s=INSPECT_LIMIT_S)
        found = docker.read_image(done.stdout) if done.rc == 0 else None
        return found.id if isinstance(found, docker.ImageFacts) else None

    return pool.each(ask, nodes=nodes, limit_s=INSPECT_LIMIT_S + 5.0)


def build(remote: Remote, context: Context, *, log: Path) -> None:
    """`docker build` on one node, its whole output kept in `log`."""
    argv = docker.build_argv(
        context.tag, build_args=context.build_args, labels={"nx8.context": context.sha256}
    )
    # The classic builder is the one that every engine has; BuildKit needs a plug-in on newer ones.
    done = remote.run(argv, stdin=context.tar, timeout_s=BUILD_LIMIT_S, env={"DOCKER_BUILDKIT": "0"})
    output = done.stdout + done.stderr
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(log, output)
    if done.rc != 0:
        raise BuildError(_failed(remote, done, output, log))


def _failed(remote: Remote, done: Completed, output: bytes, log: Path) -> Problem:
    lines = output.decode("utf-8", "replace").splitlines()[-LAST_LINES:]
    shown = "\n".join("".join(char if char.isprintable() else " " for char in line) for line in lines)
    return Problem(
        code="E311",
        message=f"{remote.name}: docker build exited {done.rc}",
        help=f"its last {len(lines)} lines (all of it: {log}):\n{shown}",
    )


def hand_on(pool: Pool, source: str, targets: tuple[str, ...], tag: str, *, folder: str) -> None:
    """`docker save` on one node, `docker load` on the others, streamed through here and never held whole."""
    archive = _saved(pool[source], tag, folder)
    try:
        heard = pool.settle(lambda remote: _load(pool[source], remote, archive), nodes=targets)
    finally:
        pool[source].run(("rm", "-f", "--", archive), timeout_s=INSPECT_LIMIT_S)
    problems = [one for value in heard.values() if isinstance(value, Nx8Error) for one in value.problems]
    if problems:
        raise BuildError(problems)


def _saved(remote: Remote, tag: str, folder: str) -> str:
    path = f"{folder}/{tag.replace(':', '-')}.tar"
    remote.make_dirs(folder)
    *words, image = docker.save_argv(tag)
    done = remote.run((*words, f"--output={path}", image), timeout_s=BUILD_LIMIT_S)
    if done.rc != 0:
        raise BuildError(_not_handed_on(remote, done))
    return path


def _load(source: Remote, target: Remote, path: str) -> None:
    done = target.stream(docker.load_argv(), _pieces(source, path), timeout_s=BUILD_LIMIT_S)
    if done.rc != 0:
        raise BuildError(_not_handed_on(target, done))


def _not_handed_on(remote: Remote, done: Completed) -> Problem:
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = "".join(char for char in said[-1][:300] if char.isprintable()) if said else f"exit {done.rc}"
    return Problem(
        code="E312",
        message=f"{remote.name}: `{' '.join(done.argv[:2])}` failed: {last}",
        help="is there room on the node's docker disk?",
    )


def _pieces(source: Remote, path: str) -> Iterator[bytes]:
    """The file, read ahead by a thread of its own so that reading and loading overlap."""
    waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=IN_FLIGHT)

    def read() -> None:
        try:
            source.fetch(path, waiting.put, timeout_s=BUILD_LIMIT_S)
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the pieces are used
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    while (piece := waiting.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        yield piece
