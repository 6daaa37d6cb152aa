"""How long a cell may make no step before it hangs, learned from the steps it has made. Pure; seconds."""

from __future__ import annotations

from dataclasses import dataclass

#: Steps that say nothing yet: compiling, filling caches.
WARMUP_STEPS = 5
#: A pause this many times the longest one seen is a hang. Five times the usual is noise, and the longest of
#: few steps is hardly more than the usual.
FACTOR = 10.0
#: No shorter limit is ever learned: the network may be away for so long and come back.
FLOOR_S = 60.0


@dataclass(slots=True, kw_only=True)
class Tempo:
    """The longest time from the end of a step to the end of the next one of the same rank, by the rank's own
    clock: it has everything in it that a healthy cell does between two records.
    """

    ceiling_s: float
    longest_s: float = 0.0
    seen: int = 0

    def saw(self, *, step: int, interval_s: float) -> None:
        if step > WARMUP_STEPS and interval_s >= 0.0:
            self.longest_s = max(self.longest_s, interval_s)
            self.seen += 1

    @property
    def limit_s(self) -> float:
        return learned_limit_s(longest_s=self.longest_s, seen=self.seen, ceiling_s=self.ceiling_s)


def learned_limit_s(*, longest_s: float, seen: int, ceiling_s: float) -> float:
    """`ceiling_s`, what a person allows, until enough has been seen; then FACTOR × the longest interval,
    though never below FLOOR_S nor above the ceiling.
    """
    if seen < WARMUP_STEPS:
        return ceiling_s
    return min(ceiling_s, max(FLOOR_S, FACTOR * longest_s))
