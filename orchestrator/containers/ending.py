"""How a container came to its end, by what docker says and what the launcher wrote, together. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from orchestrator.parse.status import NodeStatus, read_status

if TYPE_CHECKING:
    from orchestrator.docker import ContainerState

Kind = Literal[
    "running",
    "unknown",
    "finished",
    "failed",
    "stopped",
    "stopped_outside",
    "lost",
    "out_of_memory",
    "killed",
    "oom_inside",
]

SIGKILLED = 137
#: Neither the ranks nor their launcher decided these.
ODD_ENDS = frozenset(("out_of_memory", "oom_inside", "killed", "stopped_outside"))


class Ending(TypedDict):
    kind: Kind
    text: str


def ending(state: ContainerState | None, status: bytes | None, *, asked: bool = True) -> Ending:
    """`state` is docker's word (None: it was never heard), `status` the launcher's status.json (None: none
    came), `asked` whether this run may have told it to end. None of them alone says how a job ended: 137 is
    also a restart of dockerd, and 0 may hide a process that the kernel killed for its memory.
    """
    told = read_status(status) if status is not None else None
    stopped_by = told.stopped_by if isinstance(told, NodeStatus) else None
    if state is None:
        return Ending(kind="unknown", text="docker was never heard of it")
    if state.exit_code is None:
        return Ending(kind="running", text=f"docker last said {state.status}")
    if state.oom_killed and state.exit_code == SIGKILLED:
        return Ending(kind="out_of_memory", text="the kernel killed it for its memory (137, OOMKilled)")
    if state.oom_killed:
        text = f"a process in it was killed for its memory (OOMKilled), yet it exited with {state.exit_code}"
        return Ending(kind="oom_inside", text=text)
    if state.exit_code == SIGKILLED and not isinstance(told, NodeStatus):
        text = "killed from outside (137 without OOMKilled): docker kill, or dockerd was restarted"
        return Ending(kind="killed", text=text)
    if stopped_by == "lost":
        return Ending(kind="lost", text="its launcher ended it: nobody renewed the lease any more")
    if stopped_by is not None and stopped_by.startswith("signal:") and not asked:
        # A dockerd without live-restore stops what it finds running when it starts.
        text = f"told to end from outside ({stopped_by}): docker stop, or dockerd was restarted"
        return Ending(kind="stopped_outside", text=text)
    if stopped_by is not None and (stopped_by == "host_gone" or stopped_by.startswith("signal:")):
        return Ending(kind="stopped", text=f"its launcher was told to end: {stopped_by}")
    if state.exit_code == 0 and isinstance(told, NodeStatus):
        return Ending(kind="finished", text="exit 0, and its launcher wrote how its ranks ended")
    if not isinstance(told, NodeStatus):
        return Ending(kind="failed", text=f"exit {state.exit_code}, and its launcher left no status")
    return Ending(kind="failed", text=f"exit {state.exit_code}")
