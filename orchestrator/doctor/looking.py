"""Asks one node everything, a few seconds at most for each question, and changes nothing there. A question
that is not answered is noted and the next one asked; only a lost link ends it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import subprocess
import time
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from orchestrator import docker, facts, versions
from orchestrator.doctor.seen import Disk, HeldFile, Met, Seen
from orchestrator.errors import Nx8Error
from orchestrator.lease import LOCK
from orchestrator.preflight import docker_said, link_on_the_way
from orchestrator.remote.errors import LinkLost, RemoteError
from orchestrator.remote.remote import Completed, Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.doctor.expected import Expected, WantedFile

#: Why a question has no answer that was never asked: nothing is known of the node by it.
NO_TIME = "no time was left to ask"
#: No single question waits longer, in seconds; those to docker and the vendor's tools are the slow ones.
QUESTION_S = 4.0
#: Data are read at a gigabyte a second or so: more than this is held against its size alone.
HASHED_BYTES = 2 * 1024**3
HASH_S = 4.0
GPUS_HOOK = "nvidia-container-runtime-hook"
#: The kernel's own files that say how it is set, beside those that say what the machine is.
KNOB_FILES = (
    "/proc/swaps",
    "/proc/loadavg",
    "/proc/sys/kernel/numa_balancing",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "/sys/class/infiniband/*/ports/*/phys_state",
    "/sys/class/infiniband/*/hca_type",
    *(
        f"/sys/class/infiniband/*/device/{which}_link_{what}"
        for which in ("current", "max")
        for what in ("speed", "width")
    ),
)
LINK_FILES = (
    "/sys/class/net/{interface}/operstate",
    "/sys/class/net/{interface}/mtu",
    "/sys/class/net/{interface}/carrier",
)
PID_FILES = ("/run/docker.pid", "/var/run/docker.pid")

T = TypeVar("T")


class Asked(Protocol):
    """What can be asked of a node; `Remote` and `Here` both can."""

    name: str

    @property
    def where(self) -> str: ...
    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed: ...
    def hello(self, *, timeout_s: float = 10.0) -> dict[str, Any]: ...
    def stat(self, *paths: str, timeout_s: float = 10.0) -> tuple[dict[str, Any], ...]: ...
    def disk(self, path: str, *, timeout_s: float = 10.0) -> dict[str, Any]: ...
    def texts(
        self, patterns: Sequence[str], *, limit_bytes: int, timeout_s: float = 10.0
    ) -> dict[str, str]: ...
    def sha256(self, *paths: str, timeout_s: float = 600.0) -> tuple[str | None, ...]: ...


class Asking:
    """Questions to one node, within one deadline (monotonic clock); what was not answered is in `missed`."""

    def __init__(self, deadline: float, *, question_s: float = QUESTION_S) -> None:
        self.deadline = deadline
        self.question_s = question_s
        self.missed: dict[str, str] = {}

    @property
    def left_s(self) -> float:
        return max(0.1, min(self.question_s, self.deadline - time.monotonic()))

    def ask(self, what: str, question: Callable[[], T], default: T) -> T:
        """Raises LinkLost."""
        if time.monotonic() >= self.deadline:
            self.missed[what] = NO_TIME
            return default
        try:
            return question()
        except LinkLost:
            raise
        except Nx8Error as error:
            self.missed[what] = error.problems[0].message
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.missed[what] = f"{type(error).__name__}: {error}"
        return default


def look(remote: Asked, wanted: Expected, *, base: Seen, limit_s: float) -> Seen:
    """`base` with everything that the node answers within `limit_s`. Raises RemoteError when it answers not
    even its name.
    """
    asking = Asking(time.monotonic() + limit_s, question_s=max(QUESTION_S, limit_s / 3))
    hello = remote.hello(timeout_s=asking.left_s)
    seen = replace(base, hello=hello)
    texts = asking.ask(
        "kernel", lambda: remote.texts(_files(wanted), limit_bytes=facts.MAX_FILE_BYTES), dict[str, str]()
    )
    looked = asking.ask("examine", lambda: examined(remote, wanted, asking.left_s), dict[str, Any]())
    said = engine = None
    if not wanted.is_local:
        said = asking.ask(
            "docker", lambda: docker_said(remote.run(docker.version_argv(), timeout_s=asking.left_s)), None
        )
        if said is not None and said.version is not None:
            engine = asking.ask("engine", lambda: _engine(remote, asking.left_s), None)
    seen = replace(
        seen,
        texts=texts,
        looked=looked,
        docker=said,
        engine=engine,
        crooked=_crooked(remote, wanted, asking),
        kinds=_kinds(remote, wanted, asking),
        disks=_disks(remote, wanted, engine, looked, asking),
        lock=asking.ask("lock", lambda: _lock(remote, asking.left_s), None),
        answers=asking.ask(
            "vendor",
            lambda: _answers(remote, wanted, min(versions.NODE_LIMIT_S, asking.left_s)),
            dict[tuple[str, ...], versions.Answer](),
        ),
        missing_modules=_missing_modules(wanted) if wanted.is_local else (),
    )
    images = _images(remote, wanted, asking) if engine is not None else {}
    held = asking.ask("data", lambda: _data(remote, wanted, asking), dict[str, HeldFile]())
    return replace(seen, images=images, files=held, missed=asking.missed)


def _files(wanted: Expected) -> tuple[str, ...]:
    interface = wanted.cluster.interface
    links = tuple(one.format(interface=interface) for one in LINK_FILES) if interface else ()
    return (*facts.files_of(interface), *KNOB_FILES, *links)


def examined(remote: Asked, wanted: Expected, limit_s: float) -> dict[str, Any]:
    """What node/examine.py says."""
    cluster, vendor = wanted.cluster, wanted.vendor
    request = {
        "op": "look",
        "devices": vendor.device_files(num_devices=cluster.devices_per_node),
        "names": list(wanted.addresses.values()),
        "writable": [path for path in (cluster.work_dir, cluster.data_dir) if path]
        if not wanted.is_local
        else [],
        "programs": [GPUS_HOOK] if vendor.docker.gpus else [],
        "pid_files": PID_FILES,
        "registries": list(wanted.registries),
    }
    return _program(remote, request, limit_s)


def met(remote: Asked, wanted: Expected, peers: dict[str, str], limit_s: float) -> Met:
    """Tries every peer (name → address) on the port where ranks would meet, and listens there itself.

    Raises RemoteError, or ValueError for an answer that is none.
    """
    request = {
        "op": "meet",
        "name": remote.name,
        "port": wanted.port,
        "peers": {name: address for name, address in peers.items() if name != remote.name},
        "limit_s": limit_s,
    }
    found = _program(remote, request, limit_s + 2.0)
    return Met(
        taken=found["taken"],
        reached=tuple(found["reached"]),
        why={str(name): str(why) for name, why in found["why"].items()},
    )


def _program(remote: Asked, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
    source = files("orchestrator.node").joinpath("examine.py").read_bytes()
    argv = ("python3", "-I", "-S", "-", json.dumps(request))
    done = remote.run(argv, timeout_s=limit_s, stdin=source)
    if done.rc != 0:
        raise ValueError(docker.last_words(done.stderr, rc=done.rc))
    found = json.loads(done.stdout.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("no object came back")
    return found


def _engine(remote: Asked, limit_s: float) -> docker.EngineInfo | None:
    done = remote.run(docker.info_argv(), timeout_s=limit_s)
    if done.rc != 0:
        raise ValueError(docker.last_words(done.stderr, rc=done.rc))
    return docker.read_engine(done.stdout)


def _crooked(remote: Asked, wanted: Expected, asking: Asking) -> dict[str, str]:
    found = {}
    for key, path in _folders(wanted).items():
        link = asking.ask("links", partial(link_on_the_way, remote, path), None)
        if link is not None:
            found[key] = link
    return found


def _folders(wanted: Expected) -> dict[str, str]:
    if wanted.is_local:
        return {}
    return {"work_dir": str(wanted.cluster.work_dir), "data_dir": wanted.cluster.data_dir}


def _kinds(remote: Asked, wanted: Expected, asking: Asking) -> dict[str, str | None]:
    """What stands where the container would be given device files and folders of the driver."""
    vendor = wanted.vendor
    paths = (
        *vendor.device_files(num_devices=wanted.cluster.devices_per_node),
        *vendor.docker.volumes,
    )
    if wanted.is_local or not paths:
        return {}
    found: tuple[dict[str, Any], ...] = asking.ask(
        "devices", lambda: remote.stat(*paths, timeout_s=asking.left_s), ()
    )
    return {path: one.get("kind") for path, one in zip(paths, found, strict=False)}


def _disks(
    remote: Asked, wanted: Expected, engine: docker.EngineInfo | None, looked: dict[str, Any], asking: Asking
) -> dict[str, Disk]:
    places = _folders(wanted) if not wanted.is_local else {"data_dir": wanted.cluster.data_dir}
    if engine is not None and engine.root_dir:
        places = {**places, "docker": engine.root_dir}
    can_write = looked.get("writable") or {}
    found: dict[str, Disk] = {}
    for key, path in places.items():
        said = asking.ask("disk", partial(remote.disk, path, timeout_s=asking.left_s), dict[str, Any]())
        if said:
            found[key] = Disk(
                path=path,
                at=said["at"],
                total_bytes=said["total_bytes"],
                available_bytes=said["available_bytes"],
                free_inodes=said["free_inodes"],
                writable=(can_write.get(path) or {}).get("ok"),
            )
    return found


def _lock(remote: Asked, limit_s: float) -> dict[str, Any] | None:
    """Who holds the node, empty where the lock does not say; None where nobody does, or no longer."""
    if not isinstance(remote, Remote):
        return None  # what runs on this machine alone takes no lock
    lease = remote.lease(LOCK, timeout_s=limit_s)
    if lease is None or (lease.expired and not lease.keeper):
        return None
    return lease.owner or {}


def _answers(remote: Asked, wanted: Expected, limit_s: float) -> dict[tuple[str, ...], versions.Answer]:
    return versions.asked(remote, versions.node_commands(wanted.vendor), limit_s=limit_s)


def _images(remote: Asked, wanted: Expected, asking: Asking) -> dict[str, docker.ImageFacts | None]:
    """By tag; of an image that is not there also what it is made from, for without that it has to come from
    a registry.
    """
    found: dict[str, docker.ImageFacts | None] = {}
    for image in wanted.images:
        for tag in (image.tag, wanted.pulled or image.base):
            if tag not in found:
                found[tag] = asking.ask("images", partial(_image, remote, tag, asking.left_s), None)
            if found[tag] is not None and wanted.pulled is None:
                break
    return found


def _image(remote: Asked, tag: str, limit_s: float) -> docker.ImageFacts | None:
    done = remote.run(docker.image_argv(tag), timeout_s=limit_s)
    found = docker.read_image(done.stdout) if done.rc == 0 else None
    return found if isinstance(found, docker.ImageFacts) else None


def _data(remote: Asked, wanted: Expected, asking: Asking) -> dict[str, HeldFile]:
    """By path below the data folder: size of every file, and the digest of as many as are soon read."""
    if wanted.is_local or not wanted.files:
        return {}
    folder = wanted.cluster.data_dir
    paths = [f"{folder}/{one.path}" for one in wanted.files]
    stood = remote.stat(*paths, timeout_s=asking.left_s)
    held: dict[str, HeldFile] = {}
    to_hash: list[WantedFile] = []
    room = HASHED_BYTES
    for one, said in zip(wanted.files, stood, strict=True):
        if said.get("exists") is False:
            held[one.path] = HeldFile(bytes=None)
        elif said.get("kind") != "file":
            held[one.path] = HeldFile(bytes=-1, why=f"it is a {said.get('kind') or 'thing nobody reads'}")
        else:
            held[one.path] = HeldFile(bytes=int(said["size"]), why="too large to be read in this time")
            if said["size"] == one.bytes and one.bytes <= room:
                room -= one.bytes
                to_hash.append(one)
    for one in sorted(to_hash, key=lambda one: one.bytes):
        left_s = min(HASH_S, asking.deadline - time.monotonic())
        if left_s < 0.2:
            break
        digests: tuple[str | None, ...] = asking.ask(
            "checksums", partial(remote.sha256, f"{folder}/{one.path}", timeout_s=left_s), (None,)
        )
        digest = digests[0]
        if digest is not None:
            held[one.path] = HeldFile(bytes=one.bytes, sha256=digest)
    return held


def _missing_modules(wanted: Expected) -> tuple[str, ...]:
    """What this Python lacks to train; the same question as a run's own."""
    from orchestrator.request import needed_modules

    plugin = wanted.vendor.torch.plugin
    names = needed_modules(engines=wanted.engines, plugins=(plugin,) if plugin else ())
    return tuple(name for name in names if importlib.util.find_spec(name.partition(".")[0]) is None)


class Here:
    """This machine as one that can be asked: by the functions of the agent that goes to nodes."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self._home = home

    @property
    def where(self) -> str:
        return "this machine"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        words = tuple(argv)
        try:
            done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout_s, check=False)
        except OSError as error:
            text = f"{words[0]}: {error.strerror}\n".encode()
            return Completed(
                argv=words,
                rc=127,
                stdout=b"",
                stderr=text,
                stdout_bytes=0,
                stderr_bytes=len(text),
                started=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RemoteError.of(
                "E208",
                f"`{words[0]}` was killed after {timeout_s:g} s",
                node=self.name,
                phase="command",
                help="look at this machine's load",
            ) from error
        return Completed(
            argv=words,
            rc=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            stdout_bytes=len(done.stdout),
            stderr_bytes=len(done.stderr),
        )

    def hello(self, *, timeout_s: float = 10.0) -> dict[str, Any]:  # noqa: ARG002 - as Remote has it
        return {**_agent().do_hello({}, ())[0], "skew_s": 0.0}

    def stat(self, *paths: str, timeout_s: float = 10.0) -> tuple[dict[str, Any], ...]:  # noqa: ARG002
        return tuple(_agent().do_stat({"paths": [self._path(path) for path in paths]}, ())[0]["files"])

    def disk(self, path: str, *, timeout_s: float = 10.0) -> dict[str, Any]:  # noqa: ARG002
        return dict(_agent().do_disk({"path": self._path(path)}, ())[0])

    def texts(
        self,
        patterns: Sequence[str],
        *,
        limit_bytes: int,  # noqa: ARG002
        timeout_s: float = 10.0,  # noqa: ARG002
    ) -> dict[str, str]:
        return facts.read_files(Path("/"), patterns)

    def sha256(self, *paths: str, timeout_s: float = 600.0) -> tuple[str | None, ...]:  # noqa: ARG002
        return tuple(hashlib.sha256(Path(self._path(path)).read_bytes()).hexdigest() for path in paths)

    def _path(self, path: str) -> str:
        return str(self._home / path)


def _agent() -> Any:
    """The agent's module: what a node would run, here run by us."""
    return importlib.import_module("orchestrator.node.agent")
