"""The promise of a calibrated similarity, over many draws of pairs whose true share of wrong hits is known."""

import numpy as np
import pytest

from router.hit_threshold import calibrated_threshold, surely_below


def draw(rng: np.random.Generator, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities even on [0, 1]; a hit is the more often wrong the less alike the prompts are."""
    similarity = rng.random(pairs)
    return similarity, rng.random(pairs) < 0.5 * (1.0 - similarity)


def true_share(threshold: float) -> float:
    return 0.25 * (1.0 - threshold)  # the mean of 0.5 * (1 - s) over s in [threshold, 1]


@pytest.mark.parametrize("pairs", [300, 3000])
def test_the_share_of_wrong_hits_is_kept_in_as_many_draws_as_promised(pairs: int) -> None:
    rng = np.random.default_rng(7)
    found = [calibrated_threshold(*draw(rng, pairs), most_wrong=0.08, confidence=0.9) for _ in range(300)]
    broken = [threshold for threshold in found if threshold is not None and true_share(threshold) > 0.08]
    assert len(broken) <= 0.1 * len(found)
    if pairs == 3000:
        assert found.count(None) < 0.05 * len(found)
        assert np.median([t for t in found if t is not None]) < 0.86, "0.68 is where the promise just holds"


def test_without_enough_pairs_nothing_is_promised() -> None:
    assert calibrated_threshold(np.ones(10), np.zeros(10, dtype=bool), 0.05) is None
    assert calibrated_threshold(np.ones(500), np.ones(500, dtype=bool), 0.05) is None
    assert calibrated_threshold(np.zeros(0), np.zeros(0, dtype=bool), 0.05) is None


def test_the_bound_is_clopper_and_pearsons() -> None:
    # none wrong of n: the bound is 1 - level ** (1 / n)
    assert surely_below(0, 59, 0.05, 0.05) and not surely_below(0, 58, 0.05, 0.05)


@pytest.mark.parametrize(("most_wrong", "confidence"), [(0.0, 0.9), (0.05, 1.0), (1.5, 0.9)])
def test_shares_that_are_none_are_refused(most_wrong: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrated_threshold(np.ones(3), np.zeros(3, dtype=bool), most_wrong, confidence)
