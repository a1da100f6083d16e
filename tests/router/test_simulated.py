import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from router.config_experts import ReplaySettings, SimulatedSettings
from router.errors import ConfigError, ExpertError
from router.experts.base import Call, Stream
from router.experts.simulated import SimulatedExpert
from router.types import ExpertSpec, Price, Usage

FAST = {"ttft_s": 1e-6, "token_s": 1e-9}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 2},
            },
            "required": ["city", "unit", "days"],
        },
    },
}
ROWS = [
    # prompt, model, score, input_tokens, output_tokens
    ("What is a train?", "alpha", 1.0, 11, 42),
    ("What is a train?", "beta", 0.0, 12, 7),
    ("What is a rail?", "alpha", 0.25, 13, 9),
    ("Asked twice", "alpha", 1.0, 10, 10),
    ("Asked twice", "alpha", 0.0, 10, 30),
    ("Of unknown length", "alpha", 1.0, None, None),
    ("Never scored", "alpha", None, 5, 5),
]


def expert(**settings: Any) -> SimulatedExpert:
    made = SimulatedSettings(kind="simulated", name="toy", **(FAST | settings))
    return SimulatedExpert(made, ExpertSpec(name="toy", price=Price(1, 2)))


def call(surface: str = "chat/completions", include_usage: bool = False, **body: Any) -> Call:
    if surface == "chat/completions":
        body = {"model": "toy", "messages": [{"role": "user", "content": "What is a train?"}]} | body
    deadline = asyncio.get_running_loop().time() + 60
    return Call(surface, body, deadline, "req-1", input_tokens=17, include_usage=include_usage)


async def answered(toy: SimulatedExpert, **body: Any) -> dict[str, Any]:
    answer = await toy.complete(call(**body))
    whole: dict[str, Any] = orjson.loads(answer.body)
    return whole


async def events(stream: Stream) -> list[dict[str, Any]]:
    """The chunks of a stream, after its shape as server-sent events was looked at."""
    raw = b"".join([item async for item in stream])
    parts = raw.split(b"\n\n")
    assert parts[-2:] == [b"data: [DONE]", b""]
    assert all(part.startswith(b"data: ") for part in parts[:-1])
    return [orjson.loads(part[6:]) for part in parts[:-2]]


def table(path: Path, rows: list[tuple[Any, ...]] = ROWS) -> Path:
    names = ["prompt", "model", "score", "input_tokens", "output_tokens"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns | {"dataset": ["x"] * len(rows)}), path)
    return path


async def test_an_answer_has_the_shape_of_a_chat_completion() -> None:
    answer = await expert(output_tokens=20).complete(call())
    body = orjson.loads(answer.body)
    assert (body["object"], body["model"], body["id"]) == ("chat.completion", "toy", "chatcmpl-req-1")
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert "simulated answer by toy" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 17
    assert body["usage"]["completion_tokens"] == 20 == len(choice["message"]["content"].split())
    assert body["usage"]["total_tokens"] == 37
    assert answer.usage == Usage(input_tokens=17, output_tokens=20)
    assert answer.ttft_s >= 0


async def test_the_prompt_is_never_repeated() -> None:
    body = await answered(expert(), messages=[{"role": "user", "content": "zanzibar quokka"}])
    text = body["choices"][0]["message"]["content"]
    assert "a message of 2 words" in text
    assert "zanzibar" not in text


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    toy = expert(output_tokens=30)
    whole = await answered(toy)
    chunks = await events(await toy.stream(call()))
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]


async def test_a_stream_keeps_its_id_and_opens_with_the_role_and_ends_with_the_reason() -> None:
    chunks = await events(await expert(output_tokens=5).stream(call()))
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-req-1"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"toy"}
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["assistant"] + [None] * 6
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 6 + ["stop"]
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_stream_gives_usage_once_and_last_where_it_was_asked_for() -> None:
    stream = await expert(output_tokens=5).stream(call(include_usage=True))
    *before, last = await events(stream)
    assert all(chunk["usage"] is None for chunk in before)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert last["usage"]["cost_usd"] == pytest.approx((17 * 1 + 5 * 2) / 1e6)
    assert stream.usage == Usage(input_tokens=17, output_tokens=5)


async def test_usage_after_an_early_close_counts_what_was_produced() -> None:
    stream = await expert(output_tokens=50, token_s=30).stream(call())
    iterator = aiter(stream)
    await anext(iterator)
    await stream.aclose()
    assert stream.usage == Usage(input_tokens=17, output_tokens=1, estimated=True)


async def test_a_paced_stream_sends_a_token_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    stream = await expert(output_tokens=3, ttft_s=0.5, token_s=0.25).stream(call())
    sent = [(now[0], item.count(b"data: ")) async for item in stream]
    assert sent == [(100.5, 2), (100.75, 1), (101.0, 3)]


async def test_a_stream_without_pace_is_sent_at_once() -> None:
    items = [item async for item in await expert(output_tokens=200).stream(call())]
    assert len(items) == 1


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_waiting_call_can_be_cancelled(streaming: bool) -> None:
    toy = expert(ttft_s=1000, first_byte_timeout_s=2000)
    task = asyncio.ensure_future(toy.stream(call()) if streaming else toy.complete(call()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_deadline_that_comes_first_is_a_timeout(streaming: bool) -> None:
    toy, late = expert(ttft_s=1000), call()
    late.deadline = asyncio.get_running_loop().time() + 0.01
    with pytest.raises(ExpertError) as caught:
        await (toy.stream(late) if streaming else toy.complete(late))
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_first_byte_later_than_its_limit_is_a_timeout(streaming: bool) -> None:
    toy = expert(ttft_s=1000, first_byte_timeout_s=0.01)
    with pytest.raises(ExpertError) as caught:
        await (toy.stream(call()) if streaming else toy.complete(call()))
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
async def test_the_callers_limit_cuts_the_answer(key: str) -> None:
    body = await answered(expert(output_tokens=50), **{key: 4})
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4


async def test_every_choice_is_answered_and_billed() -> None:
    toy = expert(output_tokens=6)
    body = await answered(toy, n=3)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 18
    chunks = await events(await toy.stream(call(n=3)))
    ends = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert ends == [0, 1, 2]


@pytest.mark.parametrize("stop", [" answer", ["never said", " answer"]])
async def test_the_answer_ends_before_a_stop_sequence(stop: Any) -> None:
    body = await answered(expert(), stop=stop)
    assert body["choices"][0]["message"]["content"] == "This is a simulated"
    assert body["usage"]["completion_tokens"] == 4


async def test_json_is_given_where_json_was_asked_for() -> None:
    body = await answered(expert(), response_format={"type": "json_object"})
    assert isinstance(orjson.loads(body["choices"][0]["message"]["content"]), dict)


async def test_json_follows_the_callers_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 12},
            "stops": {"type": "array", "items": {"$ref": "#/$defs/stop"}, "minItems": 2},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["name", "stops", "next"],
        "$defs": {"stop": {"type": "object", "properties": {"km": {"type": "number", "maximum": -1}}}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "line", "schema": schema}}
    body = await answered(expert(), response_format=wanted)
    value = orjson.loads(body["choices"][0]["message"]["content"])
    assert len(value["name"]) >= 12
    assert len(value["stops"]) == 2 and all(stop["km"] <= -1 for stop in value["stops"])
    while value is not None:
        value = value["next"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**12, "items": {}},
        {"type": "string", "minLength": 10**12},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
    ],
)
async def test_a_schema_without_a_small_value_is_the_callers_fault(schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(ExpertError) as caught:
        await expert().complete(call(response_format=wanted))
    assert (caught.value.kind, caught.value.status) == ("caller", 400)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_tool_is_called_with_arguments_that_its_schema_allows(choice: Any) -> None:
    body = await answered(expert(), tools=[WEATHER], tool_choice=choice)
    (choice_,) = body["choices"]
    (made,) = choice_["message"]["tool_calls"]
    assert choice_["finish_reason"] == "tool_calls"
    assert choice_["message"]["content"] is None
    assert made["function"]["name"] == "get_weather"
    assert orjson.loads(made["function"]["arguments"]) == {"city": "simulated", "unit": "C", "days": 2}


async def test_a_streamed_tool_call_comes_in_fragments() -> None:
    chunks = await events(await expert().stream(call(tools=[WEATHER], tool_choice="required")))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    first, *fragments = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert first["id"] and first["type"] == "function" and first["function"]["name"] == "get_weather"
    assert {fragment["index"] for fragment in fragments} == {0}
    arguments = "".join(fragment["function"]["arguments"] for fragment in fragments)
    assert orjson.loads(arguments)["days"] == 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_free_tool_choice_is_answered_in_text() -> None:
    body = await answered(expert(), tools=[WEATHER], tool_choice="auto")
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"]


async def test_parts_of_a_message_are_read_and_pictures_accepted() -> None:
    content = [
        {"type": "text", "text": "two words"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    body = await answered(expert(), messages=[{"role": "user", "content": content}])
    assert "2 words" in body["choices"][0]["message"]["content"]


async def test_logprobs_come_with_every_token() -> None:
    body = await answered(expert(output_tokens=5), logprobs=True)
    choice = body["choices"][0]
    assert "".join(t["token"] for t in choice["logprobs"]["content"]) == choice["message"]["content"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"function": {"name": "fly"}}}, "tool_choice"),
        ({"response_format": {"type": "poem"}}, "response_format"),
    ],
)
async def test_a_wrong_request_is_refused_as_a_provider_would(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ExpertError) as caught:
        await expert().stream(call(**body))
    assert (caught.value.kind, caught.value.status) == ("caller", 400)
    assert caught.value.body is not None
    assert orjson.loads(caught.value.body)["error"]["param"] == param


async def test_another_surface_is_refused() -> None:
    with pytest.raises(ExpertError) as caught:
        await expert().complete(call("rerank", query="x"))
    assert (caught.value.kind, caught.value.status) == ("caller", 404)


async def test_the_same_question_has_the_same_fate() -> None:
    fates = [(await answered(expert(quality=0.5)))["simulated"] for _ in range(3)]
    assert fates[0] == fates[1] == fates[2]


async def test_the_share_of_right_answers_is_the_configured_quality() -> None:
    toy = expert(quality=0.3, seed=7)
    fates = [
        (await answered(toy, messages=[{"role": "user", "content": f"question {i}"}]))["simulated"]
        for i in range(2000)
    ]
    assert {fate["quality"] for fate in fates} == {0.3}
    assert np.mean([fate["correct"] for fate in fates]) == pytest.approx(0.3, abs=0.04)


async def test_a_stream_carries_the_fate_with_its_finish_reason() -> None:
    toy = expert()
    chunks = await events(await toy.stream(call()))
    assert chunks[-1]["simulated"] == (await answered(toy))["simulated"]


async def test_embeddings_are_unit_vectors_and_equal_for_equal_texts() -> None:
    answer = await expert().complete(call("embeddings", model="toy", input=["a", "b", "a"]))
    body = orjson.loads(answer.body)
    vectors = np.array([row["embedding"] for row in body["data"]])
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[2]).all() and (vectors[0] != vectors[1]).any()
    assert answer.usage.input_tokens == body["usage"]["total_tokens"] == 17


async def test_embeddings_come_as_base64_of_the_same_floats() -> None:
    toy = expert()
    plain = orjson.loads((await toy.complete(call("embeddings", input="a", dimensions=8))).body)
    coded = (await toy.complete(call("embeddings", input="a", dimensions=8, encoding_format="base64"))).body
    vector = np.frombuffer(base64.b64decode(orjson.loads(coded)["data"][0]["embedding"]), "<f4")
    assert np.allclose(vector, plain["data"][0]["embedding"])
    assert len(vector) == 8


@pytest.mark.parametrize("wanted", [None, [], 5, [None], {"a": 1}])
async def test_embeddings_of_nothing_are_refused(wanted: Any) -> None:
    with pytest.raises(ExpertError) as caught:
        await expert().complete(call("embeddings", input=wanted))
    assert caught.value.status == 400


@pytest.fixture
async def replaying(tmp_path: Path) -> AsyncIterator[SimulatedExpert]:
    toy = expert(
        replay=ReplaySettings(table=table(tmp_path / "t.parquet"), model="alpha"), quality=0.5, output_tokens=3
    )
    await toy.open()
    yield toy
    await toy.close()


async def test_a_recorded_prompt_is_answered_with_its_score_and_tokens(replaying: SimulatedExpert) -> None:
    answer = await replaying.complete(call())
    assert orjson.loads(answer.body)["simulated"] == {"quality": 1.0, "correct": True, "replayed": True}
    assert answer.usage == Usage(input_tokens=11, output_tokens=42)


async def test_a_recorded_length_counts_for_json_too(replaying: SimulatedExpert) -> None:
    answer = await replaying.complete(call(response_format={"type": "json_object"}))
    assert answer.usage.output_tokens == 42


async def test_an_unrecorded_prompt_is_answered_as_configured_and_says_so(replaying: SimulatedExpert) -> None:
    answer = await replaying.complete(call(messages=[{"role": "user", "content": "something else"}]))
    fate = orjson.loads(answer.body)["simulated"]
    assert (fate["quality"], fate["replayed"]) == (0.5, False)
    assert answer.usage == Usage(input_tokens=17, output_tokens=3)


async def test_a_prompt_recorded_twice_has_the_mean_of_both(replaying: SimulatedExpert) -> None:
    answer = await replaying.complete(call(messages=[{"role": "user", "content": "Asked twice"}]))
    assert orjson.loads(answer.body)["simulated"]["quality"] == 0.5
    assert answer.usage.output_tokens == 20


async def test_a_recorded_answer_of_unknown_length_has_the_configured_one(replaying: SimulatedExpert) -> None:
    answer = await replaying.complete(call(messages=[{"role": "user", "content": "Of unknown length"}]))
    assert answer.usage == Usage(input_tokens=17, output_tokens=3)


async def test_a_row_without_a_score_is_not_replayed(replaying: SimulatedExpert) -> None:
    body = await answered(replaying, messages=[{"role": "user", "content": "Never scored"}])
    assert body["simulated"]["replayed"] is False


async def test_every_recorded_prompt_is_found_again(tmp_path: Path) -> None:
    # 600 digests: two or three of them end in a zero byte
    rows = [(f"prompt {i}", "alpha", (i % 5) / 4, i, i + 1) for i in range(600)]
    toy = expert(replay=ReplaySettings(table=table(tmp_path / "t.parquet", rows), model="alpha"))
    await toy.open()
    for prompt, _, score, given, _ in rows:
        body = await answered(toy, messages=[{"role": "user", "content": prompt}], max_tokens=1)
        assert body["simulated"]["quality"] == score
        assert body["usage"]["prompt_tokens"] == given


async def test_a_probe_says_what_is_replayed(replaying: SimulatedExpert) -> None:
    assert "4 prompts of alpha" in await replaying.probe()


async def test_an_unknown_model_is_an_error_with_the_choices(tmp_path: Path) -> None:
    toy = expert(replay=ReplaySettings(table=table(tmp_path / "t.parquet"), model="gamma"))
    with pytest.raises(ConfigError, match=r"t\.parquet.*'gamma'; it has: alpha, beta"):
        await toy.open()


async def test_a_table_without_a_needed_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "model": ["alpha"], "input_tokens": [1], "output_tokens": [1]}), path)
    with pytest.raises(ConfigError, match=r"t\.parquet.*no column score"):
        await expert(replay=ReplaySettings(table=path, model="alpha")).open()


@pytest.mark.parametrize("content", [None, b"no parquet"])
async def test_a_file_that_is_no_table_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"t\.parquet"):
        await expert(replay=ReplaySettings(table=path, model="alpha")).open()


@pytest.mark.parametrize(
    "row",
    [("a", "alpha", 1.5, 1, 1), ("a", "alpha", None, 1, 1), ("a", "alpha", "good", 1, 1), (3, "alpha", 1.0, 1, 1)],
)
async def test_a_table_with_wrong_values_is_an_error_that_names_it(tmp_path: Path, row: tuple[Any, ...]) -> None:
    path = table(tmp_path / "t.parquet", [row])
    with pytest.raises(ConfigError, match=r"t\.parquet"):
        await expert(replay=ReplaySettings(table=path, model="alpha")).open()


@pytest.mark.parametrize("extra", [{}, {"tools": [WEATHER], "tool_choice": "required"}, {"logprobs": True, "n": 2}])
async def test_the_official_clients_types_accept_what_is_sent(extra: dict[str, Any]) -> None:
    toy = expert()
    ChatCompletion.model_validate(await answered(toy, **extra), strict=True)
    for chunk in await events(await toy.stream(call(include_usage=True, **extra))):
        ChatCompletionChunk.model_validate(chunk, strict=True)
