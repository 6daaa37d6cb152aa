"""ui.py and facts.py: a terminal sees a bar, everything else sees stamped lines, and nothing is invented."""

from __future__ import annotations

import io
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from orchestrator import facts, ui
from orchestrator.follow import Sight

if TYPE_CHECKING:
    from pathlib import Path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def sight(step: int) -> Sight:
    return Sight(step=step, total=10, loss=2.5, tokens_per_second_per_device=100.0, reported=2, world_size=2)


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_is_not_live_where_nobody_looks(environment: dict[str, str]) -> None:
    assert ui.is_live(Terminal(), {"TERM": "xterm"})
    assert not ui.is_live(Terminal(), {"TERM": "xterm", **environment})
    assert not ui.is_live(io.StringIO(), {"TERM": "xterm"})


def test_plain_lines_are_stamped_have_no_escapes_and_say_first_and_last_step() -> None:
    stream = io.StringIO()
    view = ui.Plain(stream)
    view.phase("plan", "run-1")
    with view.training("cell-1"):
        for step in range(11):
            view.sight(sight(step))
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)
    assert "\x1b" not in stream.getvalue()
    assert [line.split("step ")[1].split()[0] for line in lines if "step " in line] == ["1/10", "10/10"]


def test_the_live_view_shows_step_loss_and_throughput() -> None:
    stream = Terminal()
    view = ui.Live(stream)
    view.phase("plan", "run-1")
    with view.training("cell-1"):
        view.sight(sight(3))
    shown = stream.getvalue()
    assert "cell-1" in shown
    assert "100 token/p/s" in shown
    view.sight(sight(4))  # after the end there is nothing to draw on, and nothing happens


def test_a_rank_that_has_not_reported_is_counted() -> None:
    late = Sight(step=0, total=10, loss=None, tokens_per_second_per_device=None, reported=1, world_size=2)
    assert ui.summary(late) == "step 0/10  1/2 ranks"


def test_the_source_is_the_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(("git", "-C", str(tmp_path), *words), check=True, capture_output=True)

    assert facts.source(tmp_path).commit is None
    assert facts.source(tmp_path).reason
    git("init")
    git("-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "--allow-empty", "-m", "one")
    clean = facts.source(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", clean.commit)
    assert clean.dirty is False
    (tmp_path / "new").write_text("x")
    assert facts.source(tmp_path).dirty is True


def test_the_host_has_memory_cores_and_a_kernel() -> None:
    host = facts.host()
    assert host.mem_total_bytes > 2**28
    assert host.cpu_count >= 1
    assert host.kernel
    assert facts.process_age_s() > 0
