"""`POST /v1/messages`: Anthropic's Messages API in front of the chat surface, whose code does all of the work.

A request is translated where chat would parse its own, and what chat sends is translated on its way out. So
routing, keys, metering, failover and cancellation are those of chat completions, which is all that experts see.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.anthropic_answer import EventTranslator, error_body, message
from gateway.anthropic_request import chat_body
from gateway.chat import Chat
from gateway.chat_request import ChatRequest, parse_object, read_chat
from gateway.errors import Failure
from gateway.service import Service

SURFACE = "messages"
_THINKS = ("enabled", "adaptive")


class Messages:
    """The ASGI application of the messages surface."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        turn = _Turn(send)
        await Chat(self._service, surface=SURFACE, parse=turn.parse)(scope, receive, turn.send)


def anthropic_failure(answer: Failure, request_id: str) -> Failure:
    """An error answer in Anthropic's shape."""
    return Failure(answer.status, error_body(answer.status, answer.body, request_id), answer.headers)


class _Turn:
    """One request: what its answer's translation needs to know of it."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._stops: list[str] = []
        self._thinks = False
        self._input_tokens = 0
        self._head: dict[str, Any] = {}  # of a whole answer: its length is not known before its body
        self._request_id = ""
        self._events: EventTranslator | None = None

    def parse(self, data: bytes, headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
        """As `parse_chat`, for a body of the Messages API."""
        body = parse_object(data)
        request = read_chat(chat_body(body), headers, experts)
        self._stops = body.get("stop_sequences") or []
        thinking = body.get("thinking")
        self._thinks = isinstance(thinking, dict) and thinking.get("type") in _THINKS
        self._input_tokens = request.input_tokens
        return request

    async def send(self, event: dict[str, Any]) -> None:
        """Takes what chat sends."""
        if event["type"] == "http.response.start":
            await self._begin(event)
        elif self._events is not None:
            body = self._events.feed(event["body"])
            if body or not event.get("more_body"):
                await self._send({**event, "body": body})
        else:
            await self._whole(event["body"])

    async def _begin(self, head: dict[str, Any]) -> None:
        headers = dict(head["headers"])
        request_id = headers[b"x-request-id"]
        self._request_id = request_id.decode()
        head = {**head, "headers": [*head["headers"], (b"request-id", request_id)]}
        if headers[b"content-type"].startswith(b"text/event-stream"):
            self._events = EventTranslator(self._request_id, self._stops, self._thinks, self._input_tokens)
            await self._send(head)
        else:
            self._head = head

    async def _whole(self, body: bytes) -> None:
        head = self._head
        if head["status"] == 200:
            answer = orjson.loads(body)
            guess = {"input_tokens": self._input_tokens, "output_tokens": len(orjson.dumps(answer["choices"])) // 4}
            body = message(answer, self._request_id, self._stops, self._thinks, guess)
        else:
            body = error_body(head["status"], body, self._request_id)
        headers = [header for header in head["headers"] if header[0] != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send({**head, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
