"""When a cell hangs, who did not arrive, and who is slow: pure functions, over thousands of made-up cells."""

from __future__ import annotations

import json
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.follow import Pace
from orchestrator.hung import KERNEL_BYTES, kernel_words
from orchestrator.metrics.stragglers import slow_ones
from orchestrator.parse.stacks import Frame, Stand, main_frames, read_stacks
from orchestrator.stall import FACTOR, FLOOR_S, WARMUP_STEPS, learned_limit_s
from orchestrator.verdict.blame import blame, stood, waits
from orchestrator.verdict.labels import label
from tests.cellmaker import NONCE, OTHER_NONCE

seconds = st.floats(min_value=0.0, max_value=1e6)


# --- the limit


@given(longest_s=seconds, more_s=seconds, seen=st.integers(0, 1000), ceiling_s=st.floats(0.1, 1e6))
def test_a_learned_limit_lies_between_its_floor_and_its_ceiling_and_grows_with_the_steps(
    longest_s: float, more_s: float, seen: int, ceiling_s: float
) -> None:
    limit_s = learned_limit_s(longest_s=longest_s, seen=seen, ceiling_s=ceiling_s)
    assert min(FLOOR_S, ceiling_s) <= limit_s <= ceiling_s
    assert learned_limit_s(longest_s=longest_s + more_s, seen=seen, ceiling_s=ceiling_s) >= limit_s
    if seen < WARMUP_STEPS:
        assert limit_s == ceiling_s


class Series:
    """Ranks that make steps in a time of their own, watched as follow() does."""

    def __init__(self, *, ranks: int, ceiling_s: float, total: int) -> None:
        self.ranks = ranks
        self.now_s = 1000.0
        self.step = 0
        self.pace = Pace(
            started_s=self.now_s,
            startup_limit_s=1800.0,
            stall_limit_s=ceiling_s,
            time_limit_s=None,
            world_size=ranks,
            total=total,
        )

    def passes(self, time_s: float) -> bool:
        """Whether the cell is still taken for alive at every look of this time."""
        end_s = self.now_s + time_s
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + max(0.2, time_s / 50))
            if self.pace.overdue(self.now_s):
                return False
        return True

    def steps(self) -> None:
        self.step += 1
        for rank in range(self.ranks):
            self.pace.saw_step(rank, self.step, self.now_s, end_s=self.now_s)


@pytest.mark.parametrize("seed", range(40))
def test_no_healthy_run_with_noisy_steps_is_taken_for_hung(seed: int) -> None:
    """Steps from 10 ms to a minute, five times as long now and then, from the first on and after a rest."""
    draw = random.Random(seed)
    usual_s = 10 ** draw.uniform(-2, 1.78)
    series = Series(ranks=4, ceiling_s=600.0, total=200)
    assert series.passes(draw.uniform(1, 900))
    for _ in range(200):
        noise = draw.lognormvariate(0, 0.3) * (5 if draw.random() < 0.05 else 1)
        assert series.passes(min(usual_s * noise, 599.0)), f"step {series.step}, usual {usual_s:.3g} s"
        series.steps()
    assert series.passes(590.0), "what comes after the last step has no rhythm"


@pytest.mark.parametrize("seed", range(40))
def test_silence_is_noticed_within_the_learned_limit(seed: int) -> None:
    draw = random.Random(seed)
    usual_s = 10 ** draw.uniform(-2, 1.5)
    series = Series(ranks=2, ceiling_s=600.0, total=10_000)
    longest_s = 0.0
    for number in range(draw.randint(WARMUP_STEPS + 6, 60)):
        took_s = usual_s * draw.lognormvariate(0, 0.2)
        longest_s = max(longest_s, took_s if number >= WARMUP_STEPS else 0.0)
        series.passes(took_s)
        series.steps()
    due_s = min(600.0, max(FLOOR_S, FACTOR * longest_s))
    assert series.pace.limit_s == pytest.approx(due_s, rel=0.01)
    assert series.passes(due_s * 0.95)
    assert not series.passes(due_s * 0.2)
    assert series.pace.overdue(series.now_s).why == "stall"


# --- who did not arrive


def stand(rank: int, *functions: str, state: str = "S", cpu: float = 0.0, file: str = "train.py") -> Stand:
    frames = tuple(Frame(file=f"/nx8/{file}", line=10, function=one) for one in functions)
    return Stand(
        rank=rank,
        pid=100 + rank,
        state=state,
        waits_in="do_signal_stop" if state == "T" else "futex_wait",
        cpu_share=cpu,
        frames=frames,
        text="\n".join(f'  File "{one.file}", line 10 in {one.function}' for one in frames) or None,
    )


WAITS = ("wait", "all_reduce", "step", "measure")
BACKWARD = ("_engine_run_backward", "backward", "step", "measure")


@pytest.mark.parametrize(
    ("stands", "steps", "named", "words"),
    [
        ([stand(0, *WAITS), stand(1, state="T")], [7, 7], (1,), "is stopped (state T, in do_signal_stop)"),
        ([stand(0, *BACKWARD), stand(1, state="D")], [7, 7], (1,), "waits in the kernel for a device"),
        ([stand(0, *WAITS), stand(1, *WAITS)], [7, 6], (1,), "last step 6, others 7; in wait"),
        ([stand(0, *WAITS), stand(1, "micro_batches", "measure")], [7, 7], (1,), "in micro_batches"),
        ([stand(0, *BACKWARD), stand(1, "sleep", "measure")], [7, 7], (1,), "rank 0 waits for others"),
        (
            [stand(0, *BACKWARD), stand(1, *BACKWARD, cpu=1.0), stand(2, *BACKWARD)],
            [7, 7, 7],
            (1,),
            "computes",
        ),
        ([stand(rank, *WAITS) for rank in range(4)], [7] * 4, None, ""),
        ([stand(rank, state="T") for rank in range(2)], [7] * 2, None, ""),
        ([], [5, 4], (1,), "last step 4, others 5"),
        ([], [5, 5], None, ""),
        ([], [], None, ""),
    ],
)
def test_the_one_that_the_others_wait_for_is_named(
    stands: list[Stand], steps: list[int], named: tuple[int, ...] | None, words: str
) -> None:
    found = blame({one.rank: one for one in stands}, dict(enumerate(steps)))
    assert (found.ranks if found else None) == named
    assert words in (found.text if found else "")


def test_a_stopped_rank_that_wrote_no_stack_says_why() -> None:
    assert stood(stand(1, state="T")).endswith("a process that is stopped cannot write its own")
    assert "in wait" in stood(stand(0, *WAITS))


def test_backward_waits_only_while_it_sleeps() -> None:
    assert waits(stand(0, *BACKWARD)) is True
    assert waits(stand(0, *BACKWARD, cpu=0.9)) is None
    assert waits(stand(0, "attention", "forward")) is False


@given(st.dictionaries(st.integers(0, 9), st.sampled_from("RSTDZ"), max_size=10), st.integers(1, 10))
def test_blame_names_planned_ranks_and_never_all_of_several(states: dict[int, str], world: int) -> None:
    stands = {rank: stand(rank, state=state) for rank, state in states.items() if rank < world}
    found = blame(stands, dict.fromkeys(range(world), 3))
    if found is not None:
        assert set(found.ranks) <= set(range(world))
        assert len(found.ranks) < max(2, world)


TOLD = """\
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "/nx8/trainer/engine.py", line 5 in step
  File "/nx8/trainer/train.py", line 99 in measure
"""


def told(**changes: object) -> bytes:
    rank = {"rank": 0, "pid": 7, "state": "S", "waits_in": None, "cpu_share": 0.5, "stack": TOLD}
    return json.dumps({"contract": 1, "nonce": NONCE, "asked_s": 1.0, "ranks": [rank | changes]}).encode()


def test_the_main_thread_s_frames_are_read_the_innermost_first() -> None:
    (one,) = read_stacks(told(), nonce=NONCE)
    assert [(frame.function, frame.line) for frame in one.frames] == [("step", 5), ("measure", 99)]
    assert main_frames("") == ()


@pytest.mark.parametrize(
    "data", [b"", b"{}", told()[:-9], told(rank="0"), told(pid=1.5), told().replace(b": 1,", b": 2,", 1)]
)
def test_what_no_launcher_wrote_says_nothing(data: bytes) -> None:
    assert read_stacks(data, nonce=NONCE) == ()


def test_stacks_of_another_run_say_nothing() -> None:
    assert read_stacks(told(), nonce=OTHER_NONCE) == ()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_stacks(data: bytes) -> None:
    assert isinstance(read_stacks(data, nonce=NONCE), tuple)


def test_the_kernel_s_last_whole_lines_are_kept() -> None:
    assert kernel_words(b"a\nb\n") == b"a\nb\n"
    assert kernel_words(b"x" * (KERNEL_BYTES + 1) + b"\nlast\n") == b"last\n"


# --- who is slow


def own(draw: random.Random, factors: list[float], *, steps: int, cv: float) -> dict[int, list[float]]:
    return {
        rank: [0.3 * factor * max(0.1, draw.gauss(1, cv)) for _ in range(steps)]
        for rank, factor in enumerate(factors)
    }


def nodes_of(ranks: int, per_node: int) -> dict[str, list[int]]:
    return {
        f"node{node}": list(range(node * per_node, (node + 1) * per_node))
        for node in range(ranks // per_node)
    }


def test_a_rank_at_four_fifths_of_the_speed_is_flagged_every_time() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        world, slow = draw.choice([(2, 1), (4, 2), (8, 5), (32, 9)]), None
        factors = [1.0] * world[0]
        slow = draw.randrange(world[0])
        factors[slow] = 1.25
        times = own(draw, factors, steps=draw.choice([6, 20, 60]), cv=0.03)
        found = slow_ones(times, {"node0": range(world[0])}, step_s=1.0)
        assert [(one.what, one.rank) for one in found] == [("rank", slow)], seed
        assert found[0].factor == pytest.approx(1.25, rel=0.1)


def test_healthy_noise_is_flagged_in_one_of_a_hundred_at_most() -> None:
    flagged = 0
    for seed in range(100):
        draw = random.Random(seed)
        ranks = draw.choice([2, 4, 8, 32])
        times = own(draw, [1.0] * ranks, steps=draw.choice([6, 20, 60]), cv=0.03)
        flagged += bool(slow_ones(times, nodes_of(ranks, 2), step_s=1.0))
    assert flagged <= 1


def test_a_node_all_of_whose_ranks_are_slow_is_one_slow_node() -> None:
    times = own(random.Random(1), [1.0, 1.0, 1.6, 1.6], steps=30, cv=0.05)
    (one,) = slow_ones(times, nodes_of(4, 2), step_s=1.0)
    assert (one.what, one.node, one.rank) == ("node", "node1", None)
    assert one.factor == pytest.approx(1.6, rel=0.1)


def test_stages_of_a_pipeline_are_held_against_themselves_alone() -> None:
    times = own(random.Random(1), [1.0, 1.0, 2.0, 2.0, 1.0, 1.3], steps=30, cv=0.03)
    nodes = nodes_of(6, 2)
    stages = ((0, 1), (2, 3), (4, 5))
    assert [one.rank for one in slow_ones(times, nodes, step_s=1.0, peers=stages)] == [5]
    assert {one.node for one in slow_ones(times, nodes, step_s=1.0)} == {"node1", "node2"}


def test_a_trifle_of_a_step_delays_nobody() -> None:
    times = own(random.Random(1), [1.0, 1.5], steps=30, cv=0.01)
    assert slow_ones(times, {"a": [0, 1]}, step_s=1.0)
    assert not slow_ones(times, {"a": [0, 1]}, step_s=100.0)


@given(
    st.lists(st.lists(st.floats(0.001, 1e3), min_size=6, max_size=12), min_size=2, max_size=8),
    st.floats(1e-3, 1e3),
)
def test_who_is_slow_depends_on_no_unit_and_never_is_the_faster_half(
    series: list[list[float]], unit: float
) -> None:
    times = dict(enumerate(series))
    nodes = {"a": list(times)}
    step_s = max(max(one) for one in series)
    found = slow_ones(times, nodes, step_s=step_s)
    scaled = slow_ones(
        {rank: [value * unit for value in one] for rank, one in times.items()}, nodes, step_s=step_s * unit
    )
    assert [one.rank for one in found] == [one.rank for one in scaled] or unit != 1.0
    faster = sorted(median(one) for one in series)[: (len(series) + 1) // 2]
    for one in found:
        assert median(times[one.rank]) > median(faster)
        assert one.factor > 1


# --- what kind of failure it is


@pytest.mark.parametrize(
    ("kind", "message", "due"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB", "out of memory (device)"),
        ("torch.OutOfMemoryError", "", "out of memory (device)"),
        ("RuntimeError", "NPU out of memory. Tried to allocate 1 GiB", "out of memory (device)"),
        ("RuntimeError", "HIP error: out of memory", "out of memory (device)"),
        ("MemoryError", "", "out of memory (host)"),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory", "out of memory (host)"),
        ("OSError", "[Errno 28] No space left on device: '/x'", "disk full"),
        ("ValueError", "a loss of nan", None),
        ("RuntimeError", "x" * 100_000 + "out of memory. tried to allocate", None),
    ],
)
def test_failures_are_labelled_by_their_own_words(kind: str, message: str, due: str | None) -> None:
    assert label(kind, message) == due
