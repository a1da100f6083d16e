"""Limits and budgets through a running gateway, with OpenAI's client."""

from typing import Any

import openai
import pytest
import redis
import upstream
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, expert, until

KEYS = {"POINTSMAN_TEST_A": "key-a", "POINTSMAN_TEST_B": "key-b"}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def keys(**first: Any) -> dict[str, Any]:
    """Two keys; the first has these limits."""
    return {"keys": [{"name": "a", "env": "POINTSMAN_TEST_A", **first}, {"name": "b", "env": "POINTSMAN_TEST_B"}]}


@pytest.fixture
def alone(world: World, redis_process: RedisProcess) -> World:
    """A world with a Redis of its own, and time to wait for it on a busy machine."""
    world.settings["ledger"] = {"url": redis_process.url, "wait_ms": 1000}
    return world


def client(gateway: Gateway, key: str = "key-a") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


def ask(caller: openai.OpenAI, model: str = "small", **more: Any) -> Any:
    return caller.chat.completions.with_raw_response.create(model=model, messages=HELLO, **more)  # type: ignore[call-overload]


def settled(gateway: Gateway) -> None:
    admission = gateway.service.admission
    assert admission is not None
    until(lambda: not admission.owed, "settling")


def spent(alone: World, scope: str) -> list[int]:
    """What a scope's daily budget has spent and what calls under way hold of it, in nano-dollars."""
    with redis.Redis.from_url(alone.settings["ledger"]["url"]) as server:
        return [int(n) for n in server.hmget(f"pointsman:{{ledger}}:cap:{scope}:usd:day", "spent", "open")]


def test_requests_per_minute_hold_over_two_replicas_and_for_one_key_alone(alone: World) -> None:
    auth = keys(limits={"requests_per_minute": 3})
    one, two = alone.start(auth=auth), alone.start(auth=auth)
    left = [ask(client(g)).headers["x-ratelimit-remaining-requests"] for g in (one, two, one)]
    assert left == ["2", "1", "0"]
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client(two))
    error, headers = refused.value, refused.value.response.headers
    assert error.code == "rate_limit_exceeded"
    assert "key 'a' is at its limit of 3 requests per minute" in error.message
    assert 50 < int(headers["retry-after"]) <= 61
    assert 50_000 < int(headers["retry-after-ms"]) <= 60_400
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert ask(client(two, "key-b")).status_code == 200
    assert len(alone.small.requests) == 4


def test_tokens_are_settled_to_those_of_the_answer(alone: World) -> None:
    gateway = alone.start(auth=keys(limits={"tokens_per_minute": 1000}))
    expected = int(ask(client(gateway)).headers["x-ratelimit-remaining-tokens"])
    assert expected < 1000 - 13  # a static policy expects 50 tokens of answer
    settled(gateway)
    again = int(ask(client(gateway)).headers["x-ratelimit-remaining-tokens"])
    assert again == expected - 13  # the upstream counted 11 in and 2 out


def test_a_request_larger_than_the_limit_is_never_tried_again(alone: World) -> None:
    gateway = alone.start(auth=keys(limits={"tokens_per_minute": 10}))
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client(gateway))
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert "limited to 10 tokens per minute" in refused.value.message


@pytest.mark.parametrize("model", ["small", "auto"])
def test_every_answer_that_is_asked_for_is_expected_to_take_tokens_and_cost(alone: World, model: str) -> None:
    gateway = alone.start(auth=keys(limits={"tokens_per_minute": 1000}))
    body: Any = {"messages": HELLO, "max_tokens": 10}
    asked: Any = client(gateway).chat.completions.with_raw_response
    one = int(asked.create(model=model, **body).headers["x-ratelimit-remaining-tokens"])
    settled(gateway)
    three = int(asked.create(model=model, n=3, **body).headers["x-ratelimit-remaining-tokens"])
    assert one - 13 - three == 20  # the first came to 13
    settled(gateway)
    with pytest.raises(openai.RateLimitError, match=r"is expected to take 12\d\d tokens"):
        asked.create(model=model, n=120, **body)


def test_a_place_is_free_again_when_the_answer_is_there(alone: World) -> None:
    gateway = alone.start(auth=keys(limits={"concurrency": 1}))
    for _ in range(5):
        assert ask(client(gateway)).status_code == 200


def test_a_stream_holds_its_place_until_it_ends(alone: World) -> None:
    alone.small.script(upstream.streams(*map(upstream.sse, upstream.HELLO[:2]), then=upstream.Wire.until_gone))
    gateway = alone.start(auth=keys(limits={"concurrency": 1}))
    stream = client(gateway).chat.completions.create(model="small", messages=HELLO, stream=True)  # type: ignore[arg-type,call-overload]
    next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="1 requests at once"):
        ask(client(gateway))
    stream.close()
    until(lambda: gateway.service.admission and not gateway.busy() and not gateway.service.admission.owed)
    assert ask(client(gateway)).status_code == 200


def test_a_spent_budget_is_not_tried_again_and_warns_before(alone: World) -> None:
    # an answer is 11 in and 2 out of `small`: 15 millionths of a dollar; about 104 are expected
    gateway = alone.start(auth=keys(budget={"usd": 0.000125, "per": "day", "warn_at": 0.9}))
    first = ask(client(gateway))
    assert "x-pointsman-budget-warning" not in first.headers
    settled(gateway)
    second = ask(client(gateway))
    assert "of $0.000125 per day" in second.headers["x-pointsman-budget-warning"]
    settled(gateway)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client(gateway))
    assert (refused.value.code, refused.value.type) == ("budget_exceeded", "insufficient_quota")
    assert refused.value.response.headers["x-should-retry"] == "false"
    left = "key 'a' has $0.000095 left of its budget of $0.000125 per day, and the call is expected to cost"
    assert left in refused.value.message
    assert len(alone.small.requests) == 2
    assert ask(client(gateway, "key-b")).status_code == 200


def test_a_budget_on_cheapest_goes_to_the_cheapest_expert_that_fits(alone: World) -> None:
    budget = {"usd": 0.001, "rolling_hours": 24, "on_exhausted": "cheapest"}  # `large` expects 0.0015
    gateway = alone.start(budget=budget)
    answer = gateway.chat("auto:best")
    assert (answer.status_code, answer.headers["x-pointsman-expert"]) == (200, "small")
    assert gateway.chat("large").status_code == 429


def test_a_failed_call_gives_back_what_it_reserved(alone: World) -> None:
    alone.small.script(upstream.refuses(400, "no"))
    gateway = alone.start(auth=keys(budget={"usd": 0.000125, "per": "month"}))
    with pytest.raises(openai.BadRequestError):
        ask(client(gateway))
    settled(gateway)
    assert ask(client(gateway)).status_code == 200


def test_a_stream_that_is_left_is_settled_to_what_was_written(alone: World) -> None:
    alone.small.script(upstream.streams(*map(upstream.sse, upstream.HELLO[:3]), then=upstream.Wire.until_gone))
    gateway = alone.start(auth=keys(budget={"usd": 1, "per": "day", "warn_at": 0}))
    stream = client(gateway).chat.completions.create(model="small", messages=HELLO, stream=True)  # type: ignore[arg-type,call-overload]
    next(iter(stream))
    stream.close()
    until(lambda: gateway.metric("pointsman_cost_usd_total") > 0, "billing")
    until(lambda: not gateway.busy(), "the end")
    settled(gateway)
    spent = float(ask(client(gateway)).headers["x-pointsman-budget-warning"].split("$")[1].split()[0])
    # what the stream came to, and what this request is expected to take: 104 millionths and a little
    assert 0 < spent - gateway.metric("pointsman_cost_usd_total") < 0.000125


def test_embeddings_count_too(alone: World) -> None:
    embedder = {**alone.settings["experts"][0], "name": "embedder", "serves": "embeddings", "tier": None}
    alone.settings["experts"].append(embedder)
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    alone.small.script(upstream.answers({"object": "list", "data": data, "model": "up-model", "usage": usage}))
    gateway = alone.start(auth=keys(limits={"requests_per_minute": 1}))
    caller = client(gateway)
    caller.embeddings.create(model="embedder", input="hello", encoding_format="float")
    with pytest.raises(openai.RateLimitError, match="1 requests per minute"):
        caller.embeddings.create(model="embedder", input="hello", encoding_format="float")
    with pytest.raises(openai.RateLimitError, match="1 requests per minute"):
        ask(caller)


def test_a_routed_request_passes_over_an_expert_at_its_limit(alone: World) -> None:
    experts = alone.settings["experts"]
    alone.settings["experts"] = [experts[0], {**experts[1], "limits": {"requests_per_minute": 1}}]
    gateway = alone.start()
    assert gateway.chat("auto:best").headers["x-pointsman-expert"] == "large"
    assert gateway.chat("auto:best").headers["x-pointsman-expert"] == "small"
    assert gateway.chat("large").status_code == 429


def test_a_frozen_redis_costs_milliseconds_and_the_share_still_holds(
    alone: World, redis_process: RedisProcess
) -> None:
    alone.settings["ledger"]["wait_ms"] = 5
    gateway = alone.start(auth=keys(limits={"requests_per_minute": 4}))
    caller = client(gateway)
    ask(caller)
    redis_process.freeze()
    try:
        codes = []
        for _ in range(5):
            try:
                codes.append(ask(caller).status_code)
            except openai.RateLimitError as error:
                codes.append(error.status_code)
        assert codes == [200, 200, 200, 429, 429]
    finally:
        redis_process.thaw()
    admission = gateway.service.admission
    assert admission is not None
    until(lambda: not admission.degraded and not admission.owed, "Redis coming back")
    admission._wait_s = 5.0  # from here on Redis is to answer, however busy the machine
    with pytest.raises(openai.RateLimitError) as refused:
        ask(caller)
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_without_limits_nothing_asks_redis(gateway: Gateway) -> None:
    assert gateway.service.admission is None
    assert gateway.chat().status_code == 200


def test_a_failure_goes_to_no_expert_that_is_at_its_own_limit(alone: World) -> None:
    small, large = alone.settings["experts"]
    alone.settings["experts"] = [{**small, "limits": {"requests_per_minute": 1}}, large]
    alone.large.always = upstream.refuses(500)
    gateway = alone.start()
    answers = [gateway.chat("auto:best") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 502]
    assert answers[0].headers["x-pointsman-expert"] == "small"
    assert len(alone.small.requests) == 1


def test_a_failure_goes_to_no_dearer_expert_than_a_budget_has_room_for(alone: World) -> None:
    # the small expert is expected to cost $0.0001, the large one $0.0016
    alone.small.always = upstream.refuses(500)
    gateway = alone.start(auth=keys(budget={"usd": 0.001, "per": "day"}))
    with pytest.raises(openai.InternalServerError):
        ask(client(gateway), "auto:cheap")
    assert not alone.large.requests
    settled(gateway)
    assert ask(client(gateway, "key-b"), "auto:cheap").headers["x-pointsman-expert"] == "large"


def test_after_a_failure_each_experts_budget_has_what_it_took_itself(alone: World) -> None:
    budget = {"usd": 1, "per": "day"}
    alone.settings["experts"] = [{**one, "budget": budget} for one in alone.settings["experts"]]
    alone.small.always = upstream.refuses(500)
    gateway = alone.start(budget=budget)
    answer = gateway.chat("auto:cheap")
    assert answer.headers["x-pointsman-expert"] == "large"
    cost_nano = round(float(answer.headers["x-pointsman-cost-usd"]) * 1e9)
    settled(gateway)
    assert {scope: spent(alone, scope) for scope in ("gateway", "expert:small", "expert:large")} == {
        "gateway": [cost_nano, 0],
        "expert:small": [0, 0],
        "expert:large": [cost_nano, 0],
    }


def test_a_caller_with_one_place_has_it_through_a_failover(alone: World) -> None:
    alone.small.always = upstream.refuses(500)
    gateway = alone.start(auth=keys(limits={"concurrency": 1, "requests_per_minute": 2}))
    for left in ("1", "0"):
        answer = ask(client(gateway), "auto:cheap")
        assert answer.headers["x-pointsman-expert"] == "large"
        assert answer.headers["x-ratelimit-remaining-requests"] == left


def test_the_cheapest_that_fails_is_stood_in_for_where_the_budget_has_room(alone: World) -> None:
    alone.small.always = upstream.refuses(500)
    gateway = alone.start(
        budget=[{"usd": 0.0012, "per": "day", "on_exhausted": "cheapest"}, {"usd": 1, "per": "month"}]
    )
    assert gateway.chat("auto:best").status_code == 502  # the large one is beyond the budget in any case
    assert not alone.large.requests


def test_embeddings_go_to_the_next_of_their_space_where_one_is_at_its_limit(alone: World) -> None:
    shared = {"serves": "embeddings", "space": "one"}
    alone.settings["experts"] += [
        expert("e-small", alone.small.url, tier="small", limits={"requests_per_minute": 1}, **shared),
        expert("e-large", alone.large.url, tier="large", limits={"requests_per_minute": 1}, **shared),
    ]
    gateway = alone.start()
    answers = [gateway.post("/v1/embeddings", model="auto", input="a text") for _ in range(3)]
    assert [answer.headers.get("x-pointsman-expert") for answer in answers] == ["e-small", "e-large", None]
    assert answers[2].status_code == 429
