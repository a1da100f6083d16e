"""Published metrics on cases small enough to work out by hand."""

import numpy as np
import pytest

from training.curve import Curve, mix_for
from training.interval import interval, mean_intervals, p_value
from training.metrics import (
    Calls,
    aiq,
    apgr,
    arena_score,
    brier,
    cpt,
    deferral_area,
    ece,
    equal_mass,
    equal_width,
    published,
    quality_neutral_cost,
)


def curve(*points: tuple[float, float]) -> Curve:
    cost, quality = np.array(points).T
    return Curve(cost=cost, quality=quality)


def test_an_area_is_exact_also_over_a_step_and_beyond_the_ends() -> None:
    stepped = curve((1.0, 0.2), (2.0, 0.2), (2.0, 0.8), (3.0, 0.8))
    assert stepped.area(1.0, 3.0) == pytest.approx(0.5)
    assert stepped.area(0.0, 4.0) == pytest.approx(0.5)
    assert curve((0.0, 0.0), (1.0, 1.0)).area(0.5, 1.0) == pytest.approx(0.75)
    assert curve((0.0, 0.0), (1.0, 1.0)).area(0.25, 0.25) == pytest.approx(0.25)


def test_a_curve_tells_the_least_cost_of_a_quality() -> None:
    bumpy = curve((1.0, 0.2), (2.0, 0.6), (3.0, 0.4), (4.0, 0.8))
    assert bumpy.reaching(0.4) == pytest.approx(1.5)
    assert bumpy.reaching(0.1) == 1.0
    assert bumpy.reaching(0.7) == pytest.approx(3.75)
    assert bumpy.reaching(0.9) == float("inf")


def test_a_budget_is_met_by_a_mix_of_the_two_points_around_it() -> None:
    cost = np.array([4.0, 1.0, 2.0])
    assert mix_for(1.5, cost) == (1, 2, 0.5)
    assert mix_for(3.5, cost) == (2, 0, 0.75)
    assert mix_for(0.5, cost) == (1, 1, 0.0)
    assert mix_for(9.0, cost) == (0, 0, 0.0)
    assert mix_for(3.5, cost).of(np.array([[8.0, 0.0, 4.0]])) == pytest.approx([7.0])


def test_aiq_takes_the_hull_that_never_falls() -> None:
    # the dip at 2 lies under the line from (1, .2) to (3, .6), the fall after 3 is cut: .4 up to 3, then .6
    assert aiq(curve((1.0, 0.2), (2.0, 0.1), (3.0, 0.6), (5.0, 0.3)), 1.0, 5.0) == pytest.approx(0.5)


def test_the_deferral_area_is_over_relative_cost_and_keeps_dips() -> None:
    # flat .2 up to 1, then straight to .6 at 3 and flat to 4: (.2 + .8 + .6) / 4
    assert deferral_area(curve((1.0, 0.2), (3.0, 0.6)), 4.0) == pytest.approx(0.4)
    assert deferral_area(curve((1.0, 0.2), (2.0, 0.0), (3.0, 0.6)), 4.0) == pytest.approx(1.2 / 4)


def test_the_quality_neutral_cost_is_where_the_best_model_is_matched() -> None:
    rising = curve((1.0, 0.2), (2.0, 0.8))
    assert quality_neutral_cost(rising, 3.0, 0.5) == pytest.approx(0.5)
    assert quality_neutral_cost(rising, 3.0, 0.9) == 1.0  # never matched: the best model itself
    assert quality_neutral_cost(rising, 1.2, 0.8) == 1.0  # matched, but for more
    assert quality_neutral_cost(rising, 0.0, 0.5) == 1.0


def test_the_arena_score_weighs_accuracy_against_the_logarithm_of_the_cost() -> None:
    middle = np.sqrt(0.0044 * 200) / 1_000  # halfway on a log scale: C = .5
    assert arena_score(0.8, middle) == pytest.approx(1.1 * 0.8 * 0.5 / (0.08 + 0.5))
    assert arena_score(0.8, 0.0) == pytest.approx(1.1 * 0.8 / 1.08)  # free: C = 1
    assert arena_score(0.8, 1.0) == 0.0  # 1,000 USD per 1,000 queries: C = 0
    assert arena_score(0.0, 1.0) == 0.0


def test_the_gap_recovered_follows_the_policys_order_of_calls() -> None:
    calls = Calls(preference=np.array([0.1, 0.9, 0.5, 0.3]), gap=np.array([0.0, 1.0, -0.5, 0.5]))
    (found,) = calls.recovered(np.full((1, 4), 0.25))
    assert found is not None
    assert found.cost == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert found.quality == pytest.approx([0, 1, 0.5, 1, 1])
    assert apgr(found) == pytest.approx((0.5 + 0.75 + 0.75 + 1) / 4)
    assert cpt(found, 0.5) == pytest.approx(0.125)
    assert cpt(found, 0.8) == pytest.approx(0.2)


def test_queries_preferred_alike_are_drawn_at_random() -> None:
    calls = Calls(preference=np.zeros(4), gap=np.array([1.0, 0.0, 0.0, 1.0]))
    (found,) = calls.recovered(np.full((1, 4), 0.25))
    assert found is not None
    assert (apgr(found), cpt(found, 0.5), cpt(found, 0.8)) == pytest.approx((0.5, 0.5, 0.8))


def test_without_a_gap_nothing_can_be_recovered() -> None:
    calls = Calls(preference=np.array([0.1, 0.2]), gap=np.array([1.0, -1.0]))
    assert calls.recovered(np.array([[0.5, 0.5], [0.2, 0.8]])) == [None, None]
    assert calls.recovered(np.array([[0.8, 0.2]]))[0] is not None


def test_brier_and_calibration_error_by_hand() -> None:
    predicted, observed = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert brier(predicted, observed) == pytest.approx((0.01 + 0.64 + 0.04 + 0.01) / 4)
    # two halves: |.15 - .5| and |.85 - 1|
    assert ece(predicted, observed, equal_width(predicted, 2)) == pytest.approx((0.35 + 0.15) / 2)
    assert ece(predicted, observed, equal_mass(predicted, 1)) == pytest.approx(0.25)


def test_bins_of_equal_width_and_of_equal_mass() -> None:
    predicted = np.array([0.0, 1.0, 0.05, 0.3, 0.02, 0.01])
    assert equal_width(predicted, 10).tolist() == [0, 9, 0, 3, 0, 0]
    assert equal_mass(predicted, 3).tolist() == [0, 2, 1, 2, 1, 0]


def test_a_metric_of_which_less_is_better_gains_by_being_less() -> None:
    names = ("AIQ", "APGR", "CPT(50)", "CPT(80)", "deferral area", "QNC", "arena score")
    figures = {f"{name} policy": np.array([0.6, 0.7, 0.5]) for name in names}
    figures |= {f"{name} static_mix": np.array([0.5, 0.5, 0.5]) for name in ("AIQ", "deferral area", "arena score")}
    figures["APGR policy"][:] = np.nan
    found = published(figures)
    assert "APGR" not in found
    assert found["AIQ"].gain.value == pytest.approx(0.1)
    assert found["CPT(80)"].gain.value == pytest.approx(0.2)
    assert found["CPT(80)"].better == "lower"
    assert found["QNC"].static_mix == 1.0


def test_the_p_value_counts_the_resamples_without_gain() -> None:
    assert p_value(np.array([1.0, *[1.0] * 7, -1.0, 0.0])) == pytest.approx(3 / 10)
    assert p_value(np.array([1.0, *[1.0] * 99])) == pytest.approx(1 / 100)
    assert p_value(np.array([-1.0, -1.0, -1.0])) == 1.0


def test_an_interval_leaves_out_the_resamples_in_which_a_figure_is_undefined() -> None:
    values = np.array([0.5, *np.linspace(0, 1, 101), np.nan])
    found = interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.025, 0.975))


def test_means_get_intervals_as_wide_as_their_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=900), np.ones(900)], axis=1)
    noisy, constant = mean_intervals(values, rng)
    assert noisy.high - noisy.low == pytest.approx(2 * 1.96 / 30, rel=0.15)
    assert (constant.low, constant.high) == pytest.approx((1.0, 1.0))
