"""What a stack does beyond the contract, and what a forest foretells of lengths."""

import numpy as np
import pytest

from policies import policy_class
from router.errors import ConfigError
from router.types import Outcomes, Queries


def outcomes(rows: int = 400, seed: int = 0) -> Outcomes:
    """Two kinds of prompts; answers to the second are ten times as long."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=rows)
    vectors = (np.eye(8)[kind] + 0.05 * rng.normal(size=(rows, 8))).astype(np.float32)
    quality = (rng.random((rows, 2)) < np.where(kind[:, None] == 0, [0.9, 0.3], [0.5, 0.8])).astype(float)
    tokens = np.where(kind[:, None] == 0, 40.0, 400.0) * rng.uniform(0.8, 1.2, size=(rows, 2))
    return Outcomes(
        queries=Queries(
            embeddings=vectors,
            input_tokens=np.full(rows, 20.0, dtype=np.float32),
            prompts=tuple(f"{'short' if k == 0 else 'write a long essay'} {i % 7}" for i, k in enumerate(kind)),
            domains=tuple(str(k) for k in kind),
        ),
        experts=("a", "b"),
        quality=quality,
        cost_usd=tokens * np.array([1.0, 4.0]) / 1e6,
        output_tokens=tokens,
    )


def test_a_forest_foretells_long_answers() -> None:
    forest = policy_class("forest")(trees=8, length_trees=8).fit(outcomes())
    held_out = outcomes(100, seed=1)
    lengths = forest.predict(held_out.queries).output_tokens[:, 0]
    long = np.array(held_out.queries.domains) == "1"
    assert lengths[long].min() > 2.0 * lengths[~long].max()


def test_a_member_without_honest_predictions_of_its_own_is_fitted_in_turns() -> None:
    stack = policy_class("stack")(members=[{"kind": "cluster"}, {"kind": "knn"}]).fit(outcomes())
    quality = stack.predict(outcomes(100, seed=1).queries).quality
    kind = np.array(outcomes(100, seed=1).queries.domains) == "0"
    assert ((quality[:, 0] > quality[:, 1]) == kind).mean() > 0.9


@pytest.mark.parametrize(
    ("member", "complaint"),
    [({"trees": 3}, "names no kind"), ({"kind": "oracle"}, "oracle"), ({"kind": "forest", "leafs": 3}, "leafs")],
)
def test_a_member_that_cannot_be_built_is_named(member: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        policy_class("stack")(members=[member]).fit(outcomes(30))
