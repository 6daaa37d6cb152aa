"""Where the noun folders are and what they hold. Made once in the CLI and passed along; tests make one in a
temporary folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

NOUNS = ("cases", "dockerfiles", "cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The folder that holds cases/, dockerfiles/, cluster/ and results/."""

    home: Path

    @property
    def cases(self) -> Path:
        return self.home / "cases"

    @property
    def vendors(self) -> Path:
        return self.home / "dockerfiles"

    @property
    def clusters(self) -> Path:
        return self.home / "cluster"

    @property
    def results(self) -> Path:
        return self.home / "results"

    @property
    def runs(self) -> Path:
        return self.results / "runs"

    @property
    def suites(self) -> Path:
        return self.cases / "suites"

    @property
    def trainer(self) -> Path:
        return self.cases / "trainer"

    @property
    def stand_in(self) -> Path:
        """What a rehearsal runs in place of an external program."""
        return self.vendors / "shared" / "stand_in"

    def case_file(self, case: str) -> Path:
        return self.cases / case / "case.yaml"

    def config_file(self, case: str, config: str) -> Path:
        return self.cases / case / "configs" / f"{config}.yaml"

    def vendor_file(self, vendor: str) -> Path:
        return self.vendors / vendor / "vendor.yaml"

    def cluster_file(self, cluster: str) -> Path:
        return self.clusters / f"{cluster}.yaml"

    def suite_file(self, suite: str) -> Path:
        return self.suites / f"{suite}.yaml"

    def suite_names(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self.suites.glob("*.yaml")))

    def case_names(self) -> tuple[str, ...]:
        return tuple(sorted(path.parent.name for path in self.cases.glob("*/case.yaml")))

    def config_names(self, case: str) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in (self.cases / case / "configs").glob("*.yaml")))

    def vendor_names(self) -> tuple[str, ...]:
        return tuple(sorted(path.parent.name for path in self.vendors.glob("*/vendor.yaml")))

    def cluster_names(self) -> tuple[str, ...]:
        """Every cluster file but the example, which exists to be copied."""
        return tuple(sorted(path.stem for path in self.clusters.glob("*.yaml") if path.stem != "example"))

    def shown(self, path: Path) -> str:
        """`path` as a person standing in the home folder would write it."""
        return str(path.relative_to(self.home)) if path.is_relative_to(self.home) else str(path)


def find(*, home: Path | None, environment: Mapping[str, str], working_directory: Path) -> Workspace:
    """The workspace by `--home`, then `NX8_HOME`, then upwards from the working directory.

    Raises ConfigError (E111) naming every place that was looked at.
    """
    named = home or (working_directory / environment["NX8_HOME"] if environment.get("NX8_HOME") else None)
    if named is not None:
        if _holds_nouns(named):
            return Workspace(home=named.resolve())
        missing = ", ".join(f"{noun}/" for noun in NOUNS if not (named / noun).is_dir())
        raise ConfigError(
            Problem(
                code="E111",
                message=f"{named} is not an Nx8 folder: it lacks {missing}",
                help="name the folder that holds cases/, dockerfiles/ and cluster/: nx8 --home FOLDER …",
            )
        )
    for folder in (working_directory, *working_directory.parents):
        if _holds_nouns(folder):
            return Workspace(home=folder.resolve())
    raise ConfigError(
        Problem(
            code="E111",
            message=f"{working_directory} is in no Nx8 folder, one with cases/, dockerfiles/ and cluster/",
            help="stand in the checkout, or name it: nx8 --home FOLDER …   (or set NX8_HOME)",
        )
    )


def _holds_nouns(folder: Path) -> bool:
    return all((folder / noun).is_dir() for noun in NOUNS)
