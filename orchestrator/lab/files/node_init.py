"""Process 1 of a lab node, once its root is its own: starts sshd and dockerd, and reaps what dies.

A daemon that ends stays ended, as a fault test wants it; SIGUSR1 starts every one that is not running.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
DAEMONS = {
    "sshd": ("/usr/sbin/sshd", "-D", "-E", "/var/log/sshd.log"),
    "dockerd": ("/usr/sbin/dockerd",),
}
running: dict[str, int] = {}


def start(name: str) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        log = os.open(f"/var/log/{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setsid()
        # A killed daemon leaves it, and its number may be somebody else's by now.
        Path("/run/docker.pid" if name == "dockerd" else "/run/sshd.pid").unlink(missing_ok=True)
        os.execve(DAEMONS[name][0], DAEMONS[name], ENVIRONMENT)
    running[name] = pid
    Path(f"/run/nx8-{name}.pid").write_text(f"{pid}\n")


def reap() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for name in [name for name, own in running.items() if own == pid]:
            del running[name]


def main() -> None:
    Path("/run/sshd").mkdir(exist_ok=True)
    os.chdir("/")
    wanted = {signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM}
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    for name in DAEMONS:
        start(name)
    while True:
        caught = signal.sigwait(wanted)
        reap()
        if caught == signal.SIGTERM:
            return
        if caught == signal.SIGUSR1:
            for name in DAEMONS:
                if name not in running:
                    start(name)


if __name__ == "__main__":
    main()
