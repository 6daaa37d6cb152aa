"""Memory of devices: only what the probe saw in the measured window counts, or there is a reason why not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.metrics import summarize
from orchestrator.monitor import MonitorEnd, MonitorLog, Observed
from orchestrator.probe import Sample
from tests.cellmaker import honest, make_cell
from tests.test_monitor import probe_of

if TYPE_CHECKING:
    from orchestrator.metrics import Metric

GIB = 1024**3
#: Two ranks of one node, 10 measured steps of 2 s after 2 that warm up: the window of the records below.
CELL = replace(make_cell(), probe=probe_of("nvidia"))
MADE = honest(CELL)
STEPS = [step for log in MADE.logs().values() for step in log.steps if step.step > 2]
START_S, END_S = min(one.start_s for one in STEPS), max(one.end_s for one in STEPS)


def seen(at_s: float, *used_gib: float, took_s: float = 0.5, **more: Any) -> Observed:
    """A probe started `at_s` after the window's start; one device for each figure."""
    samples = tuple(
        Sample(index=number, memory_used_bytes=int(used * GIB), memory_total_bytes=80 * GIB, **more)
        for number, used in enumerate(used_gib)
    )
    return Observed(t_s=START_S + at_s, until_s=START_S + at_s + took_s, samples=samples)


def log_of(*observed: Observed, end: MonitorEnd | None = None, **changes: Any) -> MonitorLog:
    return MonitorLog(
        observed=observed,
        num_probes=len(observed),
        num_failed=0,
        num_unread=0,
        unread=(),
        cost_s=0.5,
        **{"end": end or MonitorEnd(t_s=END_S + 3.0, reason="asked to"), **changes},
    )


def memory(log: MonitorLog | None, *, cell: Any = CELL, made: Any = MADE) -> Metric:
    monitors = {} if log is None else {0: log}
    return summarize(cell, made.logs(), monitors=monitors)["memory_used_bytes"]


def test_the_window_is_twenty_seconds_long() -> None:
    assert abs(END_S - START_S - 20.0) < 0.1


def test_only_probes_that_began_and_ended_within_the_window_count() -> None:
    before, over_the_start, first = seen(-5, 70, 70), seen(-0.2, 60, 60), seen(4.0, 40, 41)
    last, over_the_end, after = seen(19.0, 42, 30), seen(19.9, 65, 65), seen(22, 75, 75)
    metric = memory(log_of(before, over_the_start, first, last, over_the_end, after))
    assert metric.value == 42 * GIB
    assert metric.details["num_samples"] == 2
    assert metric.details["device_index"] == 0
    assert metric.details["samples"] == "inside the measured window"


def test_devices_of_the_node_that_are_not_the_job_s_do_not_count() -> None:
    assert memory(log_of(seen(4.0, 40, 41, 79))).value == 41 * GIB


def test_a_window_between_two_probes_has_the_nearest_on_both_sides_and_says_so() -> None:
    cell = replace(CELL, probe=replace(CELL.probe, interval_s=30.0))  # type: ignore[type-var]
    log = log_of(seen(-50, 70, 70), seen(-9, 33, 34), seen(21, 35, 1), seen(51, 79, 79))
    metric = memory(log, cell=cell)
    assert metric.value == 35 * GIB
    assert metric.details["num_samples"] == 2
    assert "lies between two probes" in str(metric.details["samples"])


@pytest.mark.parametrize(("at_s", "missing"), [(-9.0, "after"), (21.0, "before")])
def test_a_window_with_a_probe_on_one_side_only_has_no_memory(at_s: float, missing: str) -> None:
    cell = replace(CELL, probe=replace(CELL.probe, interval_s=30.0))  # type: ignore[type-var]
    metric = memory(log_of(seen(at_s, 33, 34)), cell=cell)
    assert metric.value is None
    assert f"none {missing} it was answered" in (metric.reason or "")


def test_a_long_window_without_a_probe_has_no_memory() -> None:
    metric = memory(log_of(seen(-1, 33, 34), seen(21, 35, 36)))
    assert metric.value is None
    assert "within the measured window of 20 s" in (metric.reason or "")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (None, "did not end by itself"),
        (
            MonitorEnd(t_s=START_S + 9, reason="limit of 9 s"),
            "ended before the measured window: limit of 9 s",
        ),
    ],
)
def test_a_monitor_that_did_not_see_the_window_to_its_end_gives_no_memory(
    end: MonitorEnd | None, reason: str
) -> None:
    log = replace(log_of(seen(4.0, 40, 41)), end=end)
    metric = memory(log)
    assert metric.value is None
    assert reason in (metric.reason or "")


def test_a_node_without_a_monitor_s_file_or_without_figures_gives_no_memory() -> None:
    assert "gave no memory sample" in (memory(None).reason or "")
    blind = Observed(t_s=START_S + 4, until_s=START_S + 4.5, samples=(Sample(index=0), Sample(index=1)))
    assert "gave no memory sample" in (memory(log_of(blind)).reason or "")


def test_energy_is_the_integral_of_power_over_the_window_and_all_devices() -> None:
    # 100 W until 5 s into the window, then rising by 20 W/s for 5 s, then 200 W: of each of two devices.
    powers = ((-4, 100.0), (5, 100.0), (10, 200.0), (24, 200.0))
    log = log_of(*(seen(at_s - 0.25, 40, 40, power_w=power) for at_s, power in powers))
    assert memory(log).details["energy_j"] == pytest.approx(2 * (500 + 750 + 2000), rel=0.01)


def test_energy_is_unknown_where_a_device_has_no_power_or_the_window_is_not_spanned() -> None:
    whole = log_of(*(seen(at_s, 40, 40, power_w=100.0) for at_s in (-4, 10, 24)))
    assert memory(whole).details["energy_j"] is not None
    assert memory(log_of(*(seen(at_s, 40, 40) for at_s in (-4, 10, 24)))).details["energy_j"] is None
    assert memory(replace(whole, observed=whole.observed[:2])).details["energy_j"] is None
    one = seen(10, 40, 40).samples[1]
    silent = tuple(replace(at, samples=(at.samples[0], one)) for at in whole.observed)
    assert memory(replace(whole, observed=silent)).details["energy_j"] is None


def test_the_highest_temperature_of_the_window_stands_beside() -> None:
    log = log_of(
        seen(-4, 40, 40, temperature_c=95.0),
        seen(4, 40, 40, temperature_c=61.0),
        seen(9, 40, 40, temperature_c=64.0),
    )
    assert memory(log).details["temperature_max_c"] == 64.0
    assert memory(log_of(seen(4, 40, 40))).details["temperature_max_c"] is None


@pytest.mark.parametrize("blind", [(41.0,), (41.0, None)])
def test_memory_of_which_a_device_is_missing_is_no_memory(blind: tuple[float | None, ...]) -> None:
    first = seen(4.0, *(0.0 if one is None else one for one in blind))
    samples = tuple(
        sample if one is not None else replace(sample, memory_used_bytes=None)
        for sample, one in zip(first.samples, blind, strict=True)
    )
    metric = memory(log_of(replace(first, samples=samples)))
    assert metric.value is None
    assert "no memory sample of device 1 on" in (metric.reason or "")
