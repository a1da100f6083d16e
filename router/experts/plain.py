"""litellm's answers and chunks as OpenAI's API would have sent them, without the fields that it leaves empty."""

from typing import Any


def plain_answer(dump: dict[str, Any], model: str) -> dict[str, Any]:
    """A whole answer; fields that the upstream has beside OpenAI's stay. `model` is the name that callers see."""
    answer = without_nulls(dump) | {"model": model}
    choices = []
    for choice in answer.get("choices") or ():
        message = {"content": None} | _plain(choice.get("message") or {})
        choices.append({"logprobs": None} | _plain(choice) | {"message": message})
    answer["choices"] = choices
    return answer


def plain_chunk(dump: dict[str, Any], model: str) -> dict[str, Any]:
    """A chunk of a stream. One that brings usage brings nothing else, so that it can be told from the others."""
    chunk = without_nulls(dump) | {"model": model}
    chunk.setdefault("usage", None)
    choices = [_plain_choice(choice) for choice in chunk.get("choices") or ()]
    if isinstance(chunk["usage"], dict):
        choices = [choice for choice in choices if choice["delta"] or choice["finish_reason"]]
    return chunk | {"choices": choices}


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Without nulls, and without litellm's box for a provider's own fields where it is empty."""
    plain = without_nulls(fields)
    own = plain.pop("provider_specific_fields", None)
    own = without_nulls(own) if isinstance(own, dict) else None
    return plain | {"provider_specific_fields": own} if own else plain


def _plain_choice(choice: dict[str, Any]) -> dict[str, Any]:
    delta = _plain(choice.get("delta") or {})
    if "tool_calls" in delta:
        delta["tool_calls"] = [_plain_fragment(call) for call in delta["tool_calls"]]
    return _plain(choice) | {"delta": delta, "finish_reason": choice.get("finish_reason")}


def _plain_fragment(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call's delta: its type belongs to the fragment that has its id."""
    plain = without_nulls(call) | {"function": without_nulls(call.get("function") or {})}
    if "id" not in plain:
        plain.pop("type", None)
    return plain
