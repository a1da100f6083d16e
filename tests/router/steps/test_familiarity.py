"""Familiarity: a query like none of the training's is answered by the experts' means."""

from dataclasses import replace

import numpy as np
import pytest

from router.errors import ArtifactError
from router.steps.familiarity import Evidence, Familiarity, Likeness
from router.types import Estimate, Floats, Queries

KINDS, DIMENSION = 6, 16


def queries(kinds: Floats, seed: int) -> Queries:
    rng = np.random.default_rng(seed)
    vectors = np.eye(DIMENSION)[kinds.astype(int)] + 0.1 * rng.normal(size=(len(kinds), DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Queries(embeddings=vectors, input_tokens=np.full(len(kinds), 20, np.float32))


def learned() -> Familiarity:
    """Trained on kinds 0 to 3. What is foretold of these is right; of kinds 4 and 5 it is noise."""
    rng = np.random.default_rng(0)
    kinds = np.arange(800) % 4
    likeness = Likeness.fit(queries(kinds, 1), kinds, rng)
    mean = np.array([0.6, 0.5])

    def evidence(kinds: Floats, known: bool, seed: int) -> Evidence:
        truth = np.where(np.isin(kinds, (0, 2, 4)), 1, -1)[:, None] * np.array([0.3, -0.3])
        noise = rng.choice([-0.3, 0.3], size=len(kinds))[:, None] * np.array([1, -1])
        foretold = mean + (truth if known else noise)
        observed = (rng.random(foretold.shape) < mean + truth).astype(float)
        return Evidence(
            likeness.signals(queries(kinds, seed)), foretold, observed, np.broadcast_to(mean, foretold.shape)
        )

    familiar = evidence(np.arange(800) % 4, True, 2)
    unlike = evidence(4 + np.arange(800) % 2, False, 3)
    return Familiarity.fit(likeness, familiar, unlike, mean, np.full(2, 0.2))


@pytest.fixture(scope="module")
def step() -> Familiarity:
    return learned()


def estimated(step: Familiarity, kinds: Floats) -> Estimate:
    given = Estimate(
        quality=np.tile([0.9, 0.2], (len(kinds), 1)),
        std=np.full((len(kinds), 2), 0.05),
        output_tokens=np.full((len(kinds), 2), 100.0),
    )
    return step.apply(queries(kinds, 9), given)


def test_what_is_known_is_believed(step: Familiarity) -> None:
    after = estimated(step, np.arange(40) % 4)
    assert after.familiarity is not None and np.median(after.familiarity) > 0.8
    assert np.median(after.quality[:, 0]) > 0.8


def test_what_is_unlike_is_answered_by_the_means_and_says_how_little_is_known(step: Familiarity) -> None:
    after = estimated(step, 4 + np.arange(40) % 2)
    assert after.familiarity is not None and after.familiarity.max() < 0.3
    assert np.abs(after.quality - step.mean).max() < 0.15
    assert after.std.min() > 0.1


def test_each_query_is_looked_at_by_itself(step: Familiarity) -> None:
    kinds = np.array([0, 4, 1, 5, 2])
    together = step.likeness.signals(queries(kinds, 9))
    one = queries(kinds, 9)
    alone = step.likeness.signals(replace(one, embeddings=one.embeddings[3:4], input_tokens=one.input_tokens[3:4]))
    assert np.allclose(alone[0], together[3], atol=1e-5)


def test_trust_never_falls_with_likeness(step: Familiarity) -> None:
    assert (np.diff(step.knots, axis=0) >= 0).all()
    assert (step.knots[:, 1] >= 0).all() and (step.knots[:, 1] <= 1).all()


def test_what_is_kept_is_what_is_taken_back(step: Familiarity) -> None:
    again = Familiarity.restored(step.state())
    kinds = np.arange(12) % 6
    assert np.allclose(estimated(again, kinds).quality, estimated(step, kinds).quality, atol=1e-5)
    for missing in step.state():
        with pytest.raises(ArtifactError):
            Familiarity.restored({name: array for name, array in step.state().items() if name != missing})
