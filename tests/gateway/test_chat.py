"""Whole answers: what reaches the expert, what comes back, and that nothing of it is ever logged."""

import threading
from typing import Any

import httpx
import orjson
import pytest
from serving import HELLO, Gateway, World, expert
from upstream import (
    Behaviour,
    Upstream,
    answers,
    chunk,
    close,
    completion,
    refuses,
    reset,
    sse,
    streams,
    writes,
)

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
CAPABLE = ["tools", "json", "vision", "audio"]


def test_an_answer_names_the_expert_that_served(gateway: Gateway) -> None:
    assert gateway.chat("small").json() == {**completion(), "model": "small"}


@pytest.mark.parametrize(("model", "served"), [("auto:best", "large"), ("auto:cheap", "small")])
def test_routed_names_carry_the_preference(model: str, served: str, gateway: Gateway) -> None:
    assert gateway.chat(model).json()["model"] == served


PARAMETERS: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 1,
    "seed": 2**63,
    "stop": ["a", "b"],
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "n": 2,
    "user": "u",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
    "metadata": {"a": "b"},
    "max_completion_tokens": 50,
    "a_parameter_of_tomorrow": {"deep": [1, {"er": None}], "é": "ü 🚂"},
}


@pytest.mark.parametrize("streamed", [False, True])
def test_every_parameter_passes_through_untouched(streamed: bool, gateway: Gateway, small: Upstream) -> None:
    gateway.chat("small", **PARAMETERS, stream=streamed)
    sent = small.requests[0].json()
    assert {name: sent[name] for name in PARAMETERS} == PARAMETERS
    assert sent["messages"] == HELLO


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "content": [{"type": "text", "text": "Look:"}, IMAGE], "name": "ann"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
    {"role": "tool", "tool_call_id": "c", "content": "result \u2028 \U0001f682 \x7f"},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "a_part_of_tomorrow", "x": 1}]},
    {"role": "a_role_of_tomorrow", "content": ""},
]


def test_every_kind_of_message_passes_through_untouched(world: World) -> None:
    gateway = world.start({"capabilities": CAPABLE})
    gateway.chat("auto:cheap", messages=MESSAGES)
    assert world.small.requests[0].json()["messages"] == MESSAGES


def test_what_the_upstream_adds_survives(gateway: Gateway, small: Upstream) -> None:
    body = completion(
        system_fingerprint="fp",
        service_tier="x",
        provider_specific={"a": [1.5, None, True]},
        choices=[
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": []},
            }
        ],
    )
    small.script(answers(body))
    assert gateway.chat("small").json() == {**body, "model": "small"}


@pytest.mark.parametrize(
    ("needs", "fields"),
    [
        ("tools", {"tools": [TOOL]}),
        ("tools", {"functions": [{"name": "f"}]}),
        ("json", {"response_format": {"type": "json_object"}}),
        ("json", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}),
        ("vision", {"messages": [{"role": "user", "content": [IMAGE]}]}),
        ("audio", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
    ],
)
def test_only_who_can_is_asked(needs: str, fields: dict[str, Any], world: World) -> None:
    able = expert("large", world.large.url, capabilities=[needs])
    gateway = world.start(experts=[expert("small", world.small.url, capabilities=[]), able])
    assert gateway.chat("auto:cheap", **fields).json()["model"] == "large"
    assert gateway.chat("auto:cheap").json()["model"] == "small"


@pytest.mark.parametrize("fields", [{"response_format": {"type": "text"}}, {"tools": []}, {"tools": None}])
def test_nothing_is_needed_of_whom_nothing_is_asked(fields: dict[str, Any], world: World) -> None:
    gateway = world.start({"capabilities": []})
    assert gateway.chat("auto:cheap", **fields).status_code == 200


def test_a_named_expert_is_asked_whatever_it_can(world: World) -> None:
    gateway = world.start({"capabilities": []})
    assert gateway.chat("small", tools=[TOOL]).json()["model"] == "small"


def test_many_callers_at_once_get_their_own_answers(gateway: Gateway, small: Upstream) -> None:
    async def echo(wire: Any) -> None:
        await answers(completion(wire.request.json()["messages"][0]["content"]))(wire)

    small.always = echo
    wrong: list[str] = []

    def call(number: int) -> None:
        with httpx.Client(base_url=gateway.url, trust_env=False, verify=False) as client:
            for turn in range(5):
                text = f"{number}-{turn}"
                body = {"model": "small", "messages": [{"role": "user", "content": text}]}
                answer = client.post("/v1/chat/completions", json=body).json()
                if answer["choices"][0]["message"]["content"] != text:
                    wrong.append(text)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(small.requests) == 80


PROMPT, KEY = "marker-of-the-prompt", "sk-marker-of-a-key"
ECHO = {"error": {"message": f"{PROMPT} {KEY}", "code": f"{PROMPT}"}}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
LEAKY: dict[str, Behaviour] = {
    "an answer": answers(completion(PROMPT)),
    "a refusal": answers(ECHO, 400),
    "a long prompt": refuses(400, PROMPT, code="context_length_exceeded"),
    "a wrong key": answers(ECHO, 401),
    "a limit": answers(ECHO, 429),
    "a failure": answers(ECHO, 500),
    "garbage": answers(f"<html>{PROMPT} {KEY}".encode()),
    "JSON of another kind": answers({PROMPT: KEY}),
    "no HTTP": writes(f"{PROMPT} {KEY}\r\n\r\n".encode(), close),
    "a cut": writes(HEAD + PROMPT.encode(), close),
    "a reset": reset,
    "a header": answers(headers={"x-ratelimit-limit-requests": PROMPT, "retry-after": PROMPT}),
    "an error for an event": streams(sse({"error": {"message": PROMPT, "type": KEY}})),
    "garbage for an event": streams(sse(chunk(PROMPT, role="assistant")), f"data: {PROMPT}\n\n".encode()),
    "a stream cut": streams(sse(chunk(PROMPT, role="assistant")), sse(chunk(PROMPT))[:-9], then=close),
}


@pytest.mark.parametrize("streamed", [False, True])
def test_no_log_line_shows_a_prompt_an_answer_or_a_key(
    streamed: bool, world: World, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    monkeypatch.setenv("THEIR_KEY", KEY + "-2")
    gateway = world.start({"api_key": {"env": "THEIR_KEY"}}, auth={"keys": [{"name": "ann", "env": "OUR_KEY"}]})
    body = {"messages": [{"role": "user", "content": PROMPT}], "user": PROMPT, "stream": streamed}
    headers = {"authorization": f"Bearer {KEY}"}
    for behave in LEAKY.values():
        world.small.script(behave)
        gateway.chat("small", headers=headers, **body)
    for model in (PROMPT, "auto"):
        gateway.chat(model, headers=headers, **body, routing={PROMPT: PROMPT})
    gateway.chat("small", headers={"authorization": f"Bearer {KEY}-wrong"}, **body)
    gateway.send(orjson.dumps(body)[:-3], headers)
    text = "\n".join(logged)
    assert text.count("status=") >= 10, "the failures are logged at all"
    assert "marker" not in text


def test_what_breaks_unforeseen_is_logged_without_its_message(
    gateway: Gateway, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(PROMPT)

    monkeypatch.setattr(gateway.service.pool, "ask", broken)
    monkeypatch.setattr(gateway.service.router, "decide", broken)
    for path, body in [
        ("/v1/chat/completions", {"model": "small", "messages": HELLO}),
        ("/v1/chat/completions", {"model": "small", "messages": HELLO, "stream": True}),
        ("/v1/route", {"model": "auto", "messages": HELLO}),
    ]:
        before = len(logged)
        answer = gateway.post(path, **body)
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
        (line,) = logged[before:]
        assert "RuntimeError" in line and "broken" in line and PROMPT not in line + answer.text
