"""What a vendor's own commands say: which accelerators a node has, and the versions of the stack, there and
inside an image. Nothing that they say, or fail to say, keeps a run from starting.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator import docker
from orchestrator.linear import compiled
from orchestrator.probe import read_probe
from orchestrator.remote.errors import LinkLost, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.remote.remote import Completed, Remote
    from orchestrator.vendors import ModelCommand, Probe, Vendor, VersionCommand

Argv = tuple[str, ...]

#: All commands on one node together, in seconds: a tool that hangs is said, not waited for.
NODE_LIMIT_S = 10.0
#: One command inside an image, and the start of its container.
IMAGE_COMMAND_LIMIT_S = 30.0
START_LIMIT_S = 60.0
FILE_LIMIT_S = 10.0
#: Versions are one word or line; nothing longer is one.
MAX_VERSION = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command printed, or, in `why`, why that is nothing to read from. Not `final`: it may say more
    another time.
    """

    text: str = ""
    why: str | None = None
    final: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerators:
    """The devices of one node as its vendor's tool names and counts them; what is null has its reason in
    `unknown`. Several models stand beside each other.
    """

    model: str | None
    count: int | None
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Name of a version → what its command said; null with its reason, by the same name, in `unknown`."""

    versions: dict[str, str | None]
    unknown: dict[str, str]


def on_node(
    remote: Remote, vendor: Vendor, *, limit_s: float = NODE_LIMIT_S
) -> tuple[Accelerators, Versions]:
    """What the vendor's tools on one node say, each of them asked once. Raises LinkLost."""
    answers = asked(remote, node_commands(vendor), limit_s=limit_s)
    return accelerators(vendor, answers), read_versions(of(vendor, "node"), answers)


def in_image(
    remote: Remote,
    image: str,
    vendor: Vendor,
    *,
    folder: str,
    labels: Mapping[str, str] | None = None,
    command_limit_s: float = IMAGE_COMMAND_LIMIT_S,
) -> Versions:
    """What the vendor's commands say inside the image of identifier `image` (sha256:…), read in one short
    container without devices or network. An image never changes, so what was read is kept in `folder` on the
    node and not read again. Raises LinkLost.
    """
    commands = of(vendor, "image")
    argvs = tuple(dict.fromkeys(command.argv for command in commands.values()))
    if not argvs:
        return Versions(versions={}, unknown={})
    kept = f"{folder}/{_key(image, commands)}.json"
    stored = _stored(remote, kept, commands)
    if stored is not None:
        return stored
    answers = _heard_in(remote, image, argvs, labels=labels or {}, command_limit_s=command_limit_s)
    found = read_versions(commands, answers)
    # Only what the image itself said: a container that did not start, or a command that took too long, may
    # answer the next time.
    if all(one.final for one in answers.values()) and any(one.why is None for one in answers.values()):
        _keep(remote, folder, kept, found)
    return found


def of_images(
    remote: Remote,
    images: Mapping[str, str],
    bases: Mapping[str, str],
    vendor: Vendor,
    *,
    folder: str,
    labels: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """What host.json says of each image, by tag: `id`, the reference of its `base`, `versions` and `unknown`.
    `images` is tag → identifier, `bases` tag → reference. Raises LinkLost.
    """
    return {
        tag: {
            "id": image,
            "base": bases[tag],
            **asdict(in_image(remote, image, vendor, folder=folder, labels=labels)),
        }
        for tag, image in images.items()
    }


def of(vendor: Vendor, where: str) -> dict[str, VersionCommand]:
    return {name: command for name, command in vendor.versions.items() if command.where == where}


def node_commands(vendor: Vendor) -> tuple[Argv, ...]:
    """Every command line that is asked on a node, once each: one output often answers several questions."""
    wanted = [one.argv for one in (vendor.model, vendor.probe) if one is not None]
    wanted += [command.argv for command in of(vendor, "node").values()]
    return tuple(dict.fromkeys(wanted))


class Runs(Protocol):
    """Who can run a program: a node, or this machine."""

    def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed: ...


def asked(remote: Runs, argvs: Iterable[Argv], *, limit_s: float) -> dict[Argv, Answer]:
    """The answers of a node's commands within `limit_s` for all of them."""
    deadline = time.monotonic() + limit_s
    return {argv: _answer(remote, argv, deadline - time.monotonic()) for argv in argvs}


def _answer(remote: Runs, argv: Argv, left_s: float) -> Answer:
    if left_s < 0.1:
        return Answer(why=f"`{argv[0]}` was not asked: the commands before it took all the time there is")
    try:
        done = remote.run(argv, timeout_s=left_s)
    except LinkLost:
        raise
    except RemoteError as error:
        return Answer(why=f"`{' '.join(argv)}`: {error.problems[0].message}")
    if not done.started:
        return Answer(why=f"{argv[0]} is not installed there")
    if done.rc != 0:
        return Answer(why=f"`{' '.join(argv)}` exited {done.rc}{_last_words(done.stderr or done.stdout)}")
    return Answer(text=done.stdout.decode("utf-8", "replace"))


def accelerators(vendor: Vendor, answers: Mapping[Argv, Answer]) -> Accelerators:
    """Pure: from what the model command and the probe printed."""
    unknown: dict[str, str] = {}
    models: list[str] = []
    if vendor.model is None:
        unknown["accelerator_model"] = "the vendor's vendor.yaml has no command that names it"
    else:
        models = _models(vendor.model, answers[vendor.model.argv], unknown)
    count = len(models) or None
    if vendor.probe is not None:
        count = _count(vendor.probe, answers[vendor.probe.argv], unknown) or count
    elif not models:
        unknown["accelerator_count"] = vendor.probe_reason or "the vendor's vendor.yaml has no probe"
    if count is not None:
        unknown.pop("accelerator_count", None)
    return Accelerators(model=", ".join(dict.fromkeys(models)) or None, count=count, unknown=unknown)


def _models(command: ModelCommand, answer: Answer, unknown: dict[str, str]) -> list[str]:
    found = [match[1].strip() for match in _matches(command.regex, answer.text)]
    if not found:
        unknown["accelerator_model"] = answer.why or _silent(command.argv)
    return found


def _count(probe: Probe, answer: Answer, unknown: dict[str, str]) -> int:
    # Of a probe that tells only how full memory is, any capacity makes a sample.
    samples = read_probe(answer.text.encode("utf-8"), probe, capacity_bytes=1).samples
    if not samples:
        unknown["accelerator_count"] = answer.why or f"`{' '.join(probe.argv)}` shows no device"
    return len(samples)


def read_versions(commands: Mapping[str, VersionCommand], answers: Mapping[Argv, Answer]) -> Versions:
    """Pure: the first line in which a command's expression is found decides."""
    versions: dict[str, str | None] = {}
    unknown: dict[str, str] = {}
    for name, command in commands.items():
        answer = answers.get(command.argv, Answer(why="it was not asked"))
        match = next(_matches(command.regex, answer.text), None)
        versions[name] = match[1].strip()[:MAX_VERSION] if match else None
        if match is None:
            unknown[name] = answer.why or _silent(command.argv)
    return Versions(versions=versions, unknown=unknown)


def _matches(regex: str, text: str) -> Any:
    return (match for line in text.splitlines() if (match := compiled(regex).search(line)))


def _silent(argv: Argv) -> str:
    return f"`{' '.join(argv)}` does not say it"


def _last_words(raw: bytes) -> str:
    lines = raw.decode("utf-8", "replace").strip().splitlines()
    return f": {''.join(char for char in lines[-1][:200] if char.isprintable())}" if lines else ""


def reading_argv(image: str, request: str, *, labels: Mapping[str, str]) -> Argv:
    """`docker run` of the reader, which comes on standard input: nothing pulled, no device, no network, no
    capability, and gone when it has answered.
    """
    return (
        docker.DOCKER,
        "run",
        "--rm",
        "--interactive",
        "--init",
        "--network=none",
        "--pull=never",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=512",
        *(f"--label={key}={value}" for key, value in sorted(labels.items())),
        "--entrypoint=python3",
        docker.image_argv(image)[-1],
        "-",
        request,
    )


def _heard_in(
    remote: Remote, image: str, argvs: tuple[Argv, ...], *, labels: Mapping[str, str], command_limit_s: float
) -> dict[Argv, Answer]:
    request = json.dumps({"argvs": argvs, "limit_s": command_limit_s})
    source = files("orchestrator.node").joinpath("commands.py").read_bytes()
    limit_s = START_LIMIT_S + command_limit_s * len(argvs)
    try:
        done = remote.run(reading_argv(image, request, labels=labels), stdin=source, timeout_s=limit_s)
    except LinkLost:
        raise
    except RemoteError as error:
        return dict.fromkeys(argvs, Answer(why=error.problems[0].message))
    if done.rc != 0:
        why = f"the container that reads versions exited {done.rc}{_last_words(done.stderr)}"
        return dict.fromkeys(argvs, Answer(why=why))
    return read_answers(done.stdout, argvs)


def read_answers(raw: bytes, argvs: tuple[Argv, ...]) -> dict[Argv, Answer]:
    """What node/commands.py printed. Never raises: an image may print anything."""
    lines = raw.decode("utf-8", "replace").strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != len(argvs):
        return dict.fromkeys(
            argvs, Answer(why="the container that reads versions did not answer as it should")
        )
    return {argv: _inner(argv, one) for argv, one in zip(argvs, found, strict=True)}


def _inner(argv: Argv, one: Any) -> Answer:
    said = {key: one.get(key) for key in ("rc", "out", "err")} if isinstance(one, dict) else {}
    text, words = said.get("out"), said.get("err")
    if said.get("rc") == 0 and isinstance(text, str):
        return Answer(text=text)
    last = _last_words((words if isinstance(words, str) else "").encode("utf-8", "replace"))
    rc = said.get("rc") if isinstance(said.get("rc"), int) else None
    ended = {None: "did not end", 127: "did not run"}.get(rc, f"exited {rc}")
    return Answer(why=f"`{' '.join(argv)}` {ended} in the image{last}", final=rc is not None)


def _key(image: str, commands: Mapping[str, VersionCommand]) -> str:
    """Another image, or other commands, have other versions."""
    asked_for = {name: asdict(command) for name, command in commands.items()}
    return hashlib.sha256(json.dumps([image, asked_for], sort_keys=True).encode()).hexdigest()


def _stored(remote: Remote, path: str, commands: Mapping[str, VersionCommand]) -> Versions | None:
    (piece,) = remote.read([(path, 0, 1 << 20)], timeout_s=FILE_LIMIT_S)
    try:
        found = json.loads(piece.data.decode("utf-8")) if piece.data else None
        if found is None or set(found["versions"]) != set(commands):
            return None
        return Versions(versions=dict(found["versions"]), unknown=dict(found["unknown"]))
    except (ValueError, KeyError, TypeError):
        return None


def _keep(remote: Remote, folder: str, path: str, found: Versions) -> None:
    """For the next run, where it can be kept: a folder of another account's is no reason not to train."""
    try:
        remote.make_dirs(folder)
        remote.write(path, json.dumps(asdict(found)).encode("utf-8"), timeout_s=FILE_LIMIT_S)
    except LinkLost:
        raise
    except RemoteError:
        return
