"""Another API in front of chat: its request is read in its words, and what chat sends is said in them.

Routing, keys, metering, limits, failover and cancellation are those of chat completions, which is all experts see.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from gateway.chat import Chat
from gateway.chat_request import ChatRequest
from gateway.service import Service
from gateway.wire import Headers


class Translation(ABC):
    """One request and its answer. `surface` is what metrics call the API."""

    surface: ClassVar[str]

    def __init__(self, send: Any) -> None:
        self._send = send
        self._head: dict[str, Any] = {}  # of a whole answer, kept back: its length is not known before its body
        self._streams = False

    async def prepare(self, data: bytes, owner: str) -> None:
        """Fetches what parsing the body will need; `owner` is whose what it stores is."""

    @abstractmethod
    def parse(self, data: bytes, headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
        """As `parse_chat`, for a body of this API."""

    @abstractmethod
    async def whole(self, status: int, body: bytes) -> bytes:
        """The body of a chat answer, or of an error, in this API's words."""

    @abstractmethod
    async def events(self, events: bytes) -> bytes:
        """What whole events of a chat stream are here; b"" where there is nothing to say yet."""

    def begun(self, headers: Headers) -> Headers:
        """The headers, as they are sent."""
        return headers

    async def send(self, message: dict[str, Any]) -> None:
        """Takes what chat sends."""
        if message["type"] == "http.response.start":
            headers = self.begun(message["headers"])
            self._streams = dict(headers)[b"content-type"].startswith(b"text/event-stream")
            self._head = {**message, "headers": headers}
            if self._streams:
                await self._send(self._head)
        elif self._streams:
            body = await self.events(message["body"])
            if body or not message.get("more_body"):
                await self._send({**message, "body": body})
        else:
            body = await self.whole(self._head["status"], message["body"])
            headers = [header for header in self._head["headers"] if header[0] != b"content-length"]
            headers.append((b"content-length", b"%d" % len(body)))
            await self._send({**self._head, "headers": headers})
            await self._send({**message, "body": body})


class Translated:
    """The ASGI application of a translated surface."""

    def __init__(self, service: Service, kind: Callable[[Any], Translation]) -> None:
        self._service = service
        self._kind = kind

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        one = self._kind(send)
        await Chat(self._service, surface=one.surface, parse=one.parse, prepare=one.prepare)(
            scope, receive, one.send
        )
