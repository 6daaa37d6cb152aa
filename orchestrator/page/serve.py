"""The same pages over HTTP, for who reads them through an SSH tunnel: this machine's loopback only, reading
only, nothing but the index and the pages of runs.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Nx8Error, Problem
from orchestrator.page import page_of
from orchestrator.page.html import index_html
from orchestrator.page.site import History, index_view
from orchestrator.results import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.workspace import Workspace

PORT = 8321
#: A reader that says nothing for so long is let go.
IDLE_S = 30.0
_RUN = re.compile(r"/runs/([A-Za-z0-9][A-Za-z0-9._+-]{0,126})\.html")
#: Names that a browser on this machine, or at the other end of a tunnel, calls it by.
NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def server(workspace: Workspace, *, address: str = "127.0.0.1", port: int = PORT) -> ThreadingHTTPServer:
    """A server that listens already; `serve_forever` answers. Port 0 takes a free one.

    Raises ConfigError: E831 for an address that is not this machine's loopback, E832 where it cannot listen.
    """
    host = _loopback(address)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    try:
        made = Server((host, port), _handler(workspace, host))
    except OSError as error:
        help_ = "nx8 serve --port N   takes another; 0 a free one"
        message = f"cannot listen on {host} port {port}: {error.strerror}"
        raise ConfigError(Problem(code="E832", message=message, help=help_)) from error
    return made


def _loopback(address: str) -> str:
    """The address as numbers; a name other than localhost is none, whatever it leads to."""
    text = {"localhost": "127.0.0.1"}.get(address, address).strip("[]")
    try:
        found = ipaddress.ip_address(text)
        if found.is_loopback:
            return str(found)
    except ValueError:
        pass
    raise ConfigError(
        Problem(
            code="E831",
            message=f"{address[:80]!a} is not this machine's loopback: pages are served to this machine only",
            help="from elsewhere, through SSH: ssh -L 8321:127.0.0.1:8321 HOST   and open http://127.0.0.1:8321/"
            "   (or copy report.html: it is one file)",
        )
    )


def _shown(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _handler(workspace: Workspace, host: str) -> type[BaseHTTPRequestHandler]:
    names = NAMES | {_shown(host)}

    class Handler(BaseHTTPRequestHandler):
        server_version = "nx8"
        sys_version = ""
        timeout = IDLE_S

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _refuse(self) -> None:
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, "read only\n", body=True, kind="text/plain")

        do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = _refuse  # noqa: N815 - http.server's names

        def _answer(self, *, body: bool) -> None:
            # A name that leads here by someone's DNS is not ours: its pages could read these.
            name = re.sub(r":\d+$", "", self.headers.get("Host", ""))
            if name not in names:
                self._send(HTTPStatus.MISDIRECTED_REQUEST, "not my name\n", body=body, kind="text/plain")
                return
            status, text, kind = _page(workspace, self.path.split("?", 1)[0])
            self._send(status, text, body=body, kind=kind)

        def _send(self, status: HTTPStatus, text: str, *, body: bool, kind: str) -> None:
            data = text.encode("utf-8")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
            """A reader's requests are nobody's business."""

    return Handler


def _page(workspace: Workspace, path: str) -> tuple[HTTPStatus, str, str]:
    """(status, text, media type) of one address."""
    if path in ("/", "/index.html"):
        view = index_view(History.read(workspace.runs), link=lambda name: f"/runs/{name}.html")
        return HTTPStatus.OK, index_html(view), "text/html"
    found = _RUN.fullmatch(path)
    if found is None:
        return HTTPStatus.NOT_FOUND, "there is no such page\n", "text/plain"
    try:
        folder = RunFolder.find(workspace.runs, found[1])
        return HTTPStatus.OK, page_of(folder, workspace, index="/"), "text/html"
    except Nx8Error as error:
        return HTTPStatus.NOT_FOUND, "\n".join(one.message for one in error.problems) + "\n", "text/plain"


def serve(workspace: Workspace, *, address: str, port: int, said: Callable[[str], None]) -> None:
    """Answers until it is interrupted; `said` gets the address once it listens."""
    with server(workspace, address=address, port=port) as made:
        host, number = made.server_address[:2]
        said(f"http://{_shown(str(host))}:{number}/")
        made.serve_forever()
