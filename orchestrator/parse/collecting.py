"""No garbage is collected while a log is read: records hold no cycles, so reference counts free them, and a
full collection would look at all of them again, so that twice the log costs more than twice the time.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def paused() -> Iterator[None]:
    """Nothing is collected inside; afterwards collecting is as it was before."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
