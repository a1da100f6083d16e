"""Anthropic's shapes and chat completions', translated into each other: tables of both."""

import json
from typing import Any

import pytest
from upstream import DONE, USAGE_CHUNK, chunk, completion, sse

from gateway.anthropic_answer import EventTranslator, error_body, message
from gateway.anthropic_request import chat_body
from router.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello"}]
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def result(**fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", **fields}


def user(*blocks: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def asked(**fields: Any) -> dict[str, Any]:
    return chat_body({"model": "auto", "max_tokens": 9, "messages": HELLO, **fields})


MESSAGES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a string": (HELLO, HELLO),
    "one text": (user(text("Hi", cache_control={"type": "ephemeral"})), [{"role": "user", "content": "Hi"}]),
    "two texts": (user(text("a"), text("b")), user(text("a"), text("b"))),
    "nothing": (user(), user()),
    "an image": (user({"type": "image", "source": PNG}), user(IMAGE)),
    "an image's address": (
        user({"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}),
        user({"type": "image_url", "image_url": {"url": "http://x/y.png"}}),
    ),
    "a tool's use": (
        [{"role": "assistant", "content": [USE]}],
        [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
    ),
    "thoughts are left out": (
        [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "s"}, text("a")]}],
        [{"role": "assistant", "content": "a"}],
    ),
    "a result": (user(result(content="21")), [{"role": "tool", "tool_call_id": "t1", "content": "21"}]),
    "an empty result": (user(result()), [{"role": "tool", "tool_call_id": "t1", "content": ""}]),
    "a failed result": (
        user(result(content="no", is_error=True)),
        [{"role": "tool", "tool_call_id": "t1", "content": "Error: no"}],
    ),
    "a result with an image": (
        user(result(content=[text("see"), {"type": "image", "source": PNG}]), text("Well?")),
        [{"role": "tool", "tool_call_id": "t1", "content": "see"}, *user(IMAGE, text("Well?"))],
    ),
    "results come before what is said with them": (
        user(text("Well?"), result(content="21")),
        [{"role": "tool", "tool_call_id": "t1", "content": "21"}, {"role": "user", "content": "Well?"}],
    ),
    "a system message": (
        [*HELLO, {"role": "system", "content": [text("Be kind.")]}],
        [*HELLO, {"role": "system", "content": "Be kind."}],
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_become_those_of_chat(case: str) -> None:
    given, expected = MESSAGES[case]
    assert asked(messages=given)["messages"] == expected


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "numbers": ({"temperature": 0.5, "top_p": 0.9, "top_k": 4}, {"temperature": 0.5, "top_p": 0.9, "top_k": 4}),
    "stops": ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
    "no stops": ({"stop_sequences": []}, {}),
    "the user": ({"metadata": {"user_id": "u"}}, {"user": "u"}),
    "a stream": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    "no stream": ({"stream": False}, {"stream": False}),
    "a tool": (
        {"tools": [{"type": "custom", "name": "f", "input_schema": {"type": "object"}, "cache_control": {}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ),
    "any tool": ({"tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
    "no tool": ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
    "one tool at most": (
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"tool_choice": "auto", "parallel_tool_calls": False},
    ),
    "this tool": (
        {"tool_choice": {"type": "tool", "name": "f"}},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    "a schema": (
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
            }
        },
    ),
    "wishes": ({"routing": {"only": ["a"]}}, {"routing": {"only": ["a"]}}),
    "what the API does not know": ({"seed": 7}, {"seed": 7}),
    "what changes no answer": ({"service_tier": "auto", "thinking": {"type": "disabled"}, "betas": ["x"]}, {}),
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_become_those_of_chat(case: str) -> None:
    given, expected = FIELDS[case]
    assert asked(**given) == {"model": "auto", "max_tokens": 9, "messages": HELLO, **expected}


def test_system_blocks_become_one_message() -> None:
    assert asked(system=[text("a"), text("b")])["messages"] == [{"role": "system", "content": "a\n\nb"}, *HELLO]


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no messages": ({"messages": None}, "messages", "at least one"),
    "no limit": ({"max_tokens": None}, "max_tokens", "at least 1"),
    "a message that is none": ({"messages": ["x"]}, "messages[0]", "an object"),
    "a role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "user, assistant, system"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content", "got nothing"),
    "a document": ({"messages": user({"type": "document"})}, "messages[0].content[0].type", "text, image"),
    "a text that is none": ({"messages": user({"type": "text"})}, "messages[0].content[0].text", "a string"),
    "an image's source": (
        {"messages": user({"type": "image", "source": {"type": "file"}})},
        "messages[0].content[0].source.type",
        "base64, url",
    ),
    "a result of nothing": ({"messages": user({"type": "tool_result"})}, "messages[0].content[0].tool_use_id", ""),
    "a use without input": (
        {"messages": [{"role": "assistant", "content": [{**USE, "input": "x"}]}]},
        "messages[0].content[0].input",
        "an object",
    ),
    "a server's tool": ({"tools": [{"type": "web_search_20250305"}]}, "tools[0].type", "web_search_20250305"),
    "tools that are no list": ({"tools": {"a": 1}}, "tools", "a list"),
    "a tool without a schema": ({"tools": [{"name": "f"}]}, "tools[0].input_schema", "an object"),
    "a choice": ({"tool_choice": {"type": "some"}}, "tool_choice.type", "auto, any, none, tool"),
    "a choice that is a string": ({"tool_choice": "auto"}, "tool_choice", "an object"),
    "stops": ({"stop_sequences": [1]}, "stop_sequences", "strings"),
    "a system that is none": ({"system": 5}, "system", "a list"),
    "another format": ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type", "json_schema"),
    "servers": ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers", "not supported"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    given, param, said = WRONG[case]
    with pytest.raises(InvalidRequest) as caught:
        asked(**given)
    assert caught.value.param == param and caught.value.message.startswith(param) and said in caught.value.message


def test_a_prompt_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(messages=["my secret"])
    assert "secret" not in caught.value.message


def answered(stops: list[str] | None = None, thinks: bool = False, **fields: Any) -> dict[str, Any]:
    guess = {"input_tokens": 7, "output_tokens": 3}
    told: dict[str, Any] = json.loads(message(completion(**fields), "req_1", stops or [], thinks, guess))
    return told


def choice(finish: str | None = "stop", *, extra: Any = None, **said: Any) -> list[dict[str, Any]]:
    return [{"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish, **(extra or {})}]


REASONS: dict[str, tuple[list[Any], str, str | None]] = {
    "an end": (choice(content="x"), "end_turn", None),
    "no reason": (choice(None, content="x"), "end_turn", None),
    "a limit": (choice("length", content="x"), "max_tokens", None),
    "a filter": (choice("content_filter", content="x"), "refusal", None),
    "a refusal": (choice(refusal="No."), "refusal", None),
    "calls": (choice("tool_calls", tool_calls=[CALL]), "tool_use", None),
    "calls of a server that says stop": (choice("stop", tool_calls=[CALL]), "tool_use", None),
    "a sequence, told by vLLM": (choice(extra={"stop_reason": "END"}, content="x"), "stop_sequence", "END"),
    "a sequence, told by SGLang": (choice(extra={"matched_stop": "END"}, content="x"), "stop_sequence", "END"),
    "another's token": (choice(extra={"stop_reason": 128009}, content="x"), "end_turn", None),
    "no choices": ([], "end_turn", None),
    "choices that are none": (["x", None], "end_turn", None),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_to_stop(case: str) -> None:
    choices, reason, stop = REASONS[case]
    told = answered(["END"], choices=choices)
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, stop)


def test_usage_that_is_missing_is_estimated() -> None:
    assert answered(usage=None)["usage"] == {"input_tokens": 7, "output_tokens": 3}


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"'])
def test_arguments_that_are_no_object_stay_readable(arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    (use,) = answered(choices=choice("tool_calls", tool_calls=[call]))["content"]
    assert use["input"] == {"INVALID_JSON": arguments}


def test_arguments_may_be_nested_deeply() -> None:
    deep = '{"a":' * 400 + "1" + "}" * 400
    call = {**CALL, "function": {"name": "f", "arguments": deep}}
    (use,) = answered(choices=choice("tool_calls", tool_calls=[call]))["content"]
    assert json.dumps(use["input"], separators=(",", ":")) == deep


@pytest.mark.parametrize("thinks", [False, True])
def test_thoughts_are_shown_where_they_were_asked_for(thinks: bool) -> None:
    content = answered(thinks=thinks, choices=choice(content="x", reasoning_content="hm"))["content"]
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert content == ([thought] if thinks else []) + [text("x")]


def events(*blocks: bytes, thinks: bool = False, stops: list[str] | None = None) -> list[dict[str, Any]]:
    """What comes of a stream, one read per event; checks that it is written as the API writes it."""
    translator = EventTranslator("req_1", stops or [], thinks, 5)
    told = []
    for block in b"".join(map(translator.feed, blocks)).split(b"\n\n")[:-1]:
        kind, data = block.split(b"\n")
        told.append(json.loads(data.removeprefix(b"data: ")))
        assert kind.decode() == f"event: {told[-1]['type']}"
    return told


def delta(**fields: Any) -> bytes:
    return sse(chunk(delta=fields))


def call(arguments: str, **fields: Any) -> dict[str, Any]:
    name = {"name": "f"} if "id" in fields else {}
    return {**fields, "function": {**name, "arguments": arguments}}


def test_a_stream_to_the_letter() -> None:
    told = events(
        sse(chunk("", role="assistant")), sse(chunk("Hi")), sse(chunk(finish="stop")), sse(USAGE_CHUNK), DONE
    )
    usage = {"input_tokens": 11, "output_tokens": 2}
    caches = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    begin = {"id": "msg_1", "type": "message", "role": "assistant", "model": "up-model", "content": []}
    begin |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 0}}
    assert told == [
        {"type": "message_start", "message": begin},
        {"type": "content_block_start", "index": 0, "content_block": text("")},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage | caches,
        },
        {"type": "message_stop"},
    ]


BLOCKS: dict[str, tuple[list[bytes], list[str]]] = {
    "nothing": ([delta(role="assistant")], []),
    "thoughts and text": (
        [delta(reasoning_content="a"), delta(reasoning="b"), delta(content="c")],
        ["thinking:ab", "text:c"],
    ),
    "two calls": (
        [delta(tool_calls=[call("{", index=0, id="x")]), delta(tool_calls=[call("}", index=0)]),
         delta(tool_calls=[call("{}", index=1, id="y")])],
        ["tool_use:{}", "tool_use:{}"],
    ),
    "two calls in one event": (
        [delta(tool_calls=[call("{}", index=0, id="x"), call("{}", index=1, id="y")])],
        ["tool_use:{}", "tool_use:{}"],
    ),
    "two calls of one index": (
        [delta(tool_calls=[call("{}", index=0, id="x")]), delta(tool_calls=[call("{}", index=0, id="y")])],
        ["tool_use:{}", "tool_use:{}"],
    ),
    "calls without an index": (
        [delta(tool_calls=[call("{", id="x")]), delta(tool_calls=[call("}")]),
         delta(tool_calls=[call("1", id="y")])],
        ["tool_use:{}", "tool_use:1"],
    ),
    "an id that is repeated": (
        [delta(tool_calls=[call("{", index=0, id="x")]), delta(tool_calls=[call("}", index=0, id="x")])],
        ["tool_use:{}"],
    ),
    "text after a call": (
        [delta(tool_calls=[call("{}", index=0, id="x")]), delta(content="a")],
        ["tool_use:{}", "text:a"],
    ),
    "another choice": ([delta(content="a"), sse(chunk("b", index=1))], ["text:a"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_the_blocks_of_a_stream_follow_each_other(case: str) -> None:
    given, expected = BLOCKS[case]
    blocks: list[str] = []
    open_at = None
    for event in events(*given, sse(chunk(finish="stop")), DONE, thinks=True):
        if event["type"] == "content_block_start":
            assert open_at is None and event["index"] == len(blocks)
            open_at = event["index"]
            blocks.append(event["content_block"]["type"] + ":")
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_at
            blocks[-1] += next(value for key, value in event["delta"].items() if key != "type")
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_at
            open_at = None
    assert blocks == expected and open_at is None


BROKEN: dict[str, tuple[bytes, str]] = {
    "an expert's error": (sse({"error": {"message": "m", "type": "x", "code": "expert_cut"}}), "api_error"),
    "a stop": (sse({"error": {"message": "m", "type": "x", "code": "stopping"}}), "overloaded_error"),
    "a silence": (sse({"error": {"message": "m", "type": "x", "code": "expert_timeout"}}), "timeout_error"),
    "damage": (b"data: {oops}\n\n", "api_error"),
    "no object": (b"data: 5\n\n", "api_error"),
    "a call that was left": (
        delta(tool_calls=[call("{", index=0, id="x"), call("{", index=1, id="y"), call("}", index=0)]),
        "api_error",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_after_an_error_nothing_comes(case: str) -> None:
    data, kind = BROKEN[case]
    last = events(sse(chunk("a")), data, sse(chunk("b")), DONE)[-1]
    assert last["type"] == "error" and last["error"]["type"] == kind and last["error"]["message"]
    assert last["request_id"] == "req_1"


KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_errors_have_the_status_kind(status: int, kind: str) -> None:
    told = json.loads(error_body(status, b'{"error": {"message": "m", "code": "c"}}', "req_1"))
    assert told == {"type": "error", "error": {"type": kind, "message": "m"}, "request_id": "req_1"}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": {"message": 5}}'])
def test_an_error_without_words_is_still_one(body: bytes) -> None:
    assert json.loads(error_body(500, body, "req_1"))["error"]["message"]
