"""A forest asked with numpy against scikit-learn's."""

import numpy as np
import pytest

from router.errors import ArtifactError
from router.trees import Boosting, Forest, Growth, boost, grow, packed


def sample(rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 12)).astype(np.float32)
    features[:, 3] = np.round(features[:, 3])  # ties, where a cut may fall on a value
    target = np.stack([features[:, 0] * features[:, 1], np.sin(features[:, 3])], axis=1)
    return features, target + 0.1 * rng.normal(size=target.shape)


def test_a_packed_forest_predicts_what_scikit_learn_does() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    features, target = sample()
    model = ensemble.ExtraTreesRegressor(20, min_samples_leaf=3, random_state=0).fit(features, target)
    forest = packed([tree.tree_ for tree in model.estimators_])
    others = np.random.default_rng(1).normal(size=(700, 12)).astype(np.float32)
    assert np.allclose(forest.predict(others), model.predict(others), atol=2e-3)
    reached = np.stack([tree.apply(others) for tree in model.estimators_])
    assert len(np.unique(reached)) > 20


def test_out_of_bag_predictions_do_not_know_their_own_row() -> None:
    pytest.importorskip("sklearn")
    noise = np.random.default_rng(2).normal(size=(300, 1))
    _, honest = grow(sample()[0], noise, Growth(trees=40, leaf=2, share=1.0), seed=0)
    assert abs(np.corrcoef(honest[:, 0], noise[:, 0])[0, 1]) < 0.25


def test_a_restored_forest_predicts_the_same_and_a_bent_one_is_refused() -> None:
    pytest.importorskip("sklearn")
    features, target = sample()
    forest, _ = grow(features, target, Growth(trees=5, leaf=5, share=0.5), seed=0)
    state = forest.state()
    assert np.array_equal(Forest.restored(state, 12, 2).predict(features), forest.predict(features))
    with pytest.raises(ArtifactError, match="points outside"):
        Forest.restored({**state, "child": state["child"] + 10_000}, 12, 2)
    with pytest.raises(ArtifactError, match="feature"):
        Forest.restored(state, 3, 2)


def test_boosted_trees_learn_what_those_before_them_leave() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3)).astype(np.float32)
    target = np.stack([np.sin(features[:, 0]), features[:, 1] * (features[:, 2] > 0)], axis=1)
    how = Boosting(trees=60, depth=3, leaf=5, share=1.0, rate=0.2)
    trees = list(boost(features, target, how, seed=1))
    errors = []
    for number in (5, 20, 60):
        guess = packed([tree.tree_ for tree in trees[:number]]).predict(features) * (number * how.rate)
        errors.append(float(((guess - target) ** 2).mean()))
    assert errors[0] > 2 * errors[1] > 3 * errors[2]
