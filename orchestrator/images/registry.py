"""Nodes and a registry: the login of a run, which ends with it, and an image that every node takes itself."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import docker
from orchestrator.errors import BuildError, ConfigError, Problem
from orchestrator.images.log import masked
from orchestrator.images.room import LOGIN
from orchestrator.remote.pool import failures
from orchestrator.text import Line, fits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.cluster import Login
    from orchestrator.images.room import Room
    from orchestrator.remote.pool import Pool
    from orchestrator.remote.remote import Remote
    from orchestrator.ui import View

LOGIN_LIMIT_S = 60.0
PULL_LIMIT_S = 3600.0
MAX_SECRET_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A login with its password, which is in no text of this value."""

    registry: str
    user: str
    password: str = field(repr=False)


def credentials(login: Login, *, home: Path, environment: Mapping[str, str]) -> Credentials:
    """`login` with its password. Raises ConfigError (E315) when it is not there, is empty, or is a file that
    others may read.
    """
    if login.password_env is not None:
        where = f"the variable {login.password_env}"
        secret = environment.get(login.password_env)
    else:
        where = f"the file {login.password_file}"
        secret = _read(home / Path(str(login.password_file)).expanduser(), where)
    if not secret:
        raise _unusable(where, "holds no password" if secret == "" else "is not there")
    if not fits(Line, secret):
        raise _unusable(where, "holds more than one line")
    return Credentials(registry=login.registry, user=login.user, password=secret)


def _read(path: Path, where: str) -> str | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise _unusable(
                    where, f"may be read by others (mode {stat.S_IMODE(mode):04o})", "chmod 600 it"
                )
            return file.read(MAX_SECRET_BYTES).decode("utf-8").removesuffix("\n").removesuffix("\r")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _unusable(where, f"cannot be read: {reason}") from None


def _unusable(where: str, what: str, next_step: str | None = None) -> ConfigError:
    return ConfigError(
        Problem(
            code="E315",
            message=f"image.login: {where} {what}",
            help=next_step or "its one line is the password of the registry's user",
        )
    )


@contextmanager
def logged_in(
    pool: Pool, who: Credentials | None, nodes: tuple[str, ...], room: Room, view: View
) -> Iterator[dict[str, str]]:
    """While open, docker on `nodes` may use the registry when it is given the variables that this yields.

    The login is in a folder of its own (mode 0700), never in that of the account, and goes with it. Raises
    BuildError (E318) naming every node whose login was refused.
    """
    if who is None:
        yield {}
        return
    folder = room.path(LOGIN)
    env = {"DOCKER_CONFIG": folder}

    def log_in(remote: Remote) -> None:
        argv = docker.login_argv(who.registry, user=who.user)
        done = remote.run(argv, stdin=who.password.encode("utf-8"), env=env, timeout_s=LOGIN_LIMIT_S)
        if done.rc != 0:
            said = masked(docker.last_words(done.stderr, rc=done.rc), (who.password,))
            raise BuildError(
                Problem(
                    code="E318",
                    message=f"{remote.name}: {who.registry} refused the login of {who.user}: {said}",
                    help="look at user and password, and whether the node reaches that registry",
                )
            )

    with room.opened(pool, nodes, LOGIN, view):
        view.phase("login", f"{who.user} at {who.registry}, on {', '.join(nodes)}")
        raise_all(pool.settle(log_in, nodes=nodes, gang=True))
        yield env


def pull(
    pool: Pool, reference: str, nodes: tuple[str, ...], *, env: Mapping[str, str], secrets: tuple[str, ...]
) -> None:
    """Every node takes `reference`. Raises BuildError (E317) naming all that could not."""

    def take(remote: Remote) -> None:
        done = remote.run(docker.pull_argv(reference), timeout_s=PULL_LIMIT_S, env=env)
        if done.rc != 0:
            said = masked(docker.last_words(done.stderr, rc=done.rc), secrets)
            raise BuildError(
                Problem(
                    code="E317",
                    message=f"{remote.name}: {reference} could not be pulled: {said}",
                    help="is it in the registry, does the node reach it, and does it want a login?",
                )
            )

    raise_all(pool.settle(take, nodes=nodes, gang=True))


def raise_all(heard: Mapping[str, object]) -> None:
    """One BuildError with the problems of every node that failed, each once."""
    problems = [one for error in failures(heard).values() for one in error.problems]
    if problems:
        raise BuildError(dict.fromkeys(problems))
