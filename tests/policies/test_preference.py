"""Abilities from pairs: what battles, ties and thumbs teach, and what the anchor makes of them."""

import numpy as np
import pytest

from policies.preference import Preference
from router.types import Floats, Outcomes, Queries

ABILITY = np.array([1.0, 0.0, -1.0, 0.5])


def table(vectors: Floats, quality: Floats) -> Outcomes:
    blank = np.full(quality.shape, np.nan)
    queries = Queries(np.asarray(vectors, dtype=np.float32), np.ones(len(vectors)))
    return Outcomes(queries, tuple("abcd"), quality, blank, blank)


def battles(rows: int, seed: int = 0, ties: float = 0.0) -> Outcomes:
    """Two of four experts on each prompt; the vector's first component turns the abilities of a and b round."""
    rng = np.random.default_rng(seed)
    vectors = rng.choice([-1.0, 1.0], size=(rows, 1)) * np.array([1.0, 0.0, 0.0]) + 0.1 * rng.normal(size=(rows, 3))
    ability = ABILITY + np.sign(vectors[:, :1]) * np.array([-1.0, 1.0, 0.0, 0.0])
    pair = rng.permuted(np.tile(np.arange(4), (rows, 1)), axis=1)[:, :2]
    gap = np.diff(np.take_along_axis(ability, pair, axis=1), axis=1)[:, 0]
    won = np.where(rng.random(rows) < ties, 0.5, rng.random(rows) > 1.0 / (1.0 + np.exp(-gap)))
    quality = np.full((rows, 4), np.nan)
    np.put_along_axis(quality, pair, np.stack([won, 1.0 - won], axis=1), axis=1)
    return table(vectors, quality)


@pytest.mark.parametrize("ties", [0.0, 0.5])
def test_battles_rank_the_experts_by_what_the_prompt_is(ties: float) -> None:
    policy = Preference().fit(battles(2500, ties=ties))
    ends = np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    quality = policy.predict(Queries(ends.astype(np.float32), np.ones(2))).quality
    assert quality[0].argsort().tolist() == [1, 2, 3, 0] or quality[0].argsort().tolist() == [2, 1, 3, 0]
    assert quality[1].argmax() == 1
    assert quality[1, 3] > quality[1, 0] > quality[1, 2]


def test_in_battles_the_mean_expert_has_a_half() -> None:
    trained = battles(2500)
    quality = Preference().fit(trained).predict(trained.queries).quality
    assert quality.mean() == pytest.approx(0.5, abs=0.02)
    seen = np.isfinite(trained.quality)
    best = quality >= np.quantile(quality[seen], 0.9)
    assert quality[seen & best].mean() == pytest.approx(trained.quality[seen & best].mean(), abs=0.08)


def test_a_table_of_scores_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    quality = (rng.random((1500, 4)) < 0.75 + 0.1 * ABILITY).astype(float)
    policy = Preference().fit(table(rng.normal(size=(1500, 5)), quality))
    means = policy.predict(Queries(np.zeros((1, 5), np.float32), np.ones(1))).quality[0]
    assert means == pytest.approx(quality.mean(axis=0), abs=0.06)


def test_thumbs_on_single_answers_rank_experts_too() -> None:
    rng = np.random.default_rng(0)
    quality = np.where(
        rng.integers(4, size=1500)[:, None] == np.arange(4), rng.random((1500, 4)) < 0.6 + 0.25 * ABILITY, np.nan
    )
    policy = Preference().fit(table(rng.normal(size=(1500, 5)), quality))
    guess = policy.predict(Queries(np.zeros((1, 5), np.float32), np.ones(1))).quality[0]
    assert guess.argsort().tolist() == ABILITY.argsort().tolist()
    assert guess == pytest.approx(np.nanmean(quality, axis=0), abs=0.1)


def test_who_never_met_an_opponent_on_a_prompt_is_drawn_to_the_mean() -> None:
    quality = np.array([[1.0, 0.0, np.nan, np.nan]] * 30 + [[np.nan, np.nan, 1.0, 0.0]])
    guess = (
        Preference()
        .fit(table(np.zeros((31, 2)), quality))
        .predict(Queries(np.zeros((1, 2), np.float32), np.ones(1)))
    )
    assert guess.quality[0, 0] > guess.quality[0, 2] > 0.5 > guess.quality[0, 3] > guess.quality[0, 1]
