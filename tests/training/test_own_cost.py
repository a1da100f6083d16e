"""Expected costs from foretold lengths."""

import numpy as np

from router.types import Outcomes, Queries
from training.own_cost import expected_cost


def outcomes(rows: int = 50) -> Outcomes:
    rng = np.random.default_rng(0)
    given, made = rng.integers(10, 500, rows).astype(np.float32), rng.integers(5, 900, (rows, 2)).astype(float)
    cost = (given[:, None] * np.array([2.0, 0.5]) + made * np.array([8.0, 1.0])) / 1e6
    queries = Queries(embeddings=np.zeros((rows, 0), dtype=np.float32), input_tokens=given)
    return Outcomes(
        queries=queries, experts=("a", "b"), quality=np.ones((rows, 2)), cost_usd=cost, output_tokens=made
    )


def test_true_lengths_give_the_recorded_costs() -> None:
    table = outcomes()
    assert np.allclose(expected_cost(table, table.output_tokens), table.cost_usd, rtol=1e-3)


def test_a_longer_answer_is_expected_to_cost_its_price_more() -> None:
    table = outcomes()
    longer = expected_cost(table, table.output_tokens + 100) - expected_cost(table, table.output_tokens)
    assert np.allclose(longer, [[8e-4, 1e-4]], rtol=1e-3)


def test_an_expert_without_known_lengths_costs_by_the_prompt() -> None:
    table = outcomes()
    table.output_tokens[:, 1] = np.nan
    table.cost_usd[:, 1] = (table.queries.input_tokens * 0.5 + 256.0) / 1e6
    assert np.allclose(expected_cost(table, np.full((50, 2), 300.0))[:, 1], table.cost_usd[:, 1], rtol=1e-3)


def test_an_expert_without_costs_is_expected_to_cost_nothing_known() -> None:
    table = outcomes()
    table.cost_usd[:, 1] = np.nan
    assert (expected_cost(table, np.ones((50, 2)))[:, 1] == 0).all()
