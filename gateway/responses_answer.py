"""Chat completions' answers in the shape of OpenAI's Responses API. Pure; knows no HTTP."""

import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.anthropic_answer import thought_of
from gateway.fields import list_or_empty, object_or_empty, string_or_empty
from router.experts.usage import read_usage
from router.types import Usage

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer needs to know of its request. `repeated` is said again in every response."""

    id: str
    repeated: dict[str, Any]
    thinks: bool
    input_tokens: int  # our estimate, where the expert reports none
    created_at: int = field(default_factory=lambda: int(time.time()))

    def item(self, prefix: str, i: int) -> str:
        """The id of the `i`-th item of the output."""
        return f"{prefix}_{self.id.removeprefix('resp_')}_{i}"

    def response(self, model: str, status: str, *, stored: bool, **fields: Any) -> dict[str, Any]:
        """The `response` object; `fields` are those that change as it goes on."""
        frame = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "model": model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "store": stored,
        }
        return frame | self.repeated | fields


def whole_response(asked: Asked, answer: dict[str, Any]) -> dict[str, Any]:
    """The response for a whole chat completion, as yet not stored. A field `pointsman` of the answer is kept."""
    choices = [choice for choice in list_or_empty(answer.get("choices")) if isinstance(choice, dict)]
    choice = choices[0] if choices else {}
    said = object_or_empty(choice.get("message"))
    status, fields = ending(choice.get("finish_reason"))
    output: list[dict[str, Any]] = []
    if asked.thinks and (thought := thought_of(said)):
        output.append(text_item(asked, 0, "summary_text", thought, status))
    for kind, key in (("output_text", "content"), ("refusal", "refusal")):
        if text := string_or_empty(said.get(key)):
            output.append(text_item(asked, len(output), kind, text, status))
    for call in list_or_empty(said.get("tool_calls")):
        if isinstance(call, dict):
            function = object_or_empty(call.get("function"))
            name, arguments = (string_or_empty(function.get(key)) for key in ("name", "arguments"))
            output.append(call_item(asked, len(output), call.get("id"), name, arguments, status))
    usage = usage_of(object_or_empty(answer.get("usage"))) or guessed(asked, len(orjson.dumps(output)))
    if "pointsman" in answer:
        fields["pointsman"] = answer["pointsman"]
    model = string_or_empty(answer.get("model"))
    return asked.response(model, status, stored=False, output=output, usage=usage, **fields)


def ending(finish_reason: Any) -> tuple[str, dict[str, Any]]:
    """(status, the fields that explain it)"""
    if (reason := _INCOMPLETE.get(string_or_empty(finish_reason))) is not None:
        return "incomplete", {"incomplete_details": {"reason": reason}}
    return "completed", {}


def text_item(asked: Asked, i: int, kind: str, text: str | None, status: str) -> dict[str, Any]:
    """An item of one part: said (`output_text`, `refusal`) or thought (`summary_text`). None: no part yet."""
    parts = [] if text is None else [part_of(kind, text)]
    if kind == "summary_text":
        return {"id": asked.item("rs", i), "type": "reasoning", "summary": parts, "status": status}
    item = {"id": asked.item("msg", i), "type": "message", "role": "assistant", "content": parts}
    return item | {"status": status}


def part_of(kind: str, text: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def call_item(asked: Asked, i: int, call_id: Any, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": asked.item("fc", i),
        "type": "function_call",
        "call_id": string_or_empty(call_id) or asked.item("call", i),
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """The usage in this API's words; {} if none."""
    if not usage:
        return {}
    found = read_usage(usage) or Usage()
    kept, thought = found.parts.cache_write_tokens, found.parts.reasoning_tokens
    ours = _usage(found.input_tokens, found.output_tokens, found.cached_tokens, kept, thought)
    return ours | ({"cost_usd": usage["cost_usd"]} if "cost_usd" in usage else {})


def guessed(asked: Asked, size: int) -> dict[str, Any]:
    """Usage where the expert reports none, for an output of `size` bytes."""
    return _usage(asked.input_tokens, size // 4, 0, 0, 0)


def _usage(prompt: int, completion: int, cached: int, kept: int, thought: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": kept},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": prompt + completion,
    }
