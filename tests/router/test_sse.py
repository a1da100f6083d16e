"""The stream's rewriter alone: however the bytes are cut into reads, the same events come out."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upstream import DONE, HELLO, USAGE, USAGE_CHUNK, chunk, hello_events, parse_events, said, sse

from router.experts.base import Call
from router.experts.sse import MAX_EVENT_BYTES, Rewriter, has_content
from router.experts.usage import usage_of
from router.types import ExpertSpec, Price, Usage

PRICE = Price(input=1.0, output=2.0)


def rewriter(asked: bool = False) -> Rewriter:
    call = Call("chat/completions", {}, deadline=0.0, request_id="r", input_tokens=5, include_usage=asked)
    return Rewriter(ExpertSpec("small", PRICE), call)


def fed(reads: list[bytes], asked: bool = False) -> tuple[Rewriter, bytes]:
    """What an endpoint does: feeds until the stream is done or broken, and closes it otherwise."""
    one = rewriter(asked)
    out = b""
    for read in reads:
        out += one.feed(read)
        if one.done or one.failure is not None:
            return one, out
    return one, out + one.close()


PROTOCOL = ["data: ", "data: [DONE]", "\n\n", '"model":"up-model"', '"usage":{', ',"usage":null', '"error":{', "\\"]
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.sampled_from(PROTOCOL)).map(
    "".join
)
STYLES = st.fixed_dictionaries(
    {
        "spaced": st.booleans(),
        "ascii": st.booleans(),
        "eol": st.sampled_from(["\n", "\r\n"]),
        "prefix": st.sampled_from(["data: ", "data:", "event: message\ndata: "]),
    }
)
COMMENTS = st.sampled_from([b"", b"", b": keep-alive\n\n"])
#: Fields of every chunk that a well-behaved upstream may have or not, and those that it would not.
ODDITIES = st.sampled_from(
    [{}, {}, {"usage": None}, {"service_tier": "default"}, {"error": None}, {"object": "x"}, {"model": "other"}]
)


@st.composite
def uncut(draw: st.DrawFn) -> tuple[bytes, str]:
    """A whole stream and what it says."""
    style = draw(STYLES)
    words = draw(st.lists(TEXTS, min_size=1, max_size=5))
    extra = draw(ODDITIES)
    role = draw(st.sampled_from(["assistant", None]))
    events = [
        chunk("", role=role, **extra),
        *(chunk(word, **extra) for word in words),
        chunk(finish="stop", **extra),
    ]
    ending = draw(st.sampled_from(["usage", "usage on the last", "no usage"]))
    if ending == "usage on the last":
        events[-1]["usage"] = USAGE
    elif ending == "usage":
        events.append(USAGE_CHUNK)
    comment = draw(COMMENTS)
    data = comment + b"".join(sse(event, **style) + comment for event in events)
    return data + draw(st.sampled_from([DONE, b"data: [DONE]", b""])), "".join(words)


@given(uncut(), st.data(), st.booleans())
@settings(max_examples=250, deadline=None)
def test_any_cut_into_reads_gives_the_same_events(
    stream: tuple[bytes, str], data: st.DataObject, asked: bool
) -> None:
    whole, text = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    reads = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    one, out = fed([whole], asked)
    other, parts = fed(reads, asked)
    assert one.done and other.done and one.failure is None is other.failure
    events = parse_events(out)
    assert parse_events(parts) == events
    assert one.usage == other.usage
    assert said(events) == text
    assert {event["id"] for event in events} == {"chatcmpl-up"} and {event["model"] for event in events} == {
        "small"
    }
    assert [event for event in events if event.get("usage")] == (events[-1:] if asked else [])


@given(TEXTS)
def test_no_text_is_taken_for_the_protocol(text: str) -> None:
    _, out = fed([sse(chunk("", role="assistant")), sse(chunk(text)) + sse(chunk(finish="stop")) + DONE])
    assert said(out) == text


@given(uncut(), st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_a_cut_stream_is_done_or_broken_and_gives_only_whole_events(stream: tuple[bytes, str], at: int) -> None:
    one, out = fed([stream[0][:at]])
    assert one.done != (one.failure is not None)
    assert one.failure is None or one.failure.kind == "cut"
    parse_events(out) if out else None


def test_a_well_behaved_streams_bytes_pass_but_for_the_model() -> None:
    events = [sse({**event, "x": {"b": [1, 2]}, "a": 1.50}) for event in HELLO]
    one = rewriter()
    out = b"".join(one.feed(event) for event in events)
    assert out == b"".join(events).replace(b'"up-model"', b'"small"')


def test_the_models_name_is_replaced_where_the_model_is_only() -> None:
    events = [sse({**event, "served_by": "up-model"}) for event in HELLO]
    _, out = fed([*events, DONE])
    assert {(event["model"], event["served_by"]) for event in parse_events(out)} == {("small", "up-model")}


def test_what_follows_a_failure_is_not_read() -> None:
    one = rewriter()
    one.feed(sse(chunk("a", role="assistant")))
    out = one.feed(sse(chunk("b")) + b"data: {nonsense\n\n" + sse(chunk("c")))
    assert said(out) == "b" and one.failure is not None


@pytest.mark.parametrize("event", [b'{"nonsense"}', b'{"object":"x"}', b"{}", b"[]", b"3", b"<html>", b"\xff"])
def test_an_event_of_another_kind_is_never_passed_on(event: bytes) -> None:
    one, out = fed([*map(sse, HELLO[:2]), b"data: " + event + b"\n\n", *map(sse, HELLO[2:]), DONE])
    assert said(out) == "Hel" and one.failure is not None and one.failure.kind == "garbage"


@pytest.mark.parametrize("first", ["id", "object"])
def test_an_id_that_changes_midway_is_the_first_one_still(first: str) -> None:
    events = [{first: event[first], **event} for event in HELLO]
    events[1]["id"] = "another"
    _, out = fed([*map(sse, events), DONE])
    assert {event["id"] for event in parse_events(out)} == {"chatcmpl-up"}


def test_an_event_without_end_is_given_up() -> None:
    one = rewriter()
    one.feed(b"data: " + b"x" * (MAX_EVENT_BYTES + 1))
    assert one.failure is not None and one.failure.kind == "garbage"


def test_an_error_says_what_the_upstream_said() -> None:
    one = rewriter()
    one.feed(sse({"error": {"message": "no", "code": 7}}))
    assert one.failure is not None and one.failure.body == {"message": "no", "code": 7}


def test_a_stream_cut_short_costs_what_was_produced() -> None:
    one = rewriter()
    one.feed(b"".join(hello_events()[:3]))
    assert one.usage == Usage(input_tokens=5, output_tokens=2, estimated=True)


def test_reported_usage_is_what_is_billed() -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 7}}
    one, _ = fed([*map(sse, HELLO), sse(chunk(choices=[], usage=usage)), DONE])
    assert one.usage == Usage(input_tokens=11, output_tokens=2, cached_tokens=7)


def test_more_tokens_than_a_call_can_come_to_are_estimated(caplog: pytest.LogCaptureFixture) -> None:
    said = {"prompt_tokens": 3, "completion_tokens": 8 * 128_000 + 1}
    one, _ = fed([*(sse({**event, "usage": said}) for event in HELLO), sse(chunk(choices=[], usage=said)), DONE])
    assert one.usage == Usage(input_tokens=5, output_tokens=3, estimated=True)
    assert caplog.text.count("expert 'small' reports 3 tokens in and 1024001 out") == 1


@pytest.mark.parametrize("count", [-1, 1.5, "9", True, [1], 2**63, 10**12])
def test_usage_with_a_count_that_is_none_is_not_believed(count: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": count}
    assert usage_of({"usage": usage}) is None
    one, out = fed([*map(sse, HELLO), sse(chunk(choices=[], usage=usage)), DONE], asked=True)
    assert one.usage.estimated and one.usage.input_tokens == 5
    (told,) = [event["usage"] for event in parse_events(out) if event["usage"]]
    assert told["completion_tokens"] == one.usage.output_tokens


@pytest.mark.parametrize("usage", [{"prompt_tokens": 3}, {"prompt_tokens": 3, "completion_tokens": None}])
def test_a_count_that_is_missing_is_zero(usage: Any) -> None:
    assert usage_of({"usage": usage}) == Usage(input_tokens=3)


@pytest.mark.parametrize("usage", [None, [], "x", 3])
def test_usage_that_is_no_object_is_none(usage: Any) -> None:
    assert usage_of(json.loads(json.dumps({"usage": usage}))) is None


@pytest.mark.parametrize(
    ("events", "is_content"),
    [
        (sse(chunk("", role="assistant")), False),
        (sse(chunk(delta={"content": None, "tool_calls": [], "refusal": None}, role="assistant")), False),
        (sse(chunk(choices=[])) + b": a comment\n\n", False),
        (sse(chunk("", role="assistant")) + sse(chunk("a"), spaced=True), True),
        (sse(chunk(delta={"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]})), True),
        (sse(chunk(delta={"reasoning_content": "so"})), True),
        (sse(chunk("", finish="stop")), True),
        (DONE, True),
    ],
)
def test_a_role_alone_is_no_content(events: bytes, is_content: bool) -> None:
    assert has_content(events) is is_content
