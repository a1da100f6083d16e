"""The endpoint expert alone: what it sends, what it makes of an answer, what its settings may say."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from upstream import USAGE, WAIT_S, Behaviour, Upstream, answers, completion, hang, parse_events, refuses, said

from router.config_experts import EndpointSettings
from router.errors import ConfigError, ExpertError
from router.experts.base import Call
from router.experts.endpoint import EndpointExpert, refusal
from router.types import ExpertSpec, Price, Usage

SPEC = ExpertSpec("small", Price(1, 2))


async def opened(upstream: Upstream, **settings: Any) -> EndpointExpert:
    fields = {"name": "small", "kind": "endpoint", "url": upstream.url, "model": "up-model", **settings}
    expert = EndpointExpert(EndpointSettings(**fields), SPEC, connections=4)
    await expert.open()
    return expert


def call(surface: str = "chat/completions", **body: Any) -> Call:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    return Call(surface, {"model": "auto", "messages": [], **body}, deadline, "req_1", input_tokens=5)


async def test_the_callers_body_is_sent_but_for_the_model(upstream: Upstream) -> None:
    expert = await opened(upstream)
    fields = {
        "temperature": 0.5,
        "future_parameter": {"a": [1, None]},
        "messages": [{"role": "user", "content": "é"}],
    }
    one = call(**fields)
    await expert.complete(one)
    assert upstream.requests[0].json() == {**fields, "model": "up-model"}
    assert one.body["model"] == "auto", "the caller's own body is left as it was, for the next expert"


async def test_the_head_carries_the_key_the_headers_and_the_request_id(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-1")
    expert = await opened(upstream, api_key={"env": "THE_KEY"}, headers={"X-Team": "a"})
    await expert.complete(call())
    headers = upstream.requests[0].headers
    assert headers["authorization"] == "Bearer sk-1" and headers["x-team"] == "a"
    assert headers["x-request-id"] == "req_1" and headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{upstream.port}" and "accept-encoding" not in headers


async def test_a_header_of_the_settings_replaces_ours(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-1")
    expert = await opened(upstream, api_key={"env": "THE_KEY"}, headers={"Authorization": "Other 2"})
    await expert.complete(call())
    assert upstream.requests[0].headers["authorization"] == "Other 2"


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("", "/chat/completions"),
        ("/a/b", "/a/b/chat/completions"),
        ("/openai/x?api-version=1", "/openai/x/chat/completions?api-version=1"),
    ],
)
async def test_the_path_is_the_urls_and_the_surfaces(base: str, path: str, upstream: Upstream) -> None:
    expert = await opened(upstream, url=f"http://127.0.0.1:{upstream.port}{base}")
    await expert.complete(call())
    assert upstream.requests[0].path == path


@pytest.mark.parametrize("url", ["http:///v1", "http://h:99999/v1", "http://h:x/v1", "http://[::1/v1"])
async def test_a_url_that_leads_nowhere_stops_the_start(url: str, upstream: Upstream) -> None:
    with pytest.raises(ConfigError, match=r"experts\.small\.url"):
        await opened(upstream, url=url)


@pytest.mark.parametrize(
    "headers", [{"x": "a\r\nevil: 1"}, {"x\n": "1"}, {"x": "ü"}, {"x y": "1"}, {"": "1"}, {"x": "\0"}]
)
async def test_a_header_that_is_none_stops_the_start(headers: dict[str, str], upstream: Upstream) -> None:
    with pytest.raises(ConfigError, match=r"experts\.small"):
        await opened(upstream, headers=headers)


async def test_a_key_that_is_not_there_stops_the_start(upstream: Upstream, tmp_path: Path) -> None:
    for place in ({"env": "NOT_SET_ANYWHERE"}, {"file": tmp_path / "none"}):
        with pytest.raises(ConfigError, match=r"experts\.small\.api_key"):
            await opened(upstream, api_key=place)


async def test_an_answer_keeps_all_but_the_model(upstream: Upstream) -> None:
    upstream.script(answers(completion(extra={"a": [1.5, None]}, system_fingerprint="fp")))
    answer = await (await opened(upstream)).complete(call())
    assert orjson.loads(answer.body) == {
        **completion(extra={"a": [1.5, None]}, system_fingerprint="fp"),
        "model": "small",
    }
    assert answer.usage == Usage(11, 2) and answer.ttft_s > 0


async def test_only_the_upstreams_limits_are_handed_on(upstream: Upstream) -> None:
    upstream.script(answers(headers={"X-RateLimit-Remaining-Requests": "5", "set-cookie": "a=1", "server": "x"}))
    answer = await (await opened(upstream)).complete(call())
    assert answer.headers == [(b"x-ratelimit-remaining-requests", b"5")]


@pytest.mark.parametrize(
    ("given", "said", "n", "fine"),
    [
        (8 * 128_000, 8 * 128_000, None, True),
        (8 * 128_000 + 1, 2, None, False),
        (11, 8 * 128_000 + 1, None, False),
        (11, 3 * 8 * 128_000, 3, True),  # of three answers
        (10**9, 10**9, None, False),
    ],
)
async def test_more_tokens_than_a_call_can_come_to_are_not_believed(
    given: int, said: int, n: int | None, fine: bool, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {"prompt_tokens": given, "completion_tokens": said}
    upstream.script(answers(completion(usage=usage)))
    answer = await (await opened(upstream)).complete(call(**({} if n is None else {"n": n})))
    assert answer.usage.estimated != fine
    assert (answer.usage.input_tokens == given) == fine and ("are believed: estimated" in caplog.text) != fine


@pytest.mark.parametrize("usage", [None, {}, [], "many"])
async def test_usage_that_was_not_told_is_estimated(usage: Any, upstream: Upstream) -> None:
    upstream.script(answers(completion("word " * 100, usage=usage)))
    answer = await (await opened(upstream)).complete(call())
    assert answer.usage.estimated and answer.usage.input_tokens == 5
    assert 100 <= answer.usage.output_tokens <= 250


async def test_embeddings_pass_too(upstream: Upstream) -> None:
    answer = await (await opened(upstream)).complete(call("embeddings", input="x"))
    assert upstream.requests[0].path == "/v1/embeddings"
    assert orjson.loads(answer.body)["data"][0]["embedding"] == [0.5, -0.5]


async def test_a_stream_is_read_to_its_end(upstream: Upstream) -> None:
    stream = await (await opened(upstream)).stream(call())
    data = b"".join([events async for events in stream])
    assert said(data) == "Hello" and parse_events(data)
    assert stream.usage == Usage(USAGE["prompt_tokens"], USAGE["completion_tokens"])


async def test_closing_a_stream_twice_is_closing_it_once(upstream: Upstream) -> None:
    stream = await (await opened(upstream)).stream(call())
    await stream.aclose()
    await stream.aclose()


KINDS: list[tuple[int, bytes, str]] = [
    (400, b"", "caller"),
    (400, b'{"error":{"code":"context_length_exceeded"}}', "context_length"),
    (400, b'{"object":"error","message":"This model\'s maximum context length is 8"}', "context_length"),
    (400, b'{"error":{"code":"content_filter"}}', "content_filter"),
    (400, b'{"error":{"code":"content_policy_violation"}}', "content_filter"),
    (400, b'{"error":{"code":["x"]}}', "caller"),
    (401, b"", "auth"),
    (403, b"", "auth"),
    (404, b"", "server"),
    (413, b"", "caller"),
    (422, b"", "caller"),
    (429, b"", "rate_limit"),
    (500, b"", "server"),
    (302, b"", "garbage"),
    (206, b"", "garbage"),
]


@pytest.mark.parametrize(("status", "body", "kind"), KINDS)
def test_a_status_means_a_kind_of_failure(status: int, body: bytes, kind: str) -> None:
    assert refusal(status, body) == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, 86_400.0),
        ({"retry-after": "-1"}, None),
        ({}, None),
    ],
)
async def test_when_to_come_back_is_read(
    headers: dict[str, str], seconds: float | None, upstream: Upstream
) -> None:
    upstream.script(refuses(429, headers=headers))
    with pytest.raises(ExpertError) as caught:
        await (await opened(upstream)).complete(call())
    assert caught.value.retry_after_s == seconds


PROBES: list[tuple[Behaviour, str]] = [
    (answers({"data": [{"id": "a"}, {"id": "b"}]}), "does not know the model 'up-model'; it has: a, b"),
    (answers(b"", 401), "answered 401"),
    (answers(b"", 500), "answered 500"),
]


@pytest.mark.parametrize(("behave", "said"), PROBES)
async def test_a_probe_says_what_is_wrong(behave: Behaviour, said: str, upstream: Upstream) -> None:
    upstream.script(behave)
    with pytest.raises(ExpertError, match=said):
        await (await opened(upstream)).probe()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 3}', b'{"data": [1]}', b"<html>"])
async def test_a_probe_bears_an_upstream_that_lists_nothing(body: bytes, upstream: Upstream) -> None:
    upstream.script(answers(body))
    assert "lists no models" in await (await opened(upstream)).probe()


async def test_a_probe_that_finds_the_model_says_so(upstream: Upstream) -> None:
    assert "up-model is there" in await (await opened(upstream)).probe()
    assert (upstream.requests[0].method, upstream.requests[0].path) == ("GET", "/v1/models")


async def test_an_expert_that_is_not_open_fails_like_one_that_is_away() -> None:
    fields = {"name": "small", "kind": "endpoint", "url": "http://127.0.0.1:1/v1"}
    expert = EndpointExpert(EndpointSettings(**fields), SPEC)
    with pytest.raises(ExpertError) as caught:
        await expert.complete(call())
    assert caught.value.kind == "connect"


async def test_no_failure_holds_the_key_or_the_prompt(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-marker")
    expert = await opened(upstream, api_key={"env": "THE_KEY"}, first_byte_timeout_s=0.05)
    upstream.script(refuses(400, "prompt-marker"), answers(b"prompt-marker sk-marker"), hang)
    for _ in range(3):
        with pytest.raises(ExpertError) as caught:
            await expert.complete(call(messages=[{"role": "user", "content": "prompt-marker"}]))
        assert "marker" not in str(caught.value)
