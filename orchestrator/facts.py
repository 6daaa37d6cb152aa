"""What a machine is, and which source made the run: read, never changed. What cannot be read is null, and
says why.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The kernel's own files about a machine, as patterns below its root. Small ones, which any account may read:
#: dmidecode, which says more, needs root.
MACHINE_FILES = (
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/proc/device-tree/model",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id",
    "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list",
    "/sys/class/infiniband/*/ports/*/link_layer",
    "/sys/class/infiniband/*/ports/*/rate",
    "/sys/class/infiniband/*/ports/*/state",
)
#: The same about one network device. `device` is there only where hardware stands behind it, `lower_…` where
#: it is made of others: a bond, a VLAN, a bridge.
INTERFACE_FILES = (
    "/sys/class/net/{interface}/type",
    "/sys/class/net/{interface}/speed",
    "/sys/class/net/{interface}/device/uevent",
    "/sys/class/net/{interface}/lower_*/speed",
    "/sys/class/net/{interface}/lower_*/device/uevent",
)
#: What boards without a maker write into their tables.
NO_NAMES = {
    "",
    "to be filled by o.e.m.",
    "default string",
    "system manufacturer",
    "system product name",
    "none",
}
#: ARPHRD_* of the kernel's if_arp.h.
ETHERNET, INFINIBAND = "1", "32"
MAX_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`links` connections of one kind and rate: the RDMA ports, or the network device, that `interface`
    names. `rate_gbps` is of each.
    """

    interface: str
    kind: str
    rate_gbps: float | None
    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the kernel says of a machine. `cpu_cores` are real ones, not threads; of all sockets together.

    A field that is null or empty has its reason in `unknown`.
    """

    machine_model: str | None
    cpu_model: str | None
    cpu_sockets: int | None
    cpu_cores: int | None
    network: tuple[Link, ...]
    unknown: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that `nx8` runs on."""

    hostname: str
    os: str | None
    kernel: str
    architecture: str
    machine_model: str | None
    cpu_model: str | None
    cpu_sockets: int | None
    cpu_cores: int | None
    cpu_count: int | None
    mem_total_bytes: int | None
    network: tuple[Link, ...]
    uid: int
    gid: int
    python: str
    unknown: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The git state of the folder that holds the cases; `reason` says why there is none."""

    commit: str | None
    dirty: bool | None
    reason: str | None = None


def host() -> Host:
    found = machine(read_files(Path("/"), files_of(None)), interface=None)
    return Host(
        hostname=platform.node(),
        os=_field(Path("/etc/os-release"), "PRETTY_NAME", "="),
        kernel=platform.release(),
        architecture=platform.machine(),
        machine_model=found.machine_model,
        cpu_model=found.cpu_model,
        cpu_sockets=found.cpu_sockets,
        cpu_cores=found.cpu_cores,
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        mem_total_bytes=_mem_total_bytes(),
        network=found.network,
        uid=os.geteuid(),
        gid=os.getegid(),
        python=sys.version.split()[0],
        unknown=found.unknown,
    )


def files_of(interface: str | None) -> tuple[str, ...]:
    """The patterns of the files that `machine` is made from."""
    named = tuple(one.format(interface=interface) for one in INTERFACE_FILES) if interface else ()
    return MACHINE_FILES + named


def read_files(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Path → text of every file below `root` that can be read; a node's agent does the same there."""
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in sorted(root.glob(pattern.lstrip("/"))):
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_FILE_BYTES)
            except OSError:
                continue  # the speed of a device that is down cannot be read
            found[f"/{path.relative_to(root)}"] = data.decode("utf-8", "replace")
    return found


def machine(texts: Mapping[str, str], *, interface: str | None) -> Machine:
    """The machine whose files of `files_of(interface)` hold `texts`, by path. Pure, and never raises."""
    unknown: dict[str, str] = {}
    packages = _of_every_cpu(texts, "physical_package_id")
    siblings = _of_every_cpu(texts, "thread_siblings_list")
    model = _machine_model(texts)
    cpu_model = _cpu_model(texts.get("/proc/cpuinfo", ""))
    network = (*_rdma(texts), *_interface(texts, interface, unknown))
    if model is None:
        unknown["machine_model"] = "the firmware names no maker and product in /sys/class/dmi/id"
    if cpu_model is None:
        unknown["cpu_model"] = "/proc/cpuinfo names no model"
    if not packages or "-1" in packages:
        unknown["cpu_sockets"] = "the kernel does not say which socket a processor is in"
    if not siblings:
        unknown["cpu_cores"] = "the kernel does not say which threads share a core"
    if not network and "network" not in unknown:
        unknown["network"] = "no RDMA port is active, and the cluster file names no interface"
    return Machine(
        machine_model=model,
        cpu_model=cpu_model,
        cpu_sockets=None if "cpu_sockets" in unknown else len(packages),
        cpu_cores=len(siblings) or None,
        network=network,
        unknown=unknown,
    )


def _machine_model(texts: Mapping[str, str]) -> str | None:
    names = [_line(texts, f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    # Boards described by a device tree end its model with NUL.
    names = [name for name in names if name.lower() not in NO_NAMES]
    return " ".join(names) or _line(texts, "/proc/device-tree/model").strip("\0") or None


def _cpu_model(cpuinfo: str) -> str | None:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "cpu model", "hardware") and value.strip():
            return value.strip()
    return None


def _of_every_cpu(texts: Mapping[str, str], name: str) -> set[str]:
    return {
        text.strip() for path, text in texts.items() if path.endswith(f"/topology/{name}") and text.strip()
    }


def _rdma(texts: Mapping[str, str]) -> tuple[Link, ...]:
    """The active ports, those of one kind and rate together."""
    found: dict[tuple[str, float | None], list[str]] = {}
    for path in texts:
        match = re.fullmatch(r"(/sys/class/infiniband/([^/]+)/ports/([^/]+))/link_layer", path)
        if match and "ACTIVE" in _line(texts, f"{match[1]}/state"):
            layer = _line(texts, path)
            kind = "RoCE" if layer == "Ethernet" else layer
            rate = re.match(r"([0-9]+(?:\.[0-9]+)?) Gb/sec", _line(texts, f"{match[1]}/rate"))
            key = (kind, float(rate[1]) if rate else None)
            found.setdefault(key, []).append(match[2] if match[3] == "1" else f"{match[2]}:{match[3]}")
    return tuple(
        Link(interface=",".join(names), kind=kind, rate_gbps=rate, links=len(names))
        for (kind, rate), names in found.items()
    )


def _interface(texts: Mapping[str, str], interface: str | None, unknown: dict[str, str]) -> tuple[Link, ...]:
    """The network device that ranks talk through; what is not known of it goes into `unknown`."""
    if interface is None:
        return ()
    folder = f"/sys/class/net/{interface}"
    if f"{folder}/type" not in texts:
        unknown["network"] = f"there is no network device {interface}"
        return ()
    kind = {ETHERNET: "Ethernet", INFINIBAND: "InfiniBand"}.get(_line(texts, f"{folder}/type"), "other")
    wires = [
        path.removesuffix("/device/uevent")
        for path in texts
        if path.startswith(f"{folder}/") and path.endswith("/device/uevent")
    ]
    if not wires:
        # A virtual device has a speed that somebody thought up (a veth pair says 10 Gb/s).
        unknown["network"] = f"no hardware stands behind {interface}: its rate is no wire's"
        return (Link(interface=interface, kind=f"virtual {kind}", rate_gbps=None, links=1),)
    rates = [_rate_gbps(_line(texts, f"{wire}/speed")) for wire in wires]
    if None in rates:
        unknown["network"] = f"{interface} does not say its speed"
    return tuple(
        Link(interface=interface, kind=kind, rate_gbps=rate, links=rates.count(rate))
        for rate in dict.fromkeys(rates)
    )


def _rate_gbps(speed: str) -> float | None:
    """Of the kernel's figure in Mb/s, which is -1 where it does not know."""
    return int(speed) / 1000 if speed.isdigit() and int(speed) else None


def _line(texts: Mapping[str, str], path: str) -> str:
    return texts.get(path, "").strip()


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


def boot_id() -> str | None:
    """The kernel's name for this boot; monotonic clocks of two boots share no zero."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip() or None
    except OSError:
        return None


def process_start(pid: int) -> int | None:
    """Clock ticks after boot at which a process began; None where there is none any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
