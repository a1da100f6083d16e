"""Against a real litellm and a local upstream; skipped where litellm is not installed (`make test-remote`)."""

import asyncio
import importlib.util
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from router.config_base import Secret
from router.config_experts import RemoteSettings
from router.errors import ConfigError, ExpertError
from router.experts.base import Call, Stream
from router.experts.remote import RemoteExpert
from router.types import ExpertSpec, Price, Usage

needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason="litellm is not installed: pip install 'pointsman[remote]'"
)
# litellm keeps clients of its own for the first event loop that it meets
pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "sk-very-secret-0123456789"
FIRST = {"id": "up-1", "object": "chat.completion.chunk", "created": 5, "model": "up"}
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 3},
}
REFUSALS: dict[str, tuple[int, str, str | None, str | None]] = {
    # model: status, message, param, code
    "bad": (400, "temperature must be at most 2", "temperature", "invalid_value"),
    "leak": (400, f"what is {KEY}?", None, None),
    "long": (400, "maximum context length is 10 tokens", "messages", "context_length_exceeded"),
    "filtered": (400, "refused by the content management policy", None, "content_filter"),
    "unprocessable": (422, "no", None, None),
    "auth": (401, f"Incorrect API key provided: {KEY}", None, "invalid_api_key"),
    "forbidden": (403, "no", None, None),
    "unknown": (404, "no such model", None, "model_not_found"),
    "rate": (429, "slow down", None, "rate_limit_exceeded"),
    "boom": (500, "oops", None, None),
    "busy": (503, "busy", None, None),
}


class Upstream:
    """An OpenAI-compatible and an Anthropic-like provider; the model's name says how it behaves."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ports: list[int] = []  # of the clients: one for each connection
        self.arrived = threading.Event()
        self.closed = threading.Event()
        self.url = ""

    async def _read(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        assert request.client is not None
        self.ports.append(request.client.port)
        self.arrived.set()
        return body

    async def chat(self, request: Request) -> Response:
        body = await self._read(request)
        model = body["model"]
        if model in REFUSALS:
            status, message, param, code = REFUSALS[model]
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
            return JSONResponse({"error": error}, status, headers={"retry-after": "7"} if status == 429 else None)
        if model == "html":
            return Response("<html>", media_type="text/html")
        if model == "never":
            return await self._never(request)
        if body.get("stream"):
            return StreamingResponse(self._events(request, body), media_type="text/event-stream")
        answer: dict[str, Any] = {
            **FIRST,
            "object": "chat.completion",
            "x_extra": {"a": None},
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
            ],
        }
        if model == "tools":
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            answer["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
        if model == "silent":
            return JSONResponse(answer)
        return JSONResponse(answer | {"usage": USAGE}, headers={"x-ratelimit-remaining-requests": "41"})

    async def _never(self, request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.closed.set()
        return Response()

    async def _events(self, request: Request, body: dict[str, Any]) -> AsyncIterator[str]:
        model = body["model"]
        try:
            if model == "error-first":
                yield sse({"error": {"message": "overloaded", "code": 500}})
                return
            yield choice({"role": "assistant", "content": ""})
            if model == "tools":
                function = {"name": "f", "arguments": ""}
                yield choice({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]})
                for part in ('{"a"', ": 1}"):
                    yield choice({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
            else:
                for part in ("hel", "lo"):
                    yield choice({"content": part})
                    if model == "cut":
                        return
                    if model == "error-later":
                        yield sse({"error": {"message": "overloaded", "code": 500}})
                        return
                    if model == "hang":
                        await asyncio.Event().wait()
            yield choice({}, "tool_calls" if model == "tools" else "stop")
            if model != "silent" and body.get("stream_options", {}).get("include_usage"):
                yield sse(FIRST | {"choices": [], "usage": USAGE})
            yield "data: [DONE]\n\n"
        finally:
            self.closed.set()

    async def embeddings(self, request: Request) -> Response:
        body = await self._read(request)
        data = [{"object": "embedding", "index": i, "embedding": [0.5, 0.25]} for i in range(len(body["input"]))]
        if body.get("encoding_format") == "base64":
            data = [row | {"embedding": "AAAAPwAAgD4="} for row in data]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        return JSONResponse({"object": "list", "data": data, "model": "up", "usage": usage})

    async def models(self, request: Request) -> Response:
        accepted = KEY in request.headers.get("authorization", "") + request.headers.get("x-api-key", "")
        return JSONResponse({"data": []}, 200 if accepted else 401)

    async def messages(self, request: Request) -> Response:
        body = await self._read(request)
        model = body["model"]
        if model == "bad":
            error = {"type": "invalid_request_error", "message": "max_tokens: too big"}
            return JSONResponse({"type": "error", "error": error}, 400)
        if model == "long":
            error = {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}
            return JSONResponse({"type": "error", "error": error}, 400)
        if model == "busy":
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return JSONResponse({"type": "error", "error": error}, 529)
        if model == "garbage":
            return JSONResponse({})
        usage = {"input_tokens": 5, "cache_read_input_tokens": 10, "output_tokens": 2}
        start = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "usage": usage}
        if body.get("stream"):
            return StreamingResponse(claude(model, start), media_type="text/event-stream")
        content = [{"type": "text", "text": "hello"}]
        return JSONResponse(start | {"content": content, "stop_reason": "end_turn", "stop_sequence": None})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/embeddings", self.embeddings, methods=["POST"]),
                Route("/v1/messages", self.messages, methods=["POST"]),
                Route("/v1/models", self.models),
            ]
        )


def sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def choice(delta: dict[str, Any], reason: str | None = None) -> str:
    return sse(FIRST | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})


async def claude(model: str, start: dict[str, Any]) -> AsyncIterator[str]:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    for event in events[:4] if model == "cut" else events:
        yield f"event: {event['type']}\n{sse(event)}"


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    upstream = Upstream()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        upstream.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(upstream.app(), log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the upstream does not start"
            time.sleep(0.01)
        yield upstream
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.seen.clear()
    server.headers.clear()
    server.ports.clear()
    server.arrived.clear()
    server.closed.clear()
    return server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REMOTE_KEY", KEY)


class Asked:
    """Opens the expert of a model once, and asks it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._opened: dict[str, RemoteExpert] = {}

    async def expert(self, model: str, **settings: Any) -> RemoteExpert:
        base = self._upstream.url + ("/v1" if model.startswith("openai/") else "")
        given = {"api_key": Secret(env="TEST_REMOTE_KEY"), "api_base": base} | settings
        made = RemoteSettings(kind="remote", name="far", model=model, **given)
        expert = self._opened.get(repr(made))
        if expert is None:
            expert = RemoteExpert(made, ExpertSpec(name="far", price=Price(1, 2)))
            await expert.open()
            self._opened[repr(made)] = expert
        return expert

    async def answer(self, model: str, **body: Any) -> tuple[dict[str, Any], Usage]:
        answer = await (await self.expert(model)).complete(call(**body))
        whole: dict[str, Any] = json.loads(answer.body)
        return whole, answer.usage

    async def stream(self, model: str, include_usage: bool = False, **body: Any) -> Stream:
        return await (await self.expert(model)).stream(call(include_usage, stream=True, **body))

    async def failure(self, model: str, **body: Any) -> ExpertError:
        with pytest.raises(ExpertError) as caught:
            await self.answer(model, **body)
        return caught.value

    async def close(self) -> None:
        for expert in self._opened.values():
            await expert.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(server: Upstream) -> AsyncIterator[Asked]:
    asked = Asked(server)
    yield asked
    await asked.close()


@pytest.fixture
def ask(opened: Asked, upstream: Upstream) -> Asked:
    return opened


def call(include_usage: bool = False, surface: str = "chat/completions", **body: Any) -> Call:
    if surface == "chat/completions":
        body = {"model": "far", "messages": [{"role": "user", "content": "a prompt of ours"}]} | body
    deadline = asyncio.get_running_loop().time() + 30
    return Call(surface, body, deadline, "req-1", input_tokens=9, include_usage=include_usage)


async def chunks(stream: Stream) -> list[dict[str, Any]]:
    raw = b"".join([item async for item in stream])
    parts = raw.split(b"\n\n")
    assert parts[-2:] == [b"data: [DONE]", b""]
    return [json.loads(part.removeprefix(b"data: ")) for part in parts[:-2]]


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for part in parts for c in part["choices"])


async def test_a_missing_litellm_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    expert = RemoteExpert(
        RemoteSettings(kind="remote", name="far", model="openai/x"), ExpertSpec(name="far", price=Price(0, 0))
    )
    with pytest.raises(ConfigError, match=r"experts\.far: .*pip install 'pointsman\[remote\]'"):
        await expert.open()


async def test_an_expert_that_was_not_opened_says_so() -> None:
    expert = RemoteExpert(
        RemoteSettings(kind="remote", name="far", model="openai/x"), ExpertSpec(name="far", price=Price(0, 0))
    )
    with pytest.raises(ExpertError, match="is not open"):
        await expert.complete(call())


@needs_litellm
async def test_a_model_without_a_provider_stops_the_start(ask: Asked) -> None:
    with pytest.raises(ConfigError, match=r"experts\.far\.model: .*'nobody/x'"):
        await ask.expert("nobody/x")


@needs_litellm
async def test_an_answer_has_our_name_the_upstreams_fields_and_its_usage(ask: Asked, upstream: Upstream) -> None:
    body, usage = await ask.answer("openai/fine", temperature=0.5)
    assert (body["model"], body["id"], body["x_extra"]) == ("far", "up-1", {"a": None})
    assert body["choices"][0]["message"]["content"] == "hello"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert usage == Usage(input_tokens=5, output_tokens=2, cached_tokens=3)
    assert upstream.seen[-1]["model"] == "fine"
    assert upstream.seen[-1]["temperature"] == 0.5
    assert upstream.headers[-1]["authorization"] == f"Bearer {KEY}"


@needs_litellm
@pytest.mark.parametrize("model", ["openai/fine", "anthropic/fine"])
async def test_calls_one_after_another_share_a_connection(ask: Asked, upstream: Upstream, model: str) -> None:
    for _ in range(3):
        await ask.answer(model)
    assert len(set(upstream.ports)) == 1


@needs_litellm
async def test_the_upstreams_rate_limits_come_back_as_headers(ask: Asked) -> None:
    answer = await (await ask.expert("openai/fine")).complete(call())
    assert (b"x-ratelimit-remaining-requests", b"41") in answer.headers


@needs_litellm
async def test_a_tool_call_comes_back_whole(ask: Asked) -> None:
    body, _ = await ask.answer("openai/tools")
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


@needs_litellm
async def test_a_stream_keeps_the_contract(ask: Asked, upstream: Upstream) -> None:
    stream = await ask.stream("openai/fine")
    parts = await chunks(stream)
    assert {part["id"] for part in parts} == {"up-1"}
    assert {part["model"] for part in parts} == {"far"}
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert text_of(parts) == "hello"
    assert not any("usage" in part for part in parts)
    assert stream.usage == Usage(input_tokens=5, output_tokens=2, cached_tokens=3)
    assert upstream.seen[-1]["stream_options"] == {"include_usage": True}


@needs_litellm
async def test_a_stream_ends_with_usage_and_cost_where_asked(ask: Asked) -> None:
    *before, last = await chunks(await ask.stream("openai/fine", include_usage=True))
    assert all(part["usage"] is None for part in before)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert last["usage"]["cost_usd"] == pytest.approx(9e-6)


@needs_litellm
async def test_usage_that_the_upstream_does_not_report_is_marked_as_estimated(ask: Asked) -> None:
    stream = await ask.stream("openai/silent")
    await chunks(stream)
    _, usage = await ask.answer("openai/silent")
    for found in (stream.usage, usage):
        assert found.estimated
        assert found.input_tokens == 9
        assert found.output_tokens > 0


@needs_litellm
async def test_streamed_tool_calls_keep_their_fragments(ask: Asked) -> None:
    parts = await chunks(await ask.stream("openai/tools"))
    deltas = [part["choices"][0]["delta"] for part in parts]
    first, *rest = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (first["index"], first["id"], first["function"]["name"]) == (0, "c1", "f")
    assert rest == [{"index": 0, "function": {"arguments": part}} for part in ('{"a"', ": 1}")]
    assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"


@needs_litellm
async def test_a_field_that_nobody_knows_passes_untouched(ask: Asked, upstream: Upstream) -> None:
    await ask.answer("openai/fine", new_field={"a": [1]}, metadata={"b": "c"}, reasoning_effort="low")
    seen = upstream.seen[-1]
    assert (seen["new_field"], seen["metadata"], seen["reasoning_effort"]) == ({"a": [1]}, {"b": "c"}, "low")


@needs_litellm
@pytest.mark.parametrize(
    "field", ["api_base", "base_url", "api_key", "mock_response", "extra_headers", "timeout", "num_retries"]
)
async def test_a_caller_cannot_reach_litellms_own_settings(ask: Asked, upstream: Upstream, field: str) -> None:
    body, _ = await ask.answer("openai/fine", **{field: "http://127.0.0.1:9"})
    assert body["choices"][0]["message"]["content"] == "hello"
    assert upstream.seen[-1][field] == "http://127.0.0.1:9"
    assert upstream.headers[-1]["authorization"] == f"Bearer {KEY}"


@needs_litellm
@pytest.mark.parametrize("field", ["api_base", "mock_response", "logit_bias", "new_field"])
async def test_a_field_that_a_provider_does_not_take_is_refused_by_name(
    ask: Asked, upstream: Upstream, field: str
) -> None:
    error = await ask.failure("anthropic/fine", **{field: {"1": 2}})
    assert (error.kind, error.status) == ("caller", 400)
    assert field in json.loads(error.body or b"")["error"]["message"]
    assert upstream.seen == []


@needs_litellm
async def test_another_providers_answer_is_told_in_openais_terms(ask: Asked, upstream: Upstream) -> None:
    body, usage = await ask.answer("anthropic/fine", max_tokens=7, top_k=4)
    assert body["choices"][0]["message"]["content"] == "hello"
    assert (body["model"], body["choices"][0]["finish_reason"]) == ("far", "stop")
    assert usage == Usage(input_tokens=15, output_tokens=2, cached_tokens=10)
    assert (upstream.seen[-1]["max_tokens"], upstream.seen[-1]["top_k"]) == (7, 4)
    assert upstream.headers[-1]["x-api-key"] == KEY


@needs_litellm
async def test_another_providers_stream_is_told_in_openais_terms(ask: Asked) -> None:
    stream = await ask.stream("anthropic/fine")
    parts = await chunks(stream)
    assert text_of(parts) == "hello"
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert stream.usage == Usage(input_tokens=15, output_tokens=2, cached_tokens=10)


@needs_litellm
@pytest.mark.parametrize(
    ("model", "kind", "status"),
    [
        ("openai/bad", "caller", 400),
        ("openai/unprocessable", "caller", 422),
        ("openai/long", "context_length", 400),
        ("openai/filtered", "content_filter", 400),
        ("openai/auth", "auth", 401),
        ("openai/forbidden", "auth", 403),
        ("openai/unknown", "server", 404),
        ("openai/rate", "rate_limit", 429),
        ("openai/boom", "server", 500),
        ("openai/busy", "server", 503),
        ("openai/html", "server", 500),
        ("anthropic/bad", "caller", 400),
        ("anthropic/long", "context_length", 400),
        ("anthropic/garbage", "garbage", 500),
    ],
)
async def test_a_refusal_has_its_kind(ask: Asked, model: str, kind: str, status: int) -> None:
    error = await ask.failure(model)
    assert (error.kind, error.status) == (kind, status)
    with pytest.raises(ExpertError) as streamed:
        await ask.stream(model)
    if model != "openai/html" and kind != "garbage":  # those two are no stream at all
        assert streamed.value.kind == kind


@needs_litellm
async def test_an_overloaded_provider_is_a_fault_of_the_server(ask: Asked) -> None:
    assert (await ask.failure("anthropic/busy")).kind == "server"


@needs_litellm
async def test_nothing_is_asked_twice(ask: Asked, upstream: Upstream) -> None:
    await ask.failure("openai/busy")
    assert len(upstream.seen) == 1


@needs_litellm
async def test_a_rate_limit_says_when_to_come_back(ask: Asked) -> None:
    assert (await ask.failure("openai/rate")).retry_after_s == 7


@needs_litellm
async def test_the_callers_fault_is_told_in_the_providers_words(ask: Asked) -> None:
    error = await ask.failure("openai/bad")
    assert json.loads(error.body or b"")["error"] == {
        "message": "temperature must be at most 2",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "invalid_value",
    }
    other = json.loads((await ask.failure("anthropic/bad")).body or b"")
    assert other["error"]["message"] == "max_tokens: too big"


@needs_litellm
async def test_no_failure_tells_the_key(ask: Asked) -> None:
    for model in ("openai/leak", "openai/auth"):
        error = await ask.failure(model)
        assert KEY not in str(error) + (error.body or b"").decode()


@needs_litellm
async def test_a_request_that_litellm_cannot_translate_is_the_callers_fault(ask: Asked, upstream: Upstream) -> None:
    error = await ask.failure("anthropic/fine", messages=[{"role": "user", "content": [{"type": "riddle"}]}])
    assert (error.kind, error.status) == ("caller", 400)
    assert b"Traceback" not in (error.body or b"")
    assert upstream.seen == []


@needs_litellm
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_provider_that_nobody_reaches_is_a_connect_error(ask: Asked, provider: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}"
        expert = await ask.expert(f"{provider}/fine", api_base=base)
        with pytest.raises(ExpertError) as caught:
            await expert.complete(call())
        assert caught.value.kind == "connect"


@needs_litellm
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_provider_that_never_answers_is_a_timeout(ask: Asked, streaming: bool) -> None:
    expert = await ask.expert("openai/never", first_byte_timeout_s=0.2)
    with pytest.raises(ExpertError) as caught:
        await (expert.stream(call(stream=True)) if streaming else expert.complete(call()))
    assert caught.value.kind == "timeout"


@needs_litellm
async def test_an_error_before_the_first_event_is_a_failure_to_start(ask: Asked) -> None:
    with pytest.raises(ExpertError) as caught:
        await ask.stream("openai/error-first")
    assert caught.value.kind == "server"


@needs_litellm
@pytest.mark.parametrize(
    ("model", "kind"), [("openai/cut", "cut"), ("anthropic/cut", "cut"), ("openai/error-later", "server")]
)
async def test_a_stream_that_breaks_off_raises_and_never_pretends_to_end(ask: Asked, model: str, kind: str) -> None:
    stream = await ask.stream(model)
    got = b""
    with pytest.raises(ExpertError) as caught:
        async for item in stream:
            got += item
    assert caught.value.kind == kind
    assert b"hel" in got
    assert b"[DONE]" not in got and b'"stop"' not in got
    assert stream.usage.estimated


@needs_litellm
async def test_several_streamed_choices_are_refused(ask: Asked) -> None:
    with pytest.raises(ExpertError) as caught:
        await ask.stream("openai/fine", n=2)
    assert caught.value.kind == "caller"


async def closed(upstream: Upstream) -> bool:
    return await asyncio.to_thread(upstream.closed.wait, 10)


@needs_litellm
async def test_closing_a_stream_cancels_the_upstream_call(ask: Asked, upstream: Upstream) -> None:
    stream = await ask.stream("openai/hang")
    await anext(aiter(stream))
    await stream.aclose()
    await stream.aclose()
    assert await closed(upstream)


@needs_litellm
async def test_an_expert_that_leaves_cuts_no_others_call(ask: Asked, upstream: Upstream) -> None:
    stream = await ask.stream("openai/fine")
    settings = RemoteSettings(
        kind="remote",
        name="other",
        model="openai/fine",
        api_key=Secret(env="TEST_REMOTE_KEY"),
        api_base=upstream.url,
    )
    other = RemoteExpert(settings, ExpertSpec(name="other", price=Price(1, 2)))
    await other.open()
    await other.close()
    await other.close()
    assert text_of(await chunks(stream)) == "hello"
    assert (await ask.answer("openai/fine"))[0]["model"] == "far"


@needs_litellm
async def test_cancelling_a_reader_cancels_the_upstream_call(ask: Asked, upstream: Upstream) -> None:
    stream = await ask.stream("openai/hang")
    got = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            got.set()

    task = asyncio.create_task(read())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await closed(upstream)


@needs_litellm
async def test_cancelling_a_call_cancels_the_upstream_call(ask: Asked, upstream: Upstream) -> None:
    expert = await ask.expert("openai/never")
    task = asyncio.create_task(expert.complete(call()))
    assert await asyncio.to_thread(upstream.arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await closed(upstream)


@needs_litellm
@pytest.mark.parametrize(("encoding", "embedding"), [("float", [0.5, 0.25]), ("base64", "AAAAPwAAgD4=")])
async def test_embeddings_come_as_they_were_asked_for(ask: Asked, encoding: str, embedding: Any) -> None:
    expert = await ask.expert("openai/vectors")
    answer = await expert.complete(call(surface="embeddings", input=["a", "b"], encoding_format=encoding))
    body = json.loads(answer.body)
    assert body["model"] == "far"
    assert [row["embedding"] for row in body["data"]] == [embedding] * 2
    assert answer.usage == Usage(input_tokens=4)


@needs_litellm
async def test_no_prompt_and_no_key_is_logged_or_printed(
    ask: Asked, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    await ask.answer("openai/fine")
    await ask.failure("openai/bad")
    await ask.failure("anthropic/busy")
    await chunks(await ask.stream("openai/fine"))
    out, err = capfd.readouterr()
    for text in (caplog.text, out, err):
        assert "a prompt of ours" not in text
        assert KEY not in text


@needs_litellm
@pytest.mark.parametrize("model", ["openai/fine", "anthropic/fine"])
async def test_a_probe_finds_the_provider_and_its_key_good(ask: Asked, upstream: Upstream, model: str) -> None:
    assert await (await ask.expert(model)).probe() == "reachable, key accepted"
    assert upstream.seen == []


@needs_litellm
async def test_a_probe_says_that_the_key_is_not_accepted(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_OTHER_KEY", "sk-another")
    with pytest.raises(ExpertError) as caught:
        await (await ask.expert("openai/fine", api_key=Secret(env="TEST_OTHER_KEY"))).probe()
    assert caught.value.kind == "auth"


@needs_litellm
async def test_a_probe_names_the_variable_of_a_missing_key(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    expert = await ask.expert("anthropic/fine", api_key=None)
    with pytest.raises(ExpertError, match="ANTHROPIC_API_KEY"):
        await expert.probe()
