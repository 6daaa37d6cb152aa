"""ui.py and facts.py: a terminal sees a bar, everything else sees stamped lines, and nothing is invented."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from orchestrator import facts, ui
from orchestrator.follow import NodeSight, Sight

ROOT = Path(__file__).parents[1]
GIB = 1024**3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def sight(step: int) -> Sight:
    return Sight(step=step, total=10, loss=2.5, tokens_per_second_per_device=100.0, reported=2, world_size=2)


def node(name: str, **changes: object) -> NodeSight:
    values: dict[str, object] = {
        "node": name,
        "state": "training",
        "step": 3,
        "loss": 2.5,
        "tokens_per_second_per_device": 100.0,
        "memory_used_bytes": 30 * GIB,
        "memory_total_bytes": 40 * GIB,
        "temperature_c": 61.0,
        "power_w": 250.0,
    }
    return NodeSight(**{**values, **changes})  # type: ignore[arg-type]


def of_nodes(*nodes: NodeSight, step: int = 3) -> Sight:
    return Sight(
        step=step,
        total=100,
        loss=2.5,
        tokens_per_second_per_device=90.0,
        reported=4,
        world_size=4,
        nodes=nodes,
    )


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


def test_plain_lines_come_every_thirty_seconds_at_most_and_name_the_slowest_node() -> None:
    stream, now_s = io.StringIO(), [0.0]
    view = ui.Plain(stream, clock=lambda: now_s[0])
    with view.training("cell-1"):
        for step in range(1, 91):
            now_s[0] = float(step)
            view.sight(of_nodes(node("n1"), node("n2", step=2, tokens_per_second_per_device=80.0), step=step))
    lines = stream.getvalue().splitlines()
    assert [line.split("step ")[1].split()[0] for line in lines] == ["1/100", "31/100", "61/100"]
    assert all(line.endswith("slowest n2: step 2, 80 token/p/s") for line in lines)


def test_a_row_shows_a_slash_for_what_is_not_known() -> None:
    assert ui.row(node("n1")) == (
        "n1", "3", "100", "2.5", "30.0/40.0 GiB", "61 °C", "250 W", "training",
    )  # fmt: skip
    nothing = dict.fromkeys(
        ("loss", "tokens_per_second_per_device", "memory_used_bytes", "temperature_c", "power_w")
    )
    bare = node("n1", state="starting", step=0, **nothing)
    assert ui.row(bare) == ("n1", "/", "/", "/", "/", "/", "/", "starting")


def test_of_too_many_nodes_those_furthest_behind_are_shown() -> None:
    nodes = tuple(node(f"n{number}", step=100 - number) for number in range(10))
    assert ui.shown_nodes(nodes, room=10) == nodes
    assert [one.node for one in ui.shown_nodes(nodes, room=3)] == ["n7", "n8", "n9"]
    assert len(ui.shown_nodes(nodes, room=-2)) == 1


def test_the_screen_is_drawn_once_a_second_at_most() -> None:
    stream, now_s = Terminal(), [0.0]
    view = ui.Live(stream, clock=lambda: now_s[0])
    sizes = []
    with view.training("cell-1"):
        for tenth in range(31):
            now_s[0] = tenth / 10
            view.sight(of_nodes(node("n1"), node("n2"), step=tenth))
            sizes.append(len(stream.getvalue()))
    assert [tenth for tenth in range(1, 31) if sizes[tenth] != sizes[tenth - 1]] == [10, 20, 30]


ON_A_TERMINAL = """
from orchestrator import ui
from tests.test_ui import node, of_nodes
view = ui.view()
with view.training("cell-1"):
    view.phase("note", "[red]as it is[/red]")
    view.sight(of_nodes(*(node(f"n{number}", step=number) for number in range(1, {nodes} + 1))))
view.phase("end")
"""


def on_a_terminal(*, nodes: int, rows: int = 24, columns: int = 110) -> str:
    """What a run with so many nodes draws on a terminal of that size."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    program = (sys.executable, "-c", ON_A_TERMINAL.replace("{nodes}", str(nodes)))
    child = subprocess.Popen(
        program, stdin=slave, stdout=subprocess.DEVNULL, stderr=slave, env=environment, cwd=ROOT
    )
    os.close(slave)
    drawn = b""
    try:
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            drawn += piece
        assert child.wait(timeout=120) == 0, drawn
    finally:
        child.kill()
        child.wait()
        os.close(master)
    return drawn.decode()


def plain_text(drawn: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "")


def test_a_terminal_shows_a_table_with_a_line_for_each_node_and_takes_it_away_at_the_end() -> None:
    drawn = on_a_terminal(nodes=4)
    text = plain_text(drawn)
    for heading in ("node", "step", "token/p/s", "loss", "memory", "temp", "power", "state"):
        assert heading in text
    for number in range(1, 5):
        line = next(line for line in text.splitlines() if line.startswith(f"n{number} "))
        *words, state = line.split()[:11]
        assert words == [f"n{number}", str(number), "100", "2.5", "30.0/40.0", "GiB", "61", "°C", "250", "W"]
        assert state.startswith("training")  # where the screen was redrawn, its next line follows at once
    assert "[red]as it is[/red]" in text
    assert "\x1b[?25h" in drawn  # the cursor is back


def test_a_table_that_is_too_high_for_the_terminal_says_how_many_are_not_shown() -> None:
    text = plain_text(on_a_terminal(nodes=40, rows=16))
    assert "and 30 further ahead" in text
    assert re.search(r"^n1 ", text, re.MULTILINE)
    assert not re.search(r"^n11 ", text, re.MULTILINE)


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


def test_who_looks_may_go_away_and_nothing_ends() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        steady = ui.Steady(stream)
        for _ in range(3):
            assert steady.write("a line\n" * 20_000) > 0
            steady.flush()
