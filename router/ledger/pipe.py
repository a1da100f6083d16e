"""One connection to Redis for what a request waits for: a command is one write, its answer one callback.

redis-py connects (TLS, users, databases, sockets, as everywhere else) and hands the transport over. From there on
no task, lock or timer stands between a question and its answer. Commands are written as they come and answered in
order, so nobody waits for another's round trip.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis

from router.ledger.store import ANSWER_TIMEOUT_S

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Takes a command's answer; an error of Redis, or of the connection, comes as an exception.
Told = Callable[[Any], None]


class Pipe(asyncio.Protocol):
    """Of one connection's life. `lost` is called once, when it ends, whoever ends it."""

    def __init__(self, connection: Any, lost: Callable[[], None]) -> None:
        self._connection = connection  # redis-py's, which closes its transport when it is forgotten
        self._transport: asyncio.WriteTransport = connection._writer.transport
        self._reader = hiredis.Reader()
        self._waiting: deque[Told] = deque()
        self._lost = lost
        self._transport.set_protocol(self)

    @classmethod
    async def open(cls, client: "Redis", lost: Callable[[], None]) -> "Pipe":
        """A connection as `client` makes them. Raises redis-py's errors, `OSError` and `TimeoutError`."""
        pool: Any = client.connection_pool
        connection = pool.make_connection()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return cls(connection, lost)

    @property
    def waiting(self) -> int:
        """Commands without an answer."""
        return len(self._waiting)

    def send(self, command: tuple[Any, ...], told: Told) -> None:
        """Never waits. `told` is called once, from the loop or, where the connection is gone, at once."""
        if self._transport.is_closing():
            told(ConnectionError("the connection is closed"))
            return
        self._waiting.append(told)
        self._transport.write(hiredis.pack_command(command))

    async def ask(self, *command: Any) -> Any:
        """One command's answer, for what no request waits for. Raises what Redis answers, and `TimeoutError`."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(command, lambda answer: None if reply.done() else reply.set_result(answer))
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await reply
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._waiting.popleft()(answer)
        except (hiredis.HiredisError, IndexError):  # not what Redis says
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._connection._writer = self._connection._reader = None
        waiting, self._waiting = self._waiting, deque()
        for told in waiting:
            told(ConnectionError("the connection was lost"))
        self._lost()
