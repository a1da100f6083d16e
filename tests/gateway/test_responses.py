"""`/v1/responses` on the wire: what is refused, what becomes of stored items, a Redis that is away."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis_process import RedisProcess
from serving import Gateway, World, request_bytes, until
from upstream import DONE, Upstream, answers, chunk, close, completion, hang, sse, streams

from router.config import parse_settings
from router.errors import ConfigError

PATH = "/v1/responses"


def post(gateway: Gateway, **body: Any) -> httpx.Response:
    return gateway.post(PATH, **{"model": "small", "input": "Say hello.", **body})


def read(gateway: Gateway, name: str, tail: str = "") -> httpx.Response:
    return gateway.client.get(f"{PATH}/{name}{tail}")


def typed_events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Of a stream that keeps the contract: each event names its type twice, and no [DONE] ends it."""
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    events = []
    for block in blocks:
        kind, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
    return events


@pytest.fixture
def alone(world: World, redis_process: RedisProcess) -> World:
    """A world whose Redis may be stopped."""
    world.settings["ledger"] = {"url": redis_process.url}
    return world


def test_an_answer_has_all_that_chats_has(gateway: Gateway) -> None:
    answer = post(gateway, model="auto:cheap", routing={"explain": True})
    chat = gateway.chat("auto:cheap", routing={"explain": True})
    assert set(answer.headers) == set(chat.headers)
    assert answer.headers["x-pointsman-cost-usd"] == chat.headers["x-pointsman-cost-usd"]
    assert answer.json()["pointsman"]["served"] == "small"
    assert read(gateway, answer.json()["id"]).json() == answer.json()


@pytest.mark.parametrize("streaming", [False, True])
def test_it_is_metered_like_chat(streaming: bool, gateway: Gateway) -> None:
    gateway.chat("small", stream=streaming)
    spent = gateway.metric("pointsman_cost_usd_total", expert="small")
    post(gateway, stream=streaming)
    assert gateway.metric("pointsman_cost_usd_total", expert="small") == pytest.approx(2 * spent) and spent > 0
    assert 'surface="responses"' in gateway.client.get("/metrics").text


def test_a_stream_that_breaks_says_so_and_ends(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(sse(chunk("Hel")), then=close))
    events = typed_events(post(gateway, stream=True))
    assert events[-1]["type"] == "response.failed" and events[-1]["response"]["error"]["code"] == "server_error"
    assert sum(event["type"] == "response.failed" for event in events) == 1
    gateway.still_works()


def test_a_failure_before_the_stream_is_an_http_error(gateway: Gateway, small: Upstream) -> None:
    small.always = close
    answer = post(gateway, stream=True)
    assert answer.status_code == 502 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_leaving_stops_the_upstream(gateway: Gateway, small: Upstream) -> None:
    small.always = hang
    client = gateway.connect()
    client.sendall(request_bytes(json.dumps({"model": "small", "input": "x"}).encode(), path=PATH))
    received = small.wait_for(1)
    client.close()
    until(received.gone.is_set, "the upstream's end")


def test_a_stream_without_usage_or_words_is_a_whole_response(gateway: Gateway, small: Upstream) -> None:
    small.script(streams(sse(chunk("", role="assistant")), sse(chunk(finish="stop")), DONE))
    events = typed_events(post(gateway, stream=True))
    assert [event["type"] for event in events] == [
        f"response.{what}" for what in ("created", "in_progress", "completed")
    ]
    response = events[-1]["response"]
    assert response["output"] == [] and response["usage"]["input_tokens"] > 0


def test_a_refusal_is_a_part_of_its_own(gateway: Gateway, small: Upstream) -> None:
    message = {"role": "assistant", "content": None, "refusal": "I won't."}
    small.script(answers(completion(choices=[{"index": 0, "message": message, "finish_reason": "stop"}])))
    said = post(gateway).json()["output"][0]["content"]
    assert said == [{"type": "refusal", "refusal": "I won't."}]
    small.script(streams(sse(chunk(delta={"refusal": "I won't."})), sse(chunk(finish="stop")), DONE))
    assert typed_events(post(gateway, stream=True))[-1]["response"]["output"][0]["content"] == said


def test_items_of_every_kind_become_messages(gateway: Gateway, small: Upstream) -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"role": "user", "content": "Look."},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}, image]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "So."}]},
    ]
    world_sees = post(gateway, input=items)
    assert world_sees.status_code == 200
    function = {"name": "f", "arguments": "{}"}
    assert small.requests[0].json()["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": name, "type": "function", "function": function} for name in "ab"],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": image["image_url"]}}]},
        {"role": "assistant", "content": "So."},
    ]


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("background", {"background": True}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("truncation", {"truncation": "auto"}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("context_management", {"context_management": [{}]}),
        ("include[0]", {"include": ["file_search_call.results"]}),
        ("messages", {"messages": []}),
        ("max_tokens", {"max_tokens": 3}),
        ("input", {"input": None}),
        ("input", {"input": []}),
        ("input", {"input": 7}),
        ("input[0]", {"input": ["a secret"]}),
        ("input[0].id", {"input": [{"type": "item_reference"}]}),
        ("input[0].type", {"input": [{"type": "web_search_call", "id": "ws_1"}]}),
        ("input[0].type", {"input": [{"type": ["x"]}]}),
        ("input[0].role", {"input": [{"role": "tool", "content": "a secret"}]}),
        ("input[0].content", {"input": [{"role": "user"}]}),
        ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
        (
            "input[0].content[0].file_id",
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
        ),
        ("input[0].arguments", {"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}),
        ("input[0].output", {"input": [{"type": "function_call_output", "call_id": "a", "output": 7}]}),
        ("instructions", {"instructions": ["a secret"]}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("max_output_tokens", {"max_output_tokens": True}),
        ("metadata", {"metadata": {"a": 1}}),
        ("metadata", {"metadata": []}),
        ("tools", {"tools": ""}),
        ("previous_response_id", {"previous_response_id": 7}),
        ("reasoning.effort", {"reasoning": {"effort": 7}}),
        ("store", {"store": "yes"}),
        ("stream", {"stream": "yes"}),
        ("temperature", {"temperature": "hot"}),
        ("text.format.type", {"text": {"format": {"type": "grammar"}}}),
        ("text.format.name", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
        ("tool_choice", {"tool_choice": "a secret"}),
        ("tool_choice.type", {"tool_choice": {"type": "web_search"}}),
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tools[0].name", {"tools": [{"type": "function"}]}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(param: str, body: dict[str, Any], steady: World) -> None:
    answer = post(steady.running[0], **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and param in error["message"] and "secret" not in error["message"]
    assert not steady.small.requests


@pytest.mark.parametrize("field", ["input", "metadata", "tools", "text", "reasoning", "other"])
def test_a_body_nested_too_deeply_is_refused(field: str, steady: World) -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    shaped = {
        "input": [{"role": "user", "content": "x", "other": deep}],
        "tools": [{"type": "function", "name": "f", "parameters": deep}],
    }.get(field, {"other": deep} if field != "other" else deep)
    answer = post(steady.running[0], **{field: shaped})
    assert answer.status_code == 400, answer.text
    steady.running[0].still_works()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1000", "limit"),
        ("order=up", "order"),
        ("after=x", "after"),
    ],
)
def test_odd_questions_about_stored_input_are_refused(query: str, param: str, steady: World) -> None:
    gateway = steady.running[0]
    name = post(gateway).json()["id"]
    answer = read(gateway, name, f"/input_items?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    answer = read(gateway, name, "?stream=true")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "stream"


def test_pages_of_input_follow_each_other(steady: World) -> None:
    gateway = steady.running[0]
    items = [{"role": "user", "content": str(i)} for i in range(5)]
    name = post(gateway, input=items).json()["id"]
    first = read(gateway, name, "/input_items?order=asc&limit=3").json()
    second = read(gateway, name, f"/input_items?order=asc&limit=3&after={first['last_id']}").json()
    assert [item["content"][0]["text"] for item in first["data"] + second["data"]] == list("01234")
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_methods_and_paths_that_are_not_there_are_refused(steady: World) -> None:
    client = steady.running[0].client
    assert client.get(PATH).json()["error"]["code"] == "method_not_allowed"
    assert client.put(f"{PATH}/resp_1").status_code == 405
    assert client.post(f"{PATH}/resp_1/cancel").status_code == 404
    assert client.get(f"{PATH}/{'x' * 5000}").status_code == 404


def test_stored_responses_need_a_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLER", "sk-of-the-caller")
    gateway = world.start(auth={"keys": [{"name": "ann", "env": "CALLER"}]})
    name = gateway.post(PATH, model="small", input="x", headers={"x-api-key": "sk-of-the-caller"}).json()["id"]
    assert read(gateway, name).status_code == read(gateway, "resp_1").status_code == 401
    assert gateway.client.delete(f"{PATH}/{name}").status_code == 401


def test_input_may_refer_to_items_that_are_stored(gateway: Gateway, small: Upstream) -> None:
    first = post(gateway).json()
    said = first["output"][0]["id"]
    given = read(gateway, first["id"], "/input_items").json()["first_id"]
    refer = [{"type": "item_reference", "id": name} for name in (given, said, said)]
    answer = post(gateway, input=[*refer, {"role": "user", "content": "So?"}])
    assert answer.status_code == 200
    hello = {"role": "assistant", "content": "Hello"}
    sent = small.requests[1].json()["messages"]
    assert sent == [{"role": "user", "content": "Say hello."}, hello, hello, {"role": "user", "content": "So?"}]
    for name in ("msg_1", said[:-1] + "7", said.replace("msg", "rs"), "msg_" + "0" * 48 + "_0", "x" * 5000):
        missing = post(gateway, input=[{"role": "user", "content": "x"}, {"type": "item_reference", "id": name}])
        assert missing.status_code == 404
        assert (missing.json()["error"]["param"], missing.json()["error"]["code"]) == (
            "input[1].id",
            "item_not_found",
        )
    assert len(small.requests) == 2


def test_no_id_reaches_into_the_keys_of_a_caller_with_a_longer_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT", "sk-short")
    monkeypatch.setenv("LONG", "sk-long")
    keys = [{"name": "ann", "env": "SHORT"}, {"name": "ann:b", "env": "LONG"}]
    gateway = world.start(auth={"keys": keys})
    long, short = {"x-api-key": "sk-long"}, {"x-api-key": "sk-short"}
    name = gateway.post(PATH, headers=long, model="small", input="x").json()["id"]
    for tail in ("", "/input_items"):
        assert gateway.client.get(f"{PATH}/b:{name}{tail}", headers=short).status_code == 404
    assert gateway.client.delete(f"{PATH}/b:{name}", headers=short).status_code == 404
    body = {"model": "small", "input": "x", "previous_response_id": f"b:{name}"}
    assert gateway.post(PATH, headers=short, **body).status_code == 404
    assert gateway.client.get(f"{PATH}/{name}", headers=long).status_code == 200


@pytest.mark.parametrize("name", ["%ff", "%ED%A0%80", "%00", "%0d%0a", "resp_*", "..%2f"])
def test_odd_ids_are_missing(name: str, steady: World) -> None:
    assert read(steady.running[0], name).status_code == 404


def test_a_turn_that_was_deleted_ends_its_conversations(gateway: Gateway, small: Upstream) -> None:
    first = post(gateway).json()["id"]
    second = post(gateway, previous_response_id=first).json()["id"]
    gateway.client.delete(f"{PATH}/{first}")
    answer = post(gateway, previous_response_id=second)
    assert answer.status_code == 404 and first in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "previous_response_not_found"
    assert len(small.requests) == 2


def test_what_is_stored_ends_and_a_conversation_that_goes_on_lives_on(
    alone: World, redis_process: RedisProcess
) -> None:
    gateway = alone.start(responses={"ttl_s": 1000})

    def left_s(name: str) -> int:
        return int(redis_process.command(f"TTL pointsman:{{ledger}}:response:anonymous:{name}")[1:])

    first = post(gateway).json()["id"]
    assert 900 < left_s(first) <= 1000
    redis_process.command(f"EXPIRE pointsman:{{ledger}}:response:anonymous:{first} 10")
    second = post(gateway, previous_response_id=first).json()["id"]
    assert 900 < left_s(first) <= 1000 and 900 < left_s(second) <= 1000


def test_what_is_too_large_is_answered_and_not_stored(world: World) -> None:
    gateway = world.start(responses={"item_bytes": 1024})
    answer = post(gateway, input="x" * 2000).json()
    assert answer["status"] == "completed" and answer["store"] is False
    assert read(gateway, answer["id"]).status_code == 404


def test_a_conversation_that_outgrows_a_request_is_refused(world: World, small: Upstream) -> None:
    gateway = world.start(limits={"body_bytes": 4096})
    first = post(gateway, input="x" * 2000).json()["id"]
    second = post(gateway, input="y" * 1000, previous_response_id=first).json()["id"]
    answer = post(gateway, input="z", previous_response_id=second)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "previous_response_id"
    assert len(small.requests) == 2


def test_an_operator_can_turn_storing_off(alone: World, redis_process: RedisProcess) -> None:
    gateway = alone.start(responses={"store": False})
    answer = post(gateway, store=True).json()
    assert answer["store"] is False
    assert typed_events(post(gateway, stream=True))[0]["response"]["store"] is False
    refused = read(gateway, answer["id"])
    assert refused.status_code == 404 and "responses.store" in refused.json()["error"]["message"]
    assert post(gateway, previous_response_id=answer["id"]).status_code == 404
    assert redis_process.command("KEYS *:response:*") == b"*0\r\n"


@pytest.mark.parametrize("streaming", [False, True])
def test_without_redis_it_answers_and_promises_nothing(
    streaming: bool, alone: World, redis_process: RedisProcess
) -> None:
    gateway = alone.start()
    kept = post(gateway).json()
    assert kept["store"] is True
    redis_process.kill()
    for _ in range(2):  # before the ledger has noticed, and after
        answer = post(gateway, stream=streaming)
        assert answer.status_code == 200
        response = typed_events(answer)[-1]["response"] if streaming else answer.json()
        assert response["status"] == "completed" and response["store"] is False
        for refused in (read(gateway, kept["id"]), post(gateway, previous_response_id=kept["id"])):
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "store_unavailable"
            assert refused.headers["retry-after"] == "1"
        until(lambda: gateway.service.ledger.degraded, "the ledger's notice")
    redis_process.start()
    until(lambda: not gateway.service.ledger.degraded, "the ledger's return")
    assert read(gateway, kept["id"]).json() == kept
    assert post(gateway, previous_response_id=kept["id"]).json()["store"] is True


def test_a_redis_that_hangs_holds_an_answer_up_for_a_moment_only(alone: World, redis_process: RedisProcess) -> None:
    gateway = alone.start()
    name = post(gateway).json()["id"]
    redis_process.freeze()
    assert post(gateway).json()["store"] is False
    assert read(gateway, name).status_code == 503
    redis_process.thaw()
    until(lambda: read(gateway, name).status_code == 200, "the store's return")


@pytest.mark.parametrize("redis_process", [("--maxmemory", "3mb")], indirect=True)
def test_a_redis_that_is_full_is_no_failure(alone: World) -> None:
    gateway = alone.start(responses={"item_bytes": 10_000_000})
    answers = [post(gateway, input="x" * 1_000_000) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {200}
    stored = [answer.json()["store"] for answer in answers]
    assert stored[-1] is False
    names = [answer.json()["id"] for answer in answers]
    # 503 while the ledger, which finds no room either, takes that Redis for away
    assert read(gateway, names[-1]).status_code in (404, 503)
    for name, there in zip(names, stored, strict=True):
        # a write that a busy machine did not end in time is not promised, and may be there all the same
        assert not there or read(gateway, name).status_code in (200, 503)
    assert post(gateway, input="short").status_code == 200


def test_foreign_data_under_our_key_is_no_answer(alone: World, redis_process: RedisProcess) -> None:
    gateway = alone.start()
    name = "resp_" + "0" * 48
    redis_process.command(f"SET pointsman:{{ledger}}:response:anonymous:{name} text")
    for refused in (read(gateway, name), post(gateway, previous_response_id=name)):
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "store_unavailable"


def test_prompts_are_in_no_log(gateway: Gateway, small: Upstream, logged: list[str]) -> None:
    small.script(streams(sse(chunk("Hel")), then=close))
    post(gateway, input="a secret", stream=True)
    post(gateway, input=[{"role": "a secret"}])
    assert logged and not any("secret" in line for line in logged)


@pytest.mark.parametrize(("field", "value"), [("ttl_s", 0), ("item_bytes", 10), ("store", "maybe"), ("keep", True)])
def test_a_wrong_setting_is_named(field: str, value: Any, tmp_path: Path) -> None:
    experts = [{"name": "a", "kind": "simulated"}]
    with pytest.raises(ConfigError, match=f"responses.{field}"):
        parse_settings({"experts": experts, "responses": {field: value}})
