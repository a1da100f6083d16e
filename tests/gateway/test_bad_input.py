"""Bad input: the contract's error with the right status, said once, and the next request works."""

import json
from typing import Any

import orjson
import pytest
from serving import HELLO, Gateway, World, expert
from upstream import Upstream

OK = orjson.dumps({"model": "small", "messages": HELLO})


@pytest.fixture
def gateway(steady: World) -> Gateway:
    return steady.running[0]


@pytest.fixture
def small(steady: World) -> Upstream:
    return steady.small


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "small", "messages": HELLO, **fields}).encode()


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"} and error["message"]
    return dict(error)


NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello",
    "half an object": OK[:-5],
    "two objects": OK + OK,
    "invalid UTF-8": b'{"model":"small","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "a lone surrogate": b'{"model":"small","messages":[{"role":"user","content":"\\ud800"}]}',
    "a raw surrogate": '{"model":"small","messages":"\ud800"}'.encode("utf-8", "surrogatepass"),
    "NaN": body(temperature=float("nan")),
    "Infinity": body(temperature=float("inf")),
    "a BOM": b"\xef\xbb\xbf" + OK,
    "UTF-16": OK.decode().encode("utf-16"),
    "a trailing comma": OK[:-1] + b",}",
    "no end of nesting": b"[" * 5_000_000,
    "a control character": b'{"model":"sm\x00all"}',
}


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_json_is_refused(case: str, gateway: Gateway, small: Upstream) -> None:
    error = error_of(gateway.send(NOT_JSON[case]), 400)
    assert "JSON" in error["message"] and error["type"] == "invalid_request_error"
    assert not small.requests
    gateway.still_works()


WRONG: dict[str, tuple[dict[str, Any], str | None]] = {
    "no model": ({"model": None}, "model"),
    "a model that is a number": ({"model": 4}, "model"),
    "an empty model": ({"model": ""}, "model"),
    "no messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "messages that are text": ({"messages": "hello"}, "messages"),
    "messages that are an object": ({"messages": HELLO[0]}, "messages"),
    "a message that is text": ({"messages": ["hello"]}, "messages[0]"),
    "a message that is null": ({"messages": [*HELLO, None]}, "messages[1]"),
    "no role": ({"messages": [{"content": "x"}]}, "messages[0]"),
    "a role that is a list": ({"messages": [{"role": [], "content": "x"}]}, "messages[0]"),
    "content that is a number": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "content that is an object": ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    "a part that is text": ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
    "a part without a type": ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content"),
    "too many messages": ({"messages": HELLO * 10_001}, "messages"),
    "stream that is text": ({"stream": "true"}, "stream"),
    "stream that is a number": ({"stream": 1}, "stream"),
    "max_tokens that is text": ({"max_tokens": "5"}, "max_tokens"),
    "max_tokens of zero": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens below zero": ({"max_completion_tokens": -1}, "max_completion_tokens"),
    "max_tokens that is true": ({"max_tokens": True}, "max_tokens"),
    "max_tokens with a fraction": ({"max_tokens": 1.5}, "max_tokens"),
    "a huge max_tokens": ({"max_tokens": 10**30}, "max_tokens"),
    "a seed beyond 64 bits": ({"seed": 2**64}, "seed"),
    "n of zero": ({"n": 0}, "n"),
    "n without bounds": ({"n": 129}, "n"),
    "temperature that is a list": ({"temperature": [1]}, "temperature"),
    "tools that are an object": ({"tools": {}}, "tools"),
    "response_format that is text": ({"response_format": "json"}, "response_format"),
    "stream_options that are a list": ({"stream_options": []}, "stream_options"),
    "routing that is text": ({"routing": "cheap"}, "routing"),
    "routing that is a list": ({"routing": ["cheap"]}, "routing"),
    "an unknown routing key": ({"routing": {"prefrence": "cheap"}}, "routing.prefrence"),
    "an unknown preference": ({"routing": {"preference": "cheapest"}}, "routing.preference"),
    "a preference that is a list": ({"routing": {"preference": []}}, "routing.preference"),
    "a floor above one": ({"routing": {"quality_floor": 1.1}}, "routing.quality_floor"),
    "a floor that is true": ({"routing": {"quality_floor": True}}, "routing.quality_floor"),
    "a cost below zero": ({"routing": {"max_cost_usd": -1}}, "routing.max_cost_usd"),
    "a latency that is text": ({"routing": {"max_latency_s": "1"}}, "routing.max_latency_s"),
    "only that is text": ({"routing": {"only": "small"}}, "routing.only"),
    "only that is empty": ({"routing": {"only": []}}, "routing.only"),
    "exclude with a number": ({"routing": {"exclude": [1]}}, "routing.exclude"),
    "only an expert that is not there": ({"model": "auto", "routing": {"only": ["tiny"]}}, "routing.only"),
    "a policy that is not there": ({"model": "auto", "routing": {"policy": "x"}}, "routing.policy"),
    "an empty session": ({"routing": {"session": ""}}, "routing.session"),
    "explain that is text": ({"routing": {"explain": "yes"}}, "routing.explain"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named(case: str, gateway: Gateway, small: Upstream) -> None:
    fields, param = WRONG[case]
    error = error_of(gateway.send(body(**fields)), 400)
    assert error["param"] == param and str(param).rpartition(".")[2] in error["message"]
    assert not small.requests


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'"x"', b"true"])
def test_a_body_that_is_no_object_is_refused(data: bytes, gateway: Gateway) -> None:
    assert "object" in error_of(gateway.send(data), 400)["message"]


def test_an_unknown_model_lists_the_choices(gateway: Gateway) -> None:
    error = error_of(gateway.chat("gpt-5"), 404)
    assert error["code"] == "model_not_found" and error["param"] == "model"
    for name in ("gpt-5", "auto", "auto:cheap", "auto:best", "small", "large"):
        assert name in error["message"]


def test_an_unknown_wish_lists_the_choices(gateway: Gateway) -> None:
    error = error_of(gateway.chat(routing={"speed": 1}), 400)
    for name in ("speed", "preference", "quality_floor", "max_cost_usd", "only", "session", "explain"):
        assert name in error["message"]


def test_an_unknown_header_of_ours_lists_the_choices(gateway: Gateway) -> None:
    error = error_of(gateway.chat(headers={"x-pointsman-speed": "1"}), 400)
    assert "x-pointsman-speed" in error["message"] and "x-pointsman-quality-floor" in error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preference", "cheapest"),
        ("quality-floor", "high"),
        ("quality-floor", "nan"),
        ("max-cost-usd", "-1"),
        ("max-latency-s", ""),
        ("explain", "maybe"),
        ("only", ","),
    ],
)
def test_a_wrong_wish_in_a_header_is_named(name: str, value: str, gateway: Gateway) -> None:
    error = error_of(gateway.chat(headers={f"x-pointsman-{name}": value}), 400)
    assert name.replace("-", "_") in error["message"]


DEEP = b"[" * 300 + b"]" * 300


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"%s","messages":[{"role":"user","content":"x"}],"metadata":%s}',
        b'{"model":"%s","messages":[{"role":"user","content":"x","x":%s}]}',
        b'{"model":"%s","messages":[{"role":"user","content":"x"}],"tools":%s}',
        b'{"model":"%s","messages":[{"role":"user","content":"x"}],"stream":true,"x":%s}',
    ],
)
@pytest.mark.parametrize("model", [b"small", b"auto"])
def test_deep_nesting_is_the_callers_fault(data: bytes, model: bytes, gateway: Gateway) -> None:
    assert "nested" in error_of(gateway.send(data % (model, DEEP)), 400)["message"]
    gateway.still_works()


def test_of_two_equal_keys_the_last_counts(gateway: Gateway) -> None:
    data = b'{"model":"none","messages":[{"role":"user","content":"x"}],"model":"small"}'
    assert gateway.send(data).json()["model"] == "small"


def test_a_number_beyond_all_bounds_is_not_turned_into_null(gateway: Gateway, small: Upstream) -> None:
    answer = gateway.send(OK[:-1] + b',"temperature":1e999}')
    assert answer.status_code == 400 and not small.requests


def test_a_prompt_larger_than_every_context_is_refused(world: World) -> None:
    gateway = world.start(
        experts=[
            expert("small", world.small.url, context_tokens=1000),
            expert("large", world.large.url, context_tokens=2000),
        ]
    )
    error = error_of(gateway.chat(messages=[{"role": "user", "content": "word " * 4000}]), 400)
    assert error["code"] == "context_length_exceeded" and error["param"] == "messages"
    assert "2000" in error["message"]
    fits = [{"role": "user", "content": "word " * 1200}]
    assert gateway.chat("auto:cheap", messages=fits).headers["x-pointsman-expert"] == "large"


def test_what_no_expert_can_do_is_refused_with_the_reasons(gateway: Gateway) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    error = error_of(gateway.chat(messages=[{"role": "user", "content": parts}]), 422)
    assert error["code"] == "no_expert_fits" and "vision" in error["message"]


def test_wishes_that_leave_nobody_are_refused(gateway: Gateway) -> None:
    error = error_of(gateway.chat(routing={"exclude": ["small", "large"]}), 422)
    assert "small" in error["message"] and "large" in error["message"]
    error = error_of(gateway.chat(routing={"max_cost_usd": 0}), 422)
    assert error["param"] == "routing.max_cost_usd"


@pytest.mark.parametrize("path", ["/v1/route", "/v1/embeddings", "/v1/rerank"])
@pytest.mark.parametrize("data", [b"", b"[]", OK[:-3], b'{"model":"small","input":' + DEEP + b"}"])
def test_the_other_surfaces_refuse_as_well(path: str, data: bytes, gateway: Gateway) -> None:
    answer = gateway.client.post(path, content=data)
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v2/models", 404, "path_not_found"),
        ("POST", "/chat/completions", 404, "path_not_found"),
        ("POST", "/v1/audio/speech", 404, "path_not_found"),
    ],
)
def test_a_wrong_path_or_method_is_told(method: str, path: str, status: int, code: str, gateway: Gateway) -> None:
    assert error_of(gateway.client.request(method, path), status)["code"] == code


def test_each_failure_is_logged_once_and_without_the_prompt(gateway: Gateway, logged: list[str]) -> None:
    gateway.chat("none", messages=[{"role": "user", "content": "marker-of-the-prompt"}])
    (line,) = logged
    assert "status=404" in line and "UnknownModel" in line and "marker" not in line


def test_bad_input_is_no_failure_of_any_expert(world: World) -> None:
    gateway = world.start()
    for _ in range(5):
        gateway.send(b"x")
        gateway.send(OK[:-1] + b',"x":' + DEEP + b"}")
    assert gateway.metric("pointsman_attempt_failures_total") == 0
    assert gateway.client.get("/readyz").json()["experts"]["small"] == "ok"
