"""What an expert refuses: whose fault it is, who is asked next, and what the caller is told."""

from typing import Any

import httpx
import pytest
from serving import Gateway, World, expert
from upstream import (
    Upstream,
    answers,
    refuses,
    said,
    sse,
    streams,
)


def ask(gateway: Gateway, streamed: bool, model: str = "auto:best", **body: Any) -> httpx.Response:
    return gateway.chat(model, **({"stream": True} if streamed else {}), **body)


def text(answer: httpx.Response) -> str:
    if answer.headers["content-type"].startswith("text/event-stream"):
        return said(answer.content)
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("status", [400, 409, 413, 422, 418])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_callers_fault_passes_through(
    status: int, streamed: bool, gateway: Gateway, large: Upstream, small: Upstream
) -> None:
    large.script(refuses(status, "temperature is too high", param="temperature", code="too_high", more=1))
    answer = ask(gateway, streamed)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"] == "temperature is too high" and error["param"] == "temperature"
    assert error["code"] == "too_high" and error["more"] == 1
    assert not small.requests
    assert ask(gateway, streamed).headers["x-pointsman-expert"] == "large"


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b'{"error": "no"}', b'{"error": ' + b"[" * 300 + b"]" * 300 + b"}"]
)
def test_a_callers_fault_told_badly_still_has_the_contracts_shape(
    body: bytes, gateway: Gateway, large: Upstream
) -> None:
    large.script(answers(body, 400))
    answer = gateway.chat("auto:best")
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


LONG = {"message": "This model's maximum context length is 4096 tokens", "code": "context_length_exceeded"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_too_long_for_one_expert_goes_to_a_larger_one(streamed: bool, world: World) -> None:
    experts = [
        expert("small", world.small.url, context_tokens=100_000),
        expert("large", world.large.url, context_tokens=50_000),
    ]
    gateway = world.start(experts=experts)
    world.large.script(refuses(400, **LONG))
    answer = ask(gateway, streamed)
    assert answer.headers["x-pointsman-expert"] == "small" and text(answer) == "Hello"


def test_a_prompt_too_long_is_not_sent_to_an_expert_no_larger(world: World) -> None:
    gateway = world.start({"context_tokens": 50_000})
    world.large.script(refuses(400, **LONG))
    answer = gateway.chat("auto:best")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert not world.small.requests


@pytest.mark.parametrize(
    "said",
    [
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 and 20",
        "prompt too long; exceeded max context length by 904 tokens",
        "The input token count (5000) exceeds the maximum number of tokens allowed (4096).",
        "prompt is too long: 5000 tokens > 4096 maximum",
        "This model's maximum prompt length is 4096 but the request contains 5000 tokens",
    ],
)
def test_however_a_server_says_that_a_prompt_is_too_long_it_goes_to_a_larger_one(said: str, world: World) -> None:
    experts = [
        expert("small", world.small.url, context_tokens=100_000),
        expert("large", world.large.url, context_tokens=50_000),
    ]
    gateway = world.start(experts=experts)
    world.large.always = refuses(400, said, code=400)
    assert gateway.chat("auto:best").headers["x-pointsman-expert"] == "small"
    refused = gateway.chat("large")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["message"] == said


def test_a_context_error_inside_a_stream_moves_on_too(world: World) -> None:
    gateway = world.start(
        experts=[
            expert("small", world.small.url, context_tokens=100_000),
            expert("large", world.large.url, context_tokens=50_000),
        ]
    )
    world.large.script(streams(sse({"error": LONG})))
    assert ask(gateway, True).headers["x-pointsman-expert"] == "small"


@pytest.mark.parametrize(("allowed", "status"), [(False, 400), (True, 200)])
def test_a_filters_refusal_moves_on_only_where_the_caller_allows(
    allowed: bool, status: int, gateway: Gateway, large: Upstream
) -> None:
    large.script(refuses(400, "filtered", code="content_filter"))
    answer = gateway.chat("auto:best", routing={"fallback": allowed})
    assert answer.status_code == status


def test_a_named_expert_fails_alone(gateway: Gateway, large: Upstream, small: Upstream) -> None:
    large.script(refuses(500))
    answer = gateway.chat("large")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "expert_server")
    assert not small.requests


def test_a_named_expert_is_replaced_where_the_caller_allows(gateway: Gateway, large: Upstream) -> None:
    large.script(refuses(500))
    answer = gateway.chat("large", routing={"fallback": True})
    assert answer.headers["x-pointsman-expert"] == "small" and answer.json()["model"] == "small"


def test_no_more_experts_are_asked_than_allowed(world: World) -> None:
    gateway = world.start(limits={"attempts": 1})
    world.large.script(refuses(500))
    assert gateway.chat("auto:best").status_code == 502
    assert not world.small.requests


def test_after_retries_the_client_is_told_not_to_retry(gateway: Gateway, large: Upstream, small: Upstream) -> None:
    large.script(refuses(500))
    small.script(refuses(429))
    answer = gateway.chat("auto:best")
    assert answer.status_code == 429
    assert answer.headers["x-should-retry"] == "false" and "retry-after" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ({"retry-after": "7"}, "7"),
        ({"retry-after-ms": "1500"}, "2"),
        ({}, "1"),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "1"),
        ({"retry-after": "nan"}, "1"),
        ({"retry-after": "-3"}, "1"),
    ],
)
def test_a_limit_of_the_only_expert_says_when_to_retry(
    sent: dict[str, str], seconds: str, gateway: Gateway, small: Upstream
) -> None:
    small.script(refuses(429, headers=sent))
    answer = gateway.chat("small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == seconds and answer.headers["retry-after-ms"]


def test_the_providers_refusal_of_our_key_is_not_the_callers_fault(gateway: Gateway, small: Upstream) -> None:
    small.script(refuses(401, "Incorrect API key provided: sk-marker"))
    answer = gateway.chat("small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "expert_auth")
    assert "sk-marker" not in answer.text


def test_an_expert_rests_after_three_failures_in_a_row(gateway: Gateway, large: Upstream) -> None:
    large.script(*[refuses(500)] * 3)
    attempts = [gateway.chat("auto:best").headers["x-pointsman-attempts"] for _ in range(4)]
    assert attempts == ["2", "2", "2", "1"]
    assert gateway.client.get("/readyz").json()["experts"] == {"small": "ok", "large": "resting"}


def test_where_all_rest_the_client_is_told_when_to_come_back(world: World) -> None:
    gateway = world.start()
    for upstream in (world.small, world.large):
        upstream.always = refuses(429, headers={"retry-after": "30"})
    gateway.chat("auto:best")
    answer = gateway.chat("auto:best")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_expert")
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert gateway.chat("small").status_code == 429, "an expert's own name still asks it"


def test_many_failures_at_once_do_not_break_the_gateway(world: World) -> None:
    gateway = world.start()
    world.small.always = refuses(500)
    statuses = {gateway.chat("small").status_code for _ in range(1100)}
    assert statuses == {502}
