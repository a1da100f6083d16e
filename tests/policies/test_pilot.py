"""Experts come and go without training, and know nothing of each other."""

import numpy as np
import pytest

from policies.pilot import Pilot
from router.errors import DataError
from router.types import Floats, Outcomes, Queries


def outcomes(experts: int, rows: int = 400, seed: int = 0) -> tuple[Outcomes, Floats]:
    """Expert k is good at topic k and fair at the others; returns also the true chances [n, K]."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(4, size=rows)
    vectors = np.eye(4, 12)[topic] + 0.15 * rng.normal(size=(rows, 12))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    chance = np.where(topic[:, None] == np.arange(4), 0.9, 0.4)
    quality = (rng.random(chance.shape) < chance).astype(float)[:, :experts]
    tokens = np.tile(np.arange(1.0, 5.0) * 100.0, (rows, 1))[:, :experts]
    queries = Queries(vectors, np.ones(rows))
    return Outcomes(queries, tuple("abcd"[:experts]), quality, tokens / 1e6, tokens), chance


def test_adding_an_expert_changes_no_other_experts_estimate() -> None:
    whole, _ = outcomes(4)
    queries = outcomes(4, seed=1)[0].queries
    policy = Pilot().fit(outcomes(3)[0])
    before = policy.predict(queries)
    policy.add("d", whole.queries.embeddings, whole.quality[:, 3], whole.output_tokens[:, 3])
    after = policy.predict(queries)
    assert policy.experts_ == ("a", "b", "c", "d")
    assert np.array_equal(after.quality[:, :3], before.quality)
    assert np.array_equal(after.output_tokens[:, :3], before.output_tokens)


def test_an_expert_that_was_added_is_as_if_it_had_been_there() -> None:
    whole, chance = outcomes(4)
    policy = Pilot().fit(outcomes(3)[0])
    policy.add("d", whole.queries.embeddings, whole.quality[:, 3], whole.output_tokens[:, 3])
    queries = outcomes(4, seed=1)[0].queries
    assert np.array_equal(policy.predict(queries).quality, Pilot().fit(whole).predict(queries).quality)
    chosen = policy.predict(whole.queries).quality.argmax(axis=1)
    assert chance[np.arange(len(chance)), chosen].mean() > 0.85


def test_removing_an_expert_leaves_the_others_as_they_were() -> None:
    policy = Pilot().fit(outcomes(4)[0])
    queries = outcomes(4, seed=1)[0].queries
    before = policy.predict(queries)
    policy.remove("b")
    after = policy.predict(queries)
    assert policy.experts_ == ("a", "c", "d")
    assert np.array_equal(after.quality, before.quality[:, [0, 2, 3]])
    assert np.array_equal(after.output_tokens, before.output_tokens[:, [0, 2, 3]])


def test_an_expert_that_is_there_or_is_not_or_was_never_seen_is_named() -> None:
    policy, table = Pilot().fit(outcomes(2)[0]), outcomes(2)[0]
    vectors, quality, tokens = table.queries.embeddings, table.quality[:, 0], table.output_tokens[:, 0]
    with pytest.raises(DataError, match="'b' is there already"):
        policy.add("b", vectors, quality, tokens)
    with pytest.raises(DataError, match="'c' has no observed quality"):
        policy.add("c", vectors, np.full(len(quality), np.nan), tokens)
    with pytest.raises(DataError, match="'c' is not there"):
        policy.remove("c")
