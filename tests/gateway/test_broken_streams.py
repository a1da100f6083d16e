"""Streams that break, fall silent or are left: an error event and the end, and nothing goes on behind it."""

import socket
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from serving import HELLO as MESSAGES
from serving import Gateway, World, request_bytes, until
from upstream import (
    DONE,
    HELLO,
    WAIT_S,
    Behaviour,
    Upstream,
    chunk,
    close,
    hang,
    parse_events,
    said,
    sse,
    streams,
    writes,
)

from router.experts.sse import Rewriter


def stream(gateway: Gateway, model: str = "small", **body: Any) -> bytes:
    answer = gateway.chat(model, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return answer.content


def no_roles() -> list[bytes]:
    return [sse(chunk("Hel")), sse(chunk("lo")), sse(chunk(finish="stop")), DONE]


def asking(**body: Any) -> dict[str, Any]:
    return {"model": "small", "messages": MESSAGES, "stream": True, **body}


def first_events(answer: httpx.Response, wanted: bytes) -> bytes:
    data = b""
    for part in answer.iter_raw():
        data += part
        if wanted in data:
            return data
    raise AssertionError(f"{wanted!r} never came: {data!r}")


BROKEN: dict[str, tuple[Behaviour, str]] = {
    "cut between events": (streams(*map(sse, HELLO[:3]), then=close), "cut"),
    "cut inside an event": (streams(*map(sse, HELLO[:3]), sse(HELLO[3])[:40], then=close), "cut"),
    "cut inside a chunk of HTTP": (streams(*map(sse, HELLO[:3]), then=writes(b"ff\r\ndata: {", close)), "cut"),
    "ended without a reason": (streams(*map(sse, HELLO[:3])), "cut"),
    "close-delimited, cut inside an event": (
        streams(*map(sse, HELLO[:3]), sse(HELLO[3])[:40], framing="close"),
        "cut",
    ),
    "garbage for an event": (streams(*map(sse, HELLO[:3]), b"data: {nonsense\n\n", then=hang), "garbage"),
    "garbage for a chunk of HTTP": (streams(*map(sse, HELLO[:3]), then=writes(b"zz zz\r\n", hang)), "garbage"),
    "a list for an event": (streams(*map(sse, HELLO[:3]), b"data: [1]\n\n", then=hang), "garbage"),
    "choices that are no list": (streams(*no_roles()[:2], sse(chunk(choices=3)), then=hang), "garbage"),
    "an index that is a list": (streams(*no_roles()[:2], sse(chunk(index=[])), then=hang), "garbage"),
    "deep nesting": (
        streams(*no_roles()[:2], b'data: {"choices":[],"x":' + b"[" * 300 + b"]" * 300 + b"}\n\n", then=hang),
        "garbage",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_stream_that_breaks_ends_in_an_error_event(case: str, gateway: Gateway, small: Upstream) -> None:
    behave, kind = BROKEN[case]
    small.script(behave)
    *events, last = parse_events(stream(gateway))
    assert said(events) == "Hello"
    assert last["error"]["code"] == f"expert_{kind}"
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert gateway.metric("pointsman_attempt_failures_total", expert="small", kind=kind) == 1
    gateway.still_works()


def test_an_error_event_midway_is_passed_on_in_the_contracts_shape(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(*map(sse, HELLO[:3]), sse({"error": {"message": "overloaded", "code": 503}}), then=hang))
    *events, last = parse_events(stream(gateway))
    assert said(events) == "Hello"
    assert last["error"]["code"] == "expert_server"


def test_a_broken_stream_is_not_continued_by_another_expert(
    gateway: Gateway, small: Upstream, large: Upstream
) -> None:
    large.script(streams(*map(sse, HELLO[:3]), then=close))
    stream(gateway, "auto:best")
    assert not small.requests


def test_a_stream_that_falls_silent_ends_in_an_error_event(world: World) -> None:
    gateway = world.start({"first_byte_timeout_s": 0.5})
    world.small.script(streams(*map(sse, HELLO[:3]), then=hang))
    *_, last = parse_events(stream(gateway))
    assert last["error"]["code"] == "expert_timeout"
    assert world.small.requests[0].gone.wait(WAIT_S)


def test_a_stream_longer_than_the_time_limit_lives_while_it_speaks(world: World) -> None:
    gateway = world.start({"first_byte_timeout_s": 0.6}, limits={"timeout_s": 0.6})
    words = [sse(chunk(f"{i} ")) for i in range(16)]
    world.small.script(streams(sse(HELLO[0]), *words, sse(HELLO[-1]), DONE, pause_s=0.05))
    assert said(stream(gateway)) == "".join(f"{i} " for i in range(16))


Leave = Callable[[socket.socket], None]


def hang_up(client: socket.socket) -> None:
    client.close()


def slam(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@pytest.mark.parametrize("leave", [hang_up, slam])
@pytest.mark.parametrize("model", ["small", "auto:cheap"])
def test_leaving_midway_cancels_the_upstream(leave: Leave, model: str, gateway: Gateway, small: Upstream) -> None:
    small.script(streams(*map(sse, HELLO[:3]), then=hang))
    client = gateway.connect()
    client.sendall(request_bytes(orjson.dumps(asking(model=model))))
    data = b""
    while b'"lo"' not in data:
        data += client.recv(65_536)
    leave(client)
    assert small.wait_for(1).gone.wait(WAIT_S)
    until(lambda: gateway.metric("pointsman_requests_total", status="499") == 1)
    gateway.still_works()


@pytest.mark.parametrize("streamed", [True, False])
def test_leaving_before_the_answer_cancels_the_upstream(streamed: bool, gateway: Gateway, small: Upstream) -> None:
    small.script(hang)
    client = gateway.connect()
    client.sendall(request_bytes(orjson.dumps(asking(stream=streamed))))
    received = small.wait_for(1)
    client.close()
    assert received.gone.wait(WAIT_S)
    until(lambda: gateway.metric("pointsman_in_flight") == 0)
    gateway.still_works()


def test_leaving_is_not_the_experts_failure(gateway: Gateway, small: Upstream) -> None:
    small.script(*(streams(*map(sse, HELLO[:3]), then=hang) for _ in range(4)))
    for i in range(4):
        with gateway.client.stream("POST", "/v1/chat/completions", json=asking()) as answer:
            first_events(answer, b"Hel")
        assert small.requests[i].gone.wait(WAIT_S)
    until(lambda: gateway.metric("pointsman_requests_total", status="499") == 4)
    assert gateway.client.get("/readyz").json()["experts"]["small"] == "ok"


def test_an_unforeseen_error_midway_ends_the_stream_with_an_error_event(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said_so_far: list[bytes] = []

    def second_fails(rewriter: Rewriter, data: bytes) -> bytes:
        if any(b"Hel" in said for said in said_so_far):
            raise RuntimeError(data.decode())
        said_so_far.append(data)
        return data

    monkeypatch.setattr(Rewriter, "_pass", second_fails)
    *_, last = parse_events(stream(gateway))
    assert last["error"]["code"] == "internal_error"
    assert "RuntimeError" in caplog.text and "Hel" not in caplog.text
