"""Staying with a conversation's expert: what it is worth, when it ends, and what is said of it."""

import random
from dataclasses import replace

import numpy as np
import pytest

from policies.static import Static
from router.explanation import why
from router.router import PolicyInUse, Router
from router.stickiness import favours, held
from router.types import Decision, ExpertSpec, Load, Outcomes, Price, Queries, Query, Stay, Wishes

LONG = Query(text="and then?", input_tokens=20_000)
SPECS = (ExpertSpec("first", Price(2, 8, 0.2)), ExpertSpec("second", Price(2, 8, 0.2)))


def router(
    quality: tuple[float, float], margin: float = 0.02, resting: str = "", explore: float = 0.0, seed: int = 1
) -> Router:
    """Two experts of one price; the preference `balanced` makes money count."""
    queries = Queries(np.zeros((100, 0), np.float32), np.full(100, 100.0, np.float32))
    right = np.arange(100)[:, None] < np.array(quality) * 100
    outcomes = Outcomes(queries, ("a", "b"), right.astype(float), np.zeros((100, 2)), np.full((100, 2), 100.0))
    made = Router(
        PolicyInUse(Static().fit(outcomes), "v1", (0, 1), queries),
        SPECS,
        None,
        resting_s=lambda name: 5.0 if name == resting else 0.0,
        load=lambda name: Load(),
        margin=margin,
        explore=explore,
        rng=random.Random(seed),
    )
    made.prices_of_quality["balanced"] = 2.0
    return made


async def decide(made: Router, stay: Stay | None, **wishes: object) -> Decision:
    return await made.decide(LONG, Wishes(**wishes), stay=stay)  # type: ignore[arg-type]


def test_staying_is_worth_the_cached_part_at_the_discount_and_the_margin() -> None:
    found = held("first", 10_000, Price(2, 8, 0.2), 2.0, 0.02)
    assert found.saves_usd == pytest.approx(0.018)  # 10,000 tokens at 1.8 dollars less a million
    assert found.favour == pytest.approx(0.056)
    assert favours(found, ("zero", "first")).tolist() == [0.0, found.favour]


@pytest.mark.parametrize("price", [Price(2, 8), Price(2, 8, 3.0)])
def test_a_provider_without_a_discount_leaves_the_margin_alone(price: Price) -> None:
    assert held("first", 10_000, price, 2.0, 0.02).favour == pytest.approx(0.02)


async def test_a_better_expert_takes_a_conversation_only_from_more_than_staying_is_worth() -> None:
    made = router((0.60, 0.65))  # 0.05 better: more than the margin, less than the margin and a warm cache
    assert (await decide(made, None)).order[0] == "second"
    cold, warm = await decide(made, Stay("first")), await decide(made, Stay("first", 10_000))
    assert cold.order[0] == "second" and warm.order[0] == "first"
    assert "moves from first: this one is better by 0.0500, staying was worth 0.0200" in why(cold)
    assert "stays with first: another is better by 0.0500, staying is worth 0.0560" in why(warm)
    assert "10000 tokens in its prompt cache, saving $0.018" in why(warm)
    assert warm.propensity.tolist() == [1.0, 0.0]
    assert warm.cost_usd[0] == warm.cost_usd[1]  # a discount that nobody promised is in no estimate of cost


async def test_no_more_is_taken_for_cached_than_the_request_holds() -> None:
    decision = await decide(router((0.6, 0.65)), Stay("first", 10**9))
    assert decision.held is not None and decision.held.cached_tokens == LONG.input_tokens


@pytest.mark.parametrize(
    ("changes", "wishes", "said"),
    [
        ({"resting": "first"}, {}, "moves from first: resting after failures"),
        ({}, {"exclude": frozenset({"first"})}, "moves from first: in routing.exclude"),
        ({}, {"max_cost_usd": 1e-9}, ""),
    ],
)
async def test_nothing_is_held_where_it_cannot_be_served(
    changes: dict[str, str], wishes: dict[str, object], said: str
) -> None:
    made = router((0.9, 0.1), **changes)  # type: ignore[arg-type]
    if not said:
        with pytest.raises(Exception, match="max_cost_usd"):
            await decide(made, Stay("first", 10_000), **wishes)
        return
    decision = await decide(made, Stay("first", 10_000), **wishes)
    assert decision.order == ("second",) and said in why(decision)


async def test_what_a_limit_passed_over_is_said_to_be() -> None:
    decision = await decide(router((0.9, 0.1)), Stay("first"))
    assert "moves from first: a limit or a budget passed it over" in why(replace(decision, order=("second",)))


async def test_an_expert_that_left_the_pool_holds_nothing() -> None:
    decision = await decide(router((0.9, 0.1)), Stay("gone", 10_000))
    assert decision.order[0] == "first" and decision.held is None


async def test_what_is_drawn_to_learn_moves_with_its_propensity() -> None:
    made = router((0.9, 0.1), explore=0.5)
    decisions = [await decide(made, Stay("first", 10_000)) for _ in range(50)]
    assert all(decision.propensity.tolist() == [0.75, 0.25] for decision in decisions)
    moved = [decision for decision in decisions if decision.order[0] == "second"]
    assert moved and all("drawn to learn" in why(decision) for decision in moved)


async def test_a_floor_is_not_certified_for_a_conversation_that_may_stay() -> None:
    decision = await decide(router((0.9, 0.1)), Stay("second", 10_000), quality_floor=0.9)
    assert decision.order[0] == "first" and decision.floor is not None
    assert not decision.floor.guaranteed and "may stay" in decision.floor.reason
