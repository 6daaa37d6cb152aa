"""Twenty secrets that a site and a person have are in no output, argument, image, or file of a run; and what
looks for them finds one that was put there.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import string
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.conftest import IN_CI
from tests.lab.registry import USER, Registry, pushed, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Labs = Callable[..., Any]

pytestmark = pytest.mark.lab

DEADLINE_S = 600.0
VENDOR = "mthreads"
#: Variables of whoever starts a run that hold secrets of theirs, none of which is a node's business.
VARIABLES = (
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "WANDB_API_KEY",
    "SSH_KEY_PASSPHRASE",
    "DOCKER_PASSWORD",
    "PIP_INDEX_URL",
    "HTTPS_PROXY",
    "OTHER_REGISTRY_PASSWORD",
)
#: Each would put a user and a password where an image, or a log, keeps it.
SITE = {
    "http_proxy": "http://ann:{}@proxy.example:3128",
    "https_proxy": "http://ann:{}@proxy.example:3128",
    "no_proxy": "ann:{}@intranet.example",
    "pip_index": "https://ann:{}@pip.example/simple",
    "registry_mirror": "ann:{}@mirror.example:5000",
    "base_image": "ann:{}@registry.example/base:1",
}
QUERY = "https://pip.example/simple?token={}"
#: Where a node, on its own disk or in its memory, could keep what it was given.
PLACES = ("srv", "tmp", "root", "home", "var", "etc", "run", "dev/shm")


@dataclass
class Seeds:
    """Secrets by what they are for, from a fixed generator: a failure can be looked at again."""

    generator: random.Random = field(default_factory=lambda: random.Random(20261121))
    given: dict[str, str] = field(default_factory=dict)

    def new(self, purpose: str) -> str:
        word = "".join(self.generator.choices(string.ascii_letters + string.digits, k=28))
        self.given[purpose] = word
        return word

    def found_in(self, data: bytes) -> set[str]:
        """What each secret in `data` was for, in plain or inside of what base64 makes of a longer text."""
        return {
            purpose
            for purpose, secret in self.given.items()
            if any(form in data for form in forms(secret.encode()))
        }


def forms(secret: bytes) -> Iterable[bytes]:
    """The secret, and what is the same of it in the base64 of any text around it."""
    yield secret
    for before in range(3):
        coded = base64.b64encode(bytes(before) + secret + bytes(3))
        yield coded[4 : 4 * ((before + len(secret)) // 3)]


class Watch:
    """Looks at the arguments of every process of this machine, the nodes' among them, and at the variables of
    the nodes' own, as fast as it can while it is open.
    """

    def __init__(self, seeds: Seeds, bed: Any) -> None:
        self.seeds = seeds
        self.spaces = {os.readlink(f"/proc/{node.init.pid}/ns/mnt") for node in bed.nodes}  # noqa: PTH115
        self.seen: set[str] = set()
        self.looks = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(DEADLINE_S)

    def _look(self) -> None:
        while not self._end.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                self._one(process)
            self.looks += 1
            self._end.wait(0.02)

    def _one(self, process: Path) -> None:
        try:
            words = (process / "cmdline").read_bytes()
            self.seen |= {f"{one} in {words[:200]!r}" for one in self.seeds.found_in(words)}
            if self._on_a_node(process):
                variables = (process / "environ").read_bytes()
                self.seen |= {
                    f"{one} in a variable of {words[:80]!r}" for one in self.seeds.found_in(variables)
                }
        except OSError:
            return

    def _on_a_node(self, process: Path) -> bool:
        """In a node's own namespaces, or in those of one of its containers."""
        if os.readlink(process / "ns" / "mnt") in self.spaces:  # noqa: PTH115
            return True
        lines = (process / "status").read_text().splitlines()
        return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in lines)


def in_files(seeds: Seeds, folders: Iterable[Path], *, since_s: float = 0.0) -> set[str]:
    """Secrets in files below the folders that were changed after `since_s`, by purpose and path."""
    found = set()
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder) / name
                try:
                    if path.is_symlink() or not path.is_file() or path.stat().st_ctime < since_s:
                        continue
                    found |= {f"{one} in {path}" for one in seeds.found_in(path.read_bytes())}
                except OSError:
                    continue
    return found


def on_nodes(seeds: Seeds, bed: Any, *, since_s: float) -> set[str]:
    """Secrets in what the nodes keep: files, images with their history, containers."""
    found = in_files(seeds, (node.root / place for node in bed.nodes for place in PLACES), since_s=since_s)
    ask = (
        "for i in $(docker image ls -aq); do docker history --no-trunc $i; docker image inspect $i; done;"
        " for c in $(docker ps -aq); do docker inspect $c; docker logs $c 2>&1; done; ps axeww; docker info"
    )
    for node in bed.nodes:
        found |= {f"{one} in images of {node.name}" for one in seeds.found_in(bed.on(node, ask).encode())}
    return found


def nx8(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), *words)
    return subprocess.run(
        argv, capture_output=True, timeout=DEADLINE_S, cwd=home, env={**os.environ, **environment}
    )


def cluster_file(bed: Any, name: str, more: str) -> str:
    folder = bed.workspace.clusters
    text = (folder / "lab.yaml").read_text("utf-8")
    (folder / f"{name}.yaml").write_text(f"{text}{more}\n", "utf-8")
    shutil.copy(folder / "lab.known_hosts", folder / f"{name}.known_hosts")
    return name


def pull_block(reference: str, registry: Registry, password: str) -> str:
    login = f"{{registry: '{registry.host}', user: '{USER}', {password}}}"
    return f"image: {{source: pull, reference: '{reference}', login: {login}}}"


def forget(bed: Any) -> None:
    for node in bed.nodes:
        bed.on(
            node,
            "docker image ls --quiet --filter label=nx8.context | sort -u | xargs -r docker image rm -f",
        )


def empty(bed: Any, image: dict[str, Any]) -> str:
    """An image of one small file that says it was built from the plan's context; its name on node 1."""
    label = f"LABEL nx8.context={image['context_sha256']}"
    bed.on(bed.nodes[0], f"tar -c -C /etc hostname | docker import --change '{label}' - {image['tag']}")
    return str(image["tag"])


def private_key(bed: Any) -> str:
    """A line of the key that opens the nodes."""
    return Path(bed.lab.names.key).read_text().splitlines()[2]


def test_twenty_secrets_are_nowhere(labs: Labs, tmp_path: Path) -> None:
    bed, seeds = labs(VENDOR), Seeds()
    home = bed.workspace.home
    by_file, by_env, wrong = (seeds.new(f"registry password {how}") for how in ("by file", "by env", "wrong"))
    variables = {name: seeds.new(name) for name in VARIABLES}
    variables["PIP_INDEX_URL"] = f"https://ann:{variables['PIP_INDEX_URL']}@pip.example/simple"
    variables["HTTPS_PROXY"] = f"http://ann:{variables['HTTPS_PROXY']}@proxy.example:3128"
    site = {key: text.format(seeds.new(f"site.{key}")) for key, text in SITE.items()}
    site["pip_index?"] = QUERY.format(seeds.new("a token in an address"))
    seeds.given["the private key"] = private_key(bed)
    assert len(seeds.given) == 20
    forget(bed)
    said: list[bytes] = []

    def run(*words: str) -> int:
        done = nx8(home, *words, LAB_RIGHT=by_env, LAB_WRONG=wrong, **variables)
        said.append(done.stdout + done.stderr)
        return done.returncode

    secret = tmp_path / "secret"
    secret.write_text(f"{by_file}\n")
    secret.chmod(0o600)
    began_s = time.time()
    with Watch(seeds, bed) as watch:
        assert run("run", "llama2_7b", "--cluster", "lab", "--steps", "3") == 0, said[-1].decode()
        assert run("plan", "llama2_7b", "--cluster", "lab", "--json") == 0
        forget(bed)
        image = json.loads(said[-1])["cells"][0]["image"]
        for number, (password, line) in enumerate(
            ((by_file, f"password_file: '{secret}'"), (by_env, "password_env: LAB_RIGHT"))
        ):
            folder = tmp_path / f"registry{number}"
            folder.mkdir()
            with running(bed, folder, password, in_ci=IN_CI) as registry:
                reference = pushed(bed, bed.nodes[0], registry, password, empty(bed, image), "nx8/llama")
                refused = pull_block(reference, registry, "password_env: LAB_WRONG")
                name = cluster_file(bed, "wrong", refused)
                assert run("run", "llama2_7b", "--cluster", name) == 5
                assert b"E318" in said[-1], said[-1]
                forget(bed)
                name = cluster_file(bed, "pull", pull_block(reference, registry, line))
                assert run("plan", "llama2_7b", "--cluster", name) == 0
                # It is pulled by both and proven; then there is no Python in it to start.
                assert run("run", "llama2_7b", "--cluster", name) == 4, said[-1].decode()
                assert b"to be pulled by node1, node2" in said[-1], said[-1].decode()
                forget(bed)
        for key, value in site.items():
            name = cluster_file(bed, "site", f"site: {{{key.rstrip('?')}: '{value}'}}")
            for verb in ("plan", "run"):
                assert run(verb, "llama2_7b", "--cluster", name) == 2, (key, said[-1])
                assert b"E242" in said[-1], said[-1]
        assert run("hosts", "list", "--cluster", "lab") == 0
    assert seeds.found_in(b"".join(said)) == set()
    assert watch.seen == set()
    assert watch.looks > 10
    assert in_files(seeds, [home / "results" / "runs"]) == set()
    assert on_nodes(seeds, bed, since_s=began_s) == set()


def test_what_looks_for_secrets_finds_one_in_each_place(labs: Labs, tmp_path: Path) -> None:
    bed, seeds = labs(VENDOR), Seeds()
    node, began_s = bed.nodes[1], time.time()
    planted = seeds.new("planted")
    seeds.new("never used")
    assert seeds.found_in(f"x{planted}y".encode()) == {"planted"}
    for before in ("", "a", "ab", "user:"):
        assert seeds.found_in(base64.b64encode(f"{before}{planted}".encode())) == {"planted"}
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text(planted)
    assert len(in_files(seeds, [tmp_path])) == 1
    assert on_nodes(seeds, bed, since_s=began_s) == set()

    with Watch(seeds, bed) as watch:
        bed.on(node, f"sh -c 'sleep 2; : {planted}'")
        bed.on(node, "IFS= read -r PLANTED && export PLANTED && sleep 2", stdin=f"{planted}\n".encode())
    assert {one.split(" in ")[1][:10] for one in watch.seen if "variable" in one} == {"a variable"}
    assert any("sleep 2; :" in one for one in watch.seen)

    for where, put, take in (
        ("/srv/nx8/images/login", "mkdir -p {0} && cat > {0}/config.json", "rm -r /srv/nx8/images/login"),
        ("/tmp/left", "cat > {0}", "rm {0}"),
    ):
        bed.on(node, put.format(where), stdin=planted.encode())
        try:
            assert [one for one in on_nodes(seeds, bed, since_s=began_s) if where in one]
        finally:
            bed.on(node, take.format(where))
    recipe = f'FROM nx8-lab/base:latest\nARG SECRET\nRUN ["true"]\nLABEL a={planted}\n'
    bed.on(node, "DOCKER_BUILDKIT=0 docker build -q -t planted -", stdin=recipe.encode())
    try:
        found = on_nodes(seeds, bed, since_s=began_s)
        assert any(re.search(f"images of {node.name}", one) for one in found)
    finally:
        bed.on(node, "docker image rm -f planted; docker image prune -f")
