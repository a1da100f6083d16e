"""Estimates into a choice: spend by preference, caps, floors, exploration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import NoExpertFits
from router.objective import SPEND, Choice, Terms, choose, price_of_quality, utility
from router.types import Wishes

# a cheap expert, a middling one, the best one
TERMS = Terms(
    quality=np.array([0.5, 0.7, 0.8]), cost_usd=np.array([0.001, 0.004, 0.02]), latency_s=np.array([1.0, 2.0, 5.0])
)


def chosen(wishes: Wishes | None = None, price: float = 0.0, **more: float) -> Choice:
    return choose(TERMS, {}, wishes or Wishes(), price, **more)


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    quality = np.clip(TERMS.quality + 0.2 * rng.normal(size=(400, 3)), 0, 1)
    return quality, TERMS.cost_usd * rng.uniform(0.5, 1.5, size=(400, 1))


@pytest.mark.parametrize("share", sorted(SPEND.values()))
def test_each_preference_spends_about_its_share_of_the_best_single_experts_cost(share: float) -> None:
    quality, cost = world()
    price = price_of_quality(quality, cost, share)
    spend = cost[np.arange(400), utility(quality, cost, price).argmax(axis=1)].mean()
    best = cost[:, quality.mean(axis=0).argmax()].mean()
    assert spend <= share * best
    assert spend >= 0.8 * share * best or price == 0.0


def test_a_smaller_share_costs_more_quality() -> None:
    quality, cost = world()
    prices = [price_of_quality(quality, cost, share) for share in (1.0, 0.5, 0.2)]
    assert prices == sorted(prices)


def test_a_share_that_not_even_the_cheapest_meets_takes_the_cheapest() -> None:
    quality, cost = world()
    price = price_of_quality(quality, cost, 1e-6)
    assert (utility(quality, cost, price).argmax(axis=1) == 0).all()


def test_quality_is_free_in_a_pool_that_costs_nothing() -> None:
    quality, cost = world()
    assert price_of_quality(quality, 0 * cost, 0.2) == 0.0


def test_the_experts_are_ordered_by_what_they_are_worth() -> None:
    assert chosen(price=0.0).order == (2, 1, 0)
    assert chosen(price=1000.0).order == (0, 1, 2)


def test_of_two_that_are_worth_the_same_the_cheaper_goes_first() -> None:
    terms = Terms(quality=np.array([0.5, 0.5]), cost_usd=np.array([2.0, 1.0]), latency_s=np.ones(2))
    assert choose(terms, {}, Wishes(), 0.0).order == (1, 0)


def test_the_ruled_out_are_never_tried_and_keep_their_reason() -> None:
    choice = choose(TERMS, {2: "resting"}, Wishes(), 0.0)
    assert choice.order == (1, 0)
    assert choice.ruled_out == {2: "resting"}
    assert choice.propensity[2] == 0.0


def test_caps_on_cost_and_latency_rule_out_what_exceeds_them() -> None:
    assert chosen(Wishes(max_cost_usd=0.01)).order == (1, 0)
    assert chosen(Wishes(max_latency_s=1.5)).order == (0,)
    assert "max_latency_s" in chosen(Wishes(max_latency_s=1.5)).ruled_out[1]


def test_the_floor_is_a_share_of_the_best_that_the_caps_leave() -> None:
    assert chosen(Wishes(quality_floor=0.8), price=1000.0).order == (1, 2)
    assert chosen(Wishes(quality_floor=0.8, max_cost_usd=0.01), price=1000.0).order == (1,)


@pytest.mark.parametrize("field", ["max_cost_usd", "max_latency_s"])
def test_a_cap_that_leaves_none_names_the_limit_and_the_least(field: str) -> None:
    with pytest.raises(NoExpertFits, match=field) as caught:
        chosen(Wishes(**{field: 1e-9}))
    assert caught.value.param == f"routing.{field}"


def test_none_to_choose_from_says_why() -> None:
    with pytest.raises(NoExpertFits, match="resting"):
        choose(TERMS, {0: "resting", 1: "resting", 2: "disabled"}, Wishes(), 0.0)


@given(explore=st.floats(0, 1), draw=st.floats(0, 1, exclude_max=True))
def test_propensities_sum_to_one_and_the_chosen_could_be_chosen(explore: float, draw: float) -> None:
    choice = choose(TERMS, {1: "disabled"}, Wishes(), 0.0, explore=explore, draw=draw)
    assert choice.propensity.sum() == pytest.approx(1.0)
    assert choice.propensity[choice.order[0]] > 0
    assert sorted(choice.order) == [0, 2]


def test_exploration_draws_each_candidate_alike() -> None:
    draws = [chosen(explore=0.6, draw=draw).order[0] for draw in np.linspace(0, 1, 1000, endpoint=False)]
    assert np.bincount(draws, minlength=3) == pytest.approx([200, 200, 600], abs=2)
    assert chosen(explore=0.6, draw=0.9).propensity == pytest.approx([0.2, 0.2, 0.6])
