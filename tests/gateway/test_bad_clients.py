"""Clients that send too much, too slowly or another protocol, or vanish: turned away, and the next is served."""

import json
import re
import socket
from typing import Any

import orjson
import pytest
from serving import HELLO, Gateway, answer_on, request_bytes, until
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
def test_leaving_another_surface_is_no_error(path: str, gateway: Gateway, logged: list[str]) -> None:
    client = gateway.connect()
    client.sendall(request_bytes(OK, path=path)[:-5])
    until(lambda: gateway.busy() == 1)
    client.close()
    until(lambda: gateway.busy() == 0)
    (line,) = logged
    assert line.endswith(f" path={path} gone") and line.startswith("request=req_")
