"""The headers of the contract: on whole answers, on streams, on errors."""

import re
from typing import Any

import httpx
import pytest
from serving import HELLO, Gateway, World, expert
from upstream import Upstream, answers, refuses

EVERY = {
    "x-request-id": r"req_[0-9a-f]{24}",
    "x-pointsman-overhead-ms": r"\d+\.\d{3}",
    "x-pointsman-attempts": r"\d",
    "openai-processing-ms": r"\d+",
}
ROUTED = {
    "x-pointsman-decision": r"dec_[0-9a-f]{24}",
    "x-pointsman-expert": r"small|large",
    "x-pointsman-policy": r"static@[0-9a-f]{8}|named",
    "x-pointsman-cost-usd": r"\d+\.\d{9}",
}


def check(answer: httpx.Response, *groups: dict[str, str]) -> None:
    for group in groups:
        for name, pattern in group.items():
            assert re.fullmatch(pattern, answer.headers[name]), f"{name}: {answer.headers.get(name)!r}"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ["auto", "auto:cheap", "small"])
def test_every_answer_carries_them_all(model: str, streamed: bool, gateway: Gateway) -> None:
    answer = gateway.chat(model, **({"stream": True} if streamed else {}))
    check(answer, EVERY, ROUTED)
    assert answer.headers["x-pointsman-attempts"] == "1"
    assert (answer.headers["x-pointsman-policy"] == "named") == (model == "small")
    kind = "text/event-stream; charset=utf-8" if streamed else "application/json"
    assert answer.headers["content-type"] == kind


ERRORS: dict[str, tuple[str, dict[str, Any], int]] = {
    "bad input": ("/v1/chat/completions", {"model": "small", "messages": []}, 400),
    "unknown model": ("/v1/chat/completions", {"model": "none", "messages": HELLO}, 404),
    "a failing expert": ("/v1/chat/completions", {"model": "small", "messages": HELLO}, 502),
    "a failing stream": ("/v1/chat/completions", {"model": "small", "messages": HELLO, "stream": True}, 502),
    "route": ("/v1/route", {"model": "auto"}, 400),
    "embeddings": ("/v1/embeddings", {"model": "none", "input": "x"}, 404),
    "no such path": ("/v1/none", {}, 404),
    "no such method": ("/v1/models", {}, 405),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_carry_what_every_answer_does(case: str, gateway: Gateway, small: Upstream) -> None:
    path, body, status = ERRORS[case]
    small.always = refuses(500)
    answer = gateway.post(path, **body)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    check(answer, EVERY)
    assert answer.headers["x-pointsman-attempts"] == ("1" if status == 502 else "0")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/auto"])
def test_lists_carry_what_every_answer_does(path: str, gateway: Gateway) -> None:
    check(gateway.client.get(path), EVERY)


def test_the_callers_own_request_id_is_kept_and_handed_on(gateway: Gateway, small: Upstream) -> None:
    answer = gateway.chat("small", headers={"x-request-id": "my-id.1_2"})
    assert answer.headers["x-request-id"] == "my-id.1_2"
    assert small.requests[0].headers["x-request-id"] == "my-id.1_2"


@pytest.mark.parametrize("bad", ["a b", "a" * 129, "a\tb", "<script>", "é"])
def test_a_request_id_that_is_none_is_replaced(bad: str, gateway: Gateway) -> None:
    answer = gateway.chat("small", headers={"x-request-id": bad.encode()})
    check(answer, EVERY)


def test_the_upstreams_limits_are_handed_on(gateway: Gateway, small: Upstream) -> None:
    limits = {"x-ratelimit-remaining-requests": "99", "x-ratelimit-reset-tokens": "12ms"}
    small.script(answers(headers=limits))
    answer = gateway.chat("small")
    assert {name: answer.headers[name] for name in limits} == limits


def test_nothing_else_of_the_upstreams_is(gateway: Gateway, small: Upstream) -> None:
    secret = {"set-cookie": "a=1", "server": "upstream", "x-internal": "1", "openai-organization": "ours"}
    small.script(answers(headers=secret))
    answer = gateway.chat("small")
    assert not secret.keys() & answer.headers.keys()


def test_the_cost_is_exact_for_a_whole_answer(gateway: Gateway, small: Upstream) -> None:
    assert gateway.chat("small").headers["x-pointsman-cost-usd"] == "0.000015000"  # 11 in at $1, 2 out at $2


def test_the_cost_of_a_stream_is_what_is_expected_of_it(gateway: Gateway) -> None:
    free = gateway.chat("small", stream=True).headers["x-pointsman-cost-usd"]
    short = gateway.chat("small", stream=True, max_tokens=5).headers["x-pointsman-cost-usd"]
    several = gateway.chat("small", stream=True, max_tokens=5, n=3).headers["x-pointsman-cost-usd"]
    assert float(several) == pytest.approx((6 * 1 + 3 * 5 * 2) / 1e6)
    assert float(free) == pytest.approx((6 * 1 + 50 * 2) / 1e6)
    assert float(short) == pytest.approx((6 * 1 + 5 * 2) / 1e6)


@pytest.mark.parametrize("given", [{"routing": {"explain": True}}, {"headers": {"x-pointsman-explain": "true"}}])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_reason_comes_where_it_was_asked_for(given: dict[str, Any], streamed: bool, gateway: Gateway) -> None:
    answer = gateway.chat("auto:best", **given, **({"stream": True} if streamed else {}))
    assert answer.headers["x-pointsman-reason"].startswith("large: expected quality 0.900")
    if not streamed:
        decision = answer.json()["pointsman"]
        assert decision["expert"] == "large" and decision["id"] == answer.headers["x-pointsman-decision"]
        assert [line["expert"] for line in decision["candidates"]] == ["large", "small"]


def test_no_reason_comes_unasked(gateway: Gateway) -> None:
    answer = gateway.chat()
    assert "x-pointsman-reason" not in answer.headers and "pointsman" not in answer.json()


def test_the_time_inside_the_gateway_leaves_the_upstream_out(gateway: Gateway, small: Upstream) -> None:
    async def slow(wire: Any) -> None:
        import asyncio

        await asyncio.sleep(0.3)
        await answers()(wire)

    small.script(slow)
    answer = gateway.chat("small")
    assert int(answer.headers["openai-processing-ms"]) >= 300
    assert float(answer.headers["x-pointsman-overhead-ms"]) < 250


@pytest.mark.parametrize(
    ("headers", "body", "expert_asked"),
    [
        ({"x-pointsman-preference": "best"}, {}, "large"),
        ({"x-pointsman-only": "small"}, {}, "small"),
        ({"x-pointsman-only": "small , large"}, {"model": "auto:best"}, "large"),
        ({"x-pointsman-exclude": "large"}, {"model": "auto:best"}, "small"),
        ({"x-pointsman-quality-floor": "0.8"}, {"model": "auto:cheap"}, "large"),
        ({"x-pointsman-max-cost-usd": "0.0005"}, {"model": "auto:best"}, "small"),
        ({"X-Pointsman-Preference": "best"}, {"model": "auto:cheap"}, "small"),
        ({"x-pointsman-preference": "best"}, {"routing": {"preference": "cheap"}}, "small"),
        ({}, {"routing": {"preference": "best"}}, "large"),
        ({}, {"routing": {"preference": None}, "model": "auto:best"}, "large"),
        ({}, {"routing": {"preference": "best"}, "model": "auto:cheap"}, "small"),
        ({}, {"routing": {"quality_floor": 0.8}, "model": "auto:cheap"}, "large"),
    ],
)
def test_wishes_come_by_header_by_body_and_by_name(
    headers: dict[str, str], body: dict[str, Any], expert_asked: str, gateway: Gateway
) -> None:
    answer = gateway.chat(headers=headers, **body)
    assert answer.headers["x-pointsman-expert"] == expert_asked


def test_the_wishes_are_never_sent_upstream(gateway: Gateway, small: Upstream) -> None:
    gateway.chat("auto:cheap", headers={"x-pointsman-explain": "1"}, routing={"session": "s"}, user="u")
    (received,) = small.requests
    assert received.json() == {"model": "up-model", "messages": HELLO, "user": "u"}
    assert not [name for name in received.headers if name.startswith("x-pointsman")]


def test_an_experts_name_may_be_any_that_the_settings_allow(world: World) -> None:
    gateway = world.start(experts=[expert("a/b-c.d:e@f+g", world.small.url, tier="small")])
    answer = gateway.chat("a/b-c.d:e@f+g")
    assert answer.headers["x-pointsman-expert"] == answer.json()["model"] == "a/b-c.d:e@f+g"


def test_a_name_beyond_ascii_comes_back_as_it_was(world: World) -> None:
    gateway = world.start(experts=[expert("modèle", world.small.url, tier="small")])
    answer = gateway.chat("modèle")
    assert answer.json()["model"] == "modèle"
    assert gateway.chat("modèle", stream=True).status_code == 200
    assert gateway.client.get("/v1/models/modèle").json()["id"] == "modèle"
