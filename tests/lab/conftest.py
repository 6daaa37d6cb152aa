"""Real nodes for tests: `labs` gives a lab of any vendor, `lab` one of two nodes with two devices each. They
run until the session ends; a test that breaks a node mends it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.lab import box, host
from orchestrator.lab.cache import MIRROR, Sources
from orchestrator.lab.state import Lab
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.lab.state import LabNode

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: Read before the tests' own clean environment hides it.
IN_CI = bool(os.environ.get("CI"))
CACHE = Path(os.environ.get("NX8_LAB_CACHE") or ROOT / "results" / "lab" / "cache")
SOURCES = Sources(
    folder=CACHE,
    constraints=ROOT / "constraints.txt",
    mirror=os.environ.get("NX8_LAB_MIRROR") or MIRROR,
    extra_index=os.environ.get("NX8_LAB_EXTRA_INDEX"),
)
LIMIT_S = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.lab)
            if not item.get_closest_marker("timeout"):
                # The first one that asks for a lab may have to make the base image.
                item.add_marker(pytest.mark.timeout(1500))


def require_host(*, in_ci: bool = IN_CI) -> None:
    """Before a lab is made: skips where this machine cannot have one, and fails where it has to."""
    if found := host.problems():
        why = "; ".join(f"{problem.message} ({problem.help})" for problem in found)
        if in_ci:
            pytest.fail(f"CI never skips the lab: {why}")
        pytest.skip(why)


@dataclass
class Bed:
    """A lab that runs, with the home folder whose cluster/lab.yaml describes it."""

    workspace: Workspace
    lab: Lab

    @property
    def nodes(self) -> tuple[LabNode, ...]:
        return self.lab.nodes

    def on(self, node: LabNode, *command: str, user: str = "root", stdin: bytes = b"") -> str:
        """The standard output of a command over ssh that has to end with 0."""
        done = subprocess.run(
            self.lab.ssh(node, *command, user=user), input=stdin, capture_output=True, timeout=LIMIT_S
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"{node.name}: {command} exited {done.returncode}\n{said}"
        return done.stdout.decode()


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Bed]]:
    """vendor, nodes=2, devices=2 → a running lab; the same one for the same wish."""
    require_host()
    running: dict[tuple[str, int, int], Bed] = {}

    def make(vendor: str, *, nodes: int = 2, devices: int = 2) -> Bed:
        wish = (vendor, nodes, devices)
        if wish not in running:
            home = tmp_path_factory.mktemp(f"{vendor}-home")
            for noun in ("cases", "dockerfiles", "cluster"):
                shutil.copytree(ROOT / noun, home / noun, ignore=shutil.ignore_patterns("__pycache__"))
            for private in (home / "cluster").glob("*.yaml"):
                if private.stem not in ("local", "example"):
                    private.unlink()
            workspace = Workspace(home=home)
            made = box.up(
                workspace,
                box.Wish(vendor=vendor, nodes=nodes, devices=devices),
                sources=SOURCES,
                say=lambda _: None,
            )
            running[wish] = Bed(workspace, made)
        return running[wish]

    yield make
    for bed in running.values():
        box.down(bed.workspace, bed.lab.names.name)


@pytest.fixture(scope="session")
def sources() -> Sources:
    """The cache that all labs of the tests share."""
    return SOURCES


@pytest.fixture(scope="session")
def lab(labs: Callable[..., Bed]) -> Bed:
    return labs("mthreads")
