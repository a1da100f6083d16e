"""An expert of several addresses: spread, failed over, rested and looked at, with nobody the wiser."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import Gateway, Loop, World, expert, until
from upstream import (
    HELLO as EVENTS,
)
from upstream import (
    WAIT_S,
    Behaviour,
    Upstream,
    answers,
    chunk,
    close,
    hang,
    parse_events,
    refuses,
    said,
    sse,
    streams,
)

from router.experts import health

SIZES = range(12)


@pytest.fixture
def twin(other_loop: Loop) -> Iterator[Upstream]:
    """A second address of the large expert."""
    upstream = Upstream(other_loop)
    yield upstream
    upstream.stop()


def of_two(world: World, twin: Upstream, **settings: Any) -> list[dict[str, Any]]:
    """The experts; the large one has two addresses."""
    large = expert("large", "", **settings) | {"endpoints": [{"url": world.large.url}, {"url": twin.url}]}
    del large["url"]
    return [expert("small", world.small.url), large]


Begin = Callable[..., Gateway]


@pytest.fixture
def begin(world: World, twin: Upstream) -> Begin:
    return lambda limits=None, **settings: world.start(experts=of_two(world, twin, **settings), limits=limits or {})


def test_calls_are_spread_over_equal_addresses(begin: Begin, large: Upstream, twin: Upstream) -> None:
    gateway = begin()
    for i in SIZES:
        assert gateway.chat("large", stream=bool(i % 2)).status_code == 200
    assert min(len(large.requests), len(twin.requests)) > 0


FAILING: dict[str, Behaviour] = {
    "closes": close,
    "answers 500": refuses(500),
    "answers 429": refuses(429),
    "refuses our key": refuses(401),
    "answers garbage": answers(b"<html>"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_failure_goes_to_the_sibling_before_the_next_expert(
    case: str, begin: Begin, large: Upstream, twin: Upstream, small: Upstream
) -> None:
    gateway = begin()
    large.always = FAILING[case]
    for _ in SIZES:
        answer = gateway.chat("auto:best")
        assert (answer.status_code, answer.headers["x-pointsman-expert"]) == (200, "large")
    assert large.requests and not small.requests


def test_where_all_addresses_fail_the_next_expert_answers(begin: Begin, large: Upstream, twin: Upstream) -> None:
    gateway = begin()
    large.script(close)
    twin.script(close)
    answer = gateway.chat("auto:best")
    assert (answer.headers["x-pointsman-expert"], answer.headers["x-pointsman-attempts"]) == ("small", "3")


def test_a_prompt_too_long_is_not_tried_at_the_sibling(begin: Begin, large: Upstream, twin: Upstream) -> None:
    gateway = begin()
    for upstream in (large, twin):
        upstream.script(refuses(400, code="context_length_exceeded"))
    assert gateway.chat("large").status_code == 400
    assert len(large.requests) + len(twin.requests) == 1


def test_a_callers_fault_is_tried_nowhere_else(begin: Begin, large: Upstream, twin: Upstream) -> None:
    gateway = begin({"retries": 3})
    large.always = twin.always = refuses(422)
    assert gateway.chat("large").status_code == 422
    assert len(large.requests) + len(twin.requests) == 1


def test_a_dead_address_is_rested_looked_at_and_taken_back(
    begin: Begin, large: Upstream, twin: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_REST_S", 0.1)
    gateway = begin()
    large.always = close
    until(lambda: gateway.chat("large").is_success and state(gateway) == "1 of 2 endpoints resting")
    asked = len(chats(large))
    for _ in SIZES:
        assert gateway.chat("large").headers["x-pointsman-attempts"] == "1"
    until(lambda: len(looks(large)) > 1, "looking at it twice")
    assert len(chats(large)) == asked, "nobody's request went to an address that is not there"
    large.forget()
    until(lambda: gateway.chat("large").is_success and chats(large), "its return")
    assert state(gateway) == "ok"


def state(gateway: Gateway) -> str:
    return str(gateway.client.get("/readyz").json()["experts"]["large"])


def chats(upstream: Upstream) -> list[Any]:
    return [request for request in upstream.requests if request.method == "POST"]


def looks(upstream: Upstream) -> list[Any]:
    return [request for request in upstream.requests if request.path.endswith("/models")]


def test_an_address_is_looked_at_unasked_where_that_is_configured(
    begin: Begin, large: Upstream, twin: Upstream
) -> None:
    gateway = begin(health_check_s=0.05)
    twin.always = close
    until(lambda: state(gateway) == "1 of 2 endpoints resting")
    assert looks(large) and not chats(large) and not chats(twin)


def test_a_stream_that_dies_after_its_role_is_moved(begin: Begin, large: Upstream, twin: Upstream) -> None:
    gateway = begin()
    silent = chunk("", role="assistant"), chunk(delta={"content": None, "tool_calls": []})
    large.always = streams(*map(sse, silent), then=close)
    for _ in SIZES:
        answer = gateway.chat("auto:best", stream=True)
        assert said(answer.content) == "Hello" and answer.headers["x-pointsman-expert"] == "large"
        assert "error" not in parse_events(answer.content)[-1]
    assert large.requests


def test_a_stream_that_hangs_after_its_role_is_moved(world: World) -> None:
    hurried = expert("large", world.large.url, first_byte_timeout_s=0.3)
    gateway = world.start(experts=[expert("small", world.small.url), hurried])
    world.large.script(streams(sse(EVENTS[0]), then=hang))
    answer = gateway.chat("auto:best", stream=True)
    assert said(answer.content) == "Hello" and answer.headers["x-pointsman-expert"] == "small"


def test_a_stream_that_dies_after_its_first_word_rests_its_address_only(
    begin: Begin, large: Upstream, twin: Upstream
) -> None:
    gateway = begin()
    large.always = streams(*map(sse, EVENTS[:3]), then=close)
    ends = [parse_events(gateway.chat("large", stream=True).content)[-1] for _ in SIZES]
    assert 3 <= sum("error" in end for end in ends) <= 4
    assert state(gateway) == "1 of 2 endpoints resting"


def test_a_passing_fault_of_the_only_expert_is_repeated(world: World) -> None:
    gateway = world.start(limits={"retries": 1})
    world.small.script(refuses(503))
    answer = gateway.chat("small")
    assert (answer.status_code, answer.headers["x-pointsman-attempts"]) == (200, "2")


def test_retry_after_is_honoured(world: World) -> None:
    gateway = world.start(limits={"retries": 1})
    world.small.script(refuses(429, headers={"retry-after-ms": "300"}))
    answer = gateway.chat("small")
    assert answer.status_code == 200 and int(answer.headers["openai-processing-ms"]) >= 300


def test_repeats_are_bounded(world: World) -> None:
    gateway = world.start(limits={"retries": 1})
    world.small.always = refuses(500)
    for _ in range(30):
        assert gateway.chat("small").status_code == 502
    assert len(chats(world.small)) == 40, "a quiet expert may have ten repeats in half a minute"


def test_the_slowest_are_asked_twice_where_that_is_configured(
    begin: Begin, large: Upstream, twin: Upstream
) -> None:
    gateway = begin({"hedge": 0.9})
    for _ in range(24):
        assert gateway.chat("large").status_code == 200
    before = gateway.metric("pointsman_tokens_total", expert="large", kind="input")
    done = len(large.requests)
    for place in gateway.service.pool.places("large"):
        place.seconds = place.tokens = 0.0  # else a busy machine may have made one address seem slow
    large.always = hang
    assert {gateway.chat("large").status_code for _ in range(4)} == {200}
    assert large.requests[done:] and all(request.gone.wait(WAIT_S) for request in large.requests[done:])
    spent = gateway.metric("pointsman_tokens_total", expert="large", kind="input") - before
    assert spent > 4 * 11, "the slower attempt is billed too"


@pytest.mark.parametrize(
    ("change", "said_so"),
    [
        ({"endpoints": []}, "exactly one of `url` or `endpoints`"),
        ({"url": "http://a/v1", "endpoints": [{"url": "http://b/v1"}]}, "exactly one of `url` or `endpoints`"),
        ({"endpoints": [{"url": "http://b/v1"}, {"url": "http://b/v1"}]}, "a url is given twice"),
        ({"endpoints": [{"url": "http://b/v1", "weight": 0}]}, "endpoints.0.weight"),
        ({"endpoints": [{"url": "ftp://b"}]}, "endpoints.0.url"),
    ],
)
def test_addresses_that_are_none_stop_the_start(change: dict[str, Any], said_so: str, world: World) -> None:
    one = {key: value for key, value in expert("large", "").items() if key != "url"} | change
    with pytest.raises(Exception, match=said_so):
        world.start(experts=[one])
