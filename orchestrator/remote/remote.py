"""What can be done on one node. Commands are argument lists, carried as data to the node's agent."""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.remote import channel as agent_channel
from orchestrator.remote.connection import Link
from orchestrator.remote.errors import OverTime, Refused, RemoteError
from orchestrator.remote.patience import REPEATABLE, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from orchestrator.cluster import Node
    from orchestrator.remote.channel import AgentChannel
    from orchestrator.remote.connection import Settings

#: sshd's MaxSessions is 10 by default; the eleventh channel is refused.
MAX_CHANNELS = 8
KEEP_BYTES = 8 << 20
READ_BYTES = 4 << 20
FILE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a command ended. `rc` is negative for a signal, 127 or 126 when it was not there or not executable
    (`started` is then False). Of outputs longer than asked for, the first and last bytes are kept.
    """

    argv: tuple[str, ...]
    rc: int
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    started: bool = True

    @property
    def cut(self) -> bool:
        return self.stdout_bytes > len(self.stdout) or self.stderr_bytes > len(self.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a file held at an offset. `size` is the whole file's; a file that is not there has `missing`,
    one that cannot be read an `error`.
    """

    path: str
    offset: int
    data: bytes
    size: int = 0
    inode: int = 0
    missing: bool = False
    error: str | None = None

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    @property
    def eof(self) -> bool:
        return self.end >= self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """A detached process, named so that no other is ever signalled in its place."""

    pid: int
    start: int
    boot_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """A node's lock as the node sees it, by its own clock. `age_s` is None where the last renewal was before
    its last boot; `lease_s` where the owner promised none, and nothing ever expires. `ending`: why the keeper
    is about to end what the run left there.
    """

    owner: dict[str, Any] | None
    lease_s: float | None
    age_s: float | None
    expired: bool
    ending: str | None
    keeper: bool

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> LeaseState:
        return cls(**{name: state[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """Whether the lock is ours now, and the record of who holds it (None: it has no readable record). `over`
    is whose expired lease was taken over, `lease` what the node says of a lock that is another's.
    """

    won: bool
    owner: dict[str, Any] | None
    over: dict[str, Any] | None = None
    lease: LeaseState | None = None


class Remote:
    """One node. Every method raises RemoteError (LinkLost, OverTime, Refused) naming node and phase."""

    def __init__(self, settings: Settings, node: Node) -> None:
        self.node = node
        self.name = node.name
        self.settings = settings
        self.link = Link.to(settings, node)
        self.slots = threading.BoundedSemaphore(MAX_CHANNELS)
        self.idle: list[AgentChannel] = []
        self.lock = threading.Lock()
        self.closed = False
        #: While it says so, what can be asked twice is asked again when the link broke.
        self.hopeful: Callable[[], bool] = lambda: False

    @property
    def where(self) -> str:
        return self.link.where

    @property
    def drops(self) -> int:
        """How often the connection had to be made anew."""
        return self.link.drops

    def connect(self, *, limit_s: float | None = None) -> None:
        ssh = self.settings.cluster.ssh
        self.link.open(time.monotonic() + (limit_s or ssh.connect_limit_s + ssh.auth_limit_s))

    def close(self) -> None:
        """Ends what still runs in the foreground: each agent kills its program when its stream ends."""
        with self.lock:
            self.closed = True
            self.idle.clear()
        self.link.close()

    def __enter__(self) -> Remote:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self, *, limit_s: float) -> float:
        """Seconds until the constant command `true` has run in the login shell there: a node that answers
        without our entry, so without Python. Raises RemoteError: E209 when it ends otherwise.
        """
        with self.slots:
            self.connect()
            transport = self.link.connection.transport
            assert transport is not None
            return agent_channel.ping(transport, node=self.name, where=self.where, limit_s=limit_s)

    @contextmanager
    def agent(self) -> Iterator[AgentChannel]:
        """An agent for one request; kept for the next unless its stream is in doubt."""
        with self.slots:
            with self.lock:
                while self.idle and not self.idle[-1].alive:
                    self.idle.pop().close()
                agent = self.idle.pop() if self.idle else None
            if agent is None:
                self.connect()
                ssh = self.settings.cluster.ssh
                transport = self.link.connection.transport
                agent = agent_channel.opened(
                    transport,
                    node=self.name,
                    where=self.where,
                    limit_s=ssh.auth_limit_s,
                    silence_s=ssh.dead_link_s,
                )
            sound = False
            try:
                yield agent
                sound = True
            except RemoteError as error:
                sound = error.phase == "file"
                raise
            finally:
                if sound:
                    agent.used_s = time.monotonic()
                    with self.lock:
                        self.idle.append(agent)
                else:
                    agent.close()

    def ask(
        self,
        op: str,
        *,
        timeout_s: float,
        body: bytes | Iterable[bytes] = b"",
        heard: Callable[[bytes], object] | None = None,
        again: bool | None = None,
        **fields: Any,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """`again`: whether it may be asked twice; None leaves that to what it is."""
        refuse_nul(fields, node=self.name)

        def once() -> tuple[dict[str, Any], list[bytes]]:
            with self.agent() as agent:
                return agent.ask(op, timeout_s=timeout_s, body=body, heard=heard, **fields)

        if isinstance(body, bytes) and (op in REPEATABLE if again is None else again):
            return patiently(once, hopeful=lambda: not self.closed and self.hopeful())
        return once()

    # Commands

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        keep_bytes: int = KEEP_BYTES,
        heard: Callable[[bytes], object] | None = None,
        again: bool = False,
    ) -> Completed:
        """Runs a program to its end. It and its children are killed at `timeout_s`, and when we go away.
        `heard` is given both its outputs while it runs, in the order in which they came. `again`: it may be
        run anew where the link broke and nobody knows whether it was.
        """
        return self._run(
            argv,
            stdin,
            timeout_s=timeout_s,
            env=env,
            cwd=cwd,
            keep_bytes=keep_bytes,
            heard=heard,
            again=again,
        )

    def stream(
        self,
        argv: Sequence[str],
        chunks: Iterable[bytes],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> Completed:
        """Like `run`, with stdin from an iterator that is never held whole; it is left early when the program
        stops reading.
        """
        return self._run(argv, iter(chunks), timeout_s=timeout_s, env=env, cwd=None, keep_bytes=keep_bytes)

    def _run(
        self,
        argv: Sequence[str],
        body: bytes | Iterable[bytes],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None,
        cwd: str | None,
        keep_bytes: int,
        heard: Callable[[bytes], object] | None = None,
        again: bool = False,
    ) -> Completed:
        if isinstance(argv, str) or not argv:
            raise TypeError("argv is a list of words, never a line for a shell")
        words = tuple(argv)
        fields: dict[str, Any] = {"argv": words, "env": dict(env or {}), "cwd": cwd, "keep": keep_bytes}
        answer, parts = self.ask("run", timeout_s=timeout_s, body=body, heard=heard, again=again, **fields)
        if not answer["started"]:
            text = f"{words[0]}: {answer['text']}\n".encode()
            return Completed(
                argv=words,
                rc=127 if answer["errno"] == 2 else 126,
                stdout=b"",
                stderr=text,
                stdout_bytes=0,
                stderr_bytes=len(text),
                started=False,
            )
        if answer["timed_out"]:
            raise OverTime.of(
                "E208",
                f"`{' '.join(words[:3])}` was killed after {timeout_s:g} s{last_line(parts)}",
                node=self.name,
                phase="command",
                help="look at the node's load, or raise the limit",
            )
        return Completed(
            argv=words,
            rc=answer["rc"],
            stdout=parts[0] + parts[1],
            stderr=parts[2] + parts[3],
            stdout_bytes=answer["counts"][0],
            stderr_bytes=answer["counts"][1],
        )

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdout: str,
        stderr: str,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 10.0,
    ) -> Spawned:
        """Starts a program that outlives this connection; its output goes to files on the node."""
        fields: dict[str, Any] = {
            "argv": tuple(argv),
            "env": dict(env or {}),
            "cwd": cwd,
            "stdout": stdout,
            "stderr": stderr,
        }
        answer, _ = self.ask("spawn", timeout_s=timeout_s, **fields)
        return Spawned(pid=answer["pid"], start=answer["start"], boot_id=answer["boot_id"])

    def signal(self, process: Spawned, number: int, *, group: bool = True, timeout_s: float = 10.0) -> bool:
        """Sends a signal to what `spawn` started; 0 only asks. False when it has ended."""
        fields: dict[str, Any] = {"pid": process.pid, "start": process.start, "boot_id": process.boot_id}
        sent = int(signal.Signals(number)) if number else 0
        answer, _ = self.ask("signal", timeout_s=timeout_s, signal=sent, group=group and sent != 0, **fields)
        return bool(answer["alive"])

    # Files

    def read(
        self, wanted: Sequence[tuple[str, int, int]], *, timeout_s: float = FILE_LIMIT_S
    ) -> tuple[Piece, ...]:
        """Pieces of files: (path, offset, longest) each, in one round trip."""
        files = [{"path": path, "offset": offset, "limit": limit} for path, offset, limit in wanted]
        answer, parts = self.ask("read", timeout_s=timeout_s, files=files)
        return tuple(
            Piece(
                path=path,
                offset=offset,
                data=data,
                size=found.get("size", 0),
                inode=found.get("inode", 0),
                missing=bool(found.get("missing")),
                error=found.get("text"),
            )
            for (path, offset, _), found, data in zip(wanted, answer["files"], parts, strict=True)
        )

    def fetch(
        self, path: str, sink: Callable[[bytes], object], *, offset: int = 0, timeout_s: float = FILE_LIMIT_S
    ) -> int:
        """Hands the file from `offset` to its end to `sink`, piece by piece; returns the offset reached.
        Raises RemoteError (E210) when it is not there.
        """
        while True:
            (piece,) = self.read([(path, offset, READ_BYTES)], timeout_s=timeout_s)
            if piece.error:
                raise Refused.of(
                    "E210",
                    f"{path}: {piece.error}",
                    node=self.name,
                    phase="file",
                    help="was it written, and may our user read it?",
                )
            if piece.data:
                sink(piece.data)
            offset = piece.end
            if piece.eof or not piece.data:
                return offset

    def write(
        self,
        path: str,
        data: bytes | Iterable[bytes],
        *,
        mode: int = 0o600,
        timeout_s: float = FILE_LIMIT_S,
    ) -> str:
        """Whole or not at all: beside, synced, renamed. Returns the SHA-256 of what arrived."""
        body = data if isinstance(data, bytes) else iter(data)
        answer, _ = self.ask("write", timeout_s=timeout_s, body=body, path=path, mode=mode)
        return str(answer["sha256"])

    def append(
        self,
        path: str,
        chunks: bytes | Iterable[bytes],
        *,
        offset: int,
        mode: int = 0o600,
        sync: bool = True,
        timeout_s: float = FILE_LIMIT_S,
    ) -> int:
        """Goes on at `offset`, dropping what stood after it; returns the file's new size. Without `sync` a
        node that loses power may keep the size and lose the bytes.
        """
        body = chunks if isinstance(chunks, bytes) else iter(chunks)
        given: dict[str, Any] = {"path": path, "offset": offset, "mode": mode, "sync": sync}
        answer, _ = self.ask("append", timeout_s=timeout_s, body=body, **given)
        return int(answer["size"])

    def make_dirs(
        self, *paths: str, mode: int = 0o700, marker: bool = False, timeout_s: float = 10.0
    ) -> tuple[bool, ...]:
        """Folders of our user, with those above them; True for each that is new. With `marker` they are roots
        below which `remove_tree` works.
        """
        answer, _ = self.ask("make_dirs", timeout_s=timeout_s, paths=list(paths), mode=mode, marker=marker)
        return tuple(answer["made"])

    def remove_tree(self, path: str, *, root: str, timeout_s: float = FILE_LIMIT_S) -> tuple[str, ...]:
        """Removes what stands at `path` below the marked `root`; returns what could not be removed."""
        answer, _ = self.ask("remove_tree", timeout_s=timeout_s, path=path, root=root)
        return tuple(answer["left"])

    def lock_dir(
        self, path: str, owner: Mapping[str, Any], *, keeper: bytes = b"", timeout_s: float = 10.0
    ) -> Locked:
        """Takes the lock at `path`, whose folder exists; `owner` should hold a token nobody else has. With
        `lease_s` in it the lock is a lease, and the program `keeper` watches it there.
        """
        answer, _ = self.ask("lock", timeout_s=timeout_s, path=path, owner=dict(owner), body=keeper)
        state = answer.get("state")
        return Locked(
            won=answer["won"],
            owner=answer["owner"],
            over=answer.get("over"),
            lease=LeaseState.of(state) if state else None,
        )

    def renew(
        self,
        path: str,
        owner: Mapping[str, Any],
        *,
        counter: int,
        files: Sequence[str] = (),
        timeout_s: float = 10.0,
    ) -> str | None:
        """Changes the counter of our lease, and of the `files` that containers watch. Why there is no such
        lease any more, or None.
        """
        fields: dict[str, Any] = {"path": path, "owner": dict(owner), "counter": counter}
        answer, _ = self.ask("renew", timeout_s=timeout_s, again=False, files=list(files), **fields)
        return None if answer["held"] else str(answer["why"])

    def lease(self, path: str, *, timeout_s: float = 10.0) -> LeaseState | None:
        """What the node says of the lock at `path`; None where there is none."""
        state = self.ask("lease", timeout_s=timeout_s, path=path)[0]["state"]
        return LeaseState.of(state) if state else None

    def unlock_dir(self, path: str, owner: Mapping[str, Any], *, timeout_s: float = 15.0) -> bool:
        """False when the lock is not the one `owner` took."""
        answer, _ = self.ask("unlock", timeout_s=timeout_s, path=path, owner=dict(owner))
        return bool(answer["released"])

    def stat(self, *paths: str, timeout_s: float = 10.0) -> tuple[dict[str, Any], ...]:
        """exists, kind (file, folder, link …), size, mode, uid, mtime, inode of each; links not followed."""
        answer, _ = self.ask("stat", timeout_s=timeout_s, paths=list(paths))
        return tuple(answer["files"])

    def list(self, path: str, *, limit: int = 10_000, timeout_s: float = 30.0) -> dict[str, int]:
        """Plain files below a folder, path in it → size."""
        answer, _ = self.ask("list", timeout_s=timeout_s, path=path, limit=limit)
        return dict(answer["files"])

    def folders(self, path: str, *, timeout_s: float = 10.0) -> tuple[str, ...]:
        """Names of the folders in a folder; none where there is no such one."""
        return tuple(self.ask("folders", timeout_s=timeout_s, path=path)[0]["folders"])

    def sha256(self, *paths: str, timeout_s: float = 600.0) -> tuple[str | None, ...]:
        """None for each file that cannot be read."""
        answer, _ = self.ask("sha256", timeout_s=timeout_s, paths=list(paths))
        return tuple(found.get("sha256") for found in answer["files"])

    def disk(self, path: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """total_bytes, available_bytes, free_inodes of the file system that holds `path`, or will."""
        return self.ask("disk", timeout_s=timeout_s, path=path)[0]

    def free_port(
        self,
        address: str = "0.0.0.0",  # noqa: S104 - a probe, closed at once
        ports: Sequence[int] = (),
        *,
        timeout_s: float = 10.0,
    ) -> int | None:
        """A TCP port nobody listens on there: the first free one of `ports`, or any. None: all are taken."""
        port = self.ask("port", timeout_s=timeout_s, address=address, ports=list(ports))[0]["port"]
        return None if port is None else int(port)

    def texts(self, patterns: Sequence[str], *, limit_bytes: int, timeout_s: float = 10.0) -> dict[str, str]:
        """Path → text of every plain file that a pattern fits and that can be read, cut at `limit_bytes`."""
        answer, _ = self.ask("texts", timeout_s=timeout_s, patterns=list(patterns), limit=limit_bytes)
        return dict(answer["texts"])

    def hello(self, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """What the node is: hostname, os, kernel, python, user, uid, boot_id, clocks, memory_bytes, cpus; and
        `rtt_s` and `skew_s`, the node's wall clock less ours, uncertain by half the round trip.
        """
        with self.agent() as agent:
            agent.ask("stat", timeout_s=timeout_s, paths=[])
            before, wall = time.monotonic(), time.time()
            facts, _ = agent.ask("hello", timeout_s=timeout_s)
            rtt = time.monotonic() - before
        return {**facts, "rtt_s": rtt, "skew_s": facts["wall_s"] - (wall + rtt / 2)}


def refuse_nul(fields: Any, *, node: str) -> None:
    """No argument, name or path of a program can hold NUL; better said here than cut off there."""
    if "\\u0000" in json.dumps(fields).replace("\\\\", ""):
        raise RemoteError.of(
            "E217",
            "an argument holds a NUL byte, which no program can be given",
            node=node,
            phase="configuration",
            help="remove it from the cluster, vendor or case file it comes from",
        )


def last_line(parts: Sequence[bytes]) -> str:
    lines = (b"".join(parts[2:]) or b"".join(parts[:2])).decode("utf-8", "replace").strip().splitlines()
    return f"; its last words: {''.join(c for c in lines[-1][:200] if c.isprintable())}" if lines else ""
