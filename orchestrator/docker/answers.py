"""What docker answers: its JSON and its lines, read without ever raising. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from orchestrator.docker.arguments import CONTAINER_NAME
from orchestrator.errors import Problem

#: An answer beyond this is not docker's.
MAX_ANSWER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """What docker says of one container. `exit_code` is None while it runs and before it did.

    Times are docker's own text, None before they happened.
    """

    id: str
    name: str | None
    image_id: str | None
    status: str
    running: bool
    exit_code: int | None
    oom_killed: bool
    error: str | None
    started_at: str | None
    finished_at: str | None
    labels: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One image. `digests` are the registries' names for it, empty where it never met one."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int | None
    created: str | None
    architecture: str | None
    os: str | None
    labels: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVersion:
    """Versions of docker's two halves; `server` is None where no daemon answered."""

    client: str | None
    server: str | None
    api: str | None
    os: str | None
    architecture: str | None
    kernel: str | None


def read_inspect(raw: bytes) -> ContainerState | Problem:
    """The answer to `inspect_argv`, or what is wrong with it. Never raises."""
    found = _only(raw, "docker container inspect")
    if isinstance(found, Problem):
        return found
    state = _mapping(found.get("State"))
    identifier, status = _text(found.get("Id")), _text(state.get("Status"))
    running = state.get("Running")
    if identifier is None or status is None or not isinstance(running, bool):
        return _odd(raw, "docker container inspect", "no Id, State.Status or State.Running")
    ended = not running and status in ("exited", "dead")
    return ContainerState(
        id=identifier,
        name=(_text(found.get("Name")) or "").removeprefix("/") or None,
        image_id=_text(found.get("Image")),
        status=status,
        running=running,
        exit_code=_whole(state.get("ExitCode")) if ended else None,
        oom_killed=state.get("OOMKilled") is True,
        error=_text(state.get("Error")),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")),
        labels=_labels(_mapping(found.get("Config")).get("Labels")),
    )


def read_image(raw: bytes) -> ImageFacts | Problem:
    """The answer to `image_argv`, or what is wrong with it. Never raises."""
    found = _only(raw, "docker image inspect")
    if isinstance(found, Problem):
        return found
    identifier = _text(found.get("Id"))
    if identifier is None or not re.fullmatch(r"sha256:[0-9a-f]{64}", identifier):
        return _odd(raw, "docker image inspect", "no Id of sha256")
    return ImageFacts(
        id=identifier,
        tags=_texts(found.get("RepoTags")),
        digests=_texts(found.get("RepoDigests")),
        size_bytes=_whole(found.get("Size")),
        created=_text(found.get("Created")),
        architecture=_text(found.get("Architecture")),
        os=_text(found.get("Os")),
        labels=_labels(_mapping(found.get("Config")).get("Labels")),
    )


def last_words(stderr: bytes, *, rc: int) -> str:
    """The last line docker said, printable; its exit code where it said nothing."""
    said = stderr[-4096:].decode("utf-8", "replace").strip().splitlines()
    return "".join(char for char in said[-1][:400] if char.isprintable()) if said else f"exit {rc}"


def read_runs(raw: bytes) -> tuple[str, ...]:
    """The answer to `list_runs_argv`; a line that is no name of a run is left out."""
    lines = raw[:MAX_ANSWER_BYTES].decode("utf-8", "replace").splitlines()
    return tuple(line for line in lines if CONTAINER_NAME.fullmatch(line))


def is_taken(stderr: bytes) -> bool:
    """Whether docker refused to create a container because its name is taken."""
    return b"is already in use by container" in stderr


def read_list(raw: bytes) -> tuple[str, ...]:
    """The answer to `list_argv`: identifiers; a line that is none is left out."""
    words = raw[:MAX_ANSWER_BYTES].decode("ascii", "replace").split()
    return tuple(word for word in words if re.fullmatch("[0-9a-f]{12,64}", word))


def read_layers(raw: bytes) -> tuple[tuple[str, ...], ...]:
    """The layers, lowest first, of each image in the answer to `image_facts_argv`. Never raises."""
    found = _json(raw[:MAX_ANSWER_BYTES])
    listed = found if isinstance(found, list) else []
    return tuple(_texts(_mapping(_mapping(one).get("RootFS")).get("Layers")) for one in listed)


def keeps_blobs(raw: bytes) -> bool:
    """Whether the answer to `info_argv` is of an engine that keeps images in containerd's store."""
    found = _mapping(_json(raw[:MAX_ANSWER_BYTES])).get("DriverStatus")
    return isinstance(found, list) and any("io.containerd.snapshotter" in str(one) for one in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine can start containers with, and where it keeps them. `proxied`: it reaches registries
    through a proxy.
    """

    runtimes: tuple[str, ...]
    default_runtime: str | None
    root_dir: str | None
    proxied: bool = False


def read_engine(raw: bytes) -> EngineInfo | None:
    """The answer to `info_argv`; None for another. Never raises."""
    found = _mapping(_json(raw[:MAX_ANSWER_BYTES]))
    if "Runtimes" not in found:
        return None
    return EngineInfo(
        runtimes=tuple(sorted(_mapping(found["Runtimes"]))),
        default_runtime=_text(found.get("DefaultRuntime")),
        root_dir=_text(found.get("DockerRootDir")),
        proxied=bool(found.get("HttpProxy") or found.get("HttpsProxy")),
    )


def read_version(raw: bytes) -> EngineVersion | Problem:
    """The answer to `version_argv`, or what is wrong with it. Never raises."""
    found = _json(raw[:MAX_ANSWER_BYTES])
    if not isinstance(found, dict) or not ({"Client", "Server"} & found.keys()):
        return _odd(raw, "docker version", "neither Client nor Server")
    client, server = _mapping(found.get("Client")), _mapping(found.get("Server"))
    return EngineVersion(
        client=_text(client.get("Version")),
        server=_text(server.get("Version")),
        api=_text(server.get("ApiVersion")),
        os=_text(server.get("Os")),
        architecture=_text(server.get("Arch")),
        kernel=_text(server.get("KernelVersion")),
    )


def _only(raw: bytes, said_by: str) -> dict[str, Any] | Problem:
    """The one object of a list that docker's inspect prints."""
    if len(raw) > MAX_ANSWER_BYTES:
        return _odd(raw, said_by, f"more than {MAX_ANSWER_BYTES} bytes")
    found = _json(raw)
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        return _odd(raw, said_by, "not a list of one object")
    return found[0]


def _odd(raw: bytes, said_by: str, what: str) -> Problem:
    begin = raw[:120].decode("utf-8", errors="replace")
    shown = "".join(char if char.isprintable() else "\ufffd" for char in begin)
    return Problem(code="E241", message=f"{said_by} answered something else: {what}; it begins {shown!r}")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: Any) -> str | None:
    """docker writes the year 1 for what has not happened."""
    text = _text(value)
    return None if text is None or text.startswith("0001-") else text


def _labels(value: Any) -> dict[str, str]:
    return {key: one for key, one in _mapping(value).items() if isinstance(one, str)}
