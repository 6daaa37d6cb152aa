"""The docker SDK against an engine that stops answering: a real socket, as much HTTP as the SDK asks for."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from orchestrator import engine
from orchestrator.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VERSION = b'{"ApiVersion": "1.41", "Version": "20.10"}'
SAID = b'{"stream": "Step 1/2"}\r\n'
LIMIT_S = 1.0


@contextlib.contextmanager
def an_engine(path: Path, then: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Says its version, begins every other answer, and goes on as `then` does."""
    done = threading.Event()

    def answer(client: socket.socket) -> None:
        with client:
            asked = b""
            while b"\r\n\r\n" not in asked:
                more = client.recv(65536)
                if not more:
                    return
                asked += more
            if asked.startswith(b"GET /version"):
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(VERSION), VERSION)
                )
                return
            client.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"%x\r\n%s\r\n" % (len(SAID), SAID)
            )
            then(client, done)

    def serve() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    server.settimeout(0.2)
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield str(path)
    finally:
        done.set()
        server.close()


def stays_silent(_client: socket.socket, done: threading.Event) -> None:
    done.wait(120)


def dies(client: socket.socket, _done: threading.Event) -> None:
    client.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("then", [stays_silent, dies])
def test_a_build_that_an_engine_leaves_half_way_is_cut(tmp_path: Path, then: Callable[..., None]) -> None:
    heard: list[bytes] = []
    with (
        an_engine(tmp_path / "docker.sock", then) as path,
        engine.opened(path) as opened,
        pytest.raises(engine.Cut, match="the build was cut"),
    ):
        opened.build(b"x" * 1024, tag="a:b", build_args={}, labels={}, heard=heard.append, limit_s=LIMIT_S)
    assert b"Step 1/2" in b"".join(heard)


@pytest.mark.timeout(90)
def test_an_engine_that_dies_while_it_saves_is_an_error_of_ours(tmp_path: Path) -> None:
    with (
        an_engine(tmp_path / "docker.sock", dies) as path,
        engine.opened(path) as opened,
        (tmp_path / "image.tar").open("wb") as file,
        pytest.raises(BuildError, match="E320"),
    ):
        opened.save("a:b", file)
