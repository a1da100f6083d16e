"""`/v1/messages` on the wire: the same way as chat completions, in Anthropic's words."""

import json
from typing import Any

import httpx
import pytest
from serving import Gateway, World, request_bytes, until
from upstream import HELLO as EVENTS
from upstream import Upstream, answers, close, completion, hang, refuses, sse, streams

ASK = [{"role": "user", "content": "Say hello."}]


def post(gateway: Gateway, model: str = "small", *, headers: Any = None, **body: Any) -> httpx.Response:
    return gateway.post(
        "/v1/messages", headers=headers, **{"model": model, "max_tokens": 64, "messages": ASK, **body}
    )


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    told = answer.json()
    assert answer.status_code == status and set(told) == {"type", "error", "request_id"}
    assert told["type"] == "error" and set(told["error"]) == {"type", "message"} and told["error"]["type"] == kind
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == told["request_id"]
    return str(told["error"]["message"])


def kinds(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]


def test_an_answer_has_all_that_chats_has(gateway: Gateway) -> None:
    answer = post(gateway, "auto:cheap", headers={"x-request-id": "mine"})
    assert answer.json() == {
        "id": "msg_mine",
        "type": "message",
        "role": "assistant",
        "model": "small",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 11,
            "output_tokens": 2,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }
    chat = gateway.chat("auto:cheap")
    assert set(answer.headers) == {*chat.headers, "request-id"}
    assert answer.headers["x-pointsman-cost-usd"] == chat.headers["x-pointsman-cost-usd"]


@pytest.mark.parametrize("streaming", [False, True])
def test_it_is_metered_like_chat(streaming: bool, gateway: Gateway) -> None:
    gateway.chat("small", stream=streaming)
    spent = gateway.metric("pointsman_cost_usd_total", expert="small")
    post(gateway, stream=streaming)
    assert gateway.metric("pointsman_cost_usd_total", expert="small") == pytest.approx(2 * spent) and spent > 0
    assert gateway.metric("pointsman_requests_total", surface="messages", expert="small", status="200") == 1


def test_a_stream_begins_and_ends_as_messages_do(gateway: Gateway) -> None:
    answer = post(gateway, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream") and answer.headers["request-id"]
    assert kinds(answer) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert json.loads(answer.text.split("data: ")[-2].split("\n")[0])["usage"]["cost_usd"] > 0
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("streaming", [False, True])
def test_it_fails_over_before_the_first_byte(streaming: bool, gateway: Gateway, small: Upstream) -> None:
    small.script(refuses(500))
    answer = post(gateway, "auto:cheap", stream=streaming)
    assert answer.status_code == 200 and answer.headers["x-pointsman-expert"] == "large"
    assert answer.headers["x-pointsman-attempts"] == "2"


def test_an_error_midway_is_an_event_and_the_end(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(*map(sse, EVENTS[:3]), then=close))
    answer = post(gateway, stream=True)
    assert kinds(answer)[-1] == "error" and "message_stop" not in kinds(answer)


def test_damage_in_a_stream_is_an_event_and_the_end(gateway: Gateway, small: Upstream) -> None:
    damaged = sse(EVENTS[2]).replace(b'"choices":[', b'"choices":[,')
    small.script(streams(b"".join([*map(sse, EVENTS[:2]), damaged, *map(sse, EVENTS[3:])])))
    assert kinds(post(gateway, stream=True))[-1] == "error"
    gateway.still_works()


def test_a_callers_leaving_cancels_the_expert(gateway: Gateway, small: Upstream) -> None:
    small.script(hang)
    body = json.dumps({"model": "small", "max_tokens": 64, "messages": ASK}).encode()
    with gateway.connect() as client:
        client.sendall(request_bytes(body, path="/v1/messages"))
        until(lambda: small.requests, "the expert's being asked")
    assert small.requests[0].gone.wait(20)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "auto", "messages": []}', b"\xff", b"[" * 9999])
def test_bodies_that_are_none(body: bytes, gateway: Gateway) -> None:
    assert refused(gateway.client.post("/v1/messages", content=body), 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"routing": {"onyl": []}}, "routing.onyl"),
        ({"stop_sequences": 5}, "stop_sequences"),
        ({"metadata": 5}, "metadata"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], said: str, gateway: Gateway) -> None:
    assert said in refused(post(gateway, **fields), 400, "invalid_request_error")


def test_a_model_that_is_none(gateway: Gateway) -> None:
    assert "auto:cheap" in refused(post(gateway, "claude-0"), 404, "not_found_error")


def test_a_body_that_is_too_large(world: World) -> None:
    gateway = world.start(limits={"body_bytes": 2000})
    assert "2000" in refused(post(gateway, system="x" * 2000), 413, "request_too_large")


def test_another_method(gateway: Gateway) -> None:
    answer = gateway.client.get("/v1/messages")
    assert answer.status_code == 405 and answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["type"] == "error"


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_keys_are_asked_for_first(header: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLER", "sk-1")
    gateway = world.start(auth={"keys": [{"name": "ann", "env": "CALLER"}]})
    refused(gateway.client.post("/v1/messages", content=b"{"), 401, "authentication_error")
    refused(post(gateway, headers={header: "sk-2"}), 401, "authentication_error")
    value = "sk-1" if header == "x-api-key" else "Bearer sk-1"
    assert post(gateway, headers={header: value}).status_code == 200


def test_a_limit_says_when_to_come_back(gateway: Gateway, small: Upstream) -> None:
    small.script(refuses(429, headers={"retry-after-ms": "1500"}))
    answer = post(gateway)
    refused(answer, 429, "rate_limit_error")
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("choices", [[], ["x"], [{}], [{"message": "x"}], [{"message": {"content": [1]}}]])
def test_an_answer_of_any_shape_is_a_message(choices: Any, gateway: Gateway, small: Upstream) -> None:
    small.script(answers(completion(choices=choices, usage=None)))
    told = post(gateway)
    assert told.status_code == 200 and told.json()["content"] == []
    assert told.json()["usage"]["input_tokens"] > 0


def test_it_is_described(gateway: Gateway) -> None:
    described = gateway.client.get("/openapi.json").json()["paths"]["/v1/messages"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "messages", "max_tokens"]
