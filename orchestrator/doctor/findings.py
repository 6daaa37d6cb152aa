"""What was found, as values: per node one or more checks, each with how bad it is, whose it is and what mends
it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import Exit
from orchestrator.messages import Message

if TYPE_CHECKING:
    from orchestrator.messages import Language

#: ok: it is so. warn: a run works, but its figures may not compare. bad: a run cannot be made there.
#: unasked: there is nothing to say, or something before it failed.
Severity = Literal["ok", "warn", "bad", "unasked"]
#: Who can mend it: the node's keeper, who asked (cluster file, key, files here), the accelerator's maker.
Owner = Literal["node", "user", "vendor"]
WORST_FIRST: tuple[Severity, ...] = ("bad", "warn", "ok", "unasked")
#: What Nagios and its kin take for an exit code.
NAGIOS = {"ok": 0, "warn": 1, "bad": 2, "unasked": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `shown` is a few characters for a table's cell; `fix` one line that can
    be pasted into a shell, None where there is nothing to do.
    """

    name: str
    severity: Severity
    message: Message
    shown: str = ""
    code: str | None = None
    owner: Owner | None = None
    fix: Message | None = None

    def text(self, language: Language = "en") -> str:
        return self.message.zh if language == "zh" else self.message.en

    def fix_text(self, language: Language = "en") -> str | None:
        return None if self.fix is None else self.fix.zh if language == "zh" else self.fix.en


def worst(severities: tuple[Severity, ...]) -> Severity:
    """The worst of them; ok for none."""
    return min(severities, key=WORST_FIRST.index, default="ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFindings:
    """All checks of one planned node, in the order of the table; one name may stand more than once. `login`
    is the command that gets there.
    """

    name: str
    address: str
    checks: tuple[Check, ...]
    login: str = ""

    @property
    def severity(self) -> Severity:
        return worst(tuple(check.severity for check in self.checks))

    @property
    def problems(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.severity in ("warn", "bad"))

    def of(self, name: str) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `nx8 doctor` found. `here` are checks of this machine, which asked: data to be handed out, cases.

    `seconds` is how long looking took, `at_utc` when it began (ISO 8601).
    """

    cluster: str
    vendor: str
    device: str
    num_nodes: int
    devices_per_node: int
    rehearsal: bool
    at_utc: str
    seconds: float
    nodes: tuple[NodeFindings, ...]
    here: tuple[Check, ...] = ()

    def node(self, name: str) -> NodeFindings:
        return next(node for node in self.nodes if node.name == name)

    @property
    def severity(self) -> Severity:
        return worst((*(node.severity for node in self.nodes), *(check.severity for check in self.here)))

    @property
    def usable(self) -> tuple[str, ...]:
        """Names of the nodes that can run what is planned, warnings or not."""
        return tuple(node.name for node in self.nodes if node.severity != "bad")

    @property
    def problems(self) -> tuple[tuple[str, Check], ...]:
        """(node or "", check) of everything that is not well, what keeps a run from starting first."""
        found = [("", check) for check in self.here if check.severity in ("warn", "bad")]
        found += [(node.name, check) for node in self.nodes for check in node.problems]
        return tuple(sorted(found, key=lambda one: WORST_FIRST.index(one[1].severity)))

    @property
    def exit_code(self) -> Exit:
        """3 when a planned node cannot run; else 0."""
        return Exit.PREFLIGHT if self.severity == "bad" else Exit.OK

    @property
    def nagios(self) -> int:
        return NAGIOS[self.severity]
