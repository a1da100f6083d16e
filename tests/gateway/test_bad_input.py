"""Bad input: the contract's error with the right status, said once, and the next request works."""

import json
import re
import socket
from typing import Any

import orjson
import pytest
from serving import HELLO, Gateway, World, answer_on, expert, request_bytes, until
from upstream import Upstream, chunk, hello_events, sse, streams

OK = orjson.dumps({"model": "small", "messages": HELLO})


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


BIG = 10 * 1024 * 1024


def test_ten_mebibytes_are_too_large(gateway: Gateway, small: Upstream) -> None:
    answer = gateway.send(body(messages=[{"role": "user", "content": "x" * BIG}]))
    error = error_of(answer, 413)
    assert error["code"] == "request_too_large" and "8388608" in error["message"]
    gateway.still_works()


@pytest.mark.parametrize("chunked", [False, True])
def test_after_a_body_too_large_the_connection_still_works(chunked: bool, gateway: Gateway) -> None:
    client = gateway.connect()
    if chunked:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        client.sendall(head + b"%x\r\n" % BIG + bytes(BIG) + b"\r\n0\r\n\r\n")
    else:
        client.sendall(request_bytes(bytes(BIG)))
    assert answer_on(client)[0] == 413
    client.sendall(request_bytes(OK))
    assert answer_on(client)[0] == 200


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends(gateway: Gateway) -> None:
    client = gateway.connect()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {BIG}\r\nexpect: 100-continue\r\n\r\n"
    client.sendall(head.encode())
    assert answer_on(client)[0] == 413


def test_a_large_body_within_the_limit_passes(gateway: Gateway, small: Upstream) -> None:
    text = "x" * 7_000_000
    assert gateway.chat("small", messages=[{"role": "user", "content": text}]).status_code == 200
    assert small.requests[0].json()["messages"][0]["content"] == text


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x"])
def test_a_compressed_body_is_refused(encoding: str, gateway: Gateway) -> None:
    error = error_of(gateway.send(OK, {"content-encoding": encoding}), 400)
    assert "content-encoding" in error["message"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=x", ""]
)
def test_the_content_type_does_not_matter(kind: str, gateway: Gateway) -> None:
    assert gateway.send(OK, {"content-type": kind}).status_code == 200


@pytest.mark.parametrize(
    "line",
    [
        "x-request-id: a b\tc",
        "x-request-id: " + "a" * 5000,
        "x-request-id: \xff\xfe",
        "x-stainless-read-timeout: soon",
        "x-stainless-read-timeout: -1",
        "x-stainless-read-timeout: nan",
        "x-stainless-read-timeout: inf",
        "authorization: Basic \xff",
        "accept: nonsense/;;;",
        "content-encoding: identity",
        "x-junk: " + "j" * 20_000,
    ],
)
def test_junk_in_headers_is_passed_over(line: str, gateway: Gateway) -> None:
    client = gateway.connect()
    client.sendall(request_bytes(OK).replace(b"host: x", b"host: x\r\n" + line.encode("latin-1")))
    assert answer_on(client)[0] == 200


def test_headers_without_end_do_not_fill_the_memory(gateway: Gateway) -> None:
    client = gateway.connect()
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
    refused = False
    for _ in range(400):  # 40 MB
        try:
            client.sendall(b"x-a: " + b"a" * 100_000 + b"\r\n")
        except OSError:
            refused = True
            break
    assert refused, "the gateway took 40 MB of headers"
    gateway.still_works()


@pytest.mark.parametrize("header", ["upgrade: h2c", "Upgrade:h2c ", "upgrade: websocket"])
def test_an_offer_of_another_protocol_is_passed_over(header: str, gateway: Gateway, small: Upstream) -> None:
    """Java's own client sends the first with every request."""
    client = gateway.connect()
    for _ in range(2):
        client.sendall(request_bytes(OK, "connection: Upgrade, HTTP2-Settings", header))
        assert answer_on(client)[0] == 200
    assert len(small.requests) == 2


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"hello\r\n\r\n", bytes(range(256))]
)
def test_what_is_no_http_is_turned_away(data: bytes, gateway: Gateway) -> None:
    client = gateway.connect()
    client.sendall(data)
    status, answer = answer_on(client)
    assert status == 400 and json.loads(answer)["error"]["code"] == "invalid_http"
    gateway.still_works()


def test_a_client_that_vanishes_before_its_body_is_forgotten(gateway: Gateway, small: Upstream) -> None:
    for cut in (60, len(request_bytes(OK)) - 5):
        client = gateway.connect()
        client.sendall(request_bytes(OK)[:cut])
        client.close()
    until(lambda: gateway.metric("pointsman_in_flight") == 0)
    assert not small.requests
    gateway.still_works()


def test_a_client_whose_request_never_comes_is_told(
    gateway: Gateway, small: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol.REQUEST_TIMEOUT_S", 0.1)
    whole = request_bytes(OK)
    clients = [gateway.connect() for _ in range(4)]
    for client, sent in zip(clients, (0, 10, len(whole) - len(OK), len(whole) - 5), strict=True):
        client.sendall(whole[:sent])
    for client in clients:
        status, data = answer_on(client)
        assert status == 408 and json.loads(data)["error"]["code"] == "request_timeout"
        assert client.recv(1) == b""
    assert not small.requests
    gateway.still_works()


def test_a_client_that_waits_for_its_answer_is_not_late(
    gateway: Gateway, small: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.protocol.REQUEST_TIMEOUT_S", 0.1)
    small.script(streams(*(sse(chunk("x", role="assistant")) for _ in range(14)), *hello_events(), pause_s=0.1))
    client = gateway.connect()
    client.sendall(request_bytes(body(stream=True)))
    assert answer_on(client)[0] == 200
    client.sendall(request_bytes(OK))
    assert answer_on(client)[0] == 200


def test_a_client_that_vanishes_after_the_answer_began_is_forgotten(gateway: Gateway) -> None:
    client = gateway.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.sendall(request_bytes(OK))
    client.recv(1)
    client.close()
    until(lambda: gateway.metric("pointsman_in_flight") == 0)
    gateway.still_works()


def test_requests_sent_ahead_of_their_answers_are_answered_in_order(gateway: Gateway) -> None:
    client = gateway.connect()
    names = ("small", "large", "none", "small")
    client.sendall(b"".join(request_bytes(body(model=name)) for name in names))
    data = b""
    while len(statuses := re.findall(rb"HTTP/1.1 (\d+)", data)) < len(names):
        data += client.recv(65_536)
    assert statuses == [b"200", b"200", b"404", b"200"]


@pytest.mark.parametrize("path", ["/v1/route", "/v1/embeddings"])
@pytest.mark.parametrize("data", [b"", b"[]", OK[:-3], b'{"model":"small","input":' + DEEP + b"}"])
def test_the_other_surfaces_refuse_as_well(path: str, data: bytes, gateway: Gateway) -> None:
    answer = gateway.client.post(path, content=data)
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/route", "/v1/embeddings"])
def test_leaving_another_surface_is_no_error(path: str, gateway: Gateway, logged: list[str]) -> None:
    client = gateway.connect()
    client.sendall(request_bytes(OK, path=path)[:-5])
    until(lambda: gateway.busy() == 1)
    client.close()
    until(lambda: gateway.busy() == 0)
    assert logged == [f"path={path} gone"]


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


def test_bad_input_is_no_failure_of_any_expert(gateway: Gateway) -> None:
    for _ in range(5):
        gateway.send(b"x")
        gateway.send(OK[:-1] + b',"x":' + DEEP + b"}")
    assert gateway.metric("pointsman_attempt_failures_total") == 0
    assert gateway.client.get("/readyz").json()["experts"]["small"] == "ok"
