"""The same image on every node, from where the cluster file says, proven equal before anything starts.

archive.py knows what `docker save` writes, spool.py and handon.py bring it to nodes, build.py and registry.py
make and fetch it, room.py is our folder on a node, log.py what a build said, links.py what a lost link means.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import docker, engine
from orchestrator.cluster import ImageSource
from orchestrator.errors import BuildError, Problem
from orchestrator.images.build import build, build_exactly, labels, require_exact
from orchestrator.images.handon import hand_on, here, saved
from orchestrator.images.log import BuildLog
from orchestrator.images.registry import Credentials, credentials, logged_in, pull, raise_all
from orchestrator.images.room import HAND_ON, Room
from orchestrator.remote.pool import Pool
from orchestrator.ui import View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.remote.remote import Remote
    from orchestrator.render import Context

INSPECT_LIMIT_S = 20.0
#: The tag of a reference that also has a digest: docker keeps such an image by its digest alone.
TAG = re.compile(r":[A-Za-z0-9_.-]+(?=@)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What it takes to bring images to the nodes of one run. `folder` is the run's own, on this machine."""

    pool: Pool
    nodes: tuple[str, ...]
    source: ImageSource
    credentials: Credentials | None
    room: Room
    folder: Path
    view: View

    @classmethod
    def of(
        cls,
        pool: Pool,
        source: ImageSource,
        *,
        nodes: tuple[str, ...],
        work_dir: str,
        home: Path,
        folder: Path,
        view: View,
    ) -> Provider:
        """Raises ConfigError (E315) for a password that cannot be had."""
        login = source.login
        return cls(
            pool=pool,
            nodes=nodes,
            source=source,
            credentials=credentials(login, home=home, environment=os.environ) if login else None,
            room=Room(root=f"{work_dir}/images"),
            folder=folder,
            view=view,
        )

    def provide(self, contexts: Mapping[str, Context]) -> dict[str, str]:
        """The image of every engine on every node; its identifier, by its tag.

        Raises BuildError: E311 with the last lines of a build that failed or was cut, E312 when an image
        could not be handed on, E313 when identifiers differ in the end, E314 … E320 as docs/errors.md has
        them.
        """
        self.room.sweep(self.pool, self.nodes)
        return {context.tag: self._one(context, engine) for engine, context in contexts.items()}

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self.credentials.password,) if self.credentials else ()

    def _one(self, context: Context, engine: str) -> str:
        found = image_ids(self.pool, context, self.nodes)
        only = found[self.nodes[0]]
        if self.source.source != "pull" and only is not None and set(found.values()) == {only}:
            self.view.phase("image", f"{context.tag}  {only[:19]}, on every node already")
            return only
        ways: dict[str, Callable[[Context, str, dict[str, str | None]], str | None]] = {
            "build": self._built,
            "each": self._built_by_each,
            "pull": self._pulled,
            "host": self._built_here,
        }
        wanted = ways[self.source.source](context, engine, found)
        return proven(context.tag, wanted, image_ids(self.pool, context, self.nodes))

    def _built(self, context: Context, engine: str, found: dict[str, str | None]) -> str | None:
        builder = next((name for name in self.nodes if found[name] is not None), self.nodes[0])
        if found[builder] is None:
            with logged_in(self.pool, self.credentials, (builder,), self.room, self.view) as env:
                self.view.phase("build", f"{context.tag} on {builder}, from {context.base}")
                build(
                    self.pool[builder],
                    context,
                    log=self.folder / f"build-{engine}.log",
                    limit_s=self.source.build_limit_s,
                    env=env,
                    secrets=self._secrets,
                )
            found = image_ids(self.pool, context, self.nodes)
        wanted = found[builder]
        missing = tuple(name for name in self.nodes if found[name] != wanted)
        if wanted is not None and missing:
            self.view.phase("image", f"{context.tag}  from {builder} to {', '.join(missing)}")
            with saved(self.pool, builder, context.tag, self.room, self.folder, self.view) as source:
                hand_on(
                    self.pool, source, missing, context.tag, wanted=wanted, room=self.room, view=self.view
                )
        return wanted

    def _built_by_each(self, context: Context, engine: str, _: dict[str, str | None]) -> str | None:
        require_exact(self.pool, self.nodes)
        self.view.phase("build", f"{context.tag} on every node, from {context.base}")

        def one(remote: Remote) -> None:
            build_exactly(
                remote,
                context,
                path=f"{self.room.path(HAND_ON)}/built.tar",
                log=self.folder / f"build-{engine}-{remote.name}.log",
                limit_s=self.source.build_limit_s,
                env=env,
                secrets=self._secrets,
            )

        with (
            logged_in(self.pool, self.credentials, self.nodes, self.room, self.view) as env,
            self.room.opened(self.pool, self.nodes, HAND_ON, self.view),
        ):
            raise_all(self.pool.settle(one, nodes=self.nodes, gang=True))
        return image_ids(self.pool, context, self.nodes)[self.nodes[0]]

    def _pulled(self, context: Context, _engine: str, _found: dict[str, str | None]) -> str | None:
        reference = TAG.sub("", str(self.source.reference))
        held = self.pool.each(lambda remote: _facts(remote, reference), nodes=self.nodes)
        missing = tuple(name for name in self.nodes if held[name] is None)
        self.view.phase("image", f"{reference}, to be pulled by {', '.join(missing) or 'none: it is there'}")
        with logged_in(
            self.pool, self.credentials if missing else None, missing, self.room, self.view
        ) as env:
            pull(self.pool, reference, missing, env=env, secrets=self._secrets)
        held = self.pool.each(lambda remote: _facts(remote, reference), nodes=self.nodes)
        require_context(context, held)
        # The plan's containers are started by the context's own tag.
        tagged(self.pool, reference, context.tag, self.nodes)
        first = held[self.nodes[0]]
        return first.id if first else None

    def _built_here(self, context: Context, engine_name: str, found: dict[str, str | None]) -> str | None:
        with engine.opened(self.source.socket) as ours:
            if ours.image_id(context.tag) is None:
                self._build_here(ours, context, engine_name)
            wanted = ours.image_id(context.tag)
            missing = tuple(name for name in self.nodes if found[name] != wanted)
            if wanted is None or not missing:
                return wanted
            self.view.phase("image", f"{context.tag}  from this machine to {', '.join(missing)}")
            with tempfile.TemporaryFile(dir=self.folder, prefix=".image-") as file:
                source = here(file, size=ours.save(context.tag, file))
                hand_on(
                    self.pool, source, missing, context.tag, wanted=wanted, room=self.room, view=self.view
                )
        return wanted

    def _build_here(self, ours: engine.Engine, context: Context, engine_name: str) -> None:
        who = self.credentials
        if who is not None:
            ours.login(registry=who.registry, user=who.user, password=who.password)
        self.view.phase("build", f"{context.tag} on this machine, from {context.base}")
        log = BuildLog(self.folder / f"build-{engine_name}.log", self._secrets)
        try:
            with log:
                ours.build(
                    context.tar,
                    tag=context.tag,
                    build_args=context.build_args,
                    labels=labels(context),
                    heard=log.heard,
                    limit_s=self.source.build_limit_s,
                )
        except engine.Cut as error:
            raise BuildError(log.problem(f"this machine: {error}")) from error


def image_ids(pool: Pool, context: Context, nodes: tuple[str, ...]) -> dict[str, str | None]:
    """The identifier of the context's image on each node; None where there is none, or one that only has its
    name.
    """

    def ask(remote: Remote) -> str | None:
        found = _facts(remote, context.tag)
        return found.id if found and _is_of(context, found) else None

    return pool.each(ask, nodes=nodes, limit_s=INSPECT_LIMIT_S + 5.0)


def _is_of(context: Context, found: docker.ImageFacts) -> bool:
    return labels(context).items() <= found.labels.items()


def _facts(remote: Remote, tag: str) -> docker.ImageFacts | None:
    done = remote.run(docker.image_argv(tag), timeout_s=INSPECT_LIMIT_S)
    found = docker.read_image(done.stdout) if done.rc == 0 else None
    return found if isinstance(found, docker.ImageFacts) else None


def tagged(pool: Pool, image: str, tag: str, nodes: tuple[str, ...]) -> None:
    def name(remote: Remote) -> None:
        done = remote.run(docker.tag_argv(image, tag), timeout_s=INSPECT_LIMIT_S)
        if done.rc != 0:
            said = docker.last_words(done.stderr, rc=done.rc)
            raise BuildError(Problem(code="E317", message=f"{remote.name}: {image}: {said}"))

    raise_all(pool.settle(name, nodes=nodes))


def require_context(context: Context, found: Mapping[str, docker.ImageFacts | None]) -> None:
    """Raises BuildError (E319) when what was pulled was not built from this very context: another trainer in
    it would train something else under the plan's name.
    """
    problems = [
        Problem(
            code="E319",
            message=f"{name}: it was built from {facts.labels.get('nx8.context', 'unknown')[:12]}, "
            f"the plan's context is {context.sha256[:12]}",
            help="build it with this version of Nx8 and these files, push that, and name its digest",
        )
        for name, facts in found.items()
        if facts is not None and not _is_of(context, facts)
    ]
    if problems:
        raise BuildError(problems)


def proven(tag: str, wanted: str | None, found: Mapping[str, str | None]) -> str:
    """The identifier that every node has. Raises BuildError (E313) when that is not so."""
    if wanted is None or set(found.values()) != {wanted}:
        seen = ", ".join(f"{name}: {(one or 'none')[:19]}" for name, one in found.items())
        raise BuildError(
            Problem(
                code="E313",
                message=f"{tag} is not the same on every node: {seen}",
                help="image: {source: build} in the cluster file builds it once and hands it on",
            )
        )
    return wanted
