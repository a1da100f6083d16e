"""The router alone: who may answer, in what order, and how probable the choice was. A static policy, no encoder."""

import asyncio
import random
import threading
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from policies.static import Static
from router.errors import InvalidRequest, NoExpertFits, NoHealthyExpert
from router.explanation import why
from router.router import PolicyInUse, Router
from router.types import Decision, Estimate, ExpertSpec, Floats, Load, Outcomes, Price, Queries, Query, Wishes

SPECS = (
    ExpertSpec(
        "cheap", Price(1, 2), context_tokens=1000, capabilities=frozenset({"json"}), ttft_s=0.1, token_s=0.01
    ),
    ExpertSpec("middle", Price(3, 6), context_tokens=4000, ttft_s=0.2, token_s=0.02),
    ExpertSpec("best", Price(10, 30), context_tokens=8000, ttft_s=1.0, token_s=0.05),
)
QUALITY = (0.4, 0.7, 0.9)
PROMPT = Query(text="hello", input_tokens=10)


def in_use(input_tokens: float = 1.0) -> PolicyInUse:
    queries = Queries(np.zeros((100, 0), np.float32), np.full(100, input_tokens, np.float32))
    right = np.arange(100)[:, None] < np.array(QUALITY) * 100
    outcomes = Outcomes(queries, ("a", "b", "c"), right.astype(float), np.zeros((100, 3)), np.full((100, 3), 100.0))
    return PolicyInUse(Static().fit(outcomes), "v1", (0, 1, 2), queries)


def router(specs: tuple[ExpertSpec, ...] = SPECS, **changes: Any) -> Router:
    settings: dict[str, Any] = {
        "resting_s": lambda name: 0.0,
        "load": lambda name: Load(),
        "rng": random.Random(1),
        **changes,
    }
    return Router(in_use(), specs, None, **settings)


async def decide(query: Query = PROMPT, made: Router | None = None, **wishes: Any) -> Decision:
    return await (made or router()).decide(query, Wishes(**wishes))


async def test_best_asks_the_best_first_and_the_others_after_it() -> None:
    decision = await decide(preference="best")
    assert decision.order[0] == "best" and set(decision.order) == {"cheap", "middle", "best"}
    assert decision.policy == "static@v1" and decision.preference == "best"


async def test_cheap_asks_the_cheap_first() -> None:
    assert (await decide(preference="cheap")).order[0] == "cheap"


async def test_the_routers_own_preference_holds_where_the_caller_has_none() -> None:
    assert (await decide(made=router(preference="best"))).preference == "best"


async def test_only_and_exclude_leave_who_is_left() -> None:
    assert (await decide(only=frozenset({"middle"}))).order == ("middle",)
    decision = await decide(exclude=frozenset({"middle", "best"}))
    assert decision.order == ("cheap",)
    assert decision.ruled_out == {"middle": "in routing.exclude", "best": "in routing.exclude"}


@pytest.mark.parametrize("field", ["only", "exclude"])
async def test_a_wish_that_names_nobody_lists_who_there_is(field: str) -> None:
    with pytest.raises(InvalidRequest, match="'tiny'; there are: cheap, middle, best") as caught:
        await decide(**{field: frozenset({"tiny"})})
    assert caught.value.param == f"routing.{field}"


@pytest.mark.parametrize("name", ["default", "static", "static@v1"])
async def test_the_policy_may_be_named(name: str) -> None:
    assert (await decide(policy=name)).policy == "static@v1"


async def test_an_expert_without_the_capability_is_never_a_candidate() -> None:
    decision = await decide(Query("x", 10, needs=frozenset({"tools"})), preference="cheap")
    assert "cheap" not in decision.order and decision.ruled_out["cheap"] == "cannot take tools"


async def test_the_answer_must_fit_the_context_too() -> None:
    decision = await decide(Query("x", 900, max_output_tokens=200))
    assert decision.ruled_out == {"cheap": "context of 1000 tokens, about 1100 needed"}


async def test_a_prompt_for_nobody_names_the_largest_context() -> None:
    with pytest.raises(NoExpertFits, match="the largest is 8000 tokens") as caught:
        await decide(Query("x", 9000))
    assert caught.value.code == "context_length_exceeded"


async def test_a_prompt_too_long_for_those_allowed_only_names_the_reasons() -> None:
    with pytest.raises(NoExpertFits, match="context of 1000 tokens"):
        await decide(Query("x", 5000), only=frozenset({"cheap"}))


async def test_a_disabled_expert_is_never_a_candidate() -> None:
    off = ExpertSpec("off", Price(0, 0), enabled=False)
    decision = await decide(made=router((off, *SPECS[1:])))
    assert decision.ruled_out == {"off": "disabled"}


async def test_a_resting_expert_is_passed_over() -> None:
    made = router(resting_s=lambda name: 3.0 if name == "best" else 0.0)
    decision = await decide(made=made, preference="best")
    assert decision.order[0] == "middle" and decision.ruled_out == {"best": "resting after failures"}


async def test_where_only_resting_ones_could_answer_the_shortest_rest_is_told() -> None:
    made = router(resting_s=lambda name: {"cheap": 5.0, "middle": 3.0, "best": 9.0}[name])
    with pytest.raises(NoHealthyExpert) as caught:
        await decide(made=made, exclude=frozenset({"middle"}))
    assert caught.value.retry_after_s == 5.0


async def test_a_cost_cap_rules_out_the_dear() -> None:
    decision = await decide(preference="best", max_cost_usd=0.001)
    assert decision.order[0] == "middle" and "max_cost_usd" in decision.ruled_out["best"]


async def test_expected_cost_counts_no_more_tokens_than_the_caller_allows() -> None:
    decision = await decide(Query("x", 10, max_output_tokens=10), preference="best", max_cost_usd=0.001)
    assert decision.order[0] == "best"


async def test_expected_cost_counts_every_answer_and_expected_latency_one() -> None:
    one, three = [await decide(Query("x", 1000, answers=answers), preference="best") for answers in (1, 3)]
    prices = np.array([spec.price.output for spec in router()._specs]) / 1e6
    lengths = (one.cost_usd - 1000 * np.array([spec.price.input for spec in router()._specs]) / 1e6) / prices
    np.testing.assert_allclose(three.cost_usd - one.cost_usd, 2 * lengths * prices)
    np.testing.assert_array_equal(three.latency_s, one.latency_s)


async def test_a_latency_cap_rules_out_the_slow() -> None:
    decision = await decide(preference="best", max_latency_s=3.0)
    assert decision.order[0] == "middle" and "max_latency_s" in decision.ruled_out["best"]


async def test_measured_latency_replaces_the_configured() -> None:
    made = router(load=lambda name: Load(ttft_s=0.01, token_s=0.001) if name == "best" else Load())
    decision = await decide(made=made, preference="best", max_latency_s=0.5)
    assert decision.order == ("best",)


async def test_a_cap_that_nobody_keeps_names_the_least() -> None:
    with pytest.raises(NoExpertFits, match="max_cost_usd") as caught:
        await decide(max_cost_usd=1e-9)
    assert caught.value.param == "routing.max_cost_usd"


async def test_a_quality_floor_rules_out_the_weak() -> None:
    decision = await decide(preference="cheap", quality_floor=0.75)
    assert decision.order[0] == "middle" and "under the floor" in decision.ruled_out["cheap"]


async def test_the_floor_counts_among_those_the_caps_leave() -> None:
    decision = await decide(preference="cheap", quality_floor=0.75, max_cost_usd=0.001)
    assert decision.order == ("middle",)


async def test_a_named_expert_is_tried_first_and_the_rest_after_it() -> None:
    decision = await router().decide(PROMPT, Wishes(preference="best"), first="cheap")
    assert decision.order[0] == "cheap" and decision.order[1] == "best" and decision.policy == "named"


def test_a_named_expert_alone_is_a_decision_without_estimates() -> None:
    decision = router().named("middle", 100, None, Wishes())
    assert decision.order == ("middle",) and decision.candidates() == []


def test_a_named_expert_over_the_callers_cap_is_refused() -> None:
    with pytest.raises(NoExpertFits, match="max_cost_usd"):
        router().named("middle", 100, None, Wishes(max_cost_usd=0.0))


def test_all_the_answers_to_a_named_expert_count_under_the_callers_cap() -> None:
    _, one = router().expected("middle", 100, 10, 1)
    usage, three = router().expected("middle", 100, 10, 3)
    assert usage.output_tokens == 30 and three > one
    wishes = Wishes(max_cost_usd=one / 1e9)
    assert router().named("middle", 100, 10, wishes).order == ("middle",)
    with pytest.raises(NoExpertFits, match="max_cost_usd"):
        router().named("middle", 100, 10, wishes, answers=3)


async def test_every_decision_has_an_id_of_its_own() -> None:
    made = router()
    assert len({(await decide(made=made)).id for _ in range(50)}) == 50


async def test_propensities_are_those_of_the_choices_made() -> None:
    made = router(explore=0.3, preference="best")
    decisions = [await decide(made=made) for _ in range(3000)]
    for decision in decisions[:20]:
        assert decision.propensity.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(decision.propensity, [0.1, 0.1, 0.8])
    share = np.mean(
        [[decision.order[0] == name for name in ("cheap", "middle", "best")] for decision in decisions], 0
    )
    np.testing.assert_allclose(share, [0.1, 0.1, 0.8], atol=0.03)


async def test_nobody_ruled_out_is_ever_explored() -> None:
    made = router(explore=1.0)
    chosen = {(await decide(made=made, exclude=frozenset({"best"}))).order[0] for _ in range(200)}
    assert chosen == {"cheap", "middle"}


async def test_without_exploring_the_choice_is_certain() -> None:
    decision = await decide()
    assert sorted(decision.propensity) == [0.0, 0.0, 1.0]


async def test_the_reason_names_the_chosen_and_the_strongest() -> None:
    text = why(await decide(preference="cheap"))
    assert text.startswith("cheap: expected quality 0.400") and "over best: 0.900" in text
    assert "the only expert" in why(await decide(only=frozenset({"middle"})))
    assert "the highest of 3" in why(await decide(preference="best"))


async def test_the_lines_of_a_decision_are_in_its_order_with_the_ruled_out_last() -> None:
    decision = await decide(preference="best", exclude=frozenset({"middle"}))
    lines = decision.candidates()
    assert [line.expert for line in lines] == ["best", "cheap", "middle"]
    assert [line.reason for line in lines] == [None, None, "in routing.exclude"]


class Reading(Static):
    """Runs a "model" of its own over the text, and tells in which thread."""

    reads_text: ClassVar[bool] = True

    def described(self, queries: Queries) -> Queries:
        if queries.features is not None:
            return queries
        self.read_in = threading.current_thread()
        assert queries.prompts is not None
        return replace(queries, features=np.array([[len(prompt)] for prompt in queries.prompts], np.float32))


async def test_a_policy_with_a_model_of_its_own_reads_the_text_outside_the_event_loop() -> None:
    use = in_use()
    policy = Reading()
    policy.experts_, policy.output_tokens_ = use.policy.experts_, use.policy.output_tokens_
    policy.restore(use.policy.state())
    made = Router(
        PolicyInUse(policy, "v1", use.columns, replace(use.reference, features=np.zeros((100, 1), np.float32))),
        SPECS,
        None,
        resting_s=lambda name: 0.0,
        load=lambda name: Load(),
        rng=random.Random(1),
    )
    assert (await made.decide(PROMPT, Wishes(preference="best"))).order[0] == "best"
    assert policy.read_in is not threading.current_thread()


class Counting(Static):
    """Reads words."""

    reads_query: ClassVar[bool] = True

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.told = told

    def worded(self, queries: Queries) -> Queries:
        self.told.append("words")
        return queries

    def predict(self, queries: Queries) -> Estimate:
        self.told.append("estimate")
        return super().predict(queries)


class Slow:
    """An encoder whose vector comes in a later turn of the loop."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def begin(self, text: str) -> Awaitable[Floats]:
        self.told.append("begun")
        return self.rest()

    async def rest(self) -> Floats:
        await asyncio.sleep(0)
        self.told.append("vector")
        return np.zeros(4, np.float32)


async def test_words_are_read_while_the_query_is_embedded() -> None:
    told: list[str] = []
    use = in_use()
    policy = Counting(told)
    policy.experts_, policy.output_tokens_ = use.policy.experts_, use.policy.output_tokens_
    policy.restore(use.policy.state())
    made = Router(
        replace(use, policy=policy),
        SPECS,
        Slow(told),
        resting_s=lambda name: 0.0,
        load=lambda name: Load(),
        rng=random.Random(1),
    )
    told.clear()  # the reference was estimated
    assert (await made.decide(PROMPT, Wishes(preference="best"))).order[0] == "best"
    assert told == ["begun", "words", "vector", "estimate"]


class Doubting(Static):
    """Says of every query how like the training's it is."""

    familiarity: ClassVar[float] = 1.0

    def predict(self, queries: Queries) -> Estimate:
        return replace(super().predict(queries), familiarity=np.full(len(queries), self.familiarity))


@pytest.mark.parametrize(("familiarity", "said"), [(0.2, True), (0.9, False)])
async def test_a_query_unlike_the_trainings_is_said_to_be(familiarity: float, said: bool) -> None:
    use = in_use()
    doubting = Doubting()
    doubting.__dict__.update(use.policy.__dict__, familiarity=familiarity)
    made = Router(
        replace(use, policy=doubting),
        SPECS,
        None,
        resting_s=lambda name: 0.0,
        load=lambda name: Load(),
        rng=random.Random(1),
    )
    decision = await made.decide(PROMPT, Wishes())
    assert decision.familiarity == pytest.approx(familiarity)
    assert ("little is proven of queries like it" in why(decision)) == said
