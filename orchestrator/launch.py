"""Starts the launcher of a cell and always stops it: nothing it started outlives the `with`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError, Problem
from orchestrator.hung import DMESG, LOOK_LIMIT_S, STACKS, kernel_words
from orchestrator.results.storage import make_folder, storage_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.plan import Launch

#: What the launcher itself needs at most to end its ranks (its own grace, then SIGKILL) before we end its
#: whole session.
STOP_LIMIT_S = 20.0
#: How soon it is noticed that somebody asked a second time.
STOP_LOOK_S = 0.2
#: Set by whoever started us inside another job; a rank must not find its place in that one.
FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Launcher:
    """One running launcher on this machine. `descriptor` becomes readable when it ends."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, output: Path, insisted: Callable[[], bool]
    ) -> None:
        self._insisted = insisted
        self._process = process
        self._output = output
        self.started_s = time.monotonic()
        self.ended_s: float | None = None
        self.lost: str | None = None  # a process of this machine cannot be
        self.oom_killed: tuple[str, ...] = ()  # docker's word, and here is none
        self.descriptor = os.pidfd_open(process.pid)

    @property
    def odd_end(self) -> None:
        return None

    @property
    def wall_s(self) -> float | None:
        """Life of the launcher process, seconds; null while it lives."""
        return None if self.ended_s is None else self.ended_s - self.started_s

    def exit_code(self) -> int | None:
        """The exit status once it has ended (128 + n for signal n), None before."""
        if self.ended_s is None and _has_ended(self._process.pid):
            self._end()
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    def record(self) -> dict[str, Any]:
        """Of containers there are none."""
        return {}

    def examine(self) -> None:
        """Keeps where the ranks stand, while they still do, and what the kernel said last. Whatever fails in
        it changes nothing.
        """
        if self.exit_code() is not None:
            return
        self._signal(signal.SIGUSR1)
        with suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(
                ("dmesg",),  # noqa: S607 - where it is differs, and without it nothing is lost
                check=False,
                capture_output=True,
                timeout=10,
                stdin=subprocess.DEVNULL,
            )
            (self._output / DMESG).write_bytes(kernel_words(said.stdout + said.stderr))
        deadline = time.monotonic() + LOOK_LIMIT_S
        while time.monotonic() < deadline and not (self._output / STACKS).exists():
            if select.select([self.descriptor], [], [], 0.05)[0]:
                return

    def stop(self) -> None:
        """Ends the launcher and all it started: a word first, then force. Returns when none of it is left."""
        if self.exit_code() is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()  # end of file: the host is gone
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_S
        try:
            while not (
                self._insisted()
                or time.monotonic() > deadline
                or select.select([self.descriptor], [], [], STOP_LOOK_S)[0]
            ):
                pass
        finally:
            self._end()

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()
            os.close(self.descriptor)

    def _signal(self, number: signal.Signals) -> None:
        """Unlike Popen's own, this never reaps it: whoever asks for its end later would find none."""
        signal.pidfd_send_signal(self.descriptor, number)

    def _end(self) -> None:
        """Ends what is left of the launcher's session, then reaps the launcher.

        In this order: until it is reaped its process group's number cannot be given to anybody else.
        """
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.ended_s = time.monotonic()
        _until_empty(self._process.pid)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _until_empty(group: int) -> None:
    """Waits until the last killed process of a group is really gone: SIGKILL is a promise, not an event."""
    deadline = time.monotonic() + STOP_LIMIT_S
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        select.select([], [], [], 0.005)


@contextmanager
def launched(
    launch: Launch, *, working_directory: Path, insisted: Callable[[], bool] = lambda: False
) -> Iterator[Launcher]:
    """The launcher of one node, running. `insisted`: whether it gets no more grace. Raises PreflightError
    (E301) when it cannot be started at all.
    """
    output = Path(launch.host_output)
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    try:
        make_folder(output)
        opened = (output / "launcher.log").open("xb")
    except OSError as error:
        raise PreflightError(storage_problem(error, output, code="E701")) from error
    with opened as log:
        try:
            process = subprocess.Popen(
                launch.argv,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **launch.environment},
                cwd=working_directory,
                start_new_session=True,
            )
        except OSError as error:
            raise PreflightError(
                Problem(
                    code="E301",
                    message=f"{launch.node}: {launch.argv[0]} cannot be started: {error.strerror}",
                )
            ) from error
    launcher = Launcher(process, output=output, insisted=insisted)
    try:
        yield launcher
    finally:
        launcher.close()
