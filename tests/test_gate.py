"""gate/: what counts as a change, what needs a second look, and how seldom it cries wolf."""

from __future__ import annotations

import random
import time
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gate import METRICS, Point, Rule, change_points, judge, rule_for, walk
from tests.nights import DAY_S, SPEED, Noise, false_alarms, found_after, rerun, year

RULE = Rule()
HIGHER = rule_for(RULE, SPEED)
LOWER = rule_for(RULE, "loss")
STEADY = [3000.0 + 3 * (number % 5) for number in range(30)]


def points(values: list[float], *, apart_s: float = DAY_S) -> list[Point]:
    return [Point(at_s=at * apart_s, value=value, run_id=str(at)) for at, value in enumerate(values)]


def kinds(values: list[float], *, rule: Rule = RULE, apart_s: float = DAY_S) -> list[str]:
    return [one.kind for one in walk(points(values, apart_s=apart_s), rule=rule, metric=HIGHER).judged]


def test_a_figure_is_judged_by_the_median_and_the_smallest_effect() -> None:
    verdict = judge(STEADY, 2950.0, rule=RULE, metric=HIGHER)
    assert verdict.kind == "worse"
    assert verdict.median == median(STEADY)
    assert verdict.band_low == pytest.approx(median(STEADY) * 0.985)
    assert judge(STEADY, 2970.0, rule=RULE, metric=HIGHER).kind == "in_band"
    assert judge(STEADY, 3100.0, rule=RULE, metric=HIGHER).kind == "better"


def test_the_direction_is_the_metrics_own() -> None:
    assert judge([3.0] * 10, 3.5, rule=RULE, metric=LOWER).kind == "worse"
    assert judge([3.0] * 10, 2.5, rule=RULE, metric=LOWER).kind == "better"
    assert {one.direction for one in METRICS.values()} == {"higher", "lower"}


def test_a_noisy_series_has_a_wide_band_and_a_very_noisy_one_judges_nothing() -> None:
    noisy = [3000.0 * (1 + 0.01 * (-1) ** at) for at in range(30)]
    assert judge(noisy, 2910.0, rule=RULE, metric=HIGHER).kind == "in_band"
    wild = [3000.0 * (1 + 0.1 * (-1) ** at) for at in range(30)]
    verdict = judge(wild, 1000.0, rule=RULE, metric=HIGHER)
    assert verdict.kind == "noisy"
    assert "nothing can be told" in verdict.why


def test_few_points_are_no_baseline() -> None:
    verdict = judge(STEADY[:6], 100.0, rule=RULE, metric=HIGHER)
    assert (verdict.kind, verdict.median, verdict.n) == ("not_enough", None, 6)
    assert verdict.why == "6 of 7 points that a baseline needs"


def test_one_bad_night_is_a_suspect_and_the_next_good_one_clears_it() -> None:
    assert kinds([*STEADY, 2700.0, 3000.0])[-2:] == ["suspect", "in_band"]


def test_two_bad_nights_are_a_regression_until_the_figure_comes_back() -> None:
    judged = walk(points([*STEADY, 2700.0, 2710.0, 2705.0, 3000.0]), rule=RULE, metric=HIGHER).judged
    assert [one.kind for one in judged[-4:]] == ["suspect", "regression", "regression", "recovered"]
    assert [one.new for one in judged[-4:]] == [False, True, False, True]
    assert {one.last_good for one in judged[-4:-1]} == {"29"}
    assert (judged[-2].runs, judged[-2].nights) == (3, 3)


def test_a_regression_does_not_become_normal_by_lasting() -> None:
    assert kinds([*STEADY, *[2700.0] * 60])[-1] == "regression"


def test_a_bad_night_and_a_better_one_are_no_regression() -> None:
    assert kinds([*STEADY, 2700.0, 3300.0])[-2:] == ["suspect", "suspect"]


def test_two_runs_of_one_night_are_one_night() -> None:
    night_s = 30 * DAY_S
    one_night = [
        *points(STEADY),
        Point(at_s=night_s, value=2700.0),
        Point(at_s=night_s + 3600, value=2700.0),
    ]
    assert walk(one_night, rule=RULE, metric=HIGHER).state == "suspect"
    assert walk(one_night, rule=Rule(confirm="rerun"), metric=HIGHER).state == "regression"
    assert walk(one_night, rule=Rule(confirm="both"), metric=HIGHER).state == "suspect"
    both = [*one_night, Point(at_s=31 * DAY_S, value=2700.0), Point(at_s=31 * DAY_S + 3600, value=2700.0)]
    assert walk(both[:-1], rule=Rule(confirm="both"), metric=HIGHER).state == "suspect"
    assert walk(both, rule=Rule(confirm="both"), metric=HIGHER).state == "regression"


def test_an_accepted_run_is_the_new_normal_with_the_spread_of_before() -> None:
    before = points([*STEADY, 2700.0, 2710.0])
    accepted = Point(at_s=32 * DAY_S, value=2705.0, run_id="32", accepted=True)
    after = [Point(at_s=(33 + at) * DAY_S, value=value) for at, value in enumerate((2700.0, 2550.0, 2550.0))]
    judged = walk([*before, accepted, *after], rule=RULE, metric=HIGHER).judged
    assert [one.kind for one in judged[-4:]] == ["accepted", "in_band", "suspect", "regression"]


def test_a_published_figure_needs_no_history_of_our_own() -> None:
    low = walk(points([2800.0, 2810.0]), rule=RULE, metric=HIGHER, reference=2937.0)
    assert low.state == "regression"
    assert "the published 2937" in low.judged[-1].verdict.why
    assert walk(points([2930.0, 2925.0]), rule=RULE, metric=HIGHER, reference=2937.0).state == "in_band"


@given(st.lists(st.floats(min_value=0, max_value=1e12), max_size=60))
def test_any_figures_can_be_walked(values: list[float]) -> None:
    trend = walk(points(values), rule=RULE, metric=HIGHER)
    assert len(trend.judged) == len(values)
    assert change_points(values) == change_points(list(values))


def test_a_slow_slide_is_advice_and_a_step_is_found_where_it_is() -> None:
    rng = random.Random(7)
    values = [3000 * (1 + rng.gauss(0, 0.006)) * (0.98 if night >= 45 else 1.0) for night in range(90)]
    (step,) = change_points(values)
    assert abs(step.index - 45) <= 3
    assert step.change == pytest.approx(-0.02, abs=0.005)
    assert change_points([3000 * (1 + rng.gauss(0, 0.006)) for _ in range(90)]) == ()
    assert change_points([3000.0] * 90) == ()


#: (what, noise, how often in 60 nights at most, how many of a hundred −5 % within two nights at least)
YEARS = [
    ("stationary", Noise(), 0.1, 95),
    ("dips of nights", Noise(dips=0.03), 0.1, 95),
    ("dips of runs", Noise(dips=0.03, of_night=False), 0.1, 95),
    ("drift", Noise(drift=0.01), 0.1, 88),
]


def alarms_in_60_nights(noise: Noise, *, series: int, rule: Rule = RULE) -> float:
    total = sum(false_alarms(year(random.Random(seed), noise, nights=365), rule) for seed in range(series))
    return total / series / (365 / 60)


def found_per_cent(noise: Noise, *, changes: int, rule: Rule = RULE) -> float:
    """How many of a hundred falls by 5 % are confirmed within two nights."""
    hits = 0
    for seed in range(changes):
        since = 35 + seed % 60
        rng = random.Random(10_000 + seed)
        fallen = year(rng, noise, nights=since + 3, fall_at=since)
        after = found_after(fallen, since, rule)
        hits += after is not None and after <= 2
    return 100 * hits / changes


@pytest.mark.parametrize(
    ("noise", "most", "least"), [one[1:] for one in YEARS], ids=[one[0] for one in YEARS]
)
def test_a_simulated_year_has_few_false_alarms_and_finds_what_fell(
    noise: Noise, most: float, least: float
) -> None:
    assert alarms_in_60_nights(noise, series=20) <= most
    assert found_per_cent(noise, changes=60) >= least


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "noise", "most", "least"), YEARS, ids=[one[0] for one in YEARS])
def test_a_simulated_year_in_full(
    name: str, noise: Noise, most: float, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty cells for 365 nights, forty such years, and a thousand falls."""
    alarms = alarms_in_60_nights(noise, series=20 * 40)
    found = found_per_cent(noise, changes=1000)
    with capsys.disabled():
        print(f"\n{name}: {alarms:.4f} false alarms a series and 60 nights; −5 % in 2 nights {found:.1f} %")
    assert alarms <= most
    assert found >= least


@pytest.mark.slow
def test_a_second_run_of_the_same_night_filters_dips_of_single_runs_but_not_of_nights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rates = {}
    for of_night in (False, True):
        noise = Noise(dips=0.03, of_night=of_night)
        rule = Rule(confirm="rerun")
        total = 0
        for seed in range(200):
            rng = random.Random(seed)
            nights = year(rng, noise, nights=365)
            # Every suspect night gets a second run; of a single run's dip that one is as fast as ever.
            again = []
            for point in nights:
                again.append(point)
                if point.value < 3000 * 0.975:
                    clean = point if of_night else Point(at_s=point.at_s, value=3000.0, run_id=point.run_id)
                    again.append(rerun(rng, clean, noise))
            total += false_alarms(again, rule)
        rates[of_night] = total / 200 / (365 / 60)
    with capsys.disabled():
        print(f"\nconfirm=rerun: dips of runs {rates[False]:.4f}, of nights {rates[True]:.4f}")
    assert rates[False] <= 0.1
    assert rates[True] > rates[False]


def test_a_year_of_a_series_is_walked_in_no_time() -> None:
    one = year(random.Random(1), Noise(), nights=365)
    before = time.process_time()
    walk(one, rule=RULE, metric=HIGHER)
    change_points([point.value for point in one])
    assert time.process_time() - before < 2.0  # milliseconds; the limit is for a busy machine
