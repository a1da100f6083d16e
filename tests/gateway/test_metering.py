"""Metering: what was used is what is billed, in the header, in the metrics and in the ledger alike."""

import json
from decimal import Decimal
from typing import Any

import pytest
from redis_process import RedisProcess
from serving import HELLO, Gateway, World, expert, on, request_bytes, until
from upstream import (
    HELLO as EVENTS,
)
from upstream import (
    USAGE,
    WAIT_S,
    Upstream,
    answers,
    chunk,
    close,
    completion,
    hang,
    parse_events,
    refuses,
    sse,
    streams,
)

from router.types import Load

CACHED = {
    "prompt_tokens": 1_000_003,
    "completion_tokens": 17,
    "total_tokens": 1_000_020,
    "prompt_tokens_details": {"cached_tokens": 999_999, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 9,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
PRICE = {"input": 2.5, "output": 10.0, "cached_input": 1.25}
COST = (4 * Decimal("2.5") + 999_999 * Decimal("1.25") + 17 * 10) / 1_000_000


@pytest.fixture
def priced(redis_process: RedisProcess, world: World) -> Gateway:
    """A gateway with a ledger of its own, so that its counts are this test's alone."""
    return world.start(
        experts=[expert("small", world.small.url, price=PRICE), expert("large", world.large.url)],
        ledger={"url": redis_process.url},
    )


def recorded(world: World, gateway: Gateway, requests: int, name: str = "small") -> Load:
    """The ledger's figures of an expert once so many requests are in it."""

    def there() -> Load | None:
        load = on(world.loop, gateway.service.ledger.snapshot()).get(name)
        return load if load is not None and load.requests >= requests else None

    found: Load = until(there, f"{requests} requests in the ledger")
    return found


def test_cached_tokens_cost_their_own_price_to_the_last_digit(priced: Gateway, small: Upstream) -> None:
    small.script(answers(completion(usage=CACHED)))
    answer = priced.chat("small")
    assert Decimal(answer.headers["x-pointsman-cost-usd"]) == COST
    assert answer.json()["usage"] == CACHED


#: What the upstream says beside OpenAI's fields, or in other types.
ODD = {
    **USAGE,
    "queue_time": 0.1,
    "cost": "a secret price",
    "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": None, "video_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": "many", "accepted_prediction_tokens": 1},
}
SHOWN = {
    **USAGE,
    "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 1,
        "rejected_prediction_tokens": 0,
    },
}


def test_a_caller_is_told_the_usage_in_openais_fields_alone(gateway: Gateway, small: Upstream) -> None:
    small.script(answers(completion(usage=ODD)))
    assert gateway.chat("small").json()["usage"] == SHOWN
    small.script(streams(*map(sse, EVENTS), sse(chunk(choices=[], usage=ODD)), b"data: [DONE]\n\n"))
    *_, last = parse_events(gateway.chat("small", stream=True, stream_options={"include_usage": True}).content)
    assert last["usage"].pop("cost_usd") > 0
    assert last["usage"] == SHOWN


@pytest.mark.parametrize("usage", [None, {}, [], "many", {"prompt_tokens": 10**12}])
def test_where_an_upstream_says_no_usage_the_caller_is_told_the_estimate(
    usage: Any, gateway: Gateway, small: Upstream
) -> None:
    small.script(answers(completion(usage=usage)))
    told = gateway.chat("small").json()["usage"]
    assert set(told) == set(USAGE) and told["prompt_tokens"] == 6
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]


def test_an_embeddings_usage_is_openais_too(world: World) -> None:
    gateway = world.start(
        experts=[expert("e", world.small.url, serves="embeddings", tier="small"), world.settings["experts"][1]]
    )
    row = {"object": "embedding", "index": 0, "embedding": [0.5]}
    world.small.script(
        answers({"object": "list", "data": [row], "model": "m", "usage": {"total_tokens": 5, "x": 1}})
    )
    answer = gateway.post("/v1/embeddings", model="e", input="hello")
    assert answer.json()["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_a_stream_costs_the_same(priced: Gateway, small: Upstream, world: World) -> None:
    small.script(streams(*map(sse, EVENTS), sse(chunk(choices=[], usage=CACHED)), b"data: [DONE]\n\n"))
    *_, last = parse_events(priced.chat("small", stream=True, stream_options={"include_usage": True}).content)
    assert last["usage"] == {**CACHED, "cost_usd": float(COST)}
    assert recorded(world, priced, 1).cost_nano == COST * 10**9


def test_without_a_price_for_cached_tokens_they_cost_what_others_do(gateway: Gateway, small: Upstream) -> None:
    small.script(answers(completion(usage=CACHED)))
    cost = gateway.chat("small").headers["x-pointsman-cost-usd"]
    assert Decimal(cost) == Decimal(1_000_003 * 1 + 17 * 2) / 1_000_000


@pytest.mark.parametrize(
    "usage",
    [
        {**USAGE, "prompt_tokens_details": {"cached_tokens": 99}},
        {**USAGE, "prompt_tokens_details": None},
        {**USAGE, "prompt_tokens_details": "x"},
        {**USAGE, "prompt_tokens": -4},
        {**USAGE, "prompt_tokens": 2**64 - 1, "completion_tokens": 2**63},
        {**USAGE, "completion_tokens": 1e308},
    ],
)
def test_absurd_usage_breaks_neither_the_answer_nor_the_ledger(
    usage: Any, priced: Gateway, small: Upstream, world: World
) -> None:
    small.script(answers(completion(usage=usage)))
    answer = priced.chat("small")
    assert answer.status_code == 200 and Decimal(answer.headers["x-pointsman-cost-usd"]) >= 0
    priced.chat("small")
    assert recorded(world, priced, 2).requests == 2
    assert priced.client.get("/readyz").json()["status"] == "ok"


def test_ledger_metrics_and_headers_agree(priced: Gateway, small: Upstream, world: World) -> None:
    small.script(answers(completion(usage=CACHED)), answers(), streams(), refuses(500), refuses(429))
    spent = Decimal(0)
    for streamed in (False, False, True, False, False):
        answer = priced.chat("small", **({"stream": True} if streamed else {}))
        if not streamed:
            spent += Decimal(answer.headers.get("x-pointsman-cost-usd", 0))
    spent += Decimal("0.0000475")  # the stream's 11 tokens in and 2 out
    load = recorded(world, priced, 5)
    assert (load.requests, load.errors) == (5, 2)
    assert load.cost_nano == spent * 10**9
    assert priced.metric("pointsman_cost_usd_total", expert="small") == pytest.approx(float(spent), rel=1e-12)
    assert priced.metric("pointsman_tokens_total", kind="input") == load.input_tokens == 1_000_003 + 22
    assert priced.metric("pointsman_tokens_total", kind="output") == load.output_tokens == 17 + 4
    assert priced.metric("pointsman_tokens_total", kind="cached") == 999_999
    assert priced.metric("pointsman_attempt_failures_total") == 2


def test_only_who_answered_is_paid_after_a_failover(priced: Gateway, large: Upstream, world: World) -> None:
    large.script(refuses(500))
    priced.chat("auto:best")
    assert recorded(world, priced, 1, "small").cost_nano > 0
    load = recorded(world, priced, 1, "large")
    assert (load.requests, load.errors, load.cost_nano) == (1, 1, 0)


@pytest.mark.parametrize("model", ["small", "auto:cheap"])
def test_named_and_routed_requests_are_metered_alike(model: str, gateway: Gateway) -> None:
    gateway.chat(model)
    assert gateway.metric("pointsman_cost_usd_total", expert="small") == pytest.approx(15e-6)
    assert gateway.metric("pointsman_decisions_total") == (model != "small")


def test_a_stream_that_broke_is_billed_what_had_come(priced: Gateway, small: Upstream, world: World) -> None:
    small.script(streams(*map(sse, [*EVENTS[:2], *[chunk("x")] * 8]), then=close))
    priced.chat("small", stream=True)
    load = recorded(world, priced, 1)
    assert (load.input_tokens, load.output_tokens, load.errors) == (6, 9, 1)
    assert priced.metric("pointsman_requests_total", expert="small", status="502") == 1


def test_a_stream_the_caller_left_is_billed_what_had_come(priced: Gateway, small: Upstream, world: World) -> None:
    small.script(streams(*map(sse, [*EVENTS[:2], *[chunk("x")] * 8]), then=hang))
    leave(priced, small, b'"x"', stream=True)
    load = recorded(world, priced, 1)
    assert load.input_tokens == 6 and 1 <= load.output_tokens <= 9
    assert load.errors == 0, "that the caller left is no failure of the expert"
    assert priced.metric("pointsman_requests_total", status="499") == 1


def test_an_answer_the_caller_did_not_wait_for_is_billed(priced: Gateway, small: Upstream, world: World) -> None:
    small.script(hang)
    leave(priced, small, None)
    load = recorded(world, priced, 1)
    assert load.input_tokens == 6 and load.errors == 0
    assert priced.metric("pointsman_requests_total", expert="small", status="499") == 1


def leave(gateway: Gateway, upstream: Upstream, after: bytes | None, **body: Any) -> None:
    """Asks, and closes the connection as soon as `after` has come (None: as soon as the upstream was asked)."""
    client = gateway.connect()
    client.sendall(request_bytes(json.dumps({"model": "small", "messages": HELLO, **body}).encode()))
    received = upstream.wait_for(1)
    data = b""
    while after is not None and after not in data:
        data += client.recv(65_536)
    client.close()
    assert received.gone.wait(WAIT_S)


def test_refused_requests_cost_nothing(gateway: Gateway, small: Upstream) -> None:
    small.script(refuses(400), refuses(429))
    for _ in range(2):
        gateway.chat("small")
    gateway.chat("none")
    assert gateway.metric("pointsman_cost_usd_total") == 0


def test_first_byte_times_are_learned_from_streams(priced: Gateway, small: Upstream, world: World) -> None:
    words = [sse(chunk("x")) for _ in range(5)]
    usage = sse(chunk(choices=[], usage={**USAGE, "completion_tokens": 6}))
    small.script(streams(sse(EVENTS[0]), *words, sse(EVENTS[-1]), usage, b"data: [DONE]\n\n", pause_s=0.02))
    priced.chat("small", stream=True)
    load = recorded(world, priced, 1)
    assert load.ttft_s is not None and 0 < load.ttft_s < 5
    assert load.token_s is not None and load.token_s >= 0.02
