"""What the host is, and which source made the run: read, never changed. What cannot be read is null."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that `nx8` runs on."""

    hostname: str
    os: str | None
    kernel: str
    architecture: str
    cpu_model: str | None
    cpu_count: int | None
    mem_total_bytes: int | None
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The git state of the folder that holds the cases; `reason` says why there is none."""

    commit: str | None
    dirty: bool | None
    reason: str | None = None


def host() -> Host:
    return Host(
        hostname=platform.node(),
        os=_field(Path("/etc/os-release"), "PRETTY_NAME", "="),
        kernel=platform.release(),
        architecture=platform.machine(),
        cpu_model=_field(Path("/proc/cpuinfo"), "model name", ":"),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        mem_total_bytes=_mem_total_bytes(),
        python=sys.version.split()[0],
    )


def source(home: Path) -> Source:
    """Commit and dirty flag of `home`; untracked files count as dirty, ignored ones do not."""
    try:
        commit = _git(home, "rev-parse", "--verify", "HEAD")
        status = _git(home, "status", "--porcelain", "--untracked-files=normal")
    except FileNotFoundError:
        return Source(commit=None, dirty=None, reason="git is not installed")
    except subprocess.TimeoutExpired:
        return Source(commit=None, dirty=None, reason="git did not answer within 10 s")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        return Source(commit=None, dirty=None, reason=said[-1] if said else f"git exited {error.returncode}")
    return Source(commit=commit.strip(), dirty=bool(status.strip()))


def process_age_s() -> float:
    """Seconds since this process was started, the interpreter's own start included; 0.0 where /proc does
    not say.
    """
    try:
        started_ticks = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime_s - started_ticks / os.sysconf("SC_CLK_TCK"))


def _git(home: Path, *words: str) -> str:
    # GIT_OPTIONAL_LOCKS: looking must not take the index lock from somebody who is committing.
    done = subprocess.run(
        ("git", "-C", str(home), *words),  # noqa: S607 - the person's own git, wherever it is
        check=True,
        capture_output=True,
        timeout=10,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
    )
    return done.stdout.decode("utf-8", "replace")


def _field(path: Path, key: str, separator: str) -> str | None:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, found, value = line.partition(separator)
        if found and name.strip() == key:
            return value.strip().strip('"')
    return None


def _mem_total_bytes() -> int | None:
    words = (_field(Path("/proc/meminfo"), "MemTotal", ":") or "").split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else None
