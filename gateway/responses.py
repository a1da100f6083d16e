"""`POST /v1/responses`: OpenAI's Responses API in front of chat (see `gateway.translation`)."""

import secrets
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.chat_request import ChatRequest, parse_object, read_chat
from gateway.fields import need_json, need_string, object_or_empty, wrong
from gateway.response_store import Conversation, ResponseStore
from gateway.responses_answer import Asked, part_of, whole_response
from gateway.responses_request import chat_body, input_items, repeated
from gateway.responses_stream import EventTranslator
from gateway.translation import Translation


class Responses(Translation):
    """What an answer's translation needs to know of its request, and the storing of both."""

    surface = "responses"

    def __init__(self, send: Any, store: ResponseStore) -> None:
        super().__init__(send)
        self._store = store
        self._owner = ""
        self._body: dict[str, Any] = {}
        self._before = Conversation()
        self._given: bytes | None = None  # the request's items, where they are to be stored
        self._asked: Asked | None = None
        self._translator: EventTranslator | None = None

    async def prepare(self, data: bytes, owner: str) -> None:
        self._owner = owner
        self._body = parse_object(data)
        previous = self._body.get("previous_response_id")
        if previous is not None:
            if not isinstance(previous, str):
                raise wrong("previous_response_id", "a string", previous)
            self._before = await self._store.conversation(owner, previous)
        items = self._body.get("input")
        if isinstance(items, list) and (references := _references(items)):
            found = await self._store.items(owner, references)
            self._body["input"] = [found[item["id"]] if _refers(item) else item for item in items]

    def parse(self, data: bytes, headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
        body = self._body
        stored = body.get("store")
        if not isinstance(stored, bool | None):
            raise wrong("store", "a boolean", stored)
        request = read_chat(chat_body(body, list(self._before.items)), headers, experts)
        name = f"resp_{secrets.token_hex(24)}"
        thinks = bool(object_or_empty(body.get("reasoning")).get("summary"))
        self._asked = Asked(name, repeated(body), thinks, request.input_tokens)
        if stored is not False and self._store.enabled:
            self._given = need_json(_listed(input_items(body), self._asked), "input")
        return request

    async def whole(self, status: int, body: bytes) -> bytes:
        if status != 200:
            return body
        assert self._asked is not None
        response = whole_response(self._asked, orjson.loads(body))
        await self._keep(response)
        return orjson.dumps(response)

    async def events(self, events: bytes) -> bytes:
        if self._translator is None:
            assert self._asked is not None
            self._translator = EventTranslator(self._asked, stores=self._given is not None)
        if self._translator.ended:
            return b""
        out = self._translator.feed(events)
        if not self._translator.ended:
            return out
        response = self._translator.response()
        await self._keep(response)
        return out + self._translator.last(response)

    async def _keep(self, response: dict[str, Any]) -> None:
        """Stores it before the caller can ask for it, and says in it whether it is."""
        if self._given is None:
            return
        response["store"] = True
        kept = await self._store.keep(
            self._owner, response["id"], self._given, orjson.dumps(response), self._before
        )
        response["store"] = kept


def _refers(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"


def _references(items: list[Any]) -> dict[str, str]:
    """Ids of items that the input refers to -> where the first to do so is."""
    places: dict[str, str] = {}
    for i, item in enumerate(items):
        if _refers(item):
            places.setdefault(need_string(item, "id", f"input[{i}]"), f"input[{i}].id")
    return places


def _listed(items: list[dict[str, Any]], asked: Asked) -> list[dict[str, Any]]:
    """The request's items as they are read back: each with an id, and what is said as a list of parts."""
    listed = []
    for i, item in enumerate(items):
        one = {"type": "message", "status": "completed", **item}
        one["id"] = item.get("id") or asked.item("in", i)
        if isinstance(content := item.get("content"), str):
            spoken = item.get("role") == "assistant"
            one["content"] = [
                part_of("output_text", content) if spoken else {"type": "input_text", "text": content}
            ]
        listed.append(one)
    return listed
