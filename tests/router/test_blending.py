"""Weights found on honest predictions, and the differences that they leave."""

import numpy as np

from router.blending import Narrowing, area, narrowed, weighed


def test_the_better_prediction_weighs_more_and_noise_weighs_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 1))
    guesses = np.stack([truth + 0.5 * rng.normal(size=truth.shape), truth + 2.0 * rng.normal(size=truth.shape)])
    weights, _ = weighed(np.concatenate([guesses, rng.normal(size=(1, 400, 1))]), truth, rng.integers(5, size=400))
    assert weights[0] > 3 * weights[1] > 0
    assert weights[2] < 0.05
    noise, blend = weighed(rng.normal(size=(2, 400, 1)), truth, rng.integers(5, size=400))
    assert np.abs(noise).max() < 0.1 and np.abs(blend).max() < 0.2


def test_narrowing_keeps_what_the_experts_share() -> None:
    guess = np.random.default_rng(0).normal(size=(20, 4))
    drawn = narrowed(guess, None, Narrowing(0.5, 0.0))
    assert np.allclose(drawn.mean(axis=1), guess.mean(axis=1))
    assert np.allclose(np.ptp(drawn, axis=1), 0.5 * np.ptp(guess, axis=1))


def test_knowing_the_outcomes_is_worth_more_than_the_means() -> None:
    rng = np.random.default_rng(0)
    quality = (rng.random((300, 3)) < [0.4, 0.6, 0.8]).astype(float)
    cost = np.broadcast_to(np.array([1.0, 3.0, 10.0]), quality.shape)
    means = np.broadcast_to(quality.mean(axis=0), quality.shape)
    assert area(quality, cost, quality, cost) > area(means, cost, quality, cost) + 0.1
    assert np.isnan(area(means, cost, quality, np.full(cost.shape, np.nan)))
