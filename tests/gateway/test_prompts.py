"""Several prompts in one text completion, and Anthropic's count of tokens."""

import json
from typing import Any

import anthropic
import openai
import pytest
from serving import Gateway, World, request_bytes, until
from upstream import (
    USAGE,
    Upstream,
    Wire,
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

PATH = "/v1/completions"


def prompt_of(wire: Wire) -> str:
    return str(wire.request.json()["messages"][-1]["content"])


async def echo(wire: Wire) -> None:
    """Says the prompt, in as many choices as are asked for."""
    body = wire.request.json()
    said = prompt_of(wire)
    if body.get("stream"):
        usage = sse(chunk(choices=[], usage=USAGE))
        parts = [sse(chunk(word, index=i)) for word in said.split() for i in range(body.get("n") or 1)]
        ends = [sse(chunk(finish="stop", index=i)) for i in range(body.get("n") or 1)]
        await streams(*parts, *ends, usage, b"data: [DONE]\n\n")(wire)
        return
    choices = [
        {"index": i, "message": {"role": "assistant", "content": f"{said} {i}"}, "finish_reason": "stop"}
        for i in range(body.get("n") or 1)
    ]
    await answers(completion(choices=choices))(wire)


def test_the_official_client_gets_a_text_for_each_prompt(gateway: Gateway, small: Upstream) -> None:
    small.always = echo
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        raw = client.completions.with_raw_response.create(model="small", prompt=["one", "two", "three"], n=2)
    answer = raw.parse()
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "one 0"),
        (1, "one 1"),
        (2, "two 0"),
        (3, "two 1"),
        (4, "three 0"),
        (5, "three 1"),
    ]
    assert answer.usage is not None and answer.usage.total_tokens == 3 * USAGE["total_tokens"]
    assert raw.headers["x-pointsman-attempts"] == "3" and raw.headers["x-pointsman-expert"] == "small"
    assert len(raw.headers["x-pointsman-decision"].split(", ")) == 3
    assert float(raw.headers["x-pointsman-cost-usd"]) == pytest.approx(3 * (11 * 1.0 + 2 * 2.0) / 1e6)
    assert gateway.metric("pointsman_tokens_total", expert="small", kind="input") == 33


def test_streams_are_interleaved_under_one_id_with_their_numbers(gateway: Gateway, small: Upstream) -> None:
    small.always = echo
    options = {"stream": True, "n": 2, "stream_options": {"include_usage": True}}
    answer = gateway.post(PATH, model="small", prompt=["a b c", "d e"], **options)
    assert answer.status_code == 200 and answer.content.endswith(b"data: [DONE]\n\n")
    events = parse_events(answer.content)
    assert len({event["id"] for event in events}) == 1
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "abc", 1: "abc", 2: "de", 3: "de"}
    assert events[-1]["choices"] == [] and events[-1]["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]
    assert sum(choice["finish_reason"] is not None for event in events for choice in event["choices"]) == 4


def test_without_being_asked_no_usage_is_streamed(gateway: Gateway, small: Upstream) -> None:
    small.always = echo
    text = gateway.post(PATH, model="small", prompt=["a", "b"], stream=True).text
    assert "total_tokens" not in text and text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("index", [None, "x", [0], 0.5, -5, 7, 2**64 - 1])
def test_an_upstream_s_odd_number_of_a_choice_is_its_place(index: Any, gateway: Gateway, small: Upstream) -> None:
    choice = {"index": index, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    small.always = answers(completion(choices=[choice]))
    answer = gateway.post(PATH, model="small", prompt=["one", "two"])
    assert answer.status_code == 200
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1]
    if type(index) is int:
        one = {"index": index, "delta": {"content": "x"}, "finish_reason": "stop"}
        small.always = streams(sse(chunk(choices=[one])), b"data: [DONE]\n\n")
        text = gateway.post(PATH, model="small", prompt=["one", "two"], stream=True).text
        assert '"index":0' in text and '"index":1' in text and text.endswith("data: [DONE]\n\n")


def test_a_number_of_choices_that_nobody_gives_breaks_nothing(gateway: Gateway, small: Upstream) -> None:
    small.always = answers(completion())
    answer = gateway.post(PATH, model="small", prompt=["one", "two"], n=128)
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 128]
    refused = gateway.post(PATH, model="small", prompt=["one", "two"], n=2**62)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == f"n: at most 128 answers to one request, got {2**62}"


@pytest.mark.parametrize("streamed", [False, True])
def test_where_one_fails_all_do(streamed: bool, gateway: Gateway, small: Upstream) -> None:
    async def one_fails(wire: Wire) -> None:
        await (refuses(400, "bad one") if prompt_of(wire) == "bad" else hang)(wire)

    small.always = one_fails
    answer = gateway.post(PATH, model="small", prompt=["slow", "bad"], stream=streamed)
    assert answer.status_code == 400 and "bad one" in answer.json()["error"]["message"]
    until(lambda: gateway.busy() == 0, "the slow one's end")
    slow = next(request for request in small.requests if b"slow" in request.body)
    assert slow.gone.wait(10)


def test_a_stream_that_breaks_ends_all_with_an_error_event(gateway: Gateway, small: Upstream) -> None:
    async def one_breaks(wire: Wire) -> None:
        then = close if prompt_of(wire) == "breaks" else hang
        await streams(sse(chunk("x")), then=then)(wire)

    small.always = one_breaks
    events = parse_events(gateway.post(PATH, model="small", prompt=["breaks", "goes on"], stream=True).content)
    assert events[-1]["error"]["type"] == "server_error"
    until(lambda: gateway.busy() == 0, "the end of both")


def test_a_caller_who_leaves_ends_all(gateway: Gateway, small: Upstream) -> None:
    small.always = hang
    client = gateway.connect()
    client.sendall(request_bytes(json.dumps({"model": "small", "prompt": ["a", "b"]}).encode(), path=PATH))
    small.wait_for(2)
    client.close()
    assert all(request.gone.wait(10) for request in small.requests)
    until(lambda: gateway.busy() == 0, "the end")


def test_every_prompt_counts_in_the_limits(world: World) -> None:
    gateway = world.start(limits={"requests_per_minute": 3})
    assert gateway.post(PATH, model="small", prompt=["a", "b"]).status_code == 200
    assert gateway.post(PATH, model="small", prompt=["a", "b"]).status_code == 429


@pytest.mark.parametrize(
    "limits",
    [
        {"limits": {"concurrency": 1}},
        {"auth": {"keys": [{"name": "a", "env": "POINTSMAN_TEST_A", "limits": {"concurrency": 1}}]}},
        {"expert": {"limits": {"concurrency": 1}}},
    ],
)
@pytest.mark.parametrize("model", ["small", "auto"])
def test_prompts_for_which_a_limit_leaves_no_room_wait_their_turn(
    model: str, limits: Any, world: World, small: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTSMAN_TEST_A", "key-a")
    limits = {"ledger": {**world.settings["ledger"], "wait_ms": 1000}, **limits}
    if tight := limits.pop("expert", None):
        limits["experts"] = [{**one, **tight} for one in world.settings["experts"]]
    gateway = world.start(**limits)
    small.always = world.large.always = echo
    asked = {"model": model, "prompt": ["one", "two", "three"], "headers": {"authorization": "Bearer key-a"}}
    answer = gateway.post(PATH, **asked)
    assert answer.status_code == 200
    assert [choice["text"] for choice in answer.json()["choices"]] == ["one 0", "two 0", "three 0"]
    streamed = gateway.post(PATH, **asked, stream=True, stream_options={"include_usage": True})
    *events, last = parse_events(streamed.content)
    said = {choice["index"]: choice["text"] for event in events for choice in event["choices"] if choice["text"]}
    assert said == {0: "one", 1: "two", 2: "three"}
    assert last["usage"]["total_tokens"] == 3 * USAGE["total_tokens"]


def test_room_for_two_is_used_by_two(world: World, small: Upstream) -> None:
    gateway = world.start(limits={"concurrency": 2}, ledger={**world.settings["ledger"], "wait_ms": 1000})
    small.always = hang
    client = gateway.connect()
    client.sendall(request_bytes(json.dumps({"model": "small", "prompt": ["a", "b", "c"]}).encode(), path=PATH))
    small.wait_for(2)
    client.close()
    assert all(request.gone.wait(10) for request in small.requests)
    until(lambda: gateway.busy() == 0, "the end")
    assert len(small.requests) == 2, "who waited is not asked for a caller who left"


def test_a_prompt_that_fails_after_others_have_streamed_is_an_event(world: World, small: Upstream) -> None:
    async def second_fails(wire: Wire) -> None:
        await (refuses(400, "bad one") if prompt_of(wire) == "bad" else echo)(wire)

    gateway = world.start(limits={"concurrency": 1}, ledger={**world.settings["ledger"], "wait_ms": 1000})
    small.always = second_fails
    answer = gateway.post(PATH, model="small", prompt=["one", "bad", "three"], stream=True)
    *_, last = parse_events(answer.content)
    assert answer.status_code == 200 and "bad one" in last["error"]["message"]
    assert b"[DONE]" not in answer.content and len(small.requests) == 2


def test_different_experts_are_all_named(gateway: Gateway, small: Upstream, large: Upstream) -> None:
    async def refuses_b(wire: Wire) -> None:
        await (refuses(500) if prompt_of(wire) == "b" else answers())(wire)

    large.always = refuses_b
    answer = gateway.post(PATH, model="auto:best", prompt=["a", "b"], routing={"explain": True})
    assert answer.json()["model"] == answer.headers["x-pointsman-expert"] == "large, small"
    assert len(answer.json()["pointsman"]) == 2


@pytest.mark.parametrize("prompt", [[], ["a", 1], ["a"] * 33, [[1, 2], [3]], [1, 2], None])
def test_what_is_no_list_of_prompts_is_refused(prompt: Any, gateway: Gateway, small: Upstream) -> None:
    answer = gateway.post(PATH, model="small", prompt=prompt)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"
    assert not small.requests


def test_a_stranger_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANN", "sk-ann-key")
    gateway = world.start(auth={"keys": [{"name": "ann", "env": "ANN"}]})
    assert gateway.post(PATH, model="small", prompt=["a", "b"]).status_code == 401


def test_a_body_that_is_too_large_is_refused(world: World) -> None:
    gateway = world.start(limits={"body_bytes": 1024})
    assert gateway.post(PATH, model="small", prompt=["a" * 400, "b" * 400, "c" * 400]).status_code == 413
    shared = gateway.post(PATH, model="small", prompt=["a", "b", "c"], user="u" * 500)
    assert shared.status_code == 400 and "beside the prompts" in shared.json()["error"]["message"]


def test_the_official_client_counts_tokens(gateway: Gateway, small: Upstream) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "word " * 80}]
    few = client.messages.count_tokens(model="auto", messages=messages).input_tokens
    more = client.messages.count_tokens(
        model="small",
        messages=messages,
        system="Be brief." * 40,
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
    ).input_tokens
    assert 80 <= few <= 130 < more and not small.requests
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nobody", messages=messages)
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.count_tokens(model="auto", messages=[])
