"""cases/suites/<name>.yaml → Suite: what a nightly runs, in which order, how long, and how it is judged."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, MinLen

from orchestrator.errors import ConfigError, Problem
from orchestrator.gate.rule import Rule
from orchestrator.load import load
from orchestrator.text import NAME_REGEX, Line, Name, Pattern

if TYPE_CHECKING:
    from orchestrator.workspace import Workspace

#: A time with its unit: 90s, 45m, 6h.
Duration = Annotated[str, Pattern(r"^[1-9][0-9]{0,5}[smh]$", "a time with its unit: 90s, 45m or 6h")]
#: A case, or one of its configs: llama2_70b:tp8.
CaseName = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$",
        "the name of a case, and behind ':' that of one of its configs",
    ),
]
#: One word of a command.
Word = Annotated[str, Pattern(r"^[^\x00-\x1f\x7f]{1,400}$", "one argument, without control characters")]
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One case of a suite. `nodes`: numbers of nodes, each a run of its own; all of the cluster where none is
    given. `stages`: of a case that has them, all where none is given. `published`: a row to be held against,
    as `nx8 compare` names it, without `published:`.
    """

    case: CaseName
    nodes: tuple[Annotated[int, Ge(1), Le(1024)], ...] = ()
    stages: tuple[Name, ...] = ()
    steps: Annotated[int, Ge(1)] | None = None
    published: Line | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What a nightly does. `cluster`: a file of cluster/, where the suite is for one alone. `time_budget`: no
    cell is begun that would not end within it, and one that is running is ended (exit 7). `notify`: a command
    that gets JSON on its standard input when the state of something changed.
    """

    schema: Literal[1]
    description: Line
    cells: Annotated[tuple[Entry, ...], MinLen(1)]
    cluster: Name | None = None
    time_budget: Duration | None = None
    gate: Rule = field(default_factory=Rule)
    notify: tuple[Word, ...] = ()

    @property
    def budget_s(self) -> float | None:
        return None if self.time_budget is None else seconds(self.time_budget)


def seconds(duration: str) -> float:
    """90s, 45m, 6h in seconds. Raises ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", duration)
    if found is None:
        raise ValueError(f"{duration!r} is no time with its unit: 90s, 45m or 6h")
    return float(int(found[1]) * _SECONDS[found[2]])


def read_suite(workspace: Workspace, name: str) -> Suite:
    """Raises ConfigError (E742 for one that is not there)."""
    path = workspace.suite_file(name)
    if not re.fullmatch(NAME_REGEX, name) or name not in workspace.suite_names():
        known = ", ".join(workspace.suite_names()) or "none"
        message = f"suite {name[:80]!a} is not known here: {workspace.shown(path)} is missing"
        raise ConfigError(Problem(code="E742", message=message, help=f"known: {known}; docs/nightly.md"))
    return load(path, Suite, shown_as=workspace.shown(path))
