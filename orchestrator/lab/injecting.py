"""The faults that `nx8 lab fault` knows, by name: what each does to a node. `heal` undoes all of them,
whoever made them and however that ended.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Nx8Error, PreflightError, Problem
from orchestrator.lab import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.lab.state import Lab, LabNode

    Make = Callable[[Lab, LabNode, "Settings"], str]

HEAL = "heal"
REBOOTED = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a fault may be told. `rank` is global (None: the node's last); `cpu` a share of one core, `loss` a
    share of packets, `delay_ms` a time per packet, `skew_s` what a wall clock is wrong by.
    """

    rank: int | None = None
    cpu: float = 0.1
    loss: float = 0.1
    delay_ms: float = 50.0
    skew_s: float = 3 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One fault. `make` returns a line that says what has happened; `lasting` ones go on until they are
    undone, the others are over at once.
    """

    what: str
    lasting: bool
    make: Make


def _link(_: Lab, node: LabNode, __: Settings) -> str:
    faults.cut_link(node)
    return "link cut: no packet passes"


def _sessions(_: Lab, node: LabNode, __: Settings) -> str:
    return f"{faults.kill_sessions(node)} ssh sessions killed; new ones are let in"


def _sshd(_: Lab, node: LabNode, __: Settings) -> str:
    faults.stop_daemon(node, faults.SSHD)
    return "sshd killed with its sessions: connections are refused"


def _dockerd(_: Lab, node: LabNode, __: Settings) -> str:
    faults.stop_daemon(node, faults.DOCKERD)
    return "dockerd killed; its containers live on until it starts again"


def _containers(lab: Lab, node: LabNode, _: Settings) -> str:
    return f"{faults.kill_containers(lab, node)} containers killed"


def _kill_rank(_: Lab, node: LabNode, settings: Settings) -> str:
    return f"rank {faults.signal_rank(node, signal.SIGKILL, rank=settings.rank)} killed"


def _freeze_rank(_: Lab, node: LabNode, settings: Settings) -> str:
    return f"rank {faults.signal_rank(node, signal.SIGSTOP, rank=settings.rank)} frozen"


def _disk(lab: Lab, node: LabNode, _: Settings) -> str:
    if faults.fill_disk(lab, node):
        return "disk of /srv full"
    return (
        "disk of /srv full for what starts from now on (under running containers too: nx8 lab up --disk MIB)"
    )


def _clock(_: Lab, node: LabNode, settings: Settings) -> str:
    faults.skew_clock(node, settings.skew_s)
    return f"wall clock wrong by {settings.skew_s:+g} s for Python programs and `date` that start from now on"


def _slow(_: Lab, node: LabNode, settings: Settings) -> str:
    faults.limit_cpu(node, settings.cpu)
    return f"all of it together gets {settings.cpu:g} of one core"


def _loss(_: Lab, node: LabNode, settings: Settings) -> str:
    faults.lose_packets(node, settings.loss)
    return f"{settings.loss:.0%} of packets lost, both ways"


def _delay(_: Lab, node: LabNode, settings: Settings) -> str:
    faults.delay_packets(node, settings.delay_ms)
    return f"packets to it arrive {settings.delay_ms:g} ms later"


def _reboot(_: Lab, node: LabNode, __: Settings) -> str:
    faults.reboot_id(node, REBOOTED)
    faults.stop_daemon(node, faults.DOCKERD)
    faults.stop_daemon(node, faults.SSHD)
    faults.start_daemons(node)
    return "daemons started anew under another boot id, as after a reboot"


KINDS = {
    "link": Kind(what="the network link is cut", lasting=True, make=_link),
    "sessions": Kind(what="every open ssh session is killed", lasting=False, make=_sessions),
    "sshd": Kind(what="sshd is killed with its sessions", lasting=True, make=_sshd),
    "dockerd": Kind(what="dockerd is killed", lasting=True, make=_dockerd),
    "containers": Kind(what="every container of ours is killed", lasting=False, make=_containers),
    "kill-rank": Kind(what="one rank is killed (--rank)", lasting=False, make=_kill_rank),
    "freeze-rank": Kind(
        what="one rank is stopped and makes no step (--rank)", lasting=True, make=_freeze_rank
    ),
    "disk": Kind(what="/srv, where the work folder is, has no free byte", lasting=True, make=_disk),
    "clock": Kind(what="the wall clock is wrong (--skew)", lasting=True, make=_clock),
    "slow": Kind(what="all processes together get a share of one core (--cpu)", lasting=True, make=_slow),
    "loss": Kind(what="packets are lost (--loss)", lasting=True, make=_loss),
    "delay": Kind(what="packets come later (--delay-ms); needs netem", lasting=True, make=_delay),
    "reboot": Kind(what="the node seems to have booted again", lasting=True, make=_reboot),
}


def make(lab: Lab, node: LabNode, kind: str, settings: Settings) -> str:
    """Makes one fault and says what has happened. Raises PreflightError where it cannot be made."""
    if not node.init.alive:
        raise PreflightError(
            Problem(
                code="E272", message=f"{node.name} does not run", help=f"nx8 lab down --name {lab.names.name}"
            )
        )
    return KINDS[kind].make(lab, node, settings)


def heal(lab: Lab, node: LabNode) -> None:
    """Undoes every fault of the node that can be undone. Each undoing is tried, whether or not it is needed,
    so that nothing depends on who remembers what; raises PreflightError listing what would not go.
    """
    problems: list[Problem] = []

    def attempt(undo: Callable[[], object]) -> None:
        try:
            undo()
        except Nx8Error as error:
            problems.extend(error.problems)
        except OSError as error:
            problems.append(Problem(code="E282", message=f"healing {node.name}: {error}"))

    attempt(lambda: faults.delay_packets(node, None))
    attempt(lambda: faults.lose_packets(node, None))
    attempt(lambda: faults.mend_link(node))
    attempt(lambda: faults.limit_cpu(node, None))
    attempt(lambda: faults.resume_stopped(node))
    attempt(lambda: faults.free_disk(lab, node))
    attempt(lambda: faults.skew_clock(node, None))
    attempt(lambda: faults.reboot_id(node, None))
    attempt(lambda: faults.start_daemons(node))
    if problems:
        raise PreflightError(problems)


def node_of(lab: Lab, name: str) -> LabNode:
    """Raises ConfigError (E272) for a node that the lab does not have."""
    for node in lab.nodes:
        if node.name == name:
            return node
    names = ", ".join(node.name for node in lab.nodes)
    raise ConfigError(
        Problem(code="E272", message=f"lab {lab.names.name} has no node {name!r}", help=f"its nodes: {names}")
    )
