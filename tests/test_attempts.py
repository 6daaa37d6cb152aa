"""One more try for a broken link, none for anything else, and every try on record."""

from __future__ import annotations

import pytest

from orchestrator.attempts import MOST, TRANSIENT, attempted
from orchestrator.errors import ConfigError, Nx8Error, PreflightError, Problem


def failing(*codes: str) -> PreflightError:
    return PreflightError([Problem(code=code, message=f"node1: {code} happened") for code in codes])


class Work:
    """Fails as told, then returns 7."""

    def __init__(self, *errors: Nx8Error) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.said: list[tuple[str, str]] = []

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def attempted(self) -> tuple[int, list[dict[str, object]]]:
        return attempted("connect", self, say=lambda *words: self.said.append(words))


def test_what_goes_well_is_tried_once() -> None:
    work = Work()
    assert work.attempted() == (7, [{"stage": "connect", "number": 1, "problems": ()}])
    assert (work.calls, work.said) == (1, [])


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_a_broken_link_is_tried_once_more_and_both_are_on_record(code: str) -> None:
    work = Work(failing(code))
    done, attempts = work.attempted()
    assert done == 7
    assert [one["number"] for one in attempts] == [1, 2]
    assert attempts[0]["problems"] == (f"{code} node1: {code} happened",)
    assert work.said == [("connect", f"tried again: {code} node1: {code} happened")]


def test_a_link_that_stays_broken_is_not_tried_for_ever() -> None:
    work = Work(*[failing("E209")] * 9)
    with pytest.raises(PreflightError, match="E209"):
        work.attempted()
    assert work.calls == MOST


@pytest.mark.parametrize("error", [failing("E202"), failing("E209", "E234"), failing("E205"), failing()])
def test_what_a_second_try_cannot_help_is_said_at_once(error: PreflightError) -> None:
    work = Work(error)
    with pytest.raises(PreflightError):
        work.attempted()
    assert work.calls == 1


def test_other_errors_are_none_of_its_business() -> None:
    work = Work(ConfigError(Problem(code="E110", message="x")))
    with pytest.raises(ConfigError):
        work.attempted()
    assert work.calls == 1
