"""Streams: whatever the upstream's habits, callers get OpenAI's events; and leaving stops the upstream."""

import time
from typing import Any

import httpx
import orjson
import pytest
from serving import HELLO as MESSAGES
from serving import Gateway, World, answer_on, request_bytes, until
from upstream import (
    DONE,
    HELLO,
    USAGE,
    Upstream,
    Wire,
    chunk,
    hang,
    hello_events,
    parse_events,
    said,
    sse,
    streams,
)


@pytest.fixture
def gateway(steady: World) -> Gateway:
    return steady.running[0]


@pytest.fixture
def small(steady: World) -> Upstream:
    return steady.small


def stream(gateway: Gateway, model: str = "small", **body: Any) -> bytes:
    answer = gateway.chat(model, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return answer.content


def each(events: list[dict[str, Any]], **change: Any) -> list[bytes]:
    return [*(sse({**event, **change}) for event in events), DONE]


def without(*keys: str) -> list[bytes]:
    return [*(sse({k: v for k, v in event.items() if k not in keys}) for event in HELLO), DONE]


def no_roles() -> list[bytes]:
    return [sse(chunk("Hel")), sse(chunk("lo")), sse(chunk(finish="stop")), DONE]


def no_reasons() -> list[bytes]:
    """`finish_reason` only where there is one."""
    events = [sse(chunk(choices=[{"index": 0, "delta": {"content": text}}])) for text in ("Hel", "lo")]
    return [*events, sse(chunk(finish="stop")), DONE]


HABITS: dict[str, list[bytes]] = {
    "compact": hello_events(),
    "spaced": hello_events(spaced=True),
    "crlf": hello_events(eol="\r\n"),
    "spaced crlf": hello_events(spaced=True, eol="\r\n"),
    "no space after data:": hello_events(prefix="data:"),
    "event lines": hello_events(prefix="event: message\ndata: "),
    "a comment first": [b": hello\n\n", *hello_events()],
    "comments between": [part for event in hello_events() for part in (event, b": keep-alive\n\n")],
    "comments in between, same packet": [b": x\n\n".join(hello_events())],
    "no ids": without("id"),
    "no created": without("created"),
    "no model": without("model"),
    "no object": without("object"),
    "no roles": no_roles(),
    "null roles": [sse(chunk("Hel", delta={"role": None})), sse(chunk("lo")), sse(chunk(finish="stop")), DONE],
    "no finish reasons": no_reasons(),
    "varying ids": [*(sse({**event, "id": f"chatcmpl-{i}"}) for i, event in enumerate(HELLO)), DONE],
    "null usage everywhere": [*each(HELLO, usage=None)[:-1], sse(chunk(choices=[], usage=USAGE)), DONE],
    "usage on the last content chunk": [*map(sse, HELLO[:-1]), sse({**HELLO[-1], "usage": USAGE}), DONE],
    "usage on every chunk": each(HELLO, usage=USAGE),
    "no usage": [*map(sse, HELLO), DONE],
    "empty usage everywhere": each(HELLO, usage={}),
    "null error everywhere": each(HELLO, error=None),
    "no [DONE]": list(map(sse, HELLO)),
    "no empty line at the end": [*map(sse, HELLO), b"data: [DONE]"],
    "more after [DONE]": [*hello_events(), sse(chunk("!"))],
    "azure": [sse(chunk(choices=[], id="", model="", prompt_filter_results=[])), *hello_events()],
}


@pytest.mark.parametrize("habit", HABITS)
def test_every_habit_of_upstreams_becomes_the_same_stream(habit: str, gateway: Gateway, small: Upstream) -> None:
    small.script(streams(*HABITS[habit]))
    data = stream(gateway)
    assert data.endswith(b"}\n\ndata: [DONE]\n\n") and data.count(b"[DONE]") == 1
    events = parse_events(data)
    choices = [choice for event in events for choice in event["choices"]]
    assert said(events) == "Hello"
    assert len({event["id"] for event in events}) == 1 and events[0]["id"]
    assert {event["model"] for event in events} == {"small"}
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all(event["created"] for event in events)
    assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert not any("usage" in event for event in events)


@pytest.mark.parametrize("habit", HABITS)
def test_usage_comes_once_and_last_where_it_was_asked_for(habit: str, gateway: Gateway, small: Upstream) -> None:
    small.script(streams(*HABITS[habit]))
    *events, last = parse_events(stream(gateway, stream_options={"include_usage": True}))
    assert said(events) == "Hello"
    assert last["choices"] == [] and last["id"] == events[0]["id"] and last["model"] == "small"
    assert last["object"] == "chat.completion.chunk"
    reported = any(b'"prompt_tokens"' in event for event in HABITS[habit])
    if reported:
        assert {key: last["usage"][key] for key in USAGE} == USAGE
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert all(event["usage"] is None for event in events)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_every_framing_is_read(framing: str, gateway: Gateway, small: Upstream) -> None:
    small.script(streams(framing=framing))
    assert said(stream(gateway)) == "Hello"


def test_a_stream_may_come_byte_by_byte(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(*(bytes([byte]) for byte in b"".join(hello_events(eol="\r\n")))))
    assert said(stream(gateway)) == "Hello"


def test_a_chunk_leaves_when_it_arrives(gateway: Gateway, small: Upstream) -> None:
    """The upstream says nothing more until the caller has the first part."""
    small.script(streams(*map(sse, HELLO[:2]), then=hang))
    with gateway.client.stream("POST", "/v1/chat/completions", json=asking()) as answer:
        assert said(first_events(answer, b"Hel")) == "Hel"


def asking(**body: Any) -> dict[str, Any]:
    return {"model": "small", "messages": MESSAGES, "stream": True, **body}


def first_events(answer: httpx.Response, wanted: bytes) -> bytes:
    data = b""
    for part in answer.iter_raw():
        data += part
        if wanted in data:
            return data
    raise AssertionError(f"{wanted!r} never came: {data!r}")


def test_text_that_looks_like_the_protocol_is_untouched(gateway: Gateway, small: Upstream) -> None:
    text = '"model":"up-model","usage":null "usage":{"x":1} "error":{} "finish_reason":"stop"\n\ndata: [DONE]\n\n'
    small.script(streams(sse(chunk("", role="assistant")), sse(chunk(text)), sse(chunk(finish="stop")), DONE))
    assert said(stream(gateway)) == text


def test_tool_calls_pass_unchanged(gateway: Gateway, small: Upstream) -> None:
    calls = [
        {"role": "assistant", "content": None, "tool_calls": [call(0, "a", "f", "")]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"id":"x",'}}]},
        {"tool_calls": [call(1, "b", "g", '"model":"up-model"}')]},
    ]
    events = [chunk(delta=delta) for delta in calls]
    small.script(streams(*map(sse, events), sse(chunk(finish="tool_calls")), DONE))
    *got, last = parse_events(stream(gateway))
    assert [event["choices"][0]["delta"] for event in got] == calls
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def call(index: int, name: str, function: str, arguments: str) -> dict[str, Any]:
    return {
        "index": index,
        "id": f"call_{name}",
        "type": "function",
        "function": {"name": function, "arguments": arguments},
    }


def test_each_of_several_choices_has_its_role_once(gateway: Gateway, small: Upstream) -> None:
    events = [chunk("a"), chunk("b", index=1), chunk("c"), chunk(finish="stop"), chunk(finish="stop", index=1)]
    small.script(streams(*map(sse, events), DONE))
    choices = [event["choices"][0] for event in parse_events(stream(gateway, n=2))]
    assert [(c["index"], c["delta"].get("role")) for c in choices] == [
        (0, "assistant"),
        (1, "assistant"),
        (0, None),
        (0, None),
        (1, None),
    ]


def test_details_of_usage_on_a_content_chunk_survive(gateway: Gateway, small: Upstream) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 7}}
    small.script(streams(*map(sse, HELLO[:-1]), sse({**HELLO[-1], "usage": usage}), DONE))
    *_, last = parse_events(stream(gateway, stream_options={"include_usage": True}))
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 7, "audio_tokens": 0}


def test_the_true_cost_comes_with_the_usage(gateway: Gateway) -> None:
    *_, last = parse_events(stream(gateway, stream_options={"include_usage": True}))
    assert last["usage"]["cost_usd"] == pytest.approx((11 * 1.0 + 2 * 2.0) / 1e6)


def test_the_upstream_is_always_asked_for_usage(gateway: Gateway, small: Upstream) -> None:
    stream(gateway, stream_options={"include_obfuscation": False})
    assert small.requests[0].json()["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_a_caller_who_does_not_read_holds_the_upstream_back(gateway: Gateway, small: Upstream) -> None:
    event = sse(chunk("x" * 100_000))
    sent = []

    async def gush(wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream"})
        await wire.write(sse(HELLO[0]))
        for _ in range(400):
            await wire.write(event)
            sent.append(1)
        await wire.write(sse(HELLO[-1]) + DONE)
        wire.writer.close()

    small.script(gush)
    client = gateway.connect()
    client.sendall(request_bytes(orjson.dumps(asking())))
    until(lambda: still(sent), "the upstream coming to a halt")
    assert 0 < len(sent) < 400
    status, data = answer_on(client)
    assert status == 200 and len(said(data)) == 400 * 100_000


def still(counted: list[int]) -> bool:
    """Whether nothing more is counted for a while."""
    before = len(counted)
    time.sleep(0.1)
    return 0 < before == len(counted)


def test_many_streams_at_once_do_not_mix(gateway: Gateway, small: Upstream) -> None:
    for i in range(30):
        small.script(streams(sse(HELLO[0]), sse(chunk(str(i))), sse(HELLO[-1]), DONE, pause_s=0.01))
    clients = [gateway.connect() for _ in range(30)]
    for client in clients:
        client.sendall(request_bytes(orjson.dumps(asking())))
    texts = {said(answer_on(client)[1]) for client in clients}
    assert texts == {str(i) for i in range(30)}
