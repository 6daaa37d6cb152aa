"""What the labs of a machine share and nobody wants to make twice: the nodes' root, and docker's store with
the base image in it. Built from Debian's packages and PyPI, under a name that holds the recipe's hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import PreflightError, Problem
from orchestrator.lab import host
from orchestrator.lab.standins import shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
NODE_PACKAGES = ("openssh-server", "docker.io", "iptables", "iproute2", "python3", "procps")
IMAGE_PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates", "procps", "iproute2")
#: Installed one after another: DeepSpeed's set-up looks for torch.
PIP_PACKAGES = ("torch", "numpy", "setuptools", "deepspeed")
#: Pinned for who develops. None of PIP_PACKAGES brings them into the image, so they do not make it another.
NOT_IN_IMAGE = frozenset({"axe-playwright-python", "greenlet", "playwright"})
NO_WORDS = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
NETWORK_LIMIT_S = 20.0
DEBIAN_LIMIT_S = 900.0
PIP_LIMIT_S = 1500.0
STORE = "overlay2"
PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the cache's parts come from, and where they are kept."""

    folder: Path
    constraints: Path
    mirror: str = MIRROR
    extra_index: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Parts of the cache that are ready. `store` is docker's data root: `image/` and `overlay2/`."""

    node_root: Path
    store: Path
    image_id: str


def ready(sources: Sources) -> Parts | None:
    """The cache's parts if they are there already."""
    node_root, store = _node_root(sources), _store(sources)
    if not node_root.is_dir() or not (store / "image.json").is_file():
        return None
    image_id = json.loads((store / "image.json").read_text())["image_id"]
    return Parts(node_root=node_root, store=store / "docker", image_id=image_id)


def prepare(
    sources: Sources, *, say: Callable[[str], None], importing: Callable[[Path, Path, Path], str]
) -> Parts:
    """The cache's parts, made now where they are missing.

    `importing` puts a root's tar into an empty docker data root (with the nodes' root to run dockerd in) and
    returns the image's id. Raises PreflightError when the network or a builder fails, each within its limit.
    """
    sources.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with host.alone(
        f"cache-{hashlib.sha256(str(sources.folder).encode()).hexdigest()[:12]}",
        wait_s=DEBIAN_LIMIT_S + PIP_LIMIT_S,
        doing="building the lab's base image",
    ):
        if found := ready(sources):
            return found
        _sweep(sources)
        _reachable(sources.mirror)
        say("first use of this cache: the nodes' root and the base image are built once, some minutes")
        with _begun(sources.folder / "new-image-root") as image_root, ThreadPoolExecutor(2) as pool:
            waiting = [
                pool.submit(_make_node_root, sources, say),
                pool.submit(_make_image_root, sources, image_root, say),
            ]
            for one in waiting:
                one.result()
            if not (_store(sources) / "image.json").is_file():
                _make_store(sources, image_root, say, importing)
    made = ready(sources)
    assert made is not None
    return made


def _node_root(sources: Sources) -> Path:
    return sources.folder / f"node-{_hash(SUITE, sources.mirror, *NODE_PACKAGES)}"


def _store(sources: Sources) -> Path:
    lines = (line.strip() for line in sources.constraints.read_text().splitlines())
    pins = [line for line in lines if line and _name(line) not in NOT_IN_IMAGE and not line.startswith("#")]
    recipe = (SUITE, sources.mirror, *IMAGE_PACKAGES, *PIP_PACKAGES, *pins, shipped("image_packages.sh"))
    return sources.folder / f"image-{_hash(*recipe)}"


def _name(pin: str) -> str:
    """The package of a line of constraints, as package indices compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~;\[ ]", pin, maxsplit=1)[0]).lower()


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sweep(sources: Sources) -> None:
    """What an interrupted build left. Nobody else builds: the caller holds the lock."""
    for path in sources.folder.glob("new-*"):
        _remove(path)


@contextmanager
def _begun(folder: Path) -> Iterator[Path]:
    """A folder for work in progress; gone afterwards, unless it was renamed into place."""
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        host.run(["rm", "-rf", "--one-file-system", folder], doing=f"removing {folder}", limit_s=120)


def _reachable(mirror: str) -> None:
    """Raises PreflightError (E286) within seconds where Debian's mirror does not answer."""
    url = f"{mirror.rstrip('/')}/dists/{SUITE}/Release"
    try:
        with urllib.request.urlopen(url, timeout=NETWORK_LIMIT_S) as answer:  # noqa: S310 - the person's mirror
            answer.read(64)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise PreflightError(
            Problem(
                code="E286",
                message=f"the base image is built from Debian's packages, but {url} cannot be read: {error}",
                help="name a mirror that this machine reaches: nx8 lab up --mirror URL"
                "   (or copy another machine's results/lab/cache)",
            )
        ) from error


def _make_node_root(sources: Sources, say: Callable[[str], None]) -> None:
    target = _node_root(sources)
    if target.is_dir():
        return
    with _begun(sources.folder / "new-node-root") as root:
        _debian(sources, root, NODE_PACKAGES, "the nodes' root", say)
        # A second account, for who must not be root: it may use docker, and logs in with the same key.
        host.run(
            [
                "chroot",
                root,
                "/usr/sbin/useradd",
                "-m",
                "-p",
                "*",
                "-s",
                "/bin/bash",
                "-G",
                "docker",
                "bench",
            ],
            doing="adding the account bench",
        )
        for key in (root / "etc" / "ssh").glob("ssh_host_*"):
            key.unlink()
        root.rename(target)


def _make_image_root(sources: Sources, root: Path, say: Callable[[str], None]) -> None:
    if (_store(sources) / "image.json").is_file():
        return
    _debian(sources, root, IMAGE_PACKAGES, "the base image's root", say)
    begun_s = time.monotonic()
    local, environment = pip_settings(sources.extra_index)
    with as_file(files("orchestrator.lab.files").joinpath("image_packages.sh")) as script:
        output = host.run(
            [
                *PRIVATE_MOUNTS,
                "sh",
                script,
                root,
                sources.constraints,
                ":".join(map(str, local)),
                *PIP_PACKAGES,
            ],
            doing="installing torch and deepspeed into the base image",
            limit_s=PIP_LIMIT_S,
            environment=environment,
            log=sources.folder / "pip.log",
        )
    versions = next((line for line in reversed(output.splitlines()) if line.startswith("torch ")), "")
    say(f"base image: {versions} ({time.monotonic() - begun_s:.0f} s)")


def _debian(
    sources: Sources, root: Path, packages: tuple[str, ...], what: str, say: Callable[[str], None]
) -> None:
    begun_s = time.monotonic()
    host.run(
        [*PRIVATE_MOUNTS, "mmdebstrap", "--mode=root", "--variant=minbase"]
        + [f"--include={','.join(packages)}"]
        + [f"--dpkgopt=path-exclude={pattern}" for pattern in NO_WORDS]
        + [f'--aptopt=Acquire::http::Timeout "{NETWORK_LIMIT_S:g}"', '--aptopt=Acquire::Retries "2"']
        + [SUITE, str(root), sources.mirror],
        doing=f"making {what} from Debian {SUITE}",
        limit_s=DEBIAN_LIMIT_S,
        environment=_proxies() | {"TMPDIR": str(sources.folder)},
        log=sources.folder / f"{root.name}.log",
    )
    root.chmod(0o755)
    say(f"{what}: Debian {SUITE} ({time.monotonic() - begun_s:.0f} s)")


def _proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def pip_settings(extra_index: str | None) -> tuple[list[Path], dict[str, str]]:
    """The folders that this machine's pip finds packages in, and its settings as environment variables: pip
    inside the image's root is to find what pip outside does.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        key, equals, value = line.partition("=")
        name = key.rpartition(".")[2]
        if equals and name in ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy"):
            settings[name] = value.strip().strip("'\"").replace("\\n", " ")
    if extra_index:
        settings["extra-index-url"] = f"{settings.get('extra-index-url', '')} {extra_index}".strip()
    words = [word for value in settings.values() for word in value.split()]
    paths = [Path(urllib.parse.unquote(word.removeprefix("file://"))) for word in words if "/" in word]
    folders = [path for path in paths if path.is_absolute() and path.is_dir()]
    # An index's files lie beside its pages: `simple` alone would be half of it.
    folders = [path.parent if path.name == "simple" else path for path in folders]
    environment = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings.items()}
    return sorted(set(folders)), environment | _proxies()


def _make_store(
    sources: Sources,
    image_root: Path,
    say: Callable[[str], None],
    importing: Callable[[Path, Path, Path], str],
) -> None:
    begun_s = time.monotonic()
    with _begun(sources.folder / "new-store") as work:
        tar, full = work / "root.tar", work / "full"
        full.mkdir()
        host.run(
            ["tar", "-C", image_root, "--numeric-owner", "--one-file-system", "-cf", tar, "."],
            doing="packing the base image",
            limit_s=300,
        )
        image_id = importing(tar, full, _node_root(sources))
        kept = work / "kept"
        (kept / "docker").mkdir(parents=True, mode=0o710)
        for part in ("image", STORE):
            (full / part).rename(kept / "docker" / part)
        (kept / "image.json").write_text(json.dumps({"image_id": image_id}))
        if _store(sources).exists():
            shutil.rmtree(_store(sources))
        kept.rename(_store(sources))
    say(f"base image: {image_id[:19]} in docker's store ({time.monotonic() - begun_s:.0f} s)")


def seed(parts: Parts, target: Path) -> None:
    """A node's docker data root, as a farm of hard links: layers are never written to, and docker removing
    one only unlinks it. On another file system it is copied.
    """
    target.mkdir(mode=0o710)
    host.run(["cp", "-a", parts.store / "image", target], doing="copying docker's tables", limit_s=60)
    link = parts.store.stat().st_dev == target.stat().st_dev
    host.run(
        ["cp", "-al" if link else "-a", parts.store / STORE, target],
        doing="giving the node its base image",
        limit_s=300,
    )
