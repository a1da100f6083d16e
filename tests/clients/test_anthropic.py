"""Anthropic's own client against the messages surface, with experts that speak chat completions."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from serving import Gateway, World
from upstream import (
    DONE,
    USAGE,
    USAGE_CHUNK,
    Upstream,
    answers,
    chunk,
    close,
    completion,
    hang,
    refuses,
    sse,
    streams,
)
from upstream import HELLO as EVENTS

KEY = "sk-of-the-caller"
ASK: Any = [{"role": "user", "content": "Say hello."}]
TOOL: Any = {
    "name": "weather",
    "description": "The weather there.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}


def calling(*calls: Any, content: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "tool_calls": list(calls)}
    return completion(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])


@pytest.fixture
def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """With a key, and experts that can do everything."""
    monkeypatch.setenv("CALLER", KEY)
    return world.start(
        {"capabilities": ["tools", "json", "vision"]}, auth={"keys": [{"name": "ann", "env": "CALLER"}]}
    )


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": "small", "max_tokens": 64, "messages": ASK, **fields})


def test_it_answers(client: anthropic.Anthropic, small: Upstream) -> None:
    answer = ask(client, model="auto:cheap", system="Be kind.", stop_sequences=["."], metadata={"user_id": "u"})
    assert [(block.type, block.text) for block in answer.content] == [("text", "Hello")]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "small")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 2)
    assert answer.id.startswith("msg_") and answer._request_id
    assert small.requests[0].path == "/v1/chat/completions"
    assert small.requests[0].json() == {
        "model": "up-model",
        "max_tokens": 64,
        "messages": [{"role": "system", "content": "Be kind."}, *ASK],
        "stop": ["."],
        "user": "u",
    }


def test_it_streams(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="auto:cheap", max_tokens=64, messages=ASK) as stream:
        assert "".join(stream.text_stream) == "Hello"
        answer = stream.get_final_message()
    assert (answer.model, answer.stop_reason) == ("small", "end_turn")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 2)


async def test_it_answers_and_streams_asynchronously(gateway: Gateway) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        answer = await client.messages.create(model="auto", max_tokens=64, messages=ASK)
        assert answer.content[0].type == "text" and answer.content[0].text == "Hello"
        async with client.messages.stream(model="auto", max_tokens=64, messages=ASK) as stream:
            assert "".join([text async for text in stream.text_stream]) == "Hello"


def test_it_may_send_its_key_as_a_bearer_token(gateway: Gateway) -> None:
    with anthropic.Anthropic(base_url=gateway.url, auth_token=KEY, max_retries=0) as client:
        assert ask(client).content[0].text == "Hello"


def test_a_conversation_with_a_tool_goes_there_and_back(client: anthropic.Anthropic, small: Upstream) -> None:
    small.script(answers(calling(CALL, content="Let me see.")), answers(completion("Sunny.")))
    asked = ask(client, tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    text, use = asked.content
    assert text.text == "Let me see." and asked.stop_reason == "tool_use"
    assert (use.type, use.id, use.name, use.input) == ("tool_use", "call_1", "weather", {"city": "Ulm"})
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "21 C"}]}
    told = ask(
        client,
        tools=[TOOL],
        messages=[
            *ASK,
            {"role": "assistant", "content": asked.content},
            {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
        ],
    )
    assert told.content[0].text == "Sunny." and told.stop_reason == "end_turn"
    first, second = (request.json() for request in small.requests)
    function = {"name": "weather", "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    assert first["tools"] == [{"type": "function", "function": function}]
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", False)
    call = {**CALL, "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
    assert second["messages"] == [
        *ASK,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 C"},
        {"role": "user", "content": "So?"},
    ]


def test_it_streams_text_and_two_tool_calls(client: anthropic.Anthropic, small: Upstream) -> None:
    def fragment(index: int, arguments: str, **first: Any) -> bytes:
        name = {"name": "weather"} if first else {}
        call = {"index": index, **first, "function": {**name, "arguments": arguments}}
        return sse(chunk(delta={"tool_calls": [call]}))

    small.script(
        streams(
            sse(chunk("See:", role="assistant")),
            fragment(0, "", id="call_1", type="function"),
            fragment(0, '{"city": '),
            fragment(0, '"Ulm"}'),
            fragment(1, '{"city": "Bonn"}', id="call_2", type="function"),
            sse(chunk(finish="tool_calls")),
            sse(USAGE_CHUNK),
            DONE,
        )
    )
    with client.messages.stream(model="small", max_tokens=64, messages=ASK, tools=[TOOL]) as stream:
        answer = stream.get_final_message()
    text, ulm, bonn = answer.content
    assert text.type == "text" and text.text == "See:" and answer.stop_reason == "tool_use"
    assert ulm.type == "tool_use" and (ulm.id, ulm.name, ulm.input) == ("call_1", "weather", {"city": "Ulm"})
    assert bonn.type == "tool_use" and (bonn.id, bonn.input) == ("call_2", {"city": "Bonn"})


def test_it_sends_pictures(client: anthropic.Anthropic, small: Upstream) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
    ask(client, model="auto:cheap", messages=[{"role": "user", "content": content}])
    assert small.requests[0].json()["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_tokens_of_a_cache_are_told_apart(streaming: bool, client: anthropic.Anthropic, small: Upstream) -> None:
    details = {"cached_tokens": 5, "cache_creation_tokens": 2}
    usage = {**USAGE, "prompt_tokens_details": details}
    if streaming:
        small.script(streams(*map(sse, EVENTS), sse(chunk(choices=[], usage=usage)), DONE))
        with client.messages.stream(model="small", max_tokens=64, messages=ASK) as stream:
            told = stream.get_final_message().usage
    else:
        small.script(answers(completion(usage=usage)))
        told = ask(client).usage
    assert (told.input_tokens, told.output_tokens) == (4, 2)
    assert (told.cache_read_input_tokens, told.cache_creation_input_tokens) == (5, 2)


def test_it_carries_wishes_and_shows_the_headers(client: anthropic.Anthropic, large: Upstream) -> None:
    raw = client.messages.with_raw_response.create(
        model="auto",
        max_tokens=64,
        messages=ASK,
        extra_body={"routing": {"preference": "best", "explain": True}},
    )
    assert raw.headers["x-pointsman-expert"] == "large" and raw.headers["x-pointsman-reason"]
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.parse().model == "large" and raw.parse().pointsman["served"] == "large"  # type: ignore[attr-defined]
    assert "routing" not in large.requests[0].json()
    by_header = client.messages.with_raw_response.create(
        model="auto", max_tokens=64, messages=ASK, extra_headers={"x-pointsman-only": "small"}
    )
    assert by_header.headers["x-pointsman-expert"] == "small"


ERRORS: dict[str, tuple[dict[str, Any], Any, int, str]] = {
    "an unknown model": ({"model": "claude-0"}, None, 404, "not_found_error"),
    "bad input": ({"messages": []}, None, 400, "invalid_request_error"),
    "no expert that fits": (
        {"model": "auto", "extra_body": {"routing": {"max_cost_usd": 0}}}, None, 422, "invalid_request_error",
    ),
    "the upstream's refusal": ({}, refuses(400, "bad"), 400, "invalid_request_error"),
    "a limit": ({}, refuses(429), 429, "rate_limit_error"),
    "a failure": ({}, refuses(500), 502, "api_error"),
    "a limit before the stream": ({"stream": True}, refuses(429), 429, "rate_limit_error"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_it_raises_the_right_error(case: str, client: anthropic.Anthropic, small: Upstream) -> None:
    fields, behave, status, kind = ERRORS[case]
    if behave is not None:
        small.script(behave)
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client, **fields)
    body: Any = caught.value.body
    assert caught.value.status_code == status
    assert body["type"] == "error" and body["request_id"] == caught.value.request_id
    assert body["error"]["type"] == kind and body["error"]["message"]


def test_it_raises_for_a_wrong_key(client: anthropic.Anthropic, small: Upstream) -> None:
    with pytest.raises(anthropic.AuthenticationError) as caught:
        ask(client.with_options(api_key="wrong"))
    assert json.loads(caught.value.response.text)["error"]["type"] == "authentication_error"
    assert not small.requests


@pytest.mark.parametrize("tail", [b"", sse({"error": {"message": "overloaded", "code": 503}})])
def test_it_raises_for_an_error_midway(tail: bytes, client: anthropic.Anthropic, small: Upstream) -> None:
    small.script(streams(*map(sse, EVENTS[:3]), tail, then=close))
    heard: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(model="small", max_tokens=64, messages=ASK) as stream,
    ):
        heard.extend(stream.text_stream)
    assert heard == ["Hel", "lo"]
    body: Any = caught.value.body
    assert body["error"]["type"] == "api_error" and "small" in body["error"]["message"]


def test_it_does_not_retry_what_the_gateway_has_retried(
    client: anthropic.Anthropic, small: Upstream, large: Upstream
) -> None:
    small.always = large.always = refuses(500)
    with pytest.raises(anthropic.InternalServerError):
        ask(client.with_options(max_retries=2), model="auto")
    assert (len(small.requests), len(large.requests)) == (1, 1)


def test_its_own_timeout_is_met(client: anthropic.Anthropic, small: Upstream) -> None:
    small.script(hang)
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client, timeout=1.2)
    assert caught.value.status_code == 504, "the answer comes before the client gives up"


def test_leaving_a_stream_cancels_it(client: anthropic.Anthropic, small: Upstream) -> None:
    small.script(streams(*map(sse, EVENTS[:3]), then=hang))
    with client.messages.stream(model="small", max_tokens=64, messages=ASK) as stream:
        next(iter(stream.text_stream))
    assert small.requests[0].gone.wait(20)
