"""Going on after a link broke: again and again, with growing random pauses, as long as somebody hopes."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from orchestrator.remote.errors import LinkLost, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: What can be asked twice and is then as if it had been asked once.
REPEATABLE = frozenset(
    (
        "read",
        "stat",
        "list",
        "folders",
        "sha256",
        "disk",
        "texts",
        "hello",
        "make_dirs",
        "remove_tree",
        "write",
        "signal",
        "lock",
        "unlock",
        "lease",
    )
)
#: No way there at the moment: connecting failed, or what was connected broke off.
LINK_CODES = frozenset(("E202", "E203", "E209", "E211"))
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0


def is_lost(error: BaseException) -> bool:
    """Whether only the way to the node is at fault, and another try may find it again."""
    return isinstance(error, LinkLost) or (
        isinstance(error, RemoteError) and error.problems[0].code in LINK_CODES
    )


def pauses() -> Callable[[], float]:
    """Seconds to wait before the next try: doubled each time, with jitter, 3 s at most."""
    pause_s = FIRST_PAUSE_S

    def following() -> float:
        nonlocal pause_s
        now_s, pause_s = pause_s, min(2 * pause_s, LONGEST_PAUSE_S)
        return now_s * random.uniform(0.7, 1.0)  # noqa: S311 - jitter, no secret

    return following


def patiently(work: Callable[[], T], *, hopeful: Callable[[], bool]) -> T:
    """What `work` returns, tried again after every broken link while `hopeful` says so. Raises what the last
    try raised.
    """
    pause = pauses()
    while True:
        try:
            return work()
        except RemoteError as error:
            if not is_lost(error) or not hopeful():
                raise
            time.sleep(pause())
