"""A rank as a process: how it comes to be, and how several of them are waited for and stopped.

`ForkedRanks` are forked from the launcher, which has imported torch once for all of them.
`torchrun.TorchrunRanks` is the other kind.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import Dict, List, NoReturn, Optional, Tuple

from output import open_for

#: Where a rank's FIFOs are, for those that torchrun starts.
PRINTS_TO = "NX8_PRINTS_TO"
# (local rank, wait status); None for a rank that never began.
End = Tuple[int, Optional[int]]

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
LIBC = ctypes.CDLL(None, use_errno=True)

# What a rank would import itself, one rank after the other on a machine with fewer cores than ranks: also
# what torch and DeepSpeed import only once an optimizer or an engine is made. Names that a version does not
# have are passed over.
PRELOAD = ("torch", "torch.distributed", "torch._dynamo", "torch.utils.checkpoint", "train")
PRELOAD_DEEPSPEED = (
    "deepspeed",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.muon.original_muon",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.comm.mori",
    "setuptools",  # before distutils, which it replaces
    "distutils.ccompiler",
    "torch._inductor.compile_fx",
    "functorch.compile",
)


PRELOAD_OF = {"deepspeed": PRELOAD_DEEPSPEED, "native": ("native",)}


class LaunchError(RuntimeError):
    """The ranks cannot be started."""


@dataclass(frozen=True)
class Place:
    """Where one rank stands among all."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    master_addr: str
    master_port: int
    output: str
    prints_to: Optional[str] = None  # the folder of the FIFOs that output.Collector reads

    @property
    def directory(self) -> str:
        return os.path.join(self.output, "rank{}".format(self.rank))

    def environment(self) -> Dict[str, str]:
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "GROUP_RANK": str(self.node_rank),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
            "NX8_OUTPUT": self.output,
            **({PRINTS_TO: self.prints_to} if self.prints_to else {}),
        }


class ForkedRanks:
    """Ranks forked from this process."""

    def __init__(self, job_path: str, places: List[Place], *, engine: str) -> None:
        self._job_path = job_path
        self._places = places
        self._pids: Dict[int, int] = {}  # pid → local rank, while it lives
        self.fd: Optional[int] = None  # no other source of news than SIGCHLD
        preload(PRELOAD + PRELOAD_OF.get(engine, ()))

    def start(self) -> None:
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            # A fork copies one thread and every lock the others hold.
            raise LaunchError(
                "{} threads after the imports: fork is not safe, use --launcher torchrun".format(threads)
            )
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # or the first collection in a rank would copy every page it shares with the others
        launcher = os.getpid()
        for place in self._places:
            pid = os.fork()
            if pid == 0:
                run_rank(place, self._job_path, parent=launcher)
            self._pids[pid] = place.local_rank

    def news(self) -> Tuple[List[Tuple[int, int]], List[End]]:
        """([(local rank, pid)] started, [(local rank, wait status)] ended) since the last call."""
        started = [(local_rank, pid) for pid, local_rank in self._pids.items()]
        ended: List[End] = []
        for pid in list(self._pids):
            found, wait_status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended.append((self._pids.pop(pid), wait_status))
        return started, ended

    def send(self, number: int) -> None:
        for pid in self._pids:  # all our own children, not yet waited for: no pid can have been reused
            os.kill(pid, number)

    def close(self) -> None:
        pass


def preload(names: Tuple[str, ...]) -> None:
    gc.disable()  # nothing to collect in modules being loaded; a tenth of the time
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:  # noqa: PERF203  each name for itself
            # Other versions have other modules. One that is really needed is missed again by the rank,
            # which can record it.
            print("not preloaded: {}: {}".format(name, error))  # noqa: T201  goes to launcher.log
    gc.enable()


def run_rank(place: Place, job_path: str, *, parent: int) -> NoReturn:
    """The life of a rank's process, from the fork to its exit. Python's own teardown is left out: it has
    nothing to do here, takes long and can fail.
    """
    code = 1
    try:
        detach(parent)
        call_itself("nx8-rank{}".format(place.rank))
        redirect(place)
        os.environ.update(place.environment())
        import train

        code = train.main(job_path)
    except BaseException:  # noqa: BLE001  nothing may get past the _exit below
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # noqa: PERF203  each stream for itself
                code = code or 1
        os._exit(code)


def detach(parent: int) -> None:
    """Makes the process die with `parent`, and gives it a rank's signals: none of the launcher's handlers."""
    die_with(parent)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # The terminal sends Ctrl-C to the whole group; the launcher hears it and stops the ranks in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Until the rank can answer where it stands, the question must not end it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def die_with(parent: int) -> None:
    """SIGKILL for this process as soon as `parent` ends, however it ends."""
    if LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the request
        os._exit(1)


def call_itself(name: str) -> None:
    """What `ps` and /proc/PID/comm call this process, 15 bytes at most: by it a rank is found on its node."""
    LIBC.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def redirect(place: Place) -> None:
    """Standard output and error to whoever keeps them in the rank's files, standard input from nowhere. By
    descriptor, so that C libraries follow.
    """
    os.makedirs(place.directory, exist_ok=True)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        fd = open_for(place.prints_to, place.rank, stream, place.directory)
        os.dup2(fd, number)
        os.close(fd)
    os.close(null)
    sys.stdout.reconfigure(line_buffering=True)
    sys.stderr.reconfigure(line_buffering=True)
