"""A whole answer as the stream that its caller asked for: guards look at whole answers, so the stream was held."""

from typing import Any

import orjson

from router.experts.sse import DONE, event

_NOT_OF_A_CHUNK = ("object", "choices", "usage")


def whole_body(body: dict[str, Any]) -> dict[str, Any]:
    """The request for the whole answer."""
    return {key: value for key, value in body.items() if key not in ("stream", "stream_options")}


def as_events(body: bytes, *, include_usage: bool, cost_usd: float) -> bytes:
    """All events of a chat completion: of each choice its words in one, its end in another."""
    answer = orjson.loads(body)
    head = {key: value for key, value in answer.items() if key not in _NOT_OF_A_CHUNK}
    head["object"] = "chat.completion.chunk"
    rest = {"usage": None} if include_usage else {}
    choices = [one for choice in answer["choices"] for one in _chunks(choice)]
    out = [event(head | {"choices": [one]} | rest) for one in choices]
    if include_usage:
        usage = (answer.get("usage") or {}) | {"cost_usd": cost_usd}
        out.append(event(head | {"choices": [], "usage": usage}))
    return b"".join(out) + DONE


def _chunks(choice: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    beside = {key: value for key, value in choice.items() if key not in ("message", "finish_reason")}
    delta = {"role": "assistant"} | _delta(choice.get("message") or {})
    ending = {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason")}
    return beside | {"delta": delta, "finish_reason": None}, ending


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    """A stream numbers its tool calls, since they come in parts."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    numbered = [{"index": index} | call if isinstance(call, dict) else call for index, call in enumerate(calls)]
    return message | {"tool_calls": numbered}
