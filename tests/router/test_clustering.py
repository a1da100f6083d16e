"""K-means, and shares in its clusters."""

import numpy as np
import pytest

from router.clustering import kmeans, shares


def test_shares_sum_to_one_and_reach_the_nearest_only() -> None:
    share = shares(np.random.default_rng(0).normal(size=(20, 9)), nearest=3, temperature=0.5)
    assert share.sum(axis=1) == pytest.approx(np.ones(20))
    assert ((share > 0).sum(axis=1) == 3).all()


def test_kmeans_finds_clusters_that_lie_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(5, 10, dtype=np.float32) * 10
    vectors = (np.repeat(centres, 40, axis=0) + rng.normal(size=(200, 10))).astype(np.float32)
    found = kmeans(vectors, 5, rng)
    assert np.abs(centres[:, None] - found[None]).max(axis=2).min(axis=1).max() < 1.0


def test_kmeans_of_equal_vectors_ends() -> None:
    assert np.isfinite(kmeans(np.ones((10, 3), np.float32), 4, np.random.default_rng(0))).all()
