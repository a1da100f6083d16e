"""One expert to a category under a budget: exact, against trying every assignment."""

from itertools import product

import numpy as np
import pytest

from router.category_budget import assigned, led_by
from router.errors import DataError


@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_within_the_budget_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality, cost = rng.random((4, 5)), rng.random((4, 5)) * 1e-4
    share = rng.dirichlet(np.ones(4))
    budget = float((share @ cost).mean()) * 0.7
    rows = np.arange(4)

    def worth(choice: tuple[int, ...]) -> float:
        spent = share @ cost[rows, choice]
        return float(share @ quality[rows, choice]) if spent <= budget else -1.0

    found = assigned(quality, cost, share, budget)
    assert worth(tuple(found)) == pytest.approx(max(map(worth, product(range(5), repeat=4))))


def test_an_expert_without_a_cost_is_never_chosen() -> None:
    quality, cost = np.array([[0.9, 0.2], [0.9, 0.1]]), np.array([[np.nan, 1.0], [np.nan, 1.0]])
    assert assigned(quality, cost, np.array([0.5, 0.5]), 2.0).tolist() == [1, 1]


def test_a_budget_under_the_cheapest_names_the_least() -> None:
    with pytest.raises(DataError, match=r"the least is 0\.5"):
        assigned(np.ones((1, 2)), np.array([[0.5, 1.0]]), np.ones(1), 0.1)
    with pytest.raises(DataError, match="none"):
        assigned(np.ones((1, 2)), np.full((1, 2), np.nan), np.ones(1), 0.1)


def test_whom_the_budget_leaves_out_stands_just_below_the_chosen() -> None:
    led = led_by(np.array([1, 0]), np.array([[0.9, 0.6, 0.2], [0.5, 0.4, 0.7]]))
    assert led.argmax(axis=1).tolist() == [1, 0]
    np.testing.assert_allclose(led, [[0.6, 0.6, 0.2], [0.5, 0.4, 0.5]], atol=2e-3)
