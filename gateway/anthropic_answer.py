"""Chat completions' answers, streams and errors in the shape of Anthropic's Messages API. Pure; knows no HTTP."""

from typing import Any

import orjson

from gateway.fields import list_or_empty, object_or_empty, string_or_empty
from router.experts.usage import read_usage
from router.types import Usage

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(status: int, body: bytes, request_id: str) -> bytes:
    """An error of the gateway's, which is in OpenAI's shape, as Anthropic says it."""
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return orjson.dumps(_error(kind, _message_of(body), request_id))


def message(
    answer: dict[str, Any], request_id: str, stops: list[str], thinks: bool, guess: dict[str, int]
) -> bytes:
    """The `message` object for a whole chat completion.

    `stops` are the sequences that were asked for, `thinks` whether thoughts were; `guess` is the usage where the
    answer reports none. A field `pointsman` of the answer is kept.
    """
    choices = [choice for choice in list_or_empty(answer.get("choices")) if isinstance(choice, dict)]
    choice = choices[0] if choices else {}
    said = object_or_empty(choice.get("message"))
    content: list[dict[str, Any]] = []
    if thinks and (thought := thought_of(said)):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    text = string_or_empty(said.get("content")) + string_or_empty(said.get("refusal"))
    if text:
        content.append({"type": "text", "text": text})
    calls = [call for call in list_or_empty(said.get("tool_calls")) if isinstance(call, dict)]
    for i, call in enumerate(calls):
        function = object_or_empty(call.get("function"))
        content.append(
            {
                "type": "tool_use",
                "id": string_or_empty(call.get("id")) or f"toolu_{request_id}_{i}",
                "name": string_or_empty(function.get("name")),
                "input": _arguments(string_or_empty(function.get("arguments"))),
            }
        )
    reason, stop = stop_reason(choice, stops, called=bool(calls), refused=bool(said.get("refusal")))
    whole = _frame(request_id, string_or_empty(answer.get("model"))) | {
        "content": content,
        "stop_reason": reason,
        "stop_sequence": stop,
        "usage": usage_of(object_or_empty(answer.get("usage"))) or guess,
    }
    if "pointsman" in answer:
        whole["pointsman"] = answer["pointsman"]
    return orjson.dumps(whole)


def stop_reason(choice: dict[str, Any], stops: list[str], *, called: bool, refused: bool) -> tuple[str, str | None]:
    """(reason, the sequence it stopped at). Only servers that name the sequence (vLLM, SGLang) let it be told."""
    at = next((choice[key] for key in ("stop_reason", "matched_stop") if choice.get(key) in stops), None)
    reason = _STOP_REASONS.get(string_or_empty(choice.get("finish_reason")), "end_turn")
    if reason == "end_turn":
        if at is not None:
            return "stop_sequence", at
        reason = "tool_use" if called else "refusal" if refused else reason
    return reason, None


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's usage, whose `input_tokens` leave out what was read from a cache or written to it; {} if none."""
    if not usage:
        return {}
    found = read_usage(usage) or Usage()
    read, (written, an_hour) = found.cached_tokens, found.parts[:2]
    ours: dict[str, Any] = {
        "input_tokens": max(found.input_tokens - read - written, 0),
        "output_tokens": found.output_tokens,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
    }
    if written:
        split = {"ephemeral_5m_input_tokens": written - an_hour, "ephemeral_1h_input_tokens": an_hour}
        ours["cache_creation"] = split
    return ours | ({"cost_usd": usage["cost_usd"]} if "cost_usd" in usage else {})


def thought_of(said: dict[str, Any]) -> str:
    """What a reasoning model thought, by the names that servers give it."""
    return string_or_empty(said.get("reasoning_content")) or string_or_empty(said.get("reasoning"))


class EventTranslator:
    """One stream: chunks of a chat completion go in, events of a message come out.

    The blocks of a message follow each other: one that is closed gets nothing more. After an error nothing comes.
    """

    def __init__(self, request_id: str, stops: list[str], thinks: bool, input_tokens: int) -> None:
        self._request_id = request_id
        self._stops = stops
        self._thinks = thinks
        self._input_tokens = input_tokens  # our estimate, until the expert reports
        self._begun = self._over = False
        self._open = ""  # the kind of the block that is open; "" for none
        self._index = -1
        self._call: tuple[int, str] = (-1, "")  # the open tool call's index and id
        self._calls: set[int] = set()
        self._refused = False
        self._last: dict[str, Any] = {}  # the choice that told the finish reason
        self._usage: dict[str, Any] = {}

    def feed(self, events: bytes) -> bytes:
        """The events for whole events of chat completions; b"" where there is nothing to say yet."""
        out: list[bytes] = []
        for block in events.split(b"\n\n"):
            if self._over or not block.startswith(b"data: "):
                continue
            data = block[6:]
            if data == b"[DONE]":
                self._end(out)
                continue
            try:
                chunk = orjson.loads(data)
            except orjson.JSONDecodeError:
                chunk = None
            if not isinstance(chunk, dict):
                self._fail(out, "api_error", "the expert sent what is no event")
            elif chunk.get("error"):
                self._fail(out, _midway(object_or_empty(chunk["error"])), _message_of(data))
            else:
                self._chunk(out, chunk)
        return b"".join(out)

    def _chunk(self, out: list[bytes], chunk: dict[str, Any]) -> None:
        if not self._begun:
            self._begun = True
            begin = _frame(self._request_id, string_or_empty(chunk.get("model"))) | {
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": self._input_tokens, "output_tokens": 0},
            }
            out.append(_event("message_start", message=begin))
        if usage := usage_of(object_or_empty(chunk.get("usage"))):
            self._usage = usage
        for choice in list_or_empty(chunk.get("choices")):
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            delta = object_or_empty(choice.get("delta"))
            if self._thinks and (thought := thought_of(delta)):
                self._say(out, "thinking", {"type": "thinking_delta", "thinking": thought})
            if text := string_or_empty(delta.get("content")):
                self._say(out, "text", {"type": "text_delta", "text": text})
            if refusal := string_or_empty(delta.get("refusal")):
                self._refused = True
                self._say(out, "text", {"type": "text_delta", "text": refusal})
            for call in list_or_empty(delta.get("tool_calls")):
                if not self._over:
                    self._tool(out, object_or_empty(call))
            if choice.get("finish_reason"):
                self._last = choice

    def _say(self, out: list[bytes], kind: str, delta: dict[str, Any]) -> None:
        if self._open != kind:
            empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}[kind]
            self._start(out, kind, empty)
        out.append(_event("content_block_delta", index=self._index, delta=delta))

    def _tool(self, out: list[bytes], call: dict[str, Any]) -> None:
        function = object_or_empty(call.get("function"))
        index, name = call.get("index"), string_or_empty(call.get("id"))
        if not isinstance(index, int):
            index = self._call[0] if not name else len(self._calls)
        # some servers give every call the same index, and each an id of its own
        if self._open != "tool_use" or index != self._call[0] or (name and name != self._call[1]):
            if not name and index in self._calls:
                self._fail(out, "api_error", "the expert goes back to a tool call that it had left")
                return
            self._calls.add(index)
            name = name or f"toolu_{self._request_id}_{index}"
            self._start(out, "tool_use", {"id": name, "name": string_or_empty(function.get("name")), "input": {}})
            self._call = index, name
        if arguments := string_or_empty(function.get("arguments")):
            delta = {"type": "input_json_delta", "partial_json": arguments}
            out.append(_event("content_block_delta", index=self._index, delta=delta))

    def _start(self, out: list[bytes], kind: str, fields: dict[str, Any]) -> None:
        self._stop(out)
        self._open = kind
        self._index += 1
        out.append(_event("content_block_start", index=self._index, content_block={"type": kind, **fields}))

    def _stop(self, out: list[bytes]) -> None:
        if self._open:
            self._open = ""
            out.append(_event("content_block_stop", index=self._index))

    def _end(self, out: list[bytes]) -> None:
        self._over = True
        self._stop(out)
        reason, stop = stop_reason(self._last, self._stops, called=bool(self._calls), refused=self._refused)
        usage = self._usage or {"output_tokens": 0}
        out.append(_event("message_delta", delta={"stop_reason": reason, "stop_sequence": stop}, usage=usage))
        out.append(_event("message_stop"))

    def _fail(self, out: list[bytes], kind: str, said: str) -> None:
        self._over = True
        out.append(b"event: error\ndata: " + orjson.dumps(_error(kind, said, self._request_id)) + b"\n\n")


def _midway(error: dict[str, Any]) -> str:
    """The kind of an error that broke a stream: there is no status any more that would say it."""
    kind, code = error.get("type"), error.get("code")
    if kind in ("rate_limit_error", "invalid_request_error"):
        return str(kind)
    if code in ("stopping", "expert_busy"):
        return "overloaded_error"
    return "timeout_error" if code == "expert_timeout" else "api_error"


def _frame(request_id: str, model: str) -> dict[str, Any]:
    return {"id": f"msg_{request_id.removeprefix('req_')}", "type": "message", "role": "assistant", "model": model}


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"


def _error(kind: str, said: str, request_id: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": said}, "request_id": request_id}


def _message_of(body: bytes) -> str:
    try:
        said = object_or_empty(orjson.loads(body)).get("error")
    except orjson.JSONDecodeError:
        said = None
    return string_or_empty(object_or_empty(said).get("message")) or "no more is known"


def _arguments(text: str) -> Any:
    """A call's input. What is no JSON object stays readable, wrapped as Anthropic's documentation advises."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    # as it was written: what is nested deeply can be read, and not written again
    return orjson.Fragment(text) if isinstance(value, dict) else {"INVALID_JSON": text}
