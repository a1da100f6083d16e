"""What a simulated expert says: plain text, JSON or a tool call, as the request asks.

One piece of a reply is one token: a word of a text, a few characters of JSON. No word of the prompt is repeated.
"""

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import orjson

from router.experts.example import example

MAX_CHOICES = 128
JSON_PIECE = 4  # characters

_FILLER = (
    "No model was asked. It stands in for a real reply, so that routing, streaming and metering can be tried "
    "without a key or a bill. Set this expert's kind to endpoint or remote, and a model will answer here."
)


class Refused(Exception):
    """The request is wrong, as a provider would say it. `param` is the field at fault."""

    def __init__(self, message: str, param: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of every choice: `pieces` are its text, or the arguments of a call of `tool`."""

    pieces: tuple[str, ...]
    finish: str
    choices: int = 1
    tool: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def last_user_text(body: dict[str, Any]) -> str:
    """The text of the last user message (of the last message where there is none); its text parts, by line."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise Refused("messages must be a non-empty list of objects", "messages")
    content = next((m for m in reversed(messages) if m.get("role") == "user"), messages[-1]).get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def write_reply(name: str, body: dict[str, Any], tokens: int) -> Reply:
    """The reply of the expert `name`, of `tokens` tokens where it is text. Raises `Refused`."""
    choices = whole_number(body, "n", 1, MAX_CHOICES) or 1
    limit = whole_number(body, "max_completion_tokens", 1) or whole_number(body, "max_tokens", 1)
    tool = _called_tool(body)
    if tool is not None:
        pieces, finish = _json_pieces(tool.get("parameters"), "tools"), "tool_calls"
    elif (schema := _asked_json(body)) is not None:
        pieces, finish = _json_pieces(schema, "response_format"), "stop"
    else:
        pieces, finish = _stopped(_text_pieces(name, body, tokens), body.get("stop")), "stop"
    if limit is not None and len(pieces) > limit:
        pieces, finish = pieces[:limit], "length"
    return Reply(tuple(pieces), finish, choices, None if tool is None else str(tool["name"]))


def whole_number(body: dict[str, Any], key: str, least: int, most: int | None = None) -> int | None:
    """The number that `body` has at `key`, or None. Raises `Refused` outside the bounds."""
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most and value > most):
        bounds = f"from {least} to {most}" if most else f"of at least {least}"
        raise Refused(f"{key} must be a whole number {bounds}, got {str(value)[:40]!r}", key)
    return value


def _text_pieces(name: str, body: dict[str, Any], tokens: int) -> list[str]:
    count = len(last_user_text(body).split())
    words = f"This is a simulated answer by {name} to a message of {count} words.".split()
    words += islice(cycle(_FILLER.split()), max(tokens - len(words), 0))
    return [word if i == 0 else f" {word}" for i, word in enumerate(words[:tokens])]


def _stopped(pieces: list[str], stop: Any) -> list[str]:
    stops = [s for s in ([stop] if isinstance(stop, str) else stop or ()) if isinstance(s, str) and s]
    text = "".join(pieces)
    end = min((at for s in stops if (at := text.find(s)) >= 0), default=None)
    if end is None:
        return pieces
    kept: list[str] = []
    for piece in pieces:
        if end <= 0:
            break
        kept.append(piece[:end])
        end -= len(piece)
    return kept


def _json_pieces(schema: Any, param: str) -> list[str]:
    try:
        value = example({} if schema is None else schema)
    except (ValueError, ArithmeticError) as error:
        raise Refused(f"{param}: {error}", param) from error
    if param == "tools" and not isinstance(value, dict):
        value = {}
    text = orjson.dumps(value).decode()
    return [text[i : i + JSON_PIECE] for i in range(0, len(text), JSON_PIECE)]


def _asked_json(body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that `response_format` asks for; None for text."""
    wanted = body.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    described = wanted.get("json_schema")
    if wanted.get("type") != "json_schema" or not isinstance(described, dict):
        raise Refused("response_format must be of type text, json_object or json_schema", "response_format")
    schema = described.get("schema")
    return schema if isinstance(schema, dict) else {"type": "object"}


def _called_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """The function that `tool_choice` makes the expert call; None where it may answer in text, as it then does."""
    choice = body.get("tool_choice")
    if choice in (None, "auto", "none"):
        return None
    tools = body.get("tools") if isinstance(body.get("tools"), list) else []
    functions = [tool.get("function") for tool in tools or () if isinstance(tool, dict)]
    named = {f["name"]: f for f in functions if isinstance(f, dict) and isinstance(f.get("name"), str)}
    if choice == "required" and named:
        return next(iter(named.values()))
    function = choice.get("function") if isinstance(choice, dict) else None
    wanted = function.get("name") if isinstance(function, dict) else None
    if isinstance(wanted, str) and wanted in named:
        return named[wanted]
    there = ", ".join(named) or "none"
    raise Refused(f"tool_choice asks for a function that `tools` does not have; it has: {there}", "tool_choice")
