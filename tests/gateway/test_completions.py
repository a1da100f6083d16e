"""Legacy text completions: the official client, and what is refused."""

import json
from typing import Any

import openai
import pytest
from serving import HELLO, Gateway, World, request_bytes, until
from upstream import USAGE, Upstream, answers, chunk, close, completion, hang, parse_events, refuses, sse, streams

from gateway.completions import chat_body, text_completion, text_events

PATH = "/v1/completions"


def client_of(gateway: Gateway, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


def test_the_official_client_gets_a_text(gateway: Gateway, large: Upstream) -> None:
    with client_of(gateway) as client:
        raw = client.completions.with_raw_response.create(
            model="auto:best", prompt="Say hello.", max_tokens=5, stop=["x"], n=1, temperature=0.5
        )
    answer = raw.parse()
    assert answer.object == "text_completion" and answer.choices[0].text == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == USAGE["total_tokens"]
    assert answer.model == "large" == raw.headers["x-pointsman-expert"]
    assert "x-pointsman-cost-usd" in raw.headers
    sent = large.requests[0].json()
    assert sent["messages"] == HELLO and "prompt" not in sent and "routing" not in sent
    assert (sent["max_tokens"], sent["stop"], sent["n"], sent["temperature"]) == (5, ["x"], 1, 0.5)


def test_the_official_client_streams_texts(gateway: Gateway) -> None:
    with client_of(gateway) as client:
        chunks = list(
            client.completions.create(
                model="small", prompt=["Say hello."], stream=True, stream_options={"include_usage": True}
            )
        )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Hello"
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == USAGE["total_tokens"]


def test_a_stream_ends_as_the_contract_says(gateway: Gateway) -> None:
    answer = gateway.post(PATH, model="small", prompt="x", stream=True)
    assert answer.content.endswith(b"data: [DONE]\n\n") and "usage" not in answer.text
    assert [event["choices"][0]["text"] for event in parse_events(answer.content)] == ["Hel", "lo", ""]


def test_several_choices_keep_their_order(gateway: Gateway, small: Upstream) -> None:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        for i, text in enumerate(("one", "two"))
    ]
    small.script(answers(completion(choices=choices)))
    answer = gateway.post(PATH, model="small", prompt="x", n=2).json()
    assert [(c["index"], c["text"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "one", "length"),
        (1, "two", "length"),
    ]


def test_another_expert_answers_for_one_that_fails(gateway: Gateway, large: Upstream) -> None:
    large.script(close)
    answer = gateway.post(PATH, model="auto:best", prompt="x")
    assert answer.json()["choices"][0]["text"] == "Hello"
    assert answer.headers["x-pointsman-expert"] == "small" and answer.headers["x-pointsman-attempts"] == "2"


def test_a_stream_that_breaks_ends_with_an_error_event(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(sse(chunk("Hel")), then=close))
    events = parse_events(gateway.post(PATH, model="small", prompt="x", stream=True).content)
    assert events[0]["choices"][0]["text"] == "Hel" and events[-1]["error"]["type"] == "server_error"


def test_the_callers_mistakes_come_back_as_the_upstream_said(gateway: Gateway, small: Upstream) -> None:
    small.script(refuses(400, "stop: too many"))
    answer = gateway.post(PATH, model="small", prompt="x")
    assert answer.status_code == 400 and "too many" in answer.json()["error"]["message"]


def test_leaving_stops_the_upstream(gateway: Gateway, small: Upstream) -> None:
    small.always = hang
    client = gateway.connect()
    client.sendall(request_bytes(json.dumps({"model": "small", "prompt": "x"}).encode(), path=PATH))
    received = small.wait_for(1)
    client.close()
    until(received.gone.is_set, "the upstream's end")


def test_a_key_is_needed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLER", "sk-of-the-caller")
    gateway = world.start(auth={"keys": [{"name": "ann", "env": "CALLER"}]})
    assert gateway.post(PATH, model="small", prompt="x").status_code == 401
    with client_of(gateway, "sk-of-the-caller") as client:
        assert client.completions.create(model="small", prompt="x").choices[0].text == "Hello"


def test_it_is_metered_under_its_own_name(gateway: Gateway) -> None:
    gateway.post(PATH, model="small", prompt="x")
    text = gateway.client.get("/metrics").text
    assert 'surface="completions"' in text and 'surface="chat/completions"' not in text


def test_another_method_is_not_allowed(gateway: Gateway) -> None:
    answer = gateway.client.get(PATH)
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", True),
        ("echo", 1),
        ("logprobs", 3),
        ("logprobs", 0),
        ("suffix", "end"),
        ("best_of", 2),
        ("messages", HELLO),
        ("tools", [{}]),
        ("prompt", None),
        ("prompt", 7),
        ("prompt", [1, 2]),
        ("prompt", [5]),
        ("prompt", ["a", ["b"]]),
        ("prompt", []),
        ("max_tokens", 0),
        ("n", "two"),
        ("n", 129),
        ("stream", "yes"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(field: str, value: Any, steady: World) -> None:
    answer = steady.running[0].post(PATH, **{"model": "small", "prompt": "a secret", field: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field and field in error["message"] and "secret" not in error["message"]
    assert not steady.small.requests


def test_a_body_nested_too_deeply_is_refused(steady: World) -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    answer = steady.running[0].post(PATH, model="small", prompt="x", other=deep)
    assert answer.status_code == 400 and "deep" in answer.json()["error"]["message"]


def test_neutral_values_are_dropped_and_unknown_ones_pass() -> None:
    sent = chat_body({"prompt": "x", "echo": False, "best_of": 1, "suffix": None, "top_k": 3})
    assert sent == {"top_k": 3, "messages": [{"role": "user", "content": "x"}]}


def test_a_refusal_without_content_is_an_empty_text() -> None:
    data = json.dumps(completion(choices=[{"index": 0, "message": {"content": None}, "finish_reason": "stop"}]))
    assert json.loads(text_completion(data.encode()))["choices"][0]["text"] == ""


def test_a_damaged_event_is_passed_on_as_in_chat() -> None:
    assert text_events(b'data: {"choices"\n\n') == b'data: {"choices"\n\n'


def test_an_event_that_says_nothing_is_left_out() -> None:
    assert text_events(sse(chunk("", role="assistant"))) == b""
