"""Cost-quality curves: the static mix, the sweep, areas."""

import numpy as np
import pytest

from training.curve import Curve, Sample, static_mix, sweep
from training.interval import resampled


def mix(*points: tuple[float, float]) -> list[tuple[float, float]]:
    cost, quality = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    found = static_mix(cost, quality)
    return list(zip(found.cost.tolist(), found.quality.tolist(), strict=True))


def test_the_static_mix_is_the_rising_part_of_the_upper_hull() -> None:
    assert mix((1, 0.2), (2, 0.25), (3, 0.6), (5, 0.5), (9, 0.8)) == [(1, 0.2), (3, 0.6), (9, 0.8)]


def test_one_expert_that_is_cheapest_and_best_is_the_whole_mix() -> None:
    assert mix((1, 0.9), (2, 0.5), (3, 0.9)) == [(1, 0.9)]


def test_of_experts_that_cost_the_same_only_the_best_counts() -> None:
    assert mix((1, 0.2), (1, 0.5), (1, 0.4), (2, 0.7)) == [(1, 0.5), (2, 0.7)]


def test_no_single_expert_lies_above_the_static_mix() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        cost, quality = rng.random((2, 12))
        hull = static_mix(cost, quality)
        assert all(q <= hull.at(c) + 1e-9 for c, q in zip(cost, quality, strict=True))


def test_an_area_is_the_mean_quality_over_the_costs() -> None:
    curve = Curve.through(np.array([3.0, 1.0]), np.array([0.8, 0.4]))
    assert curve.area(1.0, 3.0) == pytest.approx(0.6)
    assert curve.area(1.0, 5.0) == pytest.approx(0.7, abs=1e-3)  # flat beyond the last point
    assert curve.at(2.0) == pytest.approx(0.6)


def test_an_area_over_no_range_is_the_quality_there() -> None:
    assert Curve.through(np.array([1.0]), np.array([0.4])).area(1.0, 1.0) == pytest.approx(0.4)


def test_the_sweep_goes_from_the_best_to_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    quality, cost = rng.random((50, 4)), np.array([1e-5, 2e-5, 3e-4, 0.2])
    choices = list(sweep(quality, cost))
    assert np.array_equal(choices[0], quality.argmax(axis=1))
    assert (choices[-1] == 0).all()
    spent = [cost[choice].mean() for choice in choices]
    assert spent == sorted(spent, reverse=True)


def test_the_sweep_of_experts_that_cost_the_same_is_one_choice() -> None:
    assert len(list(sweep(np.random.default_rng(0).random((5, 3)), np.ones(3)))) == 1


def test_choosing_by_the_truth_reaches_the_best_of_every_query() -> None:
    quality = np.eye(3)
    cost, reached = Sample(quality=quality, cost=np.tile([1.0, 2.0, 3.0], (3, 1))).swept(quality)
    assert reached[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert cost[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_resamples_weigh_the_same_number_of_queries() -> None:
    chunks = list(resampled(7, 150, np.random.default_rng(0)))
    assert chunks[0] == pytest.approx(np.full((1, 7), 1 / 7))
    weights = np.concatenate(chunks[1:])
    assert weights.shape == (150, 7)
    assert weights.sum(axis=1) == pytest.approx(np.ones(150))
