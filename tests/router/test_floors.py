"""A caller's floor through the router: what is certified, what is not, and that the decision says which and why."""

import asyncio
import random
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import router.floors
from policies.static import Static
from router.explanation import why
from router.router import PolicyInUse, Router
from router.types import (
    Decision,
    Estimate,
    ExpertSpec,
    Floats,
    Load,
    Outcomes,
    Price,
    Queries,
    Query,
    Trial,
    Wishes,
)

SPECS = (
    ExpertSpec("cheap", Price(1, 2), context_tokens=1000, capabilities=frozenset({"json"})),
    ExpertSpec("middle", Price(3, 6)),
    ExpertSpec("best", Price(10, 30)),
)
FORETOLD = (0.4, 0.7, 0.9)
#: What came of it: all are as good as the best, whatever the estimates say.
BETTER_THAN_FORETOLD = (0.9, 0.9, 0.9)
PROMPT = Query(text="hello", input_tokens=10)


def trial(observed: tuple[float, ...] = BETTER_THAN_FORETOLD, prompts: int = 600) -> Trial:
    """The experts are right on the easiest prompts, as often as `observed` says."""
    hardness = (np.arange(prompts)[:, None] + 0.5) / prompts
    return Trial(
        quality=np.tile(np.array(FORETOLD, np.float32), (prompts, 1)),
        output_tokens=np.full((prompts, 3), 100.0, np.float32),
        input_tokens=np.full(prompts, 10.0, np.float32),
        observed=(hardness < np.array(observed)).astype(float),
    )


def use(
    tried: Trial | None, experts: tuple[str, ...] = ("cheap", "middle", "best"), policy: Static | None = None
) -> PolicyInUse:
    queries = Queries(np.zeros((100, 0), np.float32), np.full(100, 10.0, np.float32))
    right = np.arange(100)[:, None] < np.array(FORETOLD) * 100
    outcomes = Outcomes(queries, experts, right.astype(float), np.zeros((100, 3)), np.full((100, 3), 100.0))
    return PolicyInUse((policy or Static()).fit(outcomes), "v1", (0, 1, 2), queries, tried)


def made(tried: Trial | None = None, **changes: Any) -> Router:
    settings: dict[str, Any] = {
        "resting_s": lambda name: 0.0,
        "load": lambda name: Load(),
        "preference": "cheap",
        "rng": random.Random(1),
        **changes,
    }
    in_use = settings.pop("use", None) or use(trial() if tried is None else tried)
    return Router(in_use, SPECS, None, **settings)


async def decide(
    router: Router, query: Query = PROMPT, first: str | None = None, floor: float = 0.9, **wishes: Any
) -> Decision:
    return await router.decide(query, Wishes(quality_floor=floor, **wishes), first=first)


async def test_what_keeps_the_floor_may_serve_although_its_estimate_is_under_it() -> None:
    decision = await decide(made())
    assert decision.order[0] == "cheap"
    assert decision.floor is not None and decision.floor.guaranteed
    assert decision.floor.price_share == 1.0 and decision.floor.threshold is None
    assert decision.floor.reason == "proven on 600 prompts of the trial against the best of 3 experts"


async def test_what_does_not_keep_the_floor_is_out_although_its_estimate_is_over_it() -> None:
    router = made(trial(observed=(0.4, 0.5, 0.9)))
    decision = await decide(router, floor=0.7)  # middle: .7 expected of .9, but only .5 came
    assert decision.order[0] == "best" and not decision.ruled_out
    assert decision.floor is not None and decision.floor.guaranteed and 0 < decision.floor.price_share < 1
    np.testing.assert_allclose(
        decision.utility,
        decision.quality - router.prices_of_quality["cheap"] * decision.floor.price_share * decision.cost_usd,
    )


async def test_no_floor_asked_is_no_floor_said() -> None:
    for wishes in (Wishes(), Wishes(quality_floor=0.0)):
        decision = await made().decide(PROMPT, wishes)
        assert decision.floor is None and "floor" not in why(decision)


async def test_the_confidence_is_the_configured_one_and_more_of_it_is_harder_to_have() -> None:
    few = trial(prompts=150)
    decision = await decide(made(few, confidence=0.9))
    assert decision.floor is not None and decision.floor.guaranteed and decision.floor.confidence == 0.9
    assert "guaranteed with 90 % confidence" in why(decision)
    decision = await decide(made(few, confidence=0.999), floor=0.99)
    assert decision.floor is not None and not decision.floor.guaranteed and decision.floor.confidence == 0.999


async def test_a_floor_that_nothing_proves_serves_the_highest_estimate_and_says_so() -> None:
    decision = await decide(made(trial(observed=(0.9, 0.9, 0.3))))
    assert decision.order == ("best", "middle", "cheap")
    assert decision.floor is not None and decision.floor.price_share == 0.0 and not decision.floor.guaranteed
    assert "not guaranteed: 600 prompts do not prove it even where the highest estimate" in why(decision)


def without(tried: Trial, column: int, rows: slice) -> Trial:
    observed: Floats = tried.observed.copy()
    observed[rows, column] = np.nan
    return Trial(tried.quality, tried.output_tokens, tried.input_tokens, observed)


SAID: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no trial": ({"use": use(None)}, {}, "carries no trial"),
    "too few prompts": (
        {"tried": without(trial(), 1, slice(40, None))},
        {},
        "40 prompts of the trial show all 3 experts, 100 are needed",
    ),
    "a tier": (
        {"use": use(trial(), ("cheap", "tier:medium", "best"))},
        {},
        "of middle no more is known than its tier",
    ),
    "a cap on cost": ({}, {"max_cost_usd": 1.0}, "a cap on cost or latency"),
    "a cap on latency": ({}, {"max_latency_s": 99.0}, "a cap on cost or latency"),
    "a short answer": ({}, {"query": Query("x", 10, max_output_tokens=99)}, "longer than the 99 tokens allowed"),
    "a need": (
        {},
        {"query": Query("x", 10, needs=frozenset({"tools"}))},
        "the request itself rules out cheap: cannot take tools",
    ),
    "a long prompt": ({}, {"query": Query("x", 2000)}, "the request itself rules out cheap: context of 1000"),
    "a named expert": ({}, {"first": "middle"}, "the caller named the expert"),
}


@pytest.mark.parametrize("case", SAID)
async def test_where_nothing_is_promised_the_floor_is_held_against_estimates_and_the_decision_says_why(
    case: str,
) -> None:
    given, asked, reason = SAID[case]
    decision = await decide(made(**given), floor=0.75, **asked)
    assert decision.floor is not None and not decision.floor.guaranteed
    assert decision.floor.threshold == 0.75
    assert reason in decision.floor.reason and f"not guaranteed: {decision.floor.reason}" in why(decision)
    assert "cheap" in decision.ruled_out


class Strange(Static):
    """Knows of every query that it is like none of the training's."""

    def predict(self, queries: Queries) -> Estimate:
        return replace(super().predict(queries), familiarity=np.zeros(len(queries)))


async def test_a_query_unlike_those_of_the_trial_is_promised_nothing() -> None:
    decision = await decide(made(use=use(trial(), policy=Strange())))
    assert decision.floor is not None and not decision.floor.guaranteed
    assert "little is proven of queries like this one" in why(decision) and decision.order == ("best",)


async def test_an_answer_that_may_be_as_long_as_tried_is_covered() -> None:
    decision = await decide(made(), Query("x", 10, max_output_tokens=100))
    assert decision.floor is not None and decision.floor.guaranteed


@pytest.mark.parametrize("how", ["exclude", "only", "resting"])
async def test_without_an_expert_the_promise_is_against_the_best_of_the_others(how: str) -> None:
    # against best nothing could be promised, since the estimates have it last; against each other they can
    router = made(
        trial(observed=(0.3, 0.6, 0.9)),
        resting_s=lambda name: 1.0 if (name, how) == ("best", "resting") else 0.0,
    )
    wishes = {"exclude": {"exclude": frozenset({"best"})}, "only": {"only": frozenset({"cheap", "middle"})}}
    decision = await decide(router, **wishes.get(how, {}))
    assert decision.order[0] == "middle"
    assert decision.floor is not None and decision.floor.guaranteed
    assert decision.floor.reason.endswith("against the best of 2 experts")


async def test_where_one_expert_is_left_it_is_the_best_of_those_left() -> None:
    decision = await decide(made(use=use(None)), only=frozenset({"cheap"}))
    assert decision.floor is not None and decision.floor.guaranteed
    assert "no other expert" in why(decision)


async def test_an_expert_seen_on_few_prompts_hinders_no_one_while_it_is_excluded() -> None:
    decision = await decide(made(without(trial(), 1, slice(40, None))), exclude=frozenset({"middle"}))
    assert decision.floor is not None and decision.floor.guaranteed


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """The floor of every certificate that was worked out, and the thread in which it was."""
    made: list[tuple[float, str]] = []
    work = router.floors.certified_share

    def watched(replay: Any, price: float, floor: float, confidence: float, *, explore: float) -> float | None:
        made.append((floor, threading.current_thread().name))
        return work(replay, price, floor, confidence, explore=explore)

    monkeypatch.setattr(router.floors, "certified_share", watched)
    return made


async def test_a_certificate_is_worked_out_once_and_beside_the_event_loop(certified: list[Any]) -> None:
    router = made()
    decisions = await asyncio.gather(*(decide(router) for _ in range(8)))
    assert all(decision.floor is not None and decision.floor.guaranteed for decision in decisions)
    ((_, thread),) = certified
    assert thread != threading.current_thread().name


async def test_floors_are_rounded_up_to_hundredths(certified: list[Any]) -> None:
    router = made()
    for floor in (0.9, 0.901, 0.905, 0.91, 0.07):
        decision = await decide(router, floor=floor)
        assert decision.floor is not None and decision.floor.asked == floor
    assert [floor for floor, _ in certified] == [0.9, 0.91, 0.07]


async def test_only_so_many_certificates_are_kept(certified: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.floors, "KEPT", 2)
    router_ = made()
    for floor in (0.5, 0.6, 0.5, 0.7, 0.5, 0.6):
        await decide(router_, floor=floor)
    assert [floor for floor, _ in certified] == [0.5, 0.6, 0.7, 0.6]


async def test_where_too_many_wait_the_next_is_told_instead_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.floors, "MOST_WAITING", 3)
    router_ = made()
    decisions = await asyncio.gather(*(decide(router_, floor=floor) for floor in (0.5, 0.6, 0.7, 0.8)))
    told = [decision.floor.guaranteed for decision in decisions if decision.floor is not None]
    assert told == [True, True, True, False]
    assert "at this moment" in why(decisions[3])
    assert "at this moment" not in why(await decide(router_, floor=0.8))


async def test_what_is_drawn_at_random_is_part_of_what_is_promised() -> None:
    # the best alone keeps the floor, and it is always chosen but not always drawn
    tried = trial(observed=(0.4, 0.5, 0.9))
    calm, drawing = [await decide(made(tried, explore=share, preference="best")) for share in (0.0, 1.0)]
    assert calm.floor is not None and calm.floor.guaranteed
    assert drawing.floor is not None and not drawing.floor.guaranteed
