"""What docker is told: argument tuples that no shell reads. A value that docker would split or read
differently is refused. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import ConfigError, Problem
from orchestrator.text import (
    AbsolutePath,
    Capability,
    DevicePath,
    EnvName,
    ImageReference,
    Name,
    Registry,
    RegistryUser,
    UlimitName,
    fits,
    wants,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.vendors import Vendor


DOCKER = "docker"
CREATE = (DOCKER, "container", "create")
#: Where things stand inside every container.
CONTAINER_JOB = "/nx8/job"
CONTAINER_DATA = "/nx8/data"
CONTAINER_TRAINER = "/opt/nx8/trainer"
GIB = 1024**3
CONTAINER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
#: A container or image, by name or identifier.
OBJECT = re.compile(r"(sha256:)?[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,511}")
LABEL_KEY = re.compile(r"[a-z0-9]([a-z0-9._/-]{0,126}[a-z0-9])?")
USER = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder of the node inside the container, at `target`."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything that is asked of docker for one container; `create_argv` says it and nothing else.

    `gpus` are indices for --gpus, or None to leave that option away. `user` is uid:gid, None for the image's.
    """

    image: str
    name: str
    command: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    runtime: str | None = None
    gpus: tuple[int, ...] | None = None
    shm_size_bytes: int = 32 * GIB
    ulimits: dict[str, int] = field(default_factory=dict)
    pids_limit: int = 32768
    ipc: Literal["private", "shareable", "host"] = "private"
    network: Literal["host", "none", "bridge"] = "host"
    capabilities: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = True
    user: str | None = None
    workdir: str = CONTAINER_JOB
    init: bool = True
    interactive: bool = True
    stop_timeout_s: int = 10
    log_max_mib: int = 32

    def __post_init__(self) -> None:
        problems = [
            Problem(code="E240", message=message, help="docker would not read this as it is meant")
            for message in _complaints(self)
        ]
        if problems:
            raise ConfigError(problems)


def _complaints(spec: ContainerSpec) -> Iterable[str]:
    if not fits(ImageReference, spec.image) and not re.fullmatch(r"sha256:[0-9a-f]{64}", spec.image):
        yield f"image {spec.image!r}: wants {wants(ImageReference)}"
    if not CONTAINER_NAME.fullmatch(spec.name):
        yield f"container name {spec.name!r}: letters, digits, '_', '.' and '-' only"
    if not spec.command or spec.command[0].startswith("-"):
        yield f"command {' '.join(spec.command)!r}: its first word is a program"
    for word in (*spec.command, *spec.environment.values(), *spec.labels.values()):
        if CONTROL.search(word):
            yield f"{word!r} holds a control character"
    yield from (f"label {key!r}" for key in spec.labels if not LABEL_KEY.fullmatch(key))
    yield from (
        f"variable {name!r}: wants {wants(EnvName)}" for name in spec.environment if not fits(EnvName, name)
    )
    for path in (*(path for one in spec.mounts for path in (one.source, one.target)), spec.workdir):
        if not fits(AbsolutePath, path) or ".." in path.split("/"):
            yield f"path {path!r}: wants {wants(AbsolutePath)}, without '..'"
        elif path.rstrip("/") in ("/var/run/docker.sock", "/run/docker.sock"):
            yield f"{path} hands the node to the container"
    yield from (
        f"target {one.target!r} is the container's root" for one in spec.mounts if one.target.strip("/") == ""
    )
    for path in spec.devices:
        if not fits(DevicePath, path) or "{" in path:
            yield f"device {path!r}: wants a path below /dev"
    yield from (f"group {name!r}: wants {wants(Name)}" for name in spec.groups if not fits(Name, name))
    if spec.runtime is not None and not fits(Name, spec.runtime):
        yield f"runtime {spec.runtime!r}: wants {wants(Name)}"
    yield from (
        f"limit {name!r}: wants {wants(UlimitName)}" for name in spec.ulimits if not fits(UlimitName, name)
    )
    yield from (
        f"capability {one!r}: wants {wants(Capability)}"
        for one in spec.capabilities
        if not fits(Capability, one)
    )
    if spec.user is not None and not USER.fullmatch(spec.user):
        yield f"user {spec.user!r}: wants uid:gid in figures"


def container_spec(
    vendor: Vendor,
    *,
    engine: str,
    image: str,
    name: str,
    command: tuple[str, ...],
    num_devices: int,
    node_job_dir: str,
    node_data_dir: str | None = None,
    labels: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> ContainerSpec:
    """A vendor's container with the fixed layout: the job's folder writable at /nx8/job, the data read-only
    at /nx8/data, the driver's folders read-only where they are on the node. `environment` wins over the
    vendor's.
    """
    docker = vendor.docker
    mounts = [Mount(source=node_job_dir, target=CONTAINER_JOB, read_only=False)]
    if node_data_dir is not None:
        mounts.append(Mount(source=node_data_dir, target=CONTAINER_DATA))
    mounts += [Mount(source=path, target=path) for path in docker.volumes]
    return ContainerSpec(
        image=image,
        name=name,
        command=command,
        labels=dict(labels or {}),
        environment=vendor.environment_of(engine, num_devices=num_devices) | dict(environment or {}),
        mounts=tuple(mounts),
        devices=vendor.device_files(num_devices=num_devices),
        groups=docker.groups,
        runtime=docker.runtime,
        gpus=tuple(range(num_devices)) if docker.gpus else None,
        shm_size_bytes=round(docker.shm_size_gib * GIB),
        ulimits={str(limit): value for limit, value in docker.ulimits.items()},
        pids_limit=docker.pids_limit,
        ipc=docker.ipc,
        capabilities=docker.capabilities,
        privileged=docker.privileged,
        user=user,
    )


def create_argv(spec: ContainerSpec) -> tuple[str, ...]:
    """`docker container create`: makes the container, starts nothing and prints its identifier. Nothing is
    pulled, and no capability is left but those that are listed.
    """
    words = [f"--name={spec.name}", "--pull=never", "--restart=no"]
    words += [f"--label={key}={value}" for key, value in sorted(spec.labels.items())]
    words += [f"--env={key}={value}" for key, value in sorted(spec.environment.items())]
    words += [
        f"--mount=type=bind,source={one.source},target={one.target}{',readonly' if one.read_only else ''}"
        for one in spec.mounts
    ]
    words += [f"--device={path}" for path in spec.devices]
    words += [f"--group-add={name}" for name in spec.groups]
    words += [f"--runtime={spec.runtime}"] if spec.runtime else []
    # docker reads this value as CSV: the quotes keep the list of devices one field.
    words += [f'--gpus="device={",".join(map(str, spec.gpus))}"'] if spec.gpus is not None else []
    words += [f"--shm-size={spec.shm_size_bytes}"]
    words += [f"--ulimit={name}={value}" for name, value in sorted(spec.ulimits.items())]
    words += [f"--pids-limit={spec.pids_limit}", f"--ipc={spec.ipc}", f"--network={spec.network}"]
    words += ["--privileged"] if spec.privileged else ["--cap-drop=ALL"]
    words += [f"--cap-add={one}" for one in spec.capabilities]
    words += ["--security-opt=no-new-privileges"] if spec.no_new_privileges else []
    words += [f"--user={spec.user}"] if spec.user else []
    words += [f"--workdir={spec.workdir}"]
    words += ["--init"] if spec.init else []
    words += ["--interactive"] if spec.interactive else []
    words += [f"--stop-timeout={spec.stop_timeout_s}"]
    words += ["--log-driver=local", f"--log-opt=max-size={spec.log_max_mib}m", "--log-opt=max-file=2"]
    return (*CREATE, *words, spec.image, *spec.command)


def as_account(argv: tuple[str, ...], *, uid: int, gid: int) -> tuple[str, ...]:
    """The same `create_argv` for a container that runs as an account of its node: without capabilities nobody
    else, root included, can enter a folder of that account with mode 0700.

    An account that the image does not know has no home and no name there, and many programs ask for both.
    """
    if argv[: len(CREATE)] != CREATE:
        raise ValueError(f"{' '.join(argv[:4])} … creates no container")
    words = (f"--user={uid}:{gid}", *(() if uid == 0 else ("--env=HOME=/tmp", "--env=USER=nx8")))
    return (*CREATE, *words, *argv[len(CREATE) :])


def with_python(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The same `create_argv` of a command `python3 …`, whatever the image's own entry point is."""
    at = len(argv) - 1 - argv[::-1].index("python3")
    if argv[: len(CREATE)] != CREATE:
        raise ValueError(f"{' '.join(argv[:4])} … creates no container")
    return (*CREATE, "--entrypoint=python3", *argv[len(CREATE) : at], *argv[at + 1 :])


def attach_argv(container: str) -> tuple[str, ...]:
    """Starts a created container and stays: its standard input is ours, and ends as it ends."""
    return (DOCKER, "container", "start", "--attach", "--interactive", _object(container))


def start_argv(container: str) -> tuple[str, ...]:
    return (DOCKER, "container", "start", _object(container))


def build_argv(
    tag: str,
    *,
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    network: Literal["default", "host", "none"] = "default",
    no_cache: bool = False,
) -> tuple[str, ...]:
    """`docker build` of a context that comes as a tar on its standard input; both builders know each word."""
    _refuse(_bad_reference(tag))
    for key, value in (build_args or {}).items():
        _refuse(None if fits(EnvName, key) else f"build argument {key!r}", _control(value))
    for key, value in (labels or {}).items():
        _refuse(None if LABEL_KEY.fullmatch(key) else f"label {key!r}", _control(value))
    words = [f"--tag={tag}", "--file=Dockerfile", "--force-rm"]
    words += ["--no-cache"] if no_cache else []
    words += [f"--network={network}"] if network != "default" else []
    words += [f"--build-arg={key}={value}" for key, value in sorted((build_args or {}).items())]
    words += [f"--label={key}={value}" for key, value in sorted((labels or {}).items())]
    return (DOCKER, "build", *words, "-")


def inspect_argv(container: str) -> tuple[str, ...]:
    return (DOCKER, "container", "inspect", _object(container))


def image_argv(image: str) -> tuple[str, ...]:
    return (DOCKER, "image", "inspect", _object(image))


def load_argv(path: str | None = None) -> tuple[str, ...]:
    """`docker image load` from a file on the node, or from standard input."""
    return (DOCKER, "image", "load", "--quiet", *_path_word("input", path))


def save_argv(*images: str, path: str | None = None) -> tuple[str, ...]:
    """`docker image save` into a file on the node, or to standard output."""
    return (DOCKER, "image", "save", *_path_word("output", path), *(_object(image) for image in images))


def _path_word(option: str, path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    _refuse(None if fits(AbsolutePath, path) else f"path {path!r}: wants {wants(AbsolutePath)}")
    return (f"--{option}={path}",)


def all_images_argv() -> tuple[str, ...]:
    """The identifiers of all images, one a line, some more than once."""
    return (DOCKER, "image", "ls", "--all", "--no-trunc", "--quiet")


def image_facts_argv(*images: str) -> tuple[str, ...]:
    """Inspects several images at once: docker prints those that are there, and fails for the others."""
    return (DOCKER, "image", "inspect", *(_object(image) for image in images))


def pull_argv(reference: str) -> tuple[str, ...]:
    _refuse(_bad_reference(reference))
    return (DOCKER, "image", "pull", "--quiet", reference)


def tag_argv(image: str, tag: str) -> tuple[str, ...]:
    _refuse(_bad_reference(tag))
    return (DOCKER, "image", "tag", _object(image), tag)


def login_argv(registry: str, *, user: str) -> tuple[str, ...]:
    """`docker login`; the password is its standard input and never one of its words."""
    _refuse(
        None if fits(Registry, registry) else f"registry {registry!r}: wants {wants(Registry)}",
        None if fits(RegistryUser, user) else f"user {user!r}: wants {wants(RegistryUser)}",
    )
    return (DOCKER, "login", f"--username={user}", "--password-stdin", registry)


def info_argv() -> tuple[str, ...]:
    return (DOCKER, "info", "--format={{json .}}")


def buildx_argv() -> tuple[str, ...]:
    """Ends with 0 where docker has its plug-in for BuildKit."""
    return (DOCKER, "buildx", "version")


def exact_build_argv(
    tag: str,
    *,
    path: str,
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """A build by BuildKit of a context on standard input, with every time in it set to 0, as an archive in
    the file `path`: the same on every node whose packages are.
    """
    _, _, *words, context = build_argv(tag, build_args=build_args, labels=labels)
    _path_word("output", path)
    # Without the name in full, BuildKit and the classic builder disagree on what a tag stands for.
    output = f"type=docker,name=docker.io/library/{tag},rewrite-timestamp=true,dest={path}"
    own = ["--provenance=false", "--progress=plain", "--build-arg=SOURCE_DATE_EPOCH=0", f"--output={output}"]
    kept = [word for word in words if word != "--force-rm" and not word.startswith("--tag=")]
    return (DOCKER, "buildx", "build", *own, *kept, context)


def stop_argv(container: str, *, timeout_s: int = 10) -> tuple[str, ...]:
    return (DOCKER, "container", "stop", f"--time={int(timeout_s)}", _object(container))


def kill_argv(container: str) -> tuple[str, ...]:
    return (DOCKER, "container", "kill", _object(container))


def signal_argv(container: str, signal: str) -> tuple[str, ...]:
    """Sends a signal to process 1 of a container, which hands it on to the launcher."""
    _refuse(None if signal.isalnum() else f"signal {signal!r}")
    return (DOCKER, "container", "kill", f"--signal={signal}", _object(container))


def remove_argv(container: str) -> tuple[str, ...]:
    """Removes it with its anonymous volumes, running or not."""
    return (DOCKER, "container", "rm", "--force", "--volumes", _object(container))


def list_argv(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Identifiers of every container, running or not, that has all these labels; one a line."""
    for key, value in labels.items():
        _refuse(None if LABEL_KEY.fullmatch(key) else f"label {key!r}", _control(value))
    filters = [f"--filter=label={key}={value}" for key, value in sorted(labels.items())]
    return (DOCKER, "container", "ls", "--all", "--no-trunc", *filters, "--format={{.ID}}")


def list_runs_argv() -> tuple[str, ...]:
    """The run of every container that carries our label, running or not; one a line."""
    return (DOCKER, "container", "ls", "--all", "--filter=label=nx8.run", '--format={{.Label "nx8.run"}}')


def version_argv() -> tuple[str, ...]:
    return (DOCKER, "version", "--format={{json .}}")


def _object(name: str) -> str:
    _refuse(None if OBJECT.fullmatch(name) else f"{name!r} is no name of an image or container")
    return name


def _bad_reference(reference: str) -> str | None:
    return None if fits(ImageReference, reference) else f"image {reference!r}: wants {wants(ImageReference)}"


def _control(value: str) -> str | None:
    return f"{value!r} holds a control character" if CONTROL.search(value) else None


def _refuse(*complaints: str | None) -> None:
    problems = [Problem(code="E240", message=one) for one in complaints if one is not None]
    if problems:
        raise ConfigError(problems)
