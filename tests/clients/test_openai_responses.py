"""OpenAI's own client against the responses surface, with experts that speak chat completions and a real Redis."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from serving import Gateway, World
from upstream import DONE, USAGE, USAGE_CHUNK, Upstream, answers, chunk, close, completion, refuses, sse, streams

KEYS = {"ANN": "sk-of-ann", "BOB": "sk-of-bob"}
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather there.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
HELLO = [{"role": "user", "content": "Say hello."}]


def calling(*calls: Any, content: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "tool_calls": list(calls)}
    return completion(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])


@pytest.fixture
def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """With two keys, and experts that can do everything."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    keys = [{"name": name.lower(), "env": name} for name in KEYS]
    return world.start({"capabilities": ["tools", "json", "vision"]}, auth={"keys": keys})


def client_of(gateway: Gateway, name: str = "ANN") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEYS[name], max_retries=0)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{"model": "small", "input": "Say hello.", **fields})


def test_it_answers(client: openai.OpenAI, small: Upstream) -> None:
    answer = ask(
        client,
        model="auto:cheap",
        instructions="Be kind.",
        max_output_tokens=64,
        metadata={"a": "b"},
        temperature=0.5,
    )
    assert answer.output_text == "Hello" and (answer.status, answer.model) == ("completed", "small")
    assert answer.id.startswith("resp_") and answer.instructions == "Be kind." and answer.metadata == {"a": "b"}
    assert (answer.error, answer.incomplete_details, answer.max_output_tokens) == (None, None, 64)
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (11, 2, 13)
    assert small.requests[0].path == "/v1/chat/completions"
    assert small.requests[0].json() == {
        "model": "up-model",
        "messages": [{"role": "system", "content": "Be kind."}, *HELLO],
        "max_tokens": 64,
        "temperature": 0.5,
    }


def test_it_streams(client: openai.OpenAI) -> None:
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    last = events[-1].response
    assert last.output_text == "Hello" == events[6].text and last.output == [events[8].item]
    assert last.usage.total_tokens == USAGE["total_tokens"] and last.model == "small"
    assert client.responses.retrieve(last.id).output_text == "Hello"


def test_the_clients_own_stream_helper_reads_it(client: openai.OpenAI) -> None:
    with client.responses.stream(model="auto:cheap", input="Say hello.") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == "Hello" == stream.get_final_response().output_text


def test_a_conversation_goes_on_from_what_is_stored(client: openai.OpenAI, small: Upstream) -> None:
    first = ask(client, instructions="Be kind.")
    second = ask(client, input="And bye.", previous_response_id=first.id)
    third = ask(client, input=[{"role": "user", "content": "Go."}], previous_response_id=second.id)
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)
    said = {"role": "assistant", "content": "Hello"}
    # instructions are a request's own
    assert small.requests[2].json()["messages"] == [
        *HELLO,
        said,
        {"role": "user", "content": "And bye."},
        said,
        {"role": "user", "content": "Go."},
    ]


def test_a_response_is_read_back_and_deleted(client: openai.OpenAI) -> None:
    answer = ask(client, input=[{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}])
    assert client.responses.retrieve(answer.id) == answer
    page = client.responses.input_items.list(answer.id, order="asc", limit=1)
    assert [item.content[0].text for item in page] == ["One.", "Two."]  # type: ignore[union-attr]
    assert page.has_more and page.first_id == page.last_id == page.data[0].id
    newest: Any = client.responses.input_items.list(answer.id).data[0]
    assert newest.content[0].text == "Two."
    client.responses.delete(answer.id)
    for gone in (
        lambda: client.responses.retrieve(answer.id),
        lambda: client.responses.delete(answer.id),
        lambda: client.responses.input_items.list(answer.id),
        lambda: ask(client, previous_response_id=answer.id),
    ):
        with pytest.raises(openai.NotFoundError):
            gone()


def test_another_keys_response_is_as_good_as_missing(gateway: Gateway, small: Upstream) -> None:
    with client_of(gateway) as ann, client_of(gateway, "BOB") as bob:
        kept = ask(ann).id
        for name in (kept, "resp_" + "0" * 48):
            told = []
            for act in (
                bob.responses.retrieve,
                bob.responses.delete,
                bob.responses.input_items.list,
                lambda name: ask(bob, previous_response_id=name),
            ):
                with pytest.raises(openai.NotFoundError) as refused:
                    act(name)  # type: ignore[operator]
                told.append(refused.value.body)
            said = [error["message"].replace(name, "ID") for error in told]  # type: ignore[index]
            assert said == ["no response 'ID' is stored"] * 3 + ["previous_response_id: no response 'ID' is stored"]
        assert ann.responses.retrieve(kept).output_text == "Hello"
        with pytest.raises(openai.NotFoundError, match="no item"):
            ask(bob, input=[{"type": "item_reference", "id": ann.responses.retrieve(kept).output[0].id}])
    assert len(small.requests) == 1


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    answer = ask(client, store=False)
    assert answer.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_a_conversation_with_a_tool_goes_there_and_back(client: openai.OpenAI, small: Upstream) -> None:
    small.script(answers(calling(CALL, content="Let me see.")), answers(completion("Sunny.")))
    asked = ask(client, tools=[TOOL], tool_choice={"type": "function", "name": "weather"})
    text, call = asked.output
    assert text.content[0].text == "Let me see."
    assert (call.type, call.call_id, call.name, call.arguments) == (
        "function_call",
        "call_1",
        "weather",
        '{"city": "Ulm"}',
    )
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 C"}
    # once by the client's own keeping, once by ours
    told = ask(client, tools=[TOOL], input=[*HELLO, *asked.output, result])
    ask(client, tools=[TOOL], input=[result], previous_response_id=asked.id)
    assert told.output_text == "Sunny."
    first, second, third = (request.json() for request in small.requests)
    function = {key: TOOL[key] for key in ("name", "description", "parameters", "strict")}
    assert first["tools"] == [{"type": "function", "function": function}]
    assert first["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert (
        second["messages"]
        == third["messages"]
        == [
            *HELLO,
            {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "21 C"},
        ]
    )


def test_it_streams_thoughts_text_and_two_calls_at_once(client: openai.OpenAI, small: Upstream) -> None:
    def fragment(index: int, arguments: str, **first: Any) -> bytes:
        name = {"name": "weather"} if first else {}
        call = {"index": index, **first, "function": {**name, "arguments": arguments}}
        return sse(chunk(delta={"tool_calls": [call]}))

    small.script(
        streams(
            sse(chunk(delta={"role": "assistant", "reasoning_content": "Hm."})),
            sse(chunk("See:")),
            fragment(0, "", id="call_1", type="function"),
            fragment(1, '{"city": ', id="call_2", type="function"),
            fragment(0, '{"city": "Ulm"}'),
            fragment(1, '"Bonn"}'),
            sse(chunk(finish="tool_calls")),
            sse(USAGE_CHUNK),
            DONE,
        )
    )
    with client.responses.stream(
        model="small", input="Where?", tools=[TOOL], reasoning={"summary": "auto", "effort": "low"}
    ) as stream:
        answer: Any = stream.get_final_response()
    thought, text, ulm, bonn = answer.output
    assert thought.type == "reasoning" and thought.summary[0].text == "Hm."
    assert text.content[0].text == "See:"
    assert (ulm.call_id, ulm.name, ulm.arguments) == ("call_1", "weather", '{"city": "Ulm"}')
    assert (bonn.call_id, bonn.name, bonn.arguments) == ("call_2", "weather", '{"city": "Bonn"}')
    assert small.requests[0].json()["reasoning_effort"] == "low"


def test_it_sends_pictures_and_asks_for_json(client: openai.OpenAI, small: Upstream) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    ask(
        client,
        model="auto:cheap",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
                ],
            }
        ],
        text={"format": {"type": "json_schema", "name": "it", "schema": schema, "strict": True}},
    )
    sent = small.requests[0].json()
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    ]
    form = {"name": "it", "schema": schema, "strict": True}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": form}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("reason", "said"), [("length", "max_output_tokens"), ("content_filter",) * 2])
def test_an_answer_that_was_cut_says_why(
    reason: str, said: str, streaming: bool, client: openai.OpenAI, small: Upstream
) -> None:
    if streaming:
        small.script(streams(sse(chunk("Hel")), sse(chunk(finish=reason)), DONE))
        last = list(ask(client, stream=True))[-1]
        assert last.type == "response.incomplete"
        answer = last.response
    else:
        message = {"role": "assistant", "content": "Hel"}
        small.script(answers(completion(choices=[{"index": 0, "message": message, "finish_reason": reason}])))
        answer = ask(client)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", said)
    assert answer.output[0].status == "incomplete"
    assert client.responses.retrieve(answer.id).status == "incomplete"


def test_another_expert_answers_for_one_that_fails(client: openai.OpenAI, large: Upstream) -> None:
    large.script(close)
    assert ask(client, model="auto:best").model == "small"


def test_the_callers_mistakes_come_back_as_the_upstream_said(client: openai.OpenAI, small: Upstream) -> None:
    small.script(refuses(400, "stop: too many"))
    with pytest.raises(openai.BadRequestError, match="too many"):
        ask(client)


def test_a_stream_that_breaks_fails_and_is_not_stored(client: openai.OpenAI, small: Upstream) -> None:
    small.script(streams(sse(chunk("Hel")), then=close))
    events = list(ask(client, stream=True))
    assert events[0].response.store is True
    failed = events[-1].response
    assert events[-1].type == "response.failed" and failed.status == "failed" and failed.store is False
    assert failed.error.code == "server_error" and "small" in failed.error.message
    assert failed.output[0].content[0].text == "Hel" and failed.output[0].status == "incomplete"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(failed.id)


def test_langchain_goes_on_from_what_is_stored(gateway: Gateway, small: Upstream) -> None:
    chain = ChatOpenAI(
        model="small",
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr(KEYS["ANN"]),
        use_responses_api=True,
        use_previous_response_id=True,
        max_retries=0,
    )
    first = chain.invoke("Say hello.")
    parts = list(chain.stream([("user", "Say hello."), first, ("user", "Again.")]))
    assert first.text == "Hello" == "".join(part.text for part in parts)
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    assert whole.usage_metadata is not None and whole.usage_metadata["total_tokens"] == 13
    assert [message["content"] for message in small.requests[1].json()["messages"]] == [
        "Say hello.",
        "Hello",
        "Again.",
    ]
    small.script(answers(calling(CALL)))
    tool = {"type": "function", "function": {key: TOOL[key] for key in ("name", "description", "parameters")}}
    called = chain.bind_tools([tool]).invoke("Where?")
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Ulm"})]


async def test_it_answers_and_streams_asynchronously(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEYS["ANN"], max_retries=0) as client:
        first = await client.responses.create(model="auto", input="Say hello.")
        assert first.output_text == "Hello"
        stream = await client.responses.create(
            model="auto", input="Again.", previous_response_id=first.id, stream=True
        )
        assert [event.type async for event in stream][-1] == "response.completed"
