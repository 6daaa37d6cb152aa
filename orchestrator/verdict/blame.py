"""Who did not arrive: of ranks that all stand still, the one that the others wait for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.parse.visible import ranks_text, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.parse.stacks import Stand

#: The kernel's letters for a process that cannot go on by itself.
HELD = {
    "T": "is stopped",
    "t": "is held by a debugger",
    "D": "waits in the kernel for a device",
    "Z": "has ended and was not waited for",
}
#: A function that waits for other ranks, or for a device that does.
WAITING = re.compile(
    r"barrier|all_?reduce|all_?gather|reduce_scatter|all_to_all|broadcast|\bwait\b|\bsend\b|\brecv\b|rendezvous"
    r"|synchronize|init_process_group|destroy_process_group|monitored"
)
#: Where backward runs: it computes, and at its end it waits for the sum of the gradients.
BACKWARD = re.compile(r"_engine_run_backward|backward")
#: How many frames from the innermost one say what a rank does.
TOP_FRAMES = 6
#: Cores that a rank uses which computes, and one that sleeps.
BUSY, IDLE = 0.5, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """`ranks` did not arrive, for what `why` says of them; `rank` is the first of them."""

    ranks: tuple[int, ...]
    why: str

    @property
    def rank(self) -> int:
        return self.ranks[0]

    @property
    def text(self) -> str:
        return f"{ranks_text(list(self.ranks))} did not arrive: {self.why}"


def blame(stands: Mapping[int, Stand], last_steps: Mapping[int, int]) -> Blame | None:
    """Whom the others wait for; None where that cannot be told.

    `stands` by rank, of those that were asked; `last_steps` of every planned rank, -1 when it was not ready.
    The first of these that some ranks are and some are not: held by the kernel, behind in steps, elsewhere
    than in a collective, busy.
    """
    if len(last_steps) < 2:
        return _alone(stands)
    held = [rank for rank, stand in stands.items() if stand.pid is not None and stand.state in HELD]
    if held and len(held) < len(last_steps):
        return _blamed(held, stands, lambda stand: f"{HELD[stand.state or '']}{_in_kernel(stand)}")
    gone = [rank for rank, stand in stands.items() if stand.pid is None]
    if gone and len(gone) < len(last_steps):
        return Blame(ranks=tuple(sorted(gone)), why="no longer running")
    least, most = min(last_steps.values()), max(last_steps.values())
    if least < most:
        behind = [rank for rank, step in last_steps.items() if step == least]
        if len(behind) * 2 <= len(last_steps):
            at = "not ready" if least < 0 else f"last step {least}, others {most}"
            return _blamed(behind, stands, lambda stand: f"{at}; {doing(stand)}", otherwise=at)
    return _elsewhere(stands, len(last_steps))


def doing(stand: Stand) -> str:
    """What a rank does, in a few words."""
    if stand.state in HELD:
        return HELD[stand.state]
    if not stand.frames:
        return "did not say where it stands"
    frame = stand.frames[0]
    place = visible(frame.file.rpartition("/")[2], limit=60)
    return f"in {visible(frame.function, limit=60)} ({place}:{frame.line})"


def stood(stand: Stand) -> str:
    """Where a rank stood, to be shown in place of a traceback."""
    kernel = f"process {stand.pid}, state {stand.state or 'unknown'}"
    kernel += f", in the kernel's {stand.waits_in}" if stand.waits_in else ""
    if stand.text:
        return f"{kernel}\n{stand.text}"
    why = HELD.get(stand.state or "")
    return f"{kernel}\nno stack: " + (
        f"a process that {why} cannot write its own" if why else "it did not answer SIGUSR1"
    )


def waits(stand: Stand) -> bool | None:
    """Whether a rank waits for others; None where its stack does not tell."""
    top = stand.frames[:TOP_FRAMES]
    if not top or stand.state in HELD:
        return None
    if any(WAITING.search(frame.function) or "torch/distributed" in frame.file for frame in top):
        return True
    if any(BACKWARD.search(frame.function) for frame in top):
        # Only its end waits; then it sleeps, or polls: a share in between tells nothing.
        return True if stand.cpu_share is not None and stand.cpu_share < IDLE else None
    return False


def _elsewhere(stands: Mapping[int, Stand], world_size: int) -> Blame | None:
    known = {rank: waits(stand) for rank, stand in stands.items()}
    waiting = [rank for rank, one in known.items() if one]
    away = [rank for rank, one in known.items() if one is False]
    if away and len(away) < world_size and (waiting or len(away) * 2 < world_size):
        return _blamed(away, stands, doing, note=_note(waiting))
    busy = [rank for rank, stand in stands.items() if (stand.cpu_share or 0.0) > BUSY]
    idle = [rank for rank, stand in stands.items() if stand.cpu_share is not None and stand.cpu_share < IDLE]
    if busy and len(busy) + len(idle) == world_size and len(busy) * 2 <= world_size:
        return _blamed(busy, stands, lambda stand: f"computes, {doing(stand)}", note=_note(idle))
    return None


def _alone(stands: Mapping[int, Stand]) -> Blame | None:
    held = [rank for rank in stands if stands[rank].frames or stands[rank].state in HELD]
    return _blamed(held, stands, doing) if held else None


def _blamed(
    ranks: list[int],
    stands: Mapping[int, Stand],
    words: Callable[[Stand], str],
    *,
    note: str = "",
    otherwise: str = "did not say where it stands",
) -> Blame:
    ordered = tuple(sorted(ranks))
    first = stands.get(ordered[0])
    return Blame(ranks=ordered, why=(words(first) if first is not None else otherwise) + note)


def _note(waiting: list[int]) -> str:
    return f"; {ranks_text(waiting)} wait{'s' if len(waiting) == 1 else ''} for others" if waiting else ""


def _in_kernel(stand: Stand) -> str:
    return (
        f" (state {stand.state}, in {visible(stand.waits_in, limit=60)})"
        if stand.waits_in
        else f" (state {stand.state})"
    )
