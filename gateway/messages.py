"""`POST /v1/messages`: Anthropic's Messages API in front of chat (see `gateway.translation`)."""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.anthropic_answer import EventTranslator, error_body, message
from gateway.anthropic_request import chat_body
from gateway.chat_request import ChatRequest, parse_object, read_chat
from gateway.errors import Failure
from gateway.translation import Translation
from gateway.wire import Headers

_THINKS = ("enabled", "adaptive")


class Messages(Translation):
    """What an answer's translation needs to know of its request."""

    surface = "messages"

    def __init__(self, send: Any) -> None:
        super().__init__(send)
        self._stops: list[str] = []
        self._thinks = False
        self._input_tokens = 0
        self._request_id = ""
        self._translator: EventTranslator | None = None

    def parse(self, data: bytes, headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
        body = parse_object(data)
        request = read_chat(chat_body(body), headers, experts)
        self._stops = body.get("stop_sequences") or []
        thinking = body.get("thinking")
        self._thinks = isinstance(thinking, dict) and thinking.get("type") in _THINKS
        self._input_tokens = request.input_tokens
        return request

    def begun(self, headers: Headers) -> Headers:
        request_id = dict(headers)[b"x-request-id"]
        self._request_id = request_id.decode()
        return [*headers, (b"request-id", request_id)]

    async def events(self, events: bytes) -> bytes:
        if self._translator is None:
            self._translator = EventTranslator(self._request_id, self._stops, self._thinks, self._input_tokens)
        return self._translator.feed(events)

    async def whole(self, status: int, body: bytes) -> bytes:
        if status != 200:
            return error_body(status, body, self._request_id)
        answer = orjson.loads(body)
        guess = {"input_tokens": self._input_tokens, "output_tokens": len(orjson.dumps(answer["choices"])) // 4}
        return message(answer, self._request_id, self._stops, self._thinks, guess)


def anthropic_failure(answer: Failure, request_id: str) -> Failure:
    """An error answer in Anthropic's shape."""
    return Failure(answer.status, error_body(answer.status, answer.body, request_id), answer.headers)
