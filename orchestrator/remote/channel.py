"""One agent on one channel: a request out, its answer in. One request at a time."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from orchestrator.node import BOOTSTRAP, agent_source
from orchestrator.remote.errors import LinkLost, OverTime, Refused, RemoteError, ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import paramiko

BLOCK = 1 << 17
NOISE_LIMIT = 1 << 16
READY = b"nx8-agent "
#: An agent that rested longer is not asked any more: it ends by itself after twice that time.
REST_S = 15.0
#: Beyond the agent's own limit for a request before the host stops waiting for it.
GRACE_S = 8.0


class AgentChannel:
    """Raises LinkLost whenever the stream ends before an answer has."""

    def __init__(
        self, transport: paramiko.Transport, *, node: str, where: str, limit_s: float, silence_s: float
    ) -> None:
        self.node, self.where, self.silence_s = node, where, silence_s
        self.buffer = bytearray()
        self.number = 0
        self.ready = False
        self.used_s = time.monotonic()
        self.channel = transport.open_session(timeout=limit_s)
        self.channel.settimeout(limit_s)
        self.start_by = time.monotonic() + limit_s
        self.quiet_s: float | None = None
        self.heard: Callable[[bytes], object] | None = None
        # paramiko waits for the reply to `exec` without a limit of its own.
        guard = threading.Timer(limit_s, self.channel.close)
        guard.start()
        try:
            self.channel.exec_command(BOOTSTRAP)
            self.channel.sendall(agent_source())
        except Exception as error:
            if time.monotonic() >= self.start_by:
                raise self.over_time("starts no command") from error
            raise
        finally:
            guard.cancel()

    @property
    def alive(self) -> bool:
        rested_s = time.monotonic() - self.used_s
        return rested_s < REST_S and not (self.channel.closed or self.channel.eof_received)

    def close(self) -> None:
        self.channel.close()

    def ask(
        self,
        op: str,
        *,
        timeout_s: float,
        body: bytes | Iterable[bytes] = b"",
        heard: Callable[[bytes], object] | None = None,
        **fields: Any,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The answer's fields and parts. `heard` is given what a program says, while it says it.

        Raises RemoteError; ValueError when a text holds NUL.
        """
        self.number += 1
        request = {"id": self.number, "op": op, "timeout_s": timeout_s, **fields}
        self.heard = heard
        if heard is not None:
            request["live"] = True
        deadline = time.monotonic() + timeout_s + GRACE_S
        # Only a running program is accompanied by beats; an fsync may be silent for long.
        self.quiet_s = self.silence_s if op == "run" else None
        if op == "run":
            request["beat_s"] = self.silence_s / 4
        if isinstance(body, bytes):
            if body:
                request["payload"] = len(body)
            self.send(json.dumps(request).encode() + b"\n" + body, deadline)
        else:
            request["payload"] = "chunks"
            self.send(json.dumps(request).encode() + b"\n", deadline)
            self.pour(body, deadline)
        answer = self.answer(deadline)
        parts = [self.take(size, deadline) for size in answer.pop("parts")]
        if "error" in answer:
            raise self.said_no(op, answer)
        return answer, parts

    def pour(self, chunks: Iterable[bytes], deadline: float) -> None:
        """Sends chunks until they end or the program stops reading; told the agent if they broke off."""
        try:
            for chunk in self.until_stopped(chunks, deadline):
                for start in range(0, len(chunk), 1 << 20):
                    piece = bytes(chunk[start : start + (1 << 20)])
                    self.send(b"%d\n" % len(piece) + piece, deadline)
        except RemoteError:
            raise
        except BaseException:
            self.send(b"-1\n", deadline)
            self.close()
            raise
        self.send(b"0\n", deadline)

    def until_stopped(self, chunks: Iterable[bytes], deadline: float) -> Iterator[bytes]:
        for chunk in chunks:
            if chunk:
                yield chunk
            while self.channel.recv_ready() or b"\n" in self.buffer:
                self.start(deadline)
                if self.message(deadline).get("stop"):
                    return

    def send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        try:
            while view:
                self.channel.settimeout(max(0.01, deadline - time.monotonic()))
                view = view[self.channel.send(view[: 1 << 20]) :]
        except TimeoutError as error:
            self.close()
            raise self.over_time("takes no more bytes") from error
        except (OSError, EOFError) as error:
            raise self.lost() from error

    def start(self, deadline: float) -> None:
        """Reads past what the login shell says (.bashrc, banners) to the agent's own first line."""
        skipped = 0
        while not self.ready:
            line = self.line(min(deadline, self.start_by))
            skipped += len(line) + 1
            self.ready = line.startswith(READY)
            if skipped > NOISE_LIMIT:
                raise RemoteError.of(
                    "E207",
                    f"the login shell talks without end before our agent starts ({self.where})",
                    node=self.node,
                    phase="agent",
                    help="silence the shell's start-up files for logins without a terminal",
                )

    def answer(self, deadline: float) -> dict[str, Any]:
        """The next line that is an answer; beats and stops in between are passed over."""
        self.start(deadline)
        while True:
            answer = self.message(deadline)
            if (
                "parts" in answer
                and answer["id"] == self.number
                and not answer.get("beat")
                and not answer.get("stop")
            ):
                return answer

    def message(self, deadline: float) -> dict[str, Any]:
        """The next line; what a program said on the way is handed on."""
        while True:
            line: dict[str, Any] = json.loads(self.line(deadline))
            if not line.get("live"):
                return line
            said = self.take(line["parts"][0], deadline)
            if self.heard is not None:
                self.heard(said)

    def line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self.buffer.find(b"\n", searched)) < 0:
            searched = len(self.buffer)
            self.receive(deadline)
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return line

    def take(self, size: int, deadline: float) -> bytes:
        while len(self.buffer) < size:
            self.receive(deadline)
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def receive(self, deadline: float) -> None:
        try:
            left = max(0.01, deadline - time.monotonic())
            quiet = self.ready and self.quiet_s is not None and self.quiet_s < left
            self.channel.settimeout(self.quiet_s if quiet else left)
            data = self.channel.recv(BLOCK)
        except TimeoutError as error:
            self.close()
            if quiet:
                raise self.broken(f"no sign of life for {self.quiet_s:g} s") from error
            raise self.over_time("gives no answer") from error
        if not data:
            raise self.lost()
        self.buffer += data

    def over_time(self, what: str) -> RemoteError:
        return OverTime.of(
            "E208",
            f"{what} within its limit ({self.where})",
            node=self.node,
            phase="command" if self.ready else "agent",
            help="look at the node's load and disks, or raise the limit",
        )

    def lost(self) -> RemoteError:
        """The stream ended. Status -1, or none, is a lost link; an agent that never started is no Python."""
        self.channel.settimeout(1.0)
        status = self.channel.recv_exit_status() if self.channel.status_event.wait(1.0) else -1
        words = self.complaint()
        self.close()
        if status >= 0 and not self.ready:
            missing = "python3 is not there" if status == 127 else f"python3 ended with {status}"
            return RemoteError.of(
                "E207",
                f"our agent cannot start: {missing}{words} ({self.where})",
                node=self.node,
                phase="agent",
                help="install Python 3.6 or later as `python3` on the node",
            )
        ended = f"the agent ended with {status}{words}" if status >= 0 else "the stream broke off"
        return self.broken(ended)

    def broken(self, ended: str) -> RemoteError:
        return LinkLost.of(
            "E209",
            f"the connection was lost: {ended} ({self.where})",
            node=self.node,
            phase="command",
            help="nothing is known of how the command ended; look at the node and its network",
        )

    def complaint(self) -> str:
        """The last line of what the node's shell or the agent wrote to stderr."""
        text = b""
        while self.channel.recv_stderr_ready() and len(text) < NOISE_LIMIT:
            text += self.channel.recv_stderr(4096)
        lines = text.decode("utf-8", "replace").strip().splitlines()
        return f": {''.join(c for c in lines[-1][:200] if c.isprintable())}" if lines else ""

    def said_no(self, op: str, answer: dict[str, Any]) -> RemoteError:
        text, kind = answer["text"], answer["error"]
        if kind == "over_time":
            return self.over_time(f"`{op}` is {text}:")
        code = {"refused": "E218", "os": "E210"}.get(kind, "E219")
        error = Refused.of(
            code,
            f"`{op}` on the node: {text}",
            node=self.node,
            phase="file",
            help="look at the path, its owner and the space left there"
            if kind == "os"
            else "see docs/errors.md",
        )
        error.errno = answer.get("errno")
        return error


def opened(
    transport: paramiko.Transport, *, node: str, where: str, limit_s: float, silence_s: float
) -> AgentChannel:
    """An agent on a new channel. Raises RemoteError."""
    try:
        return AgentChannel(transport, node=node, where=where, limit_s=limit_s, silence_s=silence_s)
    except RemoteError:
        raise
    except Exception as error:
        raise ours(error, node=node, phase="agent", where=where) from error


def ping(transport: paramiko.Transport, *, node: str, where: str, limit_s: float) -> float:
    """Seconds until the login shell has run the constant command `true`, on a channel of its own. Raises
    RemoteError.
    """
    began = time.monotonic()
    try:
        with transport.open_session(timeout=limit_s) as channel:
            # paramiko waits for the reply to `exec` without a limit of its own.
            guard = threading.Timer(limit_s, channel.close)
            guard.start()
            try:
                channel.exec_command("true")
                ended = channel.status_event.wait(max(0.0, began + limit_s - time.monotonic()))
            finally:
                guard.cancel()
            status = channel.recv_exit_status() if ended else -1
    except Exception as error:
        raise ours(error, node=node, phase="command", where=where) from error
    took = time.monotonic() - began
    if status == 0:
        return took
    ended_how = f"`true` ended with {status}" if status > 0 else f"`true` did not end within {limit_s:g} s"
    raise LinkLost.of(
        "E209",
        f"the login shell runs no command: {ended_how} ({where})",
        node=node,
        phase="command",
        help="log in by hand with the same account and look at its shell",
    )
