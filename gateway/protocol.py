"""uvicorn's connection, with bounds on what a client may make it hold, and errors as the contract words them.

uvicorn bounds neither the size of a request's head nor the time that a request may take to arrive.
"""

import asyncio
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import failure

HEAD_BYTES = 64 * 1024
IGNORED_BYTES = 16 * 1024 * 1024  # of a body that goes on after its request was answered
SEND_TIMEOUT_S = 60.0  # for a client that does not read what it is sent
LAST_CALL_S = 1.0  # for one more request on each kept connection, once the gateway is told to stop
GOODBYE_S = 2.0  # for requests that were ended, to tell their callers and count what they cost
REQUEST_TIMEOUT_S = 60.0  # from a request's first byte, or from connecting, to its last
#: Java's own client offers HTTP/2 with every request. We take no such offer, and the parser would stop before the
#: body if it saw one. Only a head is changed, and not its length.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """One connection. `waits_since` is when the request that is still arriving began to; None: none is."""

    waits_since: float | None = None
    _stuck_since: float | None = None  # when the client stopped reading
    _head_bytes = 0
    _ignored_bytes = 0
    _leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or not self.cycle.more_body:
            data = _without_upgrade(data)
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and cycle.more_body:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > IGNORED_BYTES:
                self.transport.close()
        if cycle is None or cycle.scope is not self.scope:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._turn_away(431, f"the headers are larger than {HEAD_BYTES} bytes", "headers_too_large")
        elif not cycle.more_body or cycle.response_complete:
            self._head_bytes = 0
            self.waits_since = None
            return
        if self.waits_since is None:
            self.waits_since = self.loop.time()

    def turn_away_late(self, now: float) -> None:
        """Closes the connection where its request takes too long to arrive, or its answer to be taken."""
        if not self.flow.write_paused:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > SEND_TIMEOUT_S:
            self.transport.abort()
            return
        if self.waits_since is None or now - self.waits_since < REQUEST_TIMEOUT_S:
            return
        if self.flow.read_paused or not self._may_answer():
            self.waits_since = now  # it is we who are not ready for it
        else:
            self._turn_away(408, f"the request did not arrive within {REQUEST_TIMEOUT_S:g} s", "request_timeout")

    def shutdown(self) -> None:
        """The gateway stops: what is under way is finished, and a request that is on its way is answered.

        uvicorn closes connections that are idle at once; a client that was just asking on one would see its request
        fail. Answers from now on say `connection: close`.
        """
        self._leaving = True
        if self._idle():
            self.loop.call_later(LAST_CALL_S, self._leave)
        elif self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False  # its head will say so

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._leaving:
            self.loop.call_later(LAST_CALL_S, self._leave)

    def _leave(self) -> None:
        if self._idle() and self._head_bytes:
            self.loop.call_later(LAST_CALL_S, self._leave)
        elif self._idle():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._turn_away(400, "this is no HTTP request", "invalid_http")

    def _may_answer(self) -> bool:
        """Whether no answer is under way that a word of ours would spoil."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        return cycle.scope is self.scope and not cycle.response_started

    def _turn_away(self, status: int, message: str, code: str) -> None:
        if self.transport.is_closing():
            return
        if self._may_answer():
            body = failure(status, message, code=code).body
            head = (
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """Data that begins in a head, its offer of another protocol made a header that means nothing."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if b"grade:" not in head.lower():
        return data
    return _UPGRADE.sub(b"\r\nx-grade:", head) + data[len(head) :]


class Server(uvicorn.Server):
    """Ends with the application still open, and looks once a second for requests that take too long to arrive."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[str], None]) -> None:
        """`on_stop` is called with a signal's name as soon as it comes."""
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop(signal.Signals(sig).name)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuses new connections, but none that the kernel has taken; waits for what is under way."""
        listening = [sock.dup() for sock in sockets or ()]
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        await asyncio.sleep(0)  # the loop lets go of its own
        for sock in listening:
            await self._accept_last(sock)
        await super().shutdown()
        if self.server_state.tasks:  # cancelled: the time was over
            await asyncio.wait(self.server_state.tasks, timeout=GOODBYE_S)

    async def _accept_last(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        taken = []
        while True:
            try:
                taken.append(listening.accept()[0])
            except OSError:  # nobody is left: from here on connecting is refused
                break
        listening.close()
        for connection in taken:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Protocol:
        return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which raises the signals again at its end: the process would be gone before what the
        application holds is closed, and what the ledger owes is written."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # and no request needs a timer of its own
            now = asyncio.get_running_loop().time()
            connections: set[Any] = self.server_state.connections
            for connection in list(connections):
                connection.turn_away_late(now)
        return await super().on_tick(counter)
