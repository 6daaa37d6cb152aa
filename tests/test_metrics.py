"""Every figure from its own definition, and a reason where there is none."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.metrics import Metric, Summary, summarize
from orchestrator.metrics.spread import median_interval, percentile, spread
from orchestrator.report.numbers import per_cent
from tests.cellmaker import A800, H800, UNKNOWN_PEAK, Made, honest, make_cell

NAMES = (
    "tokens_per_second_per_device",
    "step_time_p50_s",
    "step_time_p95_s",
    "step_time_p99_s",
    "loss",
    "loss_first_fifth",
    "loss_last_fifth",
    "grad_norm_last",
    "memory_used_bytes",
    "memory_capacity_bytes",
    "memory_framework_peak_bytes",
    "memory_framework_reserved_bytes",
    "mfu_published",
    "mfu_palm",
    "window_coverage",
)


def summary_of(made: Made, **given: Any) -> Summary:
    return summarize(made.cell, made.logs(), **given)


def changed(made: Made, rank: int, step: int, **changes: Any) -> Made:
    made.records[rank][1 + step].update(changes)
    return made.seal()


def test_all_metrics_are_there_and_finite() -> None:
    summary = summary_of(honest())
    assert tuple(metric.name for metric in summary.metrics) == NAMES
    for metric in summary.metrics:
        assert metric.value is None or math.isfinite(metric.value), metric
        assert (metric.value is None) != (metric.reason is None)
        assert metric.unit
        assert metric.formula


@pytest.mark.parametrize(
    ("peak", "tokens_per_second", "published"), [(A800, 3564.0, "47.98%"), (H800, 7151.0, "30.37%")]
)
def test_published_rows_come_out_of_exact_step_times(
    peak: Any, tokens_per_second: float, published: str
) -> None:
    # One device's tokens of a step, divided by the published rate, is the step time.
    cell = make_cell(per_node=8, micro_batch=1, accumulate=1, sequence=4096, peak=peak)
    summary = summary_of(honest(cell, step_s=4096 / tokens_per_second))
    assert summary.value("tokens_per_second_per_device") == pytest.approx(tokens_per_second, rel=1e-9)
    value = summary.value("mfu_published")
    assert value is not None
    assert per_cent(value) == published


def test_speed_is_the_batch_over_the_slowest_rank_for_each_device() -> None:
    made = honest()  # 2 ranks × 1 × 2 sequences of 4096 in 2 s
    assert summary_of(made).value("tokens_per_second_per_device") == 4 * 4096 / 2.0 / 2
    for step in range(1, 13):
        made.records[1][1 + step]["end_s"] += 2.0
    slow = summary_of(made.seal())
    assert slow.value("tokens_per_second_per_device") == 4 * 4096 / 4.0 / 2
    assert slow.value("step_time_p50_s") == 4.0


def test_warm_up_steps_do_not_count() -> None:
    cell = make_cell(warmup=2, measured=10)
    assert summary_of(honest(cell, step_s=[500.0, 500.0] + [2.0] * 10)).value("step_time_p99_s") == 2.0


def test_spread_is_reported_beside_the_median() -> None:
    cell = make_cell(per_node=1, accumulate=1, sequence=1000, measured=5)
    details = summary_of(honest(cell, step_s=[1.0] * 2 + [1.0, 2.0, 4.0, 5.0, 10.0]))[
        "tokens_per_second_per_device"
    ].details
    assert details["n"] == 5
    assert details["median"] == pytest.approx(250)
    assert details["mean"] == pytest.approx(410)
    assert details["min"] == pytest.approx(100)
    assert details["max"] == pytest.approx(1000)
    assert details["mad"] == pytest.approx(150)
    assert details["std"] == pytest.approx(math.sqrt(522_000 / 4))
    assert details["ci95_low"] is None  # five values cannot give 95 %


def test_loss_is_the_mean_of_the_last_five_steps_over_all_ranks_by_tokens() -> None:
    made = honest(loss=5.0)
    last_five = [5.0 - 0.01 * n for n in range(7, 12)]
    assert summary_of(made).value("loss") == pytest.approx(sum(last_five) / 5)
    assert summary_of(made).value("loss_first_fifth") == pytest.approx((4.98 + 4.97) / 2)
    assert summary_of(made).value("loss_last_fifth") == pytest.approx((4.90 + 4.89) / 2)
    for step in range(1, 13):
        made.records[1][1 + step].update(loss=1.0, tokens=3 * 8192)
    weighted = summary_of(made.seal())
    assert weighted.value("loss") == pytest.approx(sum(0.25 * loss + 0.75 * 1.0 for loss in last_five) / 5)


def test_a_loss_that_is_not_finite_leaves_no_loss() -> None:
    summary = summary_of(changed(honest(), 1, 9, loss=None, loss_nonfinite="nan"))
    assert summary["loss"].reason == "1 of 10 measured steps have no finite loss"
    assert summary.value("tokens_per_second_per_device") is not None


def test_the_last_grad_norm_or_that_the_engine_keeps_it() -> None:
    made = honest()
    assert summary_of(changed(made, 0, 12, grad_norm=0.25)).value("grad_norm_last") == 1.5
    changed(made, 1, 12, grad_norm=None)
    assert summary_of(changed(made, 0, 12, grad_norm=None))["grad_norm_last"].reason == (
        "the engine does not report it"
    )


def test_memory_on_a_cpu_is_what_the_ranks_used_of_the_node() -> None:
    made = honest(make_cell(device_type="cpu", peak=UNKNOWN_PEAK))
    summary = summary_of(made, mem_total_bytes=16 << 30)
    assert summary.value("memory_used_bytes") == 4 << 30
    assert summary["memory_used_bytes"].details["basis"] == "summed peak RSS"
    assert summary.value("memory_capacity_bytes") == 16 << 30
    assert summary_of(made)["memory_capacity_bytes"].reason == "MemTotal of the node is not known"
    assert "no such counter" in (summary["memory_framework_peak_bytes"].reason or "")


def test_memory_of_several_hosts_is_that_of_the_fullest() -> None:
    cell = make_cell(device_type="cpu", num_nodes=2, per_node=1)
    made = honest(cell)
    made.records[1][-2]["peak_rss_bytes"] = 7 << 30
    assert summary_of(made.seal()).value("memory_used_bytes") == 7 << 30


def test_memory_on_a_device_is_the_monitors_and_the_frameworks_peak_stands_beside() -> None:
    made = honest()
    made.records[1][-2]["device_peak_allocated_bytes"] = 41 << 30
    summary = summary_of(made.seal(), mem_total_bytes=16 << 30)
    assert "no monitor samples" in (summary["memory_used_bytes"].reason or "")
    assert summary.value("memory_framework_peak_bytes") == 41 << 30
    assert summary.value("memory_framework_reserved_bytes") == 44 << 30


def test_palm_counts_attention_and_leaves_the_input_embedding_out() -> None:
    summary = summary_of(honest(make_cell(per_node=8, accumulate=1), step_s=4096 / 3564))
    flops = 6 * (6_738_415_616 - 131_072_000) + 12 * 32 * 4096 * 4096
    assert summary["mfu_palm"].details["flops_per_token"] == flops
    assert summary.value("mfu_palm") == pytest.approx(3564 * flops / 312e12)
    assert per_cent(summary.value("mfu_palm") or 0) == "52.64%"


def test_tied_embeddings_stay_counted_for_they_are_the_output_projection() -> None:
    summary = summary_of(honest(make_cell(tie_embeddings=True)))
    assert summary["mfu_palm"].details["parameters"] == 6_607_343_616


def test_an_unknown_peak_gives_no_mfu_and_its_reason() -> None:
    summary = summary_of(honest(make_cell(peak=UNKNOWN_PEAK)))
    for name in ("mfu_published", "mfu_palm"):
        assert summary.value(name) is None
        assert summary[name].reason == "the bf16 peak is unknown: the vendor publishes none"


def test_ranks_that_disagree_about_the_model_give_no_palm_mfu() -> None:
    made = honest()
    made.records[1][1]["num_parameters"] = 7
    assert "disagree" in (summary_of(made.seal())["mfu_palm"].reason or "")


def test_coverage_is_the_share_of_the_window_spent_in_steps() -> None:
    # Two seconds of every ten are a step; the last one ends the window.
    assert summary_of(honest()).value("window_coverage") == pytest.approx(20.0 / 20.009)
    assert summary_of(honest(step_s=20.0)).value("window_coverage") == pytest.approx(1.0, abs=1e-3)


def test_a_missing_step_leaves_no_number_and_says_which() -> None:
    made = honest()
    del made.records[1][1 + 7]
    summary = summary_of(made.seal())
    assert summary["tokens_per_second_per_device"].reason == "step 7 was reported 0 times by rank 1, not once"
    assert summary["mfu_published"].reason == summary["tokens_per_second_per_device"].reason


def test_no_files_at_all_give_reasons_only() -> None:
    summary = summarize(make_cell(), {})
    assert [metric.value for metric in summary.metrics] == [None] * len(NAMES)


@pytest.mark.parametrize(
    "changes",
    [
        {"end_s": 1e300, "start_s": -1e300},
        {"end_s": 0.0},
        {"tokens": 0},
        {"tokens": 10**299},
        {"loss": 1e299},
        {"start_s": 1e-320, "end_s": 2e-320},
        {"loss": -1e299, "tokens": -5},
    ],
)
def test_absurd_figures_never_raise_and_never_become_nan(changes: dict[str, Any]) -> None:
    made = honest()
    made.records[0][1]["num_parameters"] = 10**299
    for step in range(1, 13):
        changed(made, 0, step, **changes)
    for metric in summary_of(made).metrics:
        numbers = [metric.value, *metric.details.values()]
        assert all(math.isfinite(one) for one in numbers if isinstance(one, int | float)), metric


def test_a_metric_cannot_be_made_without_value_and_reason_or_not_finite() -> None:
    base = summary_of(honest())["loss"]
    with pytest.raises(ValueError, match="a value or a reason"):
        replace(base, value=None)
    with pytest.raises(ValueError, match="not finite"):
        replace(base, value=math.nan)


def test_a_withheld_summary_has_no_number_anywhere() -> None:
    for metric in summary_of(honest()).withheld("INVALID: nonce").metrics:
        assert (metric.value, metric.reason, metric.details) == (None, "INVALID: nonce", {})
        assert isinstance(metric, Metric)


def test_median_interval_is_that_of_the_binomial_distribution() -> None:
    # Tables of the sign test: n = 6 → extremes (96.9 %), n = 10 → 2nd (97.9 %), n = 20 → 6th (95.9 %).
    assert median_interval(5) == (None, None)
    assert median_interval(6) == (1, pytest.approx(0.96875))
    assert median_interval(10) == (2, pytest.approx(0.978515625))
    assert median_interval(20) == (6, pytest.approx(0.9586, abs=1e-4))
    exact, _ = median_interval(1000)
    normal, _ = median_interval(1001)
    assert exact is not None
    assert normal is not None
    assert abs(exact - normal) <= 1


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(7)
    hits = 0
    for _ in range(2000):
        found = spread([chance.expovariate(1.0) for _ in range(30)])
        assert found.ci95_low is not None
        assert found.ci95_high is not None
        hits += found.ci95_low <= math.log(2) <= found.ci95_high
    assert hits / 2000 > 0.94


@settings(deadline=None)
@given(values=st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60))
def test_order_statistics_are_ordered(values: list[float]) -> None:
    found = spread(values)
    assert found.min <= found.median <= found.max
    assert found.mad >= 0
    assert percentile(values, 0.5) == pytest.approx(found.median)
    assert percentile(values, 0) == found.min
    assert percentile(values, 1) == found.max
    if found.ci95_low is not None and found.ci95_high is not None:
        assert found.ci95_low <= found.median <= found.ci95_high
