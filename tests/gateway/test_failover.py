"""Failover: a failure before the first byte goes to the next-best expert, and a caller's fault to nobody."""

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest
from serving import HELLO, Gateway, World, answer_on, expert, request_bytes, until
from upstream import (
    WAIT_S,
    Behaviour,
    Upstream,
    Wire,
    answers,
    chunk,
    close,
    completion,
    hang,
    parse_events,
    polite,
    refuses,
    reset,
    said,
    sse,
    streams,
    writes,
)

WHOLE = json.dumps(completion()).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"

STATUSES = [
    *((status, "auth") for status in (401, 402, 403)),
    *((status, "server") for status in (404, 408, 500, 502, 503, 529)),
    (429, "rate_limit"),
]
#: What goes wrong before the first byte of any answer, and what our metrics call it.
ALWAYS: dict[str, tuple[Behaviour, str]] = {
    "closes": (close, "cut"),
    "resets": (reset, "cut"),
    "is not HTTP": (writes(b"SSH-2.0-OpenSSH_9.2\r\n", hang), "garbage"),
    "sends garbage": (writes(bytes(range(256)) * 8, hang), "garbage"),
    "changes protocol": (
        writes(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", hang),
        "garbage",
    ),
    "has huge headers": (writes(HEAD + b"x-a: " + b"a" * 100_000 + b"\r\n\r\n", hang), "garbage"),
    "cuts its head": (writes(HEAD, close), "cut"),
    "answers HTML": (answers(b"<html>nginx</html>", headers={"content-type": "text/html"}), "garbage"),
    "answers nothing": (answers(b""), "garbage"),
    "redirects": (answers(b"", 307, {"location": "/elsewhere"}), "garbage"),
    "has no content": (writes(b"HTTP/1.1 204 No Content\r\n\r\n"), "garbage"),
    **{f"answers {status}": (refuses(status), kind) for status, kind in STATUSES},
    "answers 500 in text": (answers(b"no", 500), "server"),
    "answers 429 without a word": (answers(b"", 429), "rate_limit"),
}
WHOLE_ONLY: dict[str, tuple[Behaviour, str]] = {
    "answers 200 with an error": (answers({"error": {"message": "busy", "code": 503}}), "server"),
    "cuts its body": (writes(HEAD + b"content-length: 900\r\n\r\n" + WHOLE[:60], close), "cut"),
    "cuts its chunks": (writes(HEAD + b"transfer-encoding: chunked\r\n\r\nff\r\n{}", close), "cut"),
    "cuts a body without a length": (writes(HEAD + b"\r\n" + WHOLE[:60], close), "garbage"),
    "says too much": (writes(HEAD + b"content-length: 9\r\n\r\n" + WHOLE, hang), "garbage"),
    "answers a list": (answers([1, 2]), "garbage"),
    "answers null": (answers(b"null"), "garbage"),
    "answers without choices": (answers({"id": "x"}), "garbage"),
    "answers with choices that are no list": (answers(completion(choices="x")), "garbage"),
    "compresses": (answers(gzip.compress(WHOLE), headers={"content-encoding": "gzip"}), "garbage"),
    "answers in deep nesting": (
        answers(WHOLE[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}"),
        "garbage",
    ),
    "answers invalid UTF-8": (answers(WHOLE.replace(b"Hello", b"\xff\xfe")), "garbage"),
}
STREAM_ONLY: dict[str, tuple[Behaviour, str]] = {
    "answers JSON": (answers(), "garbage"),
    "has no events": (streams(b""), "cut"),
    "has comments only": (streams(b": hello\n\n"), "cut"),
    "is done at once": (streams(b"data: [DONE]\n\n"), "cut"),
    "begins with an error": (streams(sse({"error": {"message": "busy", "code": 503}}), then=hang), "server"),
    "begins with a limit": (
        streams(sse({"error": {"message": "slow down", "code": 429}}), then=hang),
        "rate_limit",
    ),
    "begins with an error's name": (streams(b"event: error\n" + sse({"error": "x"}), then=hang), "server"),
    "begins with garbage": (streams(b"data: {nonsense\n\n", then=hang), "garbage"),
    "begins with a list": (streams(b"data: []\n\n", then=hang), "garbage"),
    "begins without choices": (streams(sse({"id": "x"}), then=hang), "garbage"),
    "cuts its first event": (streams(sse(chunk("Hel"))[:30], then=close), "cut"),
    "compresses": (streams(gzip.compress(sse(chunk("Hel"))), then=close), "cut"),
}


def ask(gateway: Gateway, streamed: bool, model: str = "auto:best", **body: Any) -> httpx.Response:
    return gateway.chat(model, **({"stream": True} if streamed else {}), **body)


def text(answer: httpx.Response) -> str:
    if answer.headers["content-type"].startswith("text/event-stream"):
        return said(answer.content)
    return str(answer.json()["choices"][0]["message"]["content"])


CASES = [(name, False) for name in (*ALWAYS, *WHOLE_ONLY)] + [(name, True) for name in (*ALWAYS, *STREAM_ONLY)]


@pytest.mark.parametrize(("case", "streamed"), CASES)
def test_a_failure_nobody_sees(
    case: str, streamed: bool, gateway: Gateway, large: Upstream, small: Upstream
) -> None:
    behave, kind = (ALWAYS | (STREAM_ONLY if streamed else WHOLE_ONLY))[case]
    large.script(behave)
    answer = ask(gateway, streamed)
    assert answer.status_code == 200 and text(answer) == "Hello"
    assert answer.headers["x-pointsman-expert"] == "small"
    assert answer.headers["x-pointsman-attempts"] == "2"
    assert gateway.metric("pointsman_attempt_failures_total", expert="large", kind=kind) == 1
    assert ask(gateway, streamed).headers["x-pointsman-expert"] == "large"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_expert_that_refuses_connections_is_passed_over(streamed: bool, gateway: Gateway, world: World) -> None:
    world.large.stop()
    answer = ask(gateway, streamed)
    assert text(answer) == "Hello" and answer.headers["x-pointsman-expert"] == "small"
    assert gateway.metric("pointsman_attempt_failures_total", expert="large", kind="connect") == 1


def test_a_name_that_no_resolver_takes_is_a_failed_connection(world: World) -> None:
    broken = expert("large", "http://a..b/v1")
    gateway = world.start(experts=[expert("small", world.small.url), broken])
    assert gateway.chat("auto:best").headers["x-pointsman-expert"] == "small"


def impatient_with_large(world: World) -> Gateway:
    """Only the one that will hang is hurried: on a busy machine the other may need its time."""
    hurried = expert("large", world.large.url, first_byte_timeout_s=0.2)
    return world.start(experts=[expert("small", world.small.url), hurried])


@pytest.mark.parametrize("streamed", [False, True])
def test_an_expert_that_never_answers_is_given_up_in_time(streamed: bool, world: World) -> None:
    gateway = impatient_with_large(world)
    world.large.script(hang)
    answer = ask(gateway, streamed)
    assert text(answer) == "Hello" and answer.headers["x-pointsman-expert"] == "small"
    assert world.large.requests[0].gone.wait(WAIT_S)


def test_a_stream_whose_first_event_never_comes_is_given_up_in_time(world: World) -> None:
    gateway = impatient_with_large(world)
    world.large.script(streams(b": wait\n\n", then=hang))
    assert ask(gateway, True).headers["x-pointsman-expert"] == "small"
    assert world.large.requests[0].gone.wait(WAIT_S)


@pytest.mark.parametrize("streamed", [False, True])
def test_all_attempts_share_one_deadline(streamed: bool, world: World) -> None:
    gateway = world.start(limits={"timeout_s": 0.3})
    world.large.script(hang)
    world.small.script(hang)
    answer = ask(gateway, streamed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "expert_timeout")
    assert answer.headers["x-should-retry"] == "false"
    assert len(world.large.requests) == len(world.small.requests) == 1


def test_an_explanation_says_who_failed_and_who_answered(gateway: Gateway, large: Upstream) -> None:
    large.script(close)
    answer = gateway.chat("auto:best", routing={"explain": True})
    assert answer.headers["x-pointsman-reason"].endswith("; large failed (cut); small answered")
    assert (answer.json()["pointsman"]["expert"], answer.json()["pointsman"]["served"]) == ("large", "small")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_expert_that_hangs_leaves_half_the_time_to_the_next(streamed: bool, world: World) -> None:
    gateway = world.start(limits={"timeout_s": 2.0})
    world.large.script(hang)
    answer = ask(gateway, streamed)
    assert answer.status_code == 200 and answer.headers["x-pointsman-expert"] == "small"


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
def test_a_client_that_waits_less_gets_its_answer_before_it_gives_up(
    header: str, gateway: Gateway, large: Upstream, small: Upstream
) -> None:
    large.script(hang)
    small.script(hang)
    answer = gateway.chat("auto:best", headers={header: "0.4"})
    assert answer.status_code == 504


def test_a_connection_closed_while_idle_is_replaced(gateway: Gateway, small: Upstream) -> None:
    gateway.chat("small")
    small.disconnect()
    assert gateway.chat("small").status_code == 200
    assert small.connections == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_a_kept_connection_closed_on_us_is_replaced_once(streamed: bool, gateway: Gateway, small: Upstream) -> None:
    gateway.chat("small")
    small.script(close)
    answer = ask(gateway, streamed, "small")
    assert text(answer) == "Hello" and answer.headers["x-pointsman-attempts"] == "1"
    assert [request.connection for request in small.requests] == [1, 1, 2]


def test_a_request_is_repeated_once_however_many_connections_are_kept(gateway: Gateway, small: Upstream) -> None:
    open_connections(gateway, small, 5)
    before = len(small.requests)
    small.script(*[close] * 5)
    assert gateway.chat("small").status_code == 502
    assert len(small.requests) - before == 2


def open_connections(gateway: Gateway, upstream: Upstream, count: int) -> None:
    """Leaves so many connections kept alive, by calls that overlap."""
    together = asyncio.Barrier(count)

    async def wait_for_all(wire: Wire) -> None:
        await together.wait()
        await polite(wire)

    upstream.script(*[wait_for_all] * count)
    clients = [gateway.connect() for _ in range(count)]
    for client in clients:
        client.sendall(request_bytes(json.dumps({"model": "small", "messages": HELLO}).encode()))
    assert [answer_on(client)[0] for client in clients] == [200] * count


def test_an_upstream_that_closes_every_connection_is_fine(gateway: Gateway, small: Upstream) -> None:
    small.always = answers(headers={"connection": "close"})
    assert [gateway.chat("small").status_code for _ in range(3)] == [200] * 3
    assert small.connections == 3


def test_a_kept_connection_is_used_again(gateway: Gateway, small: Upstream) -> None:
    for streamed in (False, True, False, True):
        text(ask(gateway, streamed, "small"))
    until(lambda: len(small.requests) == 4)
    assert small.connections == 1


def test_after_a_cut_stream_its_connection_is_not_used_again(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(sse(chunk("Hel", role="assistant")), b"data: [1]\n\n", then=hang))
    parse_events(ask(gateway, True, "small").content)
    assert gateway.chat("small").status_code == 200
    assert small.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE,
        HEAD + b"\r\n" + WHOLE,
        HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(WHOLE), WHOLE),
        HEAD + b"Content-Length: %d\r\nX-Big: %s\r\n\r\n%s" % (len(WHOLE), b"a" * 30_000, WHOLE),
    ],
    ids=["100-continue first", "close-delimited", "chunked with a trailer", "large headers"],
)
@pytest.mark.parametrize("at_once", [0, 7])
def test_unusual_but_right_answers_are_read(data: bytes, at_once: int, gateway: Gateway, small: Upstream) -> None:
    small.script(writes(data, close, at_once=at_once))
    assert text(gateway.chat("small")) == "Hello"


def test_a_huge_answer_passes(gateway: Gateway, small: Upstream) -> None:
    small.script(answers(completion("x" * 8_000_000)))
    assert len(text(gateway.chat("small"))) == 8_000_000
