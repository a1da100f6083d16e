"""What heads guess is kept as far as it proved true."""

import numpy as np

from router.trust import LEAST_STD, Trust
from router.types import Floats


def world(noise: float, rows: int = 400) -> tuple[Floats, Floats, Floats]:
    """Two guesses [2, n, 3], of which the second is blind; what came of them; the true chances."""
    rng = np.random.default_rng(0)
    chance = np.clip(0.5 + 0.25 * rng.normal(size=(rows, 3)), 0.02, 0.98)
    truth = (rng.random(chance.shape) < chance).astype(float)
    blind = rng.random(chance.shape)
    return np.stack([np.clip(chance + noise * rng.normal(size=chance.shape), 0, 1), blind]), truth, chance


def earned(guesses: Floats, truth: Floats) -> Trust:
    return Trust.earned(guesses, truth, np.array([0.5, 0.5, 0.5]), np.random.default_rng(0))


def test_a_true_guess_is_kept_and_a_wild_one_drawn_in() -> None:
    spread = []
    for noise in (0.0, 0.5):
        guesses, truth, chance = world(noise)
        quality, std = earned(guesses[:, :300], truth[:300]).kept(guesses[:, 300:])
        assert np.abs(quality - chance[300:]).mean() < np.abs(0.5 - chance[300:]).mean()
        assert quality.shape == std.shape and (std >= LEAST_STD).all()
        spread.append(float(quality.std()))
    assert spread[0] > 1.5 * spread[1]


def test_the_head_that_knows_something_outweighs_the_one_that_does_not() -> None:
    guesses, truth, _ = world(0.1)
    mixing = earned(guesses, truth).mixing
    assert np.abs(mixing[0]).sum() > 5 * np.abs(mixing[1]).sum()


def test_answers_that_were_not_seen_say_nothing() -> None:
    guesses, truth, _ = world(0.5)
    seen = np.random.default_rng(1).integers(3, size=len(truth))[:, None] == np.arange(3)
    full, log = (np.trace(earned(guesses, t).mixing[0]) for t in (truth, np.where(seen, truth, np.nan)))
    assert log < 1.3 * full


def test_without_evidence_nothing_but_the_mean_is_kept() -> None:
    for truth in (np.zeros((0, 3)), np.full((5, 3), np.nan)):
        trust = earned(np.full((2, *truth.shape), 0.9), truth)
        np.testing.assert_allclose(trust.kept(np.ones((2, 1, 3)))[0], 0.5)
