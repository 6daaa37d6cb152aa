"""A Docker Engine behind a socket of this machine, driven by the docker SDK. Only home of that SDK.

Nodes are driven by docker's own command over their connection instead (see remote/): what runs there can be
repeated by hand, and their sockets need no way to here.
"""

from __future__ import annotations

import io
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from orchestrator.errors import BuildError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SOCKET = "/var/run/docker.sock"
#: The longest silence of an engine that works: a step of a build may say nothing for this long, in seconds.
SILENCE_S = 600.0


class Cut(Exception):  # noqa: N818 - what happened, as LinkLost
    """A build or an answer that did not come to its end."""


class Engine:
    """Methods raise BuildError (E320) when the engine does not answer."""

    def __init__(self, client: Any, socket: str) -> None:
        self._client = client
        self._socket = socket

    def image_id(self, tag: str) -> str | None:
        import docker.errors  # type: ignore[import-untyped]

        with self._answering():
            try:
                return str(self._client.inspect_image(tag)["Id"])
            except docker.errors.ImageNotFound:
                return None

    def login(self, *, registry: str, user: str, password: str) -> None:
        """For this object alone: nothing is written to the account's own settings."""
        with self._answering(f"the login of {user} at {registry}"):
            self._client.login(user, password, registry=registry, reauth=True)

    def build(
        self,
        context: bytes,
        *,
        tag: str,
        build_args: Mapping[str, str],
        labels: Mapping[str, str],
        heard: Callable[[bytes], object],
        limit_s: float,
    ) -> None:
        """Builds a context that is a tar; `heard` is given what the builder says. Raises Cut with the reason
        when it fails or takes longer than `limit_s`.
        """
        import docker.errors
        import requests
        import urllib3

        deadline = time.monotonic() + limit_s
        try:
            for said in self._client.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=tag,
                buildargs=dict(build_args),
                labels=dict(labels),
                rm=True,
                forcerm=True,
                decode=True,
                # The SDK asks for no limit at all unless it is told one.
                timeout=min(SILENCE_S, limit_s),
            ):
                heard(str(said.get("stream", "")).encode("utf-8", "replace"))
                if "error" in said:
                    heard(f"{said['error']}\n".encode("utf-8", "replace"))
                    raise Cut("docker build failed")
                if time.monotonic() > deadline:
                    raise Cut(f"the build was cut after {limit_s:g} s")
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise Cut(f"the build was cut: {_words(error)}") from error

    def save(self, tag: str, file: IO[bytes]) -> int:
        """Writes `docker save` of one image to `file`; returns its size."""
        size = 0
        with self._answering():
            for piece in self._client.get_image(tag):
                size += file.write(piece)
            file.flush()
        return size

    @contextmanager
    def _answering(self, doing: str | None = None) -> Iterator[None]:
        import docker.errors
        import requests
        import urllib3

        try:
            yield
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise _silent(self._socket, error, doing) from error


@contextmanager
def opened(socket: str | None = None) -> Iterator[Engine]:
    """The engine behind `socket`, its version agreed upon. Raises BuildError (E320)."""
    import docker
    import docker.errors
    import requests

    path = socket or SOCKET
    try:
        client = docker.APIClient(base_url=f"unix://{path}", version="auto", timeout=SILENCE_S)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _silent(path, error) from error
    try:
        yield Engine(client, path)
    finally:
        client.close()


def _silent(socket: str, error: BaseException, doing: str | None = None) -> BuildError:
    what = f"{doing}: {_words(error)}" if doing else f"it does not answer: {_words(error)}"
    return BuildError(
        Problem(
            code="E320",
            message=f"the Docker Engine at {socket} of this machine: {what}",
            help="is it running, and may this account use its socket? image: {source: build} needs none here",
        )
    )


def _words(error: BaseException) -> str:
    text = str(getattr(error, "explanation", None) or error).splitlines()
    return "".join(char for char in (text[-1] if text else type(error).__name__)[:300] if char.isprintable())
