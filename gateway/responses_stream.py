"""A chat completion's stream as the typed events of OpenAI's Responses API. Pure; knows no HTTP."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.anthropic_answer import thought_of
from gateway.fields import list_or_empty, object_or_empty, string_or_empty
from gateway.responses_answer import (
    Asked,
    call_item,
    ending,
    guessed,
    part_of,
    text_item,
    usage_of,
)

#: Of a part: its own events' name, and the name of the events that begin and end it.
_EVENTS = {
    "output_text": ("output_text", "content_part"),
    "refusal": ("refusal", "content_part"),
    "summary_text": ("reasoning_summary_text", "reasoning_summary_part"),
}


@dataclass(slots=True)
class _Text:
    """An item of text that is open."""

    index: int
    kind: str
    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """A call of a function, open until the stream ends: some servers write several at once."""

    index: int
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)


class EventTranslator:
    """One stream: chunks of a chat completion go in, typed events come out.

    When `ended`, the response is whole and its last event is left to `last`, which says whether it is stored.
    After an error nothing comes.
    """

    def __init__(self, asked: Asked, stores: bool) -> None:
        """`stores`: what the first events say of storing."""
        self._asked = asked
        self._stores = stores
        self._number = 0
        self._begun = self._over = False
        self._model = ""
        self._items: list[dict[str, Any]] = []
        self._text: _Text | None = None
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the chat's index of a call -> the call last begun there
        self._finish: Any = None
        self._usage: dict[str, Any] = {}
        self.ended = False

    def feed(self, events: bytes) -> bytes:
        """The events for whole events of chat completions; b"" where there is nothing to say yet."""
        out: list[bytes] = []
        for block in events.split(b"\n\n"):
            if self._over or not block.startswith(b"data: "):
                continue
            data = block[6:]
            if data == b"[DONE]":
                self._begin(out)
                self._end(out)
                continue
            try:
                chunk = orjson.loads(data)
            except orjson.JSONDecodeError:
                chunk = None
            if not isinstance(chunk, dict):
                self._fail(out, {"message": "the expert sent what is no event"})
            elif chunk.get("error"):
                self._fail(out, object_or_empty(chunk["error"]))
            else:
                self._chunk(out, chunk)
        return b"".join(out)

    def response(self) -> dict[str, Any]:
        """The whole response, once `ended`; as yet not stored."""
        status, fields = ending(self._finish)
        usage = self._usage or guessed(self._asked, len(orjson.dumps(self._items)))
        return self._asked.response(self._model, status, stored=False, output=self._items, usage=usage, **fields)

    def last(self, response: dict[str, Any]) -> bytes:
        return self._event(f"response.{response['status']}", response=response)

    def _begin(self, out: list[bytes]) -> None:
        if self._begun:
            return
        self._begun = True
        response = self._asked.response(self._model, "in_progress", stored=self._stores)
        out.append(self._event("response.created", response=response))
        out.append(self._event("response.in_progress", response=response))

    def _chunk(self, out: list[bytes], chunk: dict[str, Any]) -> None:
        self._model = self._model or string_or_empty(chunk.get("model"))
        self._begin(out)
        if usage := usage_of(object_or_empty(chunk.get("usage"))):
            self._usage = usage
        for choice in list_or_empty(chunk.get("choices")):
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            delta = object_or_empty(choice.get("delta"))
            if self._asked.thinks:
                self._say(out, "summary_text", thought_of(delta))
            self._say(out, "output_text", string_or_empty(delta.get("content")))
            self._say(out, "refusal", string_or_empty(delta.get("refusal")))
            for call in list_or_empty(delta.get("tool_calls")):
                self._tool(out, object_or_empty(call))
            self._finish = choice.get("finish_reason") or self._finish

    def _say(self, out: list[bytes], kind: str, text: str) -> None:
        if not text:
            return
        if self._text is None or self._text.kind != kind:
            self._close(out)
            self._text = _Text(len(self._items), kind)
            self._added(out, text_item(self._asked, self._text.index, kind, None, "in_progress"))
            out.append(self._of_part("added", self._text, part=part_of(kind, "")))
        self._text.pieces.append(text)
        out.append(self._of_text("delta", self._text, delta=text))

    def _tool(self, out: list[bytes], call: dict[str, Any]) -> None:
        function = object_or_empty(call.get("function"))
        given, at = string_or_empty(call.get("id")), call.get("index")
        if not isinstance(at, int):
            at = len(self._calls) if given or not self._calls else len(self._calls) - 1
        known = self._at.get(at)
        # some servers give every call the same index, and each an id of its own
        if known is None or (given and given != known.id):
            self._close(out)
            known = _Call(len(self._items), given, string_or_empty(function.get("name")))
            self._at[at] = known
            self._calls.append(known)
            self._added(out, call_item(self._asked, known.index, given, known.name, "", "in_progress"))
        known.name = known.name or string_or_empty(function.get("name"))
        if arguments := string_or_empty(function.get("arguments")):
            known.pieces.append(arguments)
            out.append(self._of_item("response.function_call_arguments.delta", known.index, delta=arguments))

    def _added(self, out: list[bytes], item: dict[str, Any]) -> None:
        self._items.append(item)
        index = len(self._items) - 1
        out.append(self._event("response.output_item.added", output_index=index, item=item))

    def _done(self, out: list[bytes], index: int, item: dict[str, Any]) -> None:
        self._items[index] = item
        out.append(self._event("response.output_item.done", output_index=index, item=item))

    def _close(self, out: list[bytes], status: str = "completed") -> None:
        """Ends the item of text that is open, if one is."""
        open_, self._text = self._text, None
        if open_ is None:
            return
        text, kind = "".join(open_.pieces), open_.kind
        out.append(self._of_text("done", open_, **{"refusal" if kind == "refusal" else "text": text}))
        out.append(self._of_part("done", open_, part=part_of(kind, text)))
        self._done(out, open_.index, text_item(self._asked, open_.index, kind, text, status))

    def _end(self, out: list[bytes]) -> None:
        self._over = self.ended = True
        status, _ = ending(self._finish)
        self._close(out, status)
        for call in self._calls:
            arguments = "".join(call.pieces)
            kind = "response.function_call_arguments.done"
            out.append(self._of_item(kind, call.index, name=call.name, arguments=arguments))
            self._done(out, call.index, call_item(self._asked, call.index, call.id, call.name, arguments, status))

    def _fail(self, out: list[bytes], error: dict[str, Any]) -> None:
        self._begin(out)
        self._over = True
        limited = error.get("type") == "rate_limit_error"
        said = {
            "code": "rate_limit_exceeded" if limited else "server_error",
            "message": string_or_empty(error.get("message")) or "no more is known",
        }
        self._close(out, "incomplete")
        for call in self._calls:
            item = call_item(self._asked, call.index, call.id, call.name, "".join(call.pieces), "incomplete")
            self._items[call.index] = item
        response = self._asked.response(self._model, "failed", stored=False, output=self._items, error=said)
        out.append(self._event("response.failed", response=response))

    def _of_text(self, what: str, text: _Text, /, **fields: Any) -> bytes:
        if text.kind == "output_text":
            fields["logprobs"] = []
        return self._within(f"response.{_EVENTS[text.kind][0]}.{what}", text, fields)

    def _of_part(self, what: str, text: _Text, /, **fields: Any) -> bytes:
        return self._within(f"response.{_EVENTS[text.kind][1]}.{what}", text, fields)

    def _within(self, kind: str, text: _Text, fields: dict[str, Any]) -> bytes:
        place = "summary_index" if text.kind == "summary_text" else "content_index"
        return self._of_item(kind, text.index, **{place: 0}, **fields)

    def _of_item(self, kind: str, index: int, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._items[index]["id"], output_index=index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
