"""A property that CI tries with few examples and `make test-full` with many."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

#: `make fuzz` says how often instead.
ASKED = os.environ.get("NX8_FUZZ_EXAMPLES")


def often(
    few: int, many: int, *, like: settings | None = None, **drawn: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Like hypothesis' `given`, for a property that takes nothing but what is `drawn`; `like` says
    anything but how often.
    """
    counts = [int(ASKED)] if ASKED else [few, pytest.param(many, marks=pytest.mark.slow)]

    def decorate(holds: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", counts)
        def test(examples: int) -> None:
            def once(**values: Any) -> None:
                holds(**values)

            functools.update_wrapper(once, holds)
            settings(like, max_examples=examples, deadline=None)(given(**drawn)(once))()

        test.__name__, test.__doc__, test.__module__ = holds.__name__, holds.__doc__, holds.__module__
        return test

    return decorate
