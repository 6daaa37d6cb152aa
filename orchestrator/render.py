"""Vendor + engine + site → Dockerfile, and the context it is built from. Only home of Jinja2.

Templates are code and ship with the project; what they are given is data, and a value that could add an
instruction (a newline, a quote, a backslash, a `$`) is refused before a template sees it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.errors import ConfigError, Problem
from orchestrator.text import (
    AbsolutePath,
    Commit,
    HostList,
    ImageReference,
    ModuleName,
    Name,
    PlainUrl,
    Registry,
    Requirement,
    fits,
    wants,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from orchestrator.cluster import Site
    from orchestrator.vendors import Vendor
    from orchestrator.workspace import Workspace

TEMPLATE = "Dockerfile.j2"
PROVIDE = "shared/provide.py"
#: Longer than any Dockerfile a person would read.
MAX_DOCKERFILE_BYTES = 64 * 1024
#: The tag of an image: nx8-<vendor>-<engine>:<this many digits of the context's SHA-256>.
HASH_LENGTH = 12
WORD = re.compile(r"[A-Za-z0-9@%+=:,./_~-]+")
WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,200}\.(whl|tar\.gz)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What `docker build -` is given: a tar that is the same, byte for byte, wherever it is made."""

    tag: str
    base: str
    dockerfile: str
    sha256: str
    tar: bytes = field(repr=False)
    build_args: dict[str, str]
    needs: tuple[str, ...] = ()


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that has no `*` and no `**` either: a short template may not make a long text."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002 - Jinja's
        raise SecurityError(f"a template may not use {operator}")


def base_reference(vendor: Vendor, engine: str, site: Site) -> str:
    """The image that FROM names: the site's own, else the vendor's, from the site's mirror where it has one.

    Raises ConfigError (E242) when there is none, or when the site's cannot be a reference.
    """
    if site.base_image is not None:
        return _fitting(ImageReference, site.base_image, "site.base_image")
    image = vendor.image(engine)
    if image is None:
        raise ConfigError(
            Problem(
                code="E242",
                message=f"{vendor.display_name} lists no image for engine {engine}",
                help="add it under images in its vendor.yaml, or name site.base_image in the cluster file",
            )
        )
    reference = image.reference
    if site.registry_mirror is not None and image.registry != "localhost":
        mirror = _fitting(Registry, site.registry_mirror, "site.registry_mirror")
        reference = f"{mirror}/{image.reference.removeprefix(image.registry + '/')}"
    return _fitting(ImageReference, reference, "the image's reference")


def build_args(site: Site) -> dict[str, str]:
    """The proxies, as the build arguments that docker knows by itself and keeps out of an image's history.

    Raises ConfigError (E242) for one with a user or password in it: a build argument is no place for them.
    """
    given = {
        "http_proxy": (PlainUrl, site.http_proxy),
        "https_proxy": (PlainUrl, site.https_proxy),
        "no_proxy": (HostList, site.no_proxy),
    }
    values = {
        name: _fitting(kind, value, f"site.{name}")
        for name, (kind, value) in given.items()
        if value is not None
    }
    return values | {name.upper(): value for name, value in values.items()}


def dockerfile(
    folder: Path,
    name: str,
    vendor: Vendor,
    *,
    engine: str,
    site: Site,
    rehearsal: bool = False,
    needs: Collection[str] = (),
) -> str:
    """The Dockerfile of one vendor and engine; `folder` is dockerfiles/. It ends with a newline. In a
    `rehearsal` an external program is replaced by its stand-in; `needs` is what else the work asks of it.

    Raises ConfigError (E242) for a value that may not stand in one and (E243) for a template that fails.
    """
    _fitting(Name, name, "vendor")
    _fitting(Name, engine, "engine")
    values = {
        "vendor": name,
        "engine": engine,
        "base": base_reference(vendor, engine, site),
        # A stand-in needs nothing of what the program that it stands in for does.
        "packages": ["torch"]
        if rehearsal and engine in vendor.programs
        else list(_packages(vendor, engine, needs)),
        "pip": list(_pip(site)),
        "wheels": site.wheels is not None,
        "rehearsal": rehearsal,
        "program": _program(vendor, engine),
    }
    environment = _Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        undefined=StrictUndefined,
        autoescape=False,  # the text is no HTML; each value is held against a pattern instead
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.clear()
    environment.filters["word"] = _word
    environment.filters["words"] = _words
    try:
        text = environment.get_template(f"{name}/{TEMPLATE}").render(values)
    except (TemplateError, OSError, UnicodeDecodeError, TypeError, ArithmeticError) as error:
        raise ConfigError(
            Problem(
                code="E243",
                file=f"dockerfiles/{name}/{TEMPLATE}",
                line=getattr(error, "lineno", None),
                message=f"{type(error).__name__}: {error}",
            )
        ) from error
    text = re.sub(r"\n{3,}", "\n\n", text.strip("\n")) + "\n"
    if len(text.encode("utf-8")) > MAX_DOCKERFILE_BYTES:
        raise ConfigError(
            Problem(
                code="E243",
                message=f"dockerfiles/{name}/{TEMPLATE} makes more than {MAX_DOCKERFILE_BYTES} bytes",
            )
        )
    return text


def context(
    workspace: Workspace,
    name: str,
    vendor: Vendor,
    *,
    engine: str,
    site: Site,
    rehearsal: bool = False,
    needs: Collection[str] = (),
) -> Context:
    """The Dockerfile with the trainer and, where the site has them, wheels: sorted, without times and owners.

    Raises ConfigError as `dockerfile` does, and (E244) for a wheels folder that cannot be read.
    """
    text = dockerfile(
        workspace.vendors, name, vendor, engine=engine, site=site, rehearsal=rehearsal, needs=needs
    )
    files = {"Dockerfile": text.encode("utf-8"), "nx8/provide.py": (workspace.vendors / PROVIDE).read_bytes()}
    for path in sorted(workspace.trainer.glob("*.py")):
        files[f"nx8/trainer/{path.name}"] = path.read_bytes()
    if rehearsal and engine in vendor.programs:
        for path in sorted(workspace.stand_in.glob("*.py")):
            files[f"nx8/stand_in/{path.name}"] = path.read_bytes()
    if site.wheels is not None:
        files |= _wheels(workspace, site.wheels)
    packed = _tar(files)
    sha256 = hashlib.sha256(packed).hexdigest()
    return Context(
        tag=f"nx8-{name.lower()}-{engine}:{sha256[:HASH_LENGTH]}",
        base=base_reference(vendor, engine, site),
        dockerfile=text,
        sha256=sha256,
        tar=packed,
        build_args=build_args(site),
        needs=tuple(sorted(needs)),
    )


def _packages(vendor: Vendor, engine: str, needs: Collection[str]) -> Iterator[str]:
    """`module` or `module=name==version`, as shared/provide.py takes them. torch is never installed over a
    vendor's own.
    """
    listed = vendor.packages_of(engine, needs)
    if all(package.module != "torch" for package in listed):
        yield "torch"
    for package in listed:
        module = _fitting(ModuleName, package.module, "packages.module")
        if package.requirement is None:
            yield module
        else:
            yield f"{module}={_fitting(Requirement, package.requirement, 'packages.requirement')}"


def _program(vendor: Vendor, engine: str) -> dict[str, str] | None:
    """Where the source of an external program is from and goes to; none for our own engines."""
    source = vendor.programs.get(engine)  # type: ignore[call-overload]
    if source is None:
        return None
    return {
        "repository": _fitting(PlainUrl, source.repository, "programs.repository"),
        "commit": _fitting(Commit, source.commit, "programs.commit"),
        "directory": _fitting(AbsolutePath, source.directory, "programs.directory"),
    }


def _pip(site: Site) -> Iterator[str]:
    if site.pip_index is not None:
        index = _fitting(PlainUrl, site.pip_index, "site.pip_index")
        yield f"--index-url={index}"
        if index.startswith("http://"):
            # Written with http by whoever runs the site: pip otherwise ignores the index without failing.
            yield f"--trusted-host={re.split('[/:]', index.removeprefix('http://'))[0]}"
    if site.wheels is not None:
        yield "--find-links=/opt/nx8/wheels"


def _wheels(workspace: Workspace, folder: str) -> dict[str, bytes]:
    place = workspace.home / folder
    try:
        found = sorted(path for path in place.iterdir() if path.is_file())
    except (OSError, ValueError):
        found = []
    wrong = [path.name for path in found if not WHEEL.fullmatch(path.name)]
    if not found or wrong:
        what = f"holds {', '.join(wrong[:5])}" if wrong else "is no folder with files in it"
        raise ConfigError(
            Problem(
                code="E244",
                message=f"site.wheels: {_shown(folder)} {what}",
                help="it holds *.whl and *.tar.gz",
            )
        )
    return {f"nx8/wheels/{path.name}": path.read_bytes() for path in found}


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as packed:
        for path in sorted(files):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(files[path]), 0o644, 0
            entry.uid = entry.gid = 0
            packed.addfile(entry, io.BytesIO(files[path]))
    return buffer.getvalue()


def _fitting(kind: Any, value: str, what: str) -> str:
    if not fits(kind, value):
        raise ConfigError(
            Problem(
                code="E242",
                message=f"{what}: {_shown(value)} cannot stand in an image",
                help=f"wants {wants(kind)}",
            )
        )
    return value


def _shown(value: str) -> str:
    """The value, but what stands before an '@' or after a '?' may be a password, with a scheme or without."""
    _, at, tail = value.rpartition("@")
    value = f"***@{tail}" if at and not tail.startswith("sha256:") else value
    head, question, _ = value.partition("?")
    return repr(f"{head}?***" if question else value)[:200]


def _word(value: str) -> str:
    """One word of an instruction, of letters that mean nothing to docker."""
    if not WORD.fullmatch(value):
        raise SecurityError(f"{value!r} is no plain word")
    return value


def _words(values: list[str]) -> str:
    """The JSON form of RUN: no shell reads it."""
    return json.dumps([_word(value) for value in values])
