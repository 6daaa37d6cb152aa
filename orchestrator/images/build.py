"""`docker build` on nodes, in one of two ways.

The classic builder is the one that every engine has, so it is the rule. It cannot make the same image twice:
the times of its steps go into the image and into the layers, and it has no setting against that. BuildKit
can, with every time set to 0, where the engine keeps images in containerd's store; with its older stores the
engine drops that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.errors import BuildError, Nx8Error, Problem
from orchestrator.images.log import BuildLog, masked
from orchestrator.remote.errors import LinkLost, OverTime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote
    from orchestrator.render import Context

LOOK_LIMIT_S = 30.0
LOAD_LIMIT_S = 3600.0


def labels(context: Context) -> dict[str, str]:
    """By them an image says what it was built from, wherever it went since."""
    return {"nx8.context": context.sha256}


def build(
    remote: Remote,
    context: Context,
    *,
    log: Path,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    secrets: tuple[str, ...] = (),
) -> None:
    """Raises BuildError (E311) with the last lines of a build that failed or was cut; all that came of its
    output stays in `log`.
    """
    argv = docker.build_argv(context.tag, build_args=context.build_args, labels=labels(context))
    _built(
        remote,
        argv,
        context,
        BuildLog(log, secrets),
        limit_s=limit_s,
        env={**(env or {}), "DOCKER_BUILDKIT": "0"},
    )


def build_exactly(
    remote: Remote,
    context: Context,
    *,
    path: str,
    log: Path,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    secrets: tuple[str, ...] = (),
) -> None:
    """As `build`, by BuildKit and without a time in it; the node needs room for an archive at `path`."""
    argv = docker.exact_build_argv(
        context.tag, path=path, build_args=context.build_args, labels=labels(context)
    )
    _built(remote, argv, context, BuildLog(log, secrets), limit_s=limit_s, env=env)
    done = remote.run(docker.load_argv(path), timeout_s=LOAD_LIMIT_S)
    if done.rc != 0:
        said = masked(docker.last_words(done.stderr, rc=done.rc), secrets)
        raise BuildError(Problem(code="E312", message=f"{remote.name}: what it built does not load: {said}"))


def _built(
    remote: Remote,
    argv: tuple[str, ...],
    context: Context,
    log: BuildLog,
    *,
    limit_s: float,
    env: Mapping[str, str] | None,
) -> None:
    cut: Nx8Error | None = None
    with log:
        try:
            done = remote.run(argv, stdin=context.tar, timeout_s=limit_s, env=env, heard=log.heard)
        except (OverTime, LinkLost) as error:
            cut = error
    if cut is not None:
        raise BuildError(log.problem(f"the build was cut: {cut.problems[0].message}")) from cut
    if done.rc != 0:
        raise BuildError(log.problem(f"{remote.name}: docker build exited {done.rc}"))


def require_exact(pool: Pool, nodes: tuple[str, ...]) -> None:
    """Raises BuildError (E316) naming every node that cannot build the same image as another one."""

    def lacks(remote: Remote) -> str | None:
        if remote.run(docker.buildx_argv(), timeout_s=LOOK_LIMIT_S).rc != 0:
            return "docker has no buildx there"
        if not docker.keeps_blobs(remote.run(docker.info_argv(), timeout_s=LOOK_LIMIT_S).stdout):
            return "its engine does not keep images in containerd's store"
        return None

    found = pool.each(lacks, nodes=nodes, limit_s=2 * LOOK_LIMIT_S + 5.0)
    problems = [
        Problem(
            code="E316",
            message=f"{name} cannot build an image that is the same as another node's: {why}",
            help="image: {source: build} builds it once and hands it on; for `each`, install docker's buildx"
            ' and set {"features": {"containerd-snapshotter": true}} in the node\'s /etc/docker/daemon.json',
        )
        for name, why in found.items()
        if why is not None
    ]
    if problems:
        raise BuildError(problems)
