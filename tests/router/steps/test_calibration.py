"""Calibration: what is foretold becomes what came of it."""

import numpy as np
import pytest

from router.errors import ArtifactError
from router.steps.calibration import Calibration
from router.types import Estimate, Floats, Queries

QUERIES = Queries(embeddings=np.zeros((1, 0), np.float32), input_tokens=np.ones(1, np.float32))


def applied(step: Calibration, quality: Floats) -> Floats:
    estimate = Estimate(quality=quality, std=np.full(quality.shape, 0.1), output_tokens=np.ones(quality.shape))
    return step.apply(QUERIES, estimate).quality


def world(seed: int = 0) -> tuple[Floats, Floats]:
    """Chances of three experts, and what came of them."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.2, 0.9, size=(4_000, 3))
    return chance, (rng.random(chance.shape) < chance).astype(float)


def test_what_was_right_already_stays() -> None:
    chance, came = world()
    assert np.abs(applied(Calibration.fit(chance, came), chance) - chance).max() < 0.03


def test_overconfidence_is_taken_back() -> None:
    chance, came = world()
    odds = np.log(chance / (1 - chance))
    boasted = 1 / (1 + np.exp(-3.0 * odds))
    step = Calibration.fit(boasted, came)
    assert step.slope[0] == pytest.approx(1 / 3, abs=0.05)
    assert np.abs(applied(step, boasted) - chance).max() < 0.05


def test_the_order_of_the_experts_stays() -> None:
    chance, came = world()
    after = applied(Calibration.fit(chance**2, came), chance**2)
    assert np.array_equal(after.argsort(axis=1), chance.argsort(axis=1))
    assert abs(after.mean() - came.mean()) < 0.02


def test_cells_that_nobody_saw_say_nothing() -> None:
    chance, came = world()
    half = came.copy()
    half[::2] = np.nan
    assert Calibration.fit(chance, half).offset == pytest.approx(Calibration.fit(chance[1::2], came[1::2]).offset)


def test_a_handful_of_outcomes_moves_little() -> None:
    step = Calibration.fit(np.full((3, 2), 0.5), np.ones((3, 2)))
    assert 0.5 <= applied(step, np.full((1, 2), 0.5)).min() < 0.9


def test_what_is_kept_is_what_is_taken_back() -> None:
    step = Calibration.fit(*world())
    again = Calibration.restored(step.state())
    assert np.array_equal(again.offset, step.offset) and np.array_equal(again.slope, step.slope)
    with pytest.raises(ArtifactError, match="offset"):
        Calibration.restored({"slope": step.slope})
