"""The clients people use, as they are: changing `base_url` is all that they do."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from serving import HELLO, Gateway, World
from upstream import HELLO as EVENTS
from upstream import (
    USAGE,
    USAGE_CHUNK,
    Upstream,
    answers,
    chunk,
    close,
    completion,
    hang,
    refuses,
    sse,
    streams,
)

KEY = "sk-of-the-caller"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
CALLING = completion(
    choices=[
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ]
)
CALL_EVENTS = [
    chunk(role="assistant", delta={"tool_calls": [{"index": 0, **CALL, "function": {"name": "weather"}}]}),
    chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}),
    chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": '"Ulm"}'}}]}),
    chunk(finish="tool_calls"),
    USAGE_CHUNK,
]
PICTURE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    }
]
ASK: Any = HELLO


class Place(BaseModel):
    city: str
    inhabitants: int


@pytest.fixture
def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """With a key, and experts that can do everything."""
    monkeypatch.setenv("CALLER", KEY)
    return world.start(
        {"capabilities": ["tools", "json", "vision"]}, auth={"keys": [{"name": "ann", "env": "CALLER"}]}
    )


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto:cheap", messages=ASK)
    assert answer.choices[0].message.content == "Hello" and answer.model == "small"
    assert answer.usage is not None and answer.usage.total_tokens == 13


def test_openai_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="small", messages=ASK, stream=True)
    chunks = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello"
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[0].choices[0].delta.role == "assistant"


def test_openai_streams_usage_where_asked(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="small", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert all(one.usage is None for one in chunks)
    assert last.choices == [] and last.usage is not None and last.usage.prompt_tokens == USAGE["prompt_tokens"]


def test_openais_own_accumulation_of_a_stream_is_right(client: openai.OpenAI, small: Upstream) -> None:
    small.script(streams(*map(sse, EVENTS[:-1]), sse({**EVENTS[-1], "usage": USAGE}), b"data: [DONE]\n\n"))
    with client.chat.completions.stream(model="small", messages=ASK) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content == "Hello"


async def test_openai_answers_and_streams_asynchronously(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0) as client:
        answer = await client.chat.completions.create(model="auto", messages=ASK)
        assert answer.choices[0].message.content == "Hello"
        stream = await client.chat.completions.create(model="auto", messages=ASK, stream=True)
        assert "".join([one.choices[0].delta.content or "" async for one in stream]) == "Hello"


def test_openai_calls_tools(client: openai.OpenAI, small: Upstream) -> None:
    small.script(answers(CALLING))
    answer = client.chat.completions.create(model="small", messages=ASK, tools=[TOOL], tool_choice="auto")
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and json.loads(call.function.arguments) == {"city": "Ulm"}
    assert small.requests[0].json()["tools"] == [TOOL]


def test_openai_streams_tool_calls(client: openai.OpenAI, small: Upstream) -> None:
    small.script(streams(*map(sse, CALL_EVENTS), b"data: [DONE]\n\n"))
    with client.chat.completions.stream(model="small", messages=ASK, tools=[TOOL]) as stream:
        answer = stream.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.id == "call_1" and call.function.arguments == '{"city": "Ulm"}'
    assert answer.choices[0].finish_reason == "tool_calls"


def test_openai_sends_pictures(client: openai.OpenAI, small: Upstream) -> None:
    client.chat.completions.create(model="auto:cheap", messages=PICTURE)
    assert small.requests[0].json()["messages"] == PICTURE


def test_openai_reads_structured_answers(client: openai.OpenAI, small: Upstream) -> None:
    small.script(answers(completion('{"city": "Ulm", "inhabitants": 128928}')))
    answer = client.chat.completions.parse(model="small", messages=ASK, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Ulm", inhabitants=128928)
    assert small.requests[0].json()["response_format"]["json_schema"]["name"] == "Place"


def test_openai_shows_the_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=ASK, extra_body={"routing": {"preference": "best", "explain": True}}
    )
    assert raw.headers["x-pointsman-expert"] == "large" and raw.headers["x-pointsman-reason"]
    assert raw.parse().model == "large"
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_openai_shows_the_headers_of_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="auto:best", messages=ASK, stream=True
    ) as raw:
        assert raw.headers["x-pointsman-expert"] == "large"
        assert b"".join(raw.iter_bytes()).endswith(b"data: [DONE]\n\n")


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert {"auto", "auto:best", "small", "large"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("auto:best").id == "auto:best"


ERRORS: dict[str, tuple[dict[str, Any], Any, type[openai.APIStatusError], str | None]] = {
    "an unknown model": ({"model": "gpt-5"}, None, openai.NotFoundError, "model_not_found"),
    "bad input": ({"messages": []}, None, openai.BadRequestError, None),
    "the upstream's refusal": ({}, refuses(400, "bad", code="bad_one"), openai.BadRequestError, "bad_one"),
    "an unprocessable one": ({}, refuses(422, "bad", code="bad_one"), openai.UnprocessableEntityError, "bad_one"),
    "a limit": ({}, refuses(429), openai.RateLimitError, "rate_limit_exceeded"),
    "a failure": ({}, refuses(500), openai.InternalServerError, "expert_server"),
    "a limit before the stream": ({"stream": True}, refuses(429), openai.RateLimitError, "rate_limit_exceeded"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_openai_raises_the_right_error(case: str, client: openai.OpenAI, small: Upstream) -> None:
    fields, behave, error, code = ERRORS[case]
    if behave is not None:
        small.script(behave)
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "small", "messages": ASK, **fields})
    assert type(caught.value) is error and caught.value.code == code
    assert caught.value.request_id and caught.value.message


def test_openai_raises_for_a_wrong_key(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="wrong").models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("tail", [b"", sse({"error": {"message": "overloaded", "code": 503}})])
def test_openai_raises_for_an_error_midway(tail: bytes, client: openai.OpenAI, small: Upstream) -> None:
    small.script(streams(*map(sse, EVENTS[:3]), tail, then=close))
    heard: list[str | None] = []
    stream = client.chat.completions.create(model="small", messages=ASK, stream=True)
    with pytest.raises(openai.APIError) as caught:
        heard.extend(one.choices[0].delta.content for one in stream)
    assert heard == ["", "Hel", "lo"]
    assert caught.value.code in ("expert_cut", "expert_server") and caught.value.message


def test_openai_does_not_retry_what_the_gateway_has_retried(
    client: openai.OpenAI, small: Upstream, large: Upstream
) -> None:
    small.always = large.always = refuses(500)
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=2).chat.completions.create(model="auto", messages=ASK)
    assert (len(small.requests), len(large.requests)) == (1, 1)


def test_openai_retries_a_limit_that_says_when(client: openai.OpenAI, small: Upstream) -> None:
    small.script(refuses(429, headers={"retry-after-ms": "10"}))
    answer = client.with_options(max_retries=1).chat.completions.create(model="small", messages=ASK)
    assert answer.choices[0].message.content == "Hello" and len(small.requests) == 2


def test_openais_own_timeout_is_met(client: openai.OpenAI, small: Upstream) -> None:
    small.script(hang)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="small", messages=ASK, timeout=1.2)
    assert caught.value.status_code == 504, "the answer comes before the client gives up"


def test_openai_leaving_a_stream_cancels_it(client: openai.OpenAI, small: Upstream) -> None:
    small.script(streams(*map(sse, EVENTS[:3]), then=hang))
    with client.chat.completions.create(model="small", messages=ASK, stream=True) as stream:
        next(iter(stream))
    assert small.requests[0].gone.wait(20)


@pytest.fixture
def chain(gateway: Gateway) -> ChatOpenAI:
    return ChatOpenAI(model="auto:cheap", base_url=gateway.url + "/v1", api_key=SecretStr(KEY), max_retries=0)


def test_langchain_answers(chain: ChatOpenAI) -> None:
    answer = chain.invoke([HumanMessage("Say hello.")])
    assert answer.content == "Hello" and answer.response_metadata["model_name"] == "small"
    assert answer.usage_metadata is not None and answer.usage_metadata["total_tokens"] == 13


def test_langchain_streams(chain: ChatOpenAI) -> None:
    parts = list(chain.stream("Say hello.", stream_usage=True))
    assert "".join(str(part.content) for part in parts) == "Hello"
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] == 2


async def test_langchain_streams_asynchronously(chain: ChatOpenAI) -> None:
    assert "".join([str(part.content) async for part in chain.astream("Say hello.")]) == "Hello"


def test_langchain_binds_tools(chain: ChatOpenAI, small: Upstream) -> None:
    small.script(answers(CALLING))
    answer = chain.bind_tools([TOOL]).invoke("What is the weather in Ulm?")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("weather", {"city": "Ulm"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_reads_structured_answers(method: Any, chain: ChatOpenAI, small: Upstream) -> None:
    said = '{"city": "Ulm", "inhabitants": 128928}'
    call = {"id": "c", "type": "function", "function": {"name": "Place", "arguments": said}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    calling = completion(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    small.script(answers(completion(said) if method == "json_schema" else calling))
    assert chain.with_structured_output(Place, method=method).invoke("x") == Place(city="Ulm", inhabitants=128928)


def test_langchain_carries_wishes(gateway: Gateway) -> None:
    chain = ChatOpenAI(
        model="auto",
        base_url=gateway.url + "/v1",
        api_key=SecretStr(KEY),
        extra_body={"routing": {"preference": "best"}},
        include_response_headers=True,
    )
    answer = chain.invoke("Say hello.")
    assert answer.response_metadata["headers"]["x-pointsman-expert"] == "large"


def test_curl_streams_and_shows_the_headers(gateway: Gateway) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs the curl command")
    command = ["curl", "-isN", gateway.url + "/v1/chat/completions", "-H", f"authorization: Bearer {KEY}"]
    body = json.dumps({"model": "small", "messages": HELLO, "stream": True})
    ended = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout.startswith("HTTP/1.1 200") and "x-pointsman-expert: small" in ended.stdout
    assert ended.stdout.endswith("data: [DONE]\n\n")
