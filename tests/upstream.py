"""An upstream that behaves as badly as a test wants: a raw HTTP/1.1 server on a free loopback port.

Every request takes the next behaviour of the script, or `always` where the script is over. A behaviour is a
coroutine function of a `Wire`; those that most tests need are functions here that build one.
"""

import asyncio
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

WAIT_S = 20.0  # how long a test waits for what must happen; what happens in time never waits that long


@dataclass
class Received:
    """What came in. `gone` is set when the other side closed the connection while it was being answered."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    gone: threading.Event = field(default_factory=threading.Event)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Wire:
    """One request's side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Received

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def until_gone(self) -> None:
        """Waits until the other side closes."""
        try:
            while await self.reader.read(65_536):
                pass
        except OSError:
            pass
        self.request.gone.set()

    def reset(self) -> None:
        self.writer.transport.abort()


Behaviour = Callable[[Wire], Awaitable[None]]


def chunk(content: str | None = None, **fields: Any) -> dict[str, Any]:
    """One chunk of a stream. `role`, `finish` and `delta` shape its choice; other fields are the chunk's own."""
    delta = dict(fields.pop("delta", {}))
    if role := fields.pop("role", None):
        delta["role"] = role
    if content is not None:
        delta["content"] = content
    choice = {"index": fields.pop("index", 0), "delta": delta, "finish_reason": fields.pop("finish", None)}
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "up-model"}
    return {**head, "choices": [choice], **fields}


USAGE = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
USAGE_CHUNK = chunk(choices=[], usage=USAGE)
HELLO = [chunk("", role="assistant"), chunk("Hel"), chunk("lo"), chunk(finish="stop")]
DONE = b"data: [DONE]\n\n"


def sse(
    data: dict[str, Any], *, spaced: bool = False, eol: str = "\n", prefix: str = "data: ", ascii: bool = True
) -> bytes:
    text = json.dumps(data, separators=None if spaced else (",", ":"), ensure_ascii=ascii)
    return f"{prefix}{text}{eol}{eol}".encode()


def hello_events(**style: Any) -> list[bytes]:
    """The events of a well-behaved stream that says Hello."""
    return [*(sse(event, **style) for event in HELLO), sse(USAGE_CHUNK, **style), DONE]


def completion(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": None}
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "up-model",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
        **fields,
    }


def answers(body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> Behaviour:
    """A whole answer: bytes as they are, anything else as JSON; by default a completion."""
    data = body if isinstance(body, bytes) else json.dumps(completion() if body is None else body).encode()

    async def behave(wire: Wire) -> None:
        fields = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        await wire.head(status, fields)
        await wire.write(data)

    return behave


def refuses(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Behaviour:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": "x", "param": None, "code": None, **error}
    return answers({"error": error}, status, headers)


def streams(
    *parts: bytes, then: Behaviour | None = None, framing: str = "chunked", pause_s: float = 0
) -> Behaviour:
    """Server-sent events: each of `parts` is one write (default: Hello). `then` goes on in place of the end."""
    pieces = list(parts) or hello_events()

    async def behave(wire: Wire) -> None:
        fields = {"content-type": "text/event-stream"}
        if framing == "chunked":
            fields["transfer-encoding"] = "chunked"
        elif framing == "length":
            fields["content-length"] = str(sum(map(len, pieces)))
        await wire.head(200, fields)
        for piece in pieces:
            await wire.write(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await asyncio.sleep(pause_s)  # zero too: each piece is a packet of its own
        if then is not None:
            await then(wire)
        elif framing == "chunked":
            await wire.write(b"0\r\n\r\n")
        elif framing == "close":
            wire.writer.close()

    return behave


def writes(data: bytes, then: Behaviour | None = None, *, at_once: int = 0) -> Behaviour:
    """Raw bytes, whatever they are; `at_once` of them a write."""

    async def behave(wire: Wire) -> None:
        for start in range(0, len(data), at_once or len(data) or 1):
            await wire.write(data[start : start + (at_once or len(data))])
            await asyncio.sleep(0)
        if then is not None:
            await then(wire)

    return behave


async def hang(wire: Wire) -> None:
    """Says nothing until the other side gives up."""
    await wire.until_gone()


async def close(wire: Wire) -> None:
    wire.writer.close()


async def reset(wire: Wire) -> None:
    wire.reset()


async def polite(wire: Wire) -> None:
    """What a well-behaved upstream does with any request."""
    request = wire.request
    if request.path.endswith("/models"):
        await answers({"object": "list", "data": [{"id": "up-model", "object": "model"}]})(wire)
    elif request.path.endswith("/embeddings"):
        row = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
        await answers({"object": "list", "data": [row], "model": "up-model", "usage": USAGE})(wire)
    elif request.json().get("stream"):
        await streams()(wire)
    else:
        await answers()(wire)


class Upstream:
    """Runs on `loop`, another thread's; everything else is called from the test's own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext | None = None) -> None:
        self.always: Behaviour = polite
        self.requests: list[Received] = []
        self.connections = 0
        self._script: deque[Behaviour] = deque()
        self._loop = loop
        self._open: set[asyncio.StreamWriter] = set()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**22, ssl=tls))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"

    def script(self, *behaviours: Behaviour) -> None:
        self._script.extend(behaviours)

    def forget(self) -> None:
        """As it was before the first request, but for the connections that are kept."""
        self.always = polite
        self._script.clear()
        self.requests.clear()

    def wait_for(self, count: int) -> Received:
        """The `count`-th request, waited for."""
        deadline = time.monotonic() + WAIT_S
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} of {count} requests came"
            time.sleep(0.002)
        return self.requests[count - 1]

    def disconnect(self) -> None:
        """Closes every connection that is kept alive, and waits until it is."""

        async def drop() -> None:
            for writer in list(self._open):
                writer.close()
            while self._open:  # noqa: ASYNC110 - the handlers set no event of ours
                await asyncio.sleep(0.001)

        self._run(drop())

    def stop(self) -> None:
        """Nobody listens any more: connecting is refused."""

        async def end() -> None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()

        self._run(end())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        number = self.connections
        request: Received | None = None
        try:
            while not writer.is_closing() and (request := await _read(reader, number)) is not None:
                self.requests.append(request)
                behave = self._script.popleft() if self._script else self.always
                await behave(Wire(reader, writer, request))
        except (OSError, RuntimeError, asyncio.IncompleteReadError):
            # the other side left, which uvloop may call a RuntimeError; it may do so before all is written
            if request is not None:
                request.gone.set()
        finally:
            self._open.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader, connection: int) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ", 2)
    return Received(method, path, headers, body, connection)


def said(events: bytes | Sequence[dict[str, Any]]) -> str:
    """The text that a stream's events say together."""
    chunks = parse_events(events) if isinstance(events, bytes) else events
    return "".join(
        choice["delta"].get("content") or "" for event in chunks for choice in event.get("choices", ()) if choice
    )


def parse_events(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream that keeps the contract to the letter; [DONE] is left out."""
    blocks = stream.split(b"\n\n")
    assert blocks.pop() == b"", f"the stream does not end with an empty line: {stream[-80:]!r}"
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks), stream
    return [json.loads(block[6:]) for block in blocks if block != b"data: [DONE]"]
