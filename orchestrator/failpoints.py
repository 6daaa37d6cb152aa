"""Where a test can have the controller die: NX8_FAILPOINT=NAME[@N][=kill|raise|stop], N-th time it is passed
(1 by default). In daily use the variable is not set and a point costs one look at it.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "NX8_FAILPOINT"

#: Every point, in the order of a run, and what has just happened there.
POINTS = {
    "run.opened": "the run's folder with plan and host.json stands",
    "lock.taken": "one node's lock is ours (@N: the N-th node's)",
    "locked": "every node's lock is ours",
    "prepared": "data and images are on every node",
    "cell.begun": "the journal has the cell's beginning, and nothing is on a node yet",
    "container.prepared": "the job's folder is on one node",
    "container.created": "one node's container is created",
    "container.started": "one node's container is started",
    "cell.started": "every node's container is started",
    "cell.look": "the nodes were looked at once more (@N: the N-th time)",
    "cell.halted": "every container has ended, and no file is brought home to its end",
    "cell.home": "every file is home, and nothing is in the journal about it",
    "cell.ended": "the journal has the cell's end, and its containers still stand",
    "container.cleared": "one node's container and folder are removed",
    "cell.cleared": "nothing of the cell is on any node",
    "host.written": "host.json is complete, and there is no result.json",
    "result.written": "result.json stands, and report.md does not",
    "reported": "the report stands, and the nodes are still ours",
    "swept": "nothing of the run is on any node but the locks",
    "unlocked": "one node's lock is released",
}

_lock = threading.Lock()
_passed: dict[str, int] = {}


class FailpointError(Exception):
    """Raised at a point that was asked to: a bug of ours, as far as anybody can tell."""


def passed(name: str) -> None:
    """Dies here, if this is where it was asked to. Raises KeyError for a name that POINTS does not have."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    assert name in POINTS, name
    place, _, action = wanted.partition("=")
    point, _, turn = place.partition("@")
    if point != name:
        return
    with _lock:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] != int(turn or 1):
            return
    if action == "raise":
        raise FailpointError(name)
    os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
