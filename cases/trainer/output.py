"""What ranks print, into files that stay small: of each stream the beginning and the end are kept, and what
was dropped between them is counted.

A process of its own, forked before anything large is imported, reads FIFOs that the ranks write: a rank that
floods them is not slowed, and one that is killed has said what it said. Standard library only.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from typing import Deque, Dict, List, NoReturn, Optional, Tuple

STREAMS = ("stdout", "stderr")
#: Bytes of each stream that are kept: of its beginning, and of its end, which waits in memory.
HEAD_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 8 * 1024 * 1024
PIECE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031  # linux/fcntl.h
#: How long what is still in the FIFOs may take once the ranks have ended.
DRAIN_LIMIT_S = 10.0
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE)


class Stream:
    """One file that grows up to its beginning's limit; the newest of the rest is kept in memory."""

    def __init__(self, path: str, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._fd: Optional[int] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._head_left = head_bytes
        self._tail_bytes = tail_bytes
        self._tail: Deque[bytes] = collections.deque()
        self._held = 0
        self.dropped_bytes = 0

    def take(self, data: bytes) -> None:
        head, rest = data[: self._head_left], data[self._head_left :]
        if head:
            self._head_left -= len(head)
            self.dropped_bytes += len(head) - self._write(head)
        if rest:
            self._tail.append(rest)
            self._held += len(rest)
            while self._tail and self._held - len(self._tail[0]) >= self._tail_bytes:
                gone = len(self._tail.popleft())
                self._held -= gone
                self.dropped_bytes += gone

    def close(self) -> None:
        """The end of the stream, behind a line that says how much is missing before it."""
        tail = b"".join(self._tail)
        cut = max(0, len(tail) - self._tail_bytes)
        self.dropped_bytes += cut
        tail = tail[cut:]
        if self.dropped_bytes:
            self._write(b"\n[nx8: %d bytes dropped here]\n" % self.dropped_bytes)
        self.dropped_bytes += len(tail) - self._write(tail)
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, data: bytes) -> int:
        """How much of it found room: what a full disk does not take is dropped, and counted."""
        done = 0
        while self._fd is not None and done < len(data):
            try:
                done += os.write(self._fd, data[done:])
            except OSError:  # noqa: PERF203  the disk is full, or a quota used up
                break
        return done


class Collector:
    """The other end of the ranks' standard output and error. `folder` is where their FIFOs are."""

    def __init__(self, directories: Dict[int, str]) -> None:
        """`directories`: each rank's folder, where its files go."""
        self.folder = tempfile.mkdtemp(prefix="nx8-output-")
        self._readers: List[Tuple[int, str, int, str]] = []  # rank, stream, its descriptor, its file
        for rank, directory in sorted(directories.items()):
            os.makedirs(directory, exist_ok=True)
            for stream in STREAMS:
                fifo = fifo_of(self.folder, rank, stream)
                os.mkfifo(fifo, 0o600)
                reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with contextlib.suppress(OSError):  # more than an account may have: the default will do
                    fcntl.fcntl(reader, F_SETPIPE_SZ, PIECE_BYTES)
                path = os.path.join(directory, "{}.log".format(stream))
                self._readers.append((rank, stream, reader, path))
        told_read, told_write = os.pipe()  # counts, from it to us
        over_read, over_write = os.pipe()  # its end says that the ranks have ended
        self._pid = os.fork()
        if self._pid == 0:
            os.close(told_read)
            os.close(over_write)
            self._collect(over_read, told_write)
        os.close(told_write)
        os.close(over_read)
        self._told, self._over = told_read, over_write
        for _, _, reader, _ in self._readers:
            os.close(reader)

    def finish(self) -> Dict[int, int]:
        """Waits until all that was printed is kept; bytes that were dropped, by rank. None are known of a
        process that does not end in time: it is ended.
        """
        os.close(self._over)
        deadline_s = time.monotonic() + DRAIN_LIMIT_S + 5.0
        text = b""
        while time.monotonic() < deadline_s:
            if select.select([self._told], [], [], 0.1)[0]:
                piece = os.read(self._told, 65536)
                text += piece
                if not piece:
                    break
        else:
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._told)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            return {int(rank): count for rank, count in json.loads(text.decode("ascii")).items()}
        except ValueError:
            return {}

    def _collect(self, over: int, told: int) -> NoReturn:
        """The life of the process that keeps what the ranks print."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in IGNORED:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            dropped = self._pump(over)
            os.write(told, json.dumps(dropped).encode("ascii"))
            code = 0
        finally:
            os._exit(code)

    def _pump(self, over: int) -> Dict[str, int]:
        streams = {reader: Stream(path) for _, _, reader, path in self._readers}
        # Our own writing ends: without one a FIFO that no rank has opened yet would always be at its end.
        own = [
            os.open(fifo_of(self.folder, rank, stream), os.O_WRONLY | os.O_NONBLOCK)
            for rank, stream, _, _ in self._readers
        ]
        poll = select.poll()
        for fd in (over, *streams):
            poll.register(fd, select.POLLIN)
        running = True
        while running:
            for fd, _ in poll.poll():
                if fd == over:
                    running = False
                else:
                    take(fd, streams[fd])
        for fd in own:
            os.close(fd)
        poll.unregister(over)
        deadline_s = time.monotonic() + DRAIN_LIMIT_S
        left = set(streams)
        while left and time.monotonic() < deadline_s:
            for fd, _ in poll.poll(200):
                if not take(fd, streams[fd]):  # nobody has it open any more
                    poll.unregister(fd)
                    left.discard(fd)
        for stream in streams.values():
            stream.close()
        dropped: Dict[str, int] = {}
        for rank, _, reader, _ in self._readers:
            dropped[str(rank)] = dropped.get(str(rank), 0) + streams[reader].dropped_bytes
        return dropped


def take(fd: int, stream: Stream) -> bool:
    """Whether there may be more to come."""
    try:
        data = os.read(fd, PIECE_BYTES)
    except BlockingIOError:
        return True
    stream.take(data)
    return bool(data)


def fifo_of(folder: str, rank: int, stream: str) -> str:
    return os.path.join(folder, "rank{}.{}".format(rank, stream))


def open_for(folder: Optional[str], rank: int, stream: str, directory: str) -> int:
    """The descriptor that a rank prints to: its FIFO, or the file itself where nobody reads that."""
    if folder is not None:
        try:
            fd = os.open(fifo_of(folder, rank, stream), os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(fd, True)
            return fd
        except OSError:
            pass
    path = os.path.join(directory, "{}.log".format(stream))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
