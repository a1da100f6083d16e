"""A small HTTP/1.1 client for the hot path: keep-alive connections to one origin, no object per chunk.

Why not a library: at 16 concurrent calls the client is most of a proxy's time (`make bench-proxy` holds the gateway
against a bare pass-through over aiohttp). Parsing is httptools' (llhttp). What it leaves out on purpose:
redirects, cookies, compression, HTTP proxies, HTTP/2.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Literal, cast
from urllib.parse import urlsplit

import httptools

Stage = Literal["connect", "timeout", "busy", "cut", "garbage"]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
HIGH_WATER_BYTES = 256 * 1024  # unread stream bytes above which the upstream is told to wait
MAX_HEADER_BYTES = 64 * 1024
LINGER_S = 1.0
MAX_READ_BYTES = 256 * 1024  # what one read of the event loop brings at most


class TransportError(Exception):
    """The exchange failed; `stage` says where."""

    def __init__(self, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. Callbacks of httptools are the `on_*` methods."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.used = False
        self._begin(streaming=False)

    def _begin(self, *, streaming: bool) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.streaming = streaming
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.started_at = 0.0
        self._parts: list[bytes] = []
        self._size = 0
        self._header_bytes = self._field_bytes = 0
        self.heard = False  # a byte of an answer came
        self._complete = False
        self._keep = False
        self._has_length = False
        self._paused = False
        self._failure: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.on_end: Callable[[], None] | None = None

    def send(self, head: bytes, body: bytes, *, streaming: bool) -> None:
        assert self.transport is not None
        self._begin(streaming=streaming)
        self.used = True
        # small bodies leave in one segment; large ones are not copied
        if len(body) < 65_536:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    # the transport's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._complete:
            self._fail("garbage", "the server went on after the end of its answer")
            return
        self.heard = True
        if not self.status:  # an endless header line shows only here: the parser keeps it until it ends
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES + MAX_READ_BYTES:
                self._fail("garbage", "the answer's headers are too large")
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail("garbage", f"no HTTP answer: {type(error).__name__}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.on_end is not None and not self._complete:
            end, self.on_end = self.on_end, None
            end()
            return
        if self._complete:
            return
        if self.status and not self._has_length:
            self._complete = True  # a body that the closing of the connection ends
            self._wake()
        else:
            self._fail("cut", "the connection closed before the answer was whole")

    # the parser's side
    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_bytes += len(name) + len(value) + 4
        if self._field_bytes > MAX_HEADER_BYTES:
            self._fail("garbage", "the answer's headers are too large")
            return
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._complete:
            self._fail("garbage", "the server went on after the end of its answer")
            return
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        self.started_at = time.perf_counter()  # uvloop's own clock counts whole milliseconds
        self._has_length = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self.streaming and status < 300:
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self.streaming and self.status < 300:
            if self._size > HIGH_WATER_BYTES and not self._paused and self.transport is not None:
                self._paused = True
                self.transport.pause_reading()
            self._wake()
        elif self._size > MAX_ANSWER_BYTES:
            self._fail("garbage", f"the answer is larger than {MAX_ANSWER_BYTES} bytes")

    def on_message_complete(self) -> None:
        if not self.status:  # 100 Continue and its like: the answer is still to come
            self.headers = {}
            return
        if self._complete:
            return
        self._complete = True
        self._keep = self._parser.should_keep_alive()  # the parser knows it now, and no longer afterwards
        self._wake()
        if self.on_end is not None:
            # after this callback: the parser is still inside the message
            asyncio.get_running_loop().call_soon(self.on_end)
            self.on_end = None

    # the caller's side
    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, stage: Stage, message: str) -> None:
        if self._failure is None:
            self._failure = TransportError(stage, message)
        self.abort()
        self._wake()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def reusable(self) -> bool:
        return (
            self._complete
            and self._failure is None
            and not self.lost
            and self._keep
            and self.transport is not None
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size()
            == 0  # else the rest of a body would precede the next request
        )

    async def wait(self, until_complete: bool) -> None:
        """Waits for the head (and, where `until_complete`, for the whole body). Raises `TransportError`."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._complete or (not until_complete and self.status and self.streaming and self.status < 300):
                return
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def limit_silence(self, limit_s: float) -> None:
        """From now on the exchange fails when the server says nothing for `limit_s`, or up to twice as long.

        Looks now and then whether the same wait still goes on, so that a byte which arrives costs nothing.
        """
        last = self._waiter

        def look() -> None:
            nonlocal last
            if self._waiter is not None and self._waiter is last:
                self._fail("timeout", f"said nothing for {limit_s:.3g} s")
                return
            last = self._waiter
            self._silence = loop.call_later(limit_s, look)

        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(limit_s, look)

    def end_exchange(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def take(self) -> bytes:
        """The body bytes that have arrived and were not yet taken."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._size = 0
        if self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
        return data

    async def next(self) -> bytes:
        """The next body bytes as they arrive; empty at the end. Raises `TransportError`."""
        while not self._parts:
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            await self._wait()
        return self.take()


class Origin:
    """A pool of connections to one scheme, host and port, most recently used first.

    Building one raises `ValueError` for a URL without a host or with a port that is none.
    """

    def __init__(self, url: str, *, connections: int, connect_timeout_s: float = 5.0) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("the URL has no host")
        self.host = parts.hostname
        self.tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.tls else 80)
        self.authority = parts.netloc.rpartition("@")[2]
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._slots = asyncio.Semaphore(connections)
        self._ssl: ssl.SSLContext | None = None

    async def exchange(self, head: bytes, body: bytes, *, streaming: bool, timeout_s: float) -> "Exchange":
        """Sends a request and waits for its head (streaming) or for the whole answer.

        `timeout_s` bounds everything until then. A kept-alive connection that the server closed while we wrote
        is replaced once, by a new one: no byte of an answer had come. Raises `TransportError`.
        """
        connection: Connection | None = None
        if self._slots.locked():
            await self._slot(timeout_s)
        else:
            await self._slots.acquire()  # at once
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    connection = self._reuse() or await self._connect()
                    stale = connection.used
                    connection.send(head, body, streaming=streaming)
                    try:
                        await connection.wait(until_complete=not streaming)
                    except TransportError as error:
                        if not stale or error.stage != "cut" or connection.heard:
                            raise
                        self._drop(connection)
                        connection = await self._connect()
                        connection.send(head, body, streaming=streaming)
                        await connection.wait(until_complete=not streaming)
                    return Exchange(self, connection)
                except BaseException:
                    self._slots.release()
                    raise
        except TimeoutError:
            self._drop(connection)
            raise TransportError("timeout", f"no answer within {timeout_s:.3g} s") from None
        except BaseException:
            self._drop(connection)
            raise

    async def _slot(self, timeout_s: float) -> None:
        """Waits for one of the calls under way to end. It is not the server that is slow: `busy`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise TransportError("busy", f"as many calls as allowed are under way to {self.authority}") from None

    def _reuse(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and connection.transport and not connection.transport.is_closing():
                return connection
            self._open.discard(connection)
        return None

    async def _connect(self) -> Connection:
        if self.tls and self._ssl is None:
            self._ssl = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    Connection, self.host, self.port, ssl=self._ssl if self.tls else None
                )
        except TimeoutError:
            raise TransportError("connect", f"no connection to {self.authority} in time") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise TransportError("connect", f"no connection to {self.authority}: {reason}") from error
        self._open.add(connection)
        return connection

    def release(self, connection: Connection, *, read_out: bool) -> None:
        """Takes a connection back. `read_out`: all that matters was read, so the last bytes of framing, which
        often come a packet later, are waited for in the background instead of losing the connection."""
        if read_out and not connection.complete and not connection.lost:
            limit = asyncio.get_running_loop().call_later(LINGER_S, connection.abort)
            connection.take()

            def end() -> None:
                limit.cancel()
                self.release(connection, read_out=False)

            connection.on_end = end
            return
        self._slots.release()
        if connection.reusable:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection | None) -> None:
        if connection is not None:
            self._open.discard(connection)
            connection.abort()

    def close(self) -> None:
        for connection in self._open:
            connection.abort()
        self._open.clear()
        self._idle.clear()


class Exchange:
    """An answer under way: its head has arrived. `finish` must be called, once; it is idempotent."""

    __slots__ = ("_connection", "_done", "_origin")

    def __init__(self, origin: Origin, connection: Connection) -> None:
        self._origin = origin
        self._connection = connection
        self._done = False

    @property
    def status(self) -> int:
        return self._connection.status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self._connection.headers

    @property
    def started_at(self) -> float:
        """When the head arrived, by `time.perf_counter`."""
        return self._connection.started_at

    def body(self) -> bytes:
        """The whole body of an answer that is complete."""
        return self._connection.take()

    async def next(self) -> bytes:
        return await self._connection.next()

    def limit_silence(self, limit_s: float) -> None:
        self._connection.limit_silence(limit_s)

    def finish(self, *, read_out: bool = False) -> None:
        """Gives the connection back, or closes it where the answer was not read to its end.

        `read_out`: the caller has all it needs and only the framing's end may be missing.
        """
        if not self._done:
            self._done = True
            self._connection.end_exchange()
            self._origin.release(self._connection, read_out=read_out)
