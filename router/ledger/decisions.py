"""The decision log: one row per routed request, through a stream in Redis into Parquet files, each exactly once.

`record` appends to a list. One task sends what has gathered, in numbered batches that Redis takes once, and a
second one, which writes in one replica at a time, fixes a range of the stream, writes the file that it names,
and only then takes the range out. While Redis is away rows wait in memory, at most as many as the stream may
hold; those beyond are dropped and counted. What waits there when the process dies is lost.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson

from router.config import DecisionSettings
from router.ending import end
from router.errors import LedgerError
from router.ledger.decision_rows import Keep, Row, check_writable, write
from router.ledger.decision_stream import DecisionStream, Span

if TYPE_CHECKING:
    from redis.asyncio import Redis

FLUSH_S = 0.05
BATCH = 200
TURN_S = 1.0
CLOSE_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class Decisions:
    """All methods belong to one event loop. `connect` makes a client of the ledger's Redis."""

    def __init__(self, settings: DecisionSettings, connect: Callable[[], "Redis"]) -> None:
        check_writable(settings.folder)
        self._settings = settings
        self._connect = connect
        self._replica = uuid.uuid4().hex
        self._rows: list[Row] = []
        self._batch: list[bytes] = []  # numbered, and not known to be in Redis
        self._owners: dict[str, str] = {}  # of the decisions in the batch
        self._number = 0
        self._fence = 0
        self._wake = asyncio.Event()
        self._stream: DecisionStream | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._troubled = self._closing = False
        self.keep: Keep = settings.prompt
        self.dropped = 0  # by this replica

    def open(self) -> None:
        self._stream = DecisionStream(self._connect(), "the decision log's Redis")
        self._tasks = [
            asyncio.create_task(self._send_behind(), name="decisions"),
            asyncio.create_task(self._write_behind(), name="decision files"),
        ]

    async def close(self) -> None:
        """Sends what waits, for two seconds at most; the files are written by whoever is next."""
        self._closing = True  # a cancellation may be lost
        await end(self._tasks)
        if self._stream is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self.owed:
                    await self._send(self._stream)
        except (LedgerError, TimeoutError):
            log.warning("decision log: closed with %d rows that were never sent", self.owed)
        await self._stream.close()

    def record(self, row: Row) -> None:
        """Takes one row. Never waits, never raises."""
        if self.owed >= self._settings.stream_rows:
            self.dropped += 1
            return
        self._rows.append(row)
        if not self._wake.is_set():
            self._wake.set()

    async def owner(self, decision: str) -> str | None:
        """The key's id, or the caller's name, whose decision it is; None: unknown. Raises `LedgerError`."""
        assert self._stream is not None
        found = await self._stream.owner(decision)
        if found is None:  # it may be on its way, from here or from another replica
            await asyncio.sleep(4 * FLUSH_S)
            found = await self._stream.owner(decision)
        return found

    @property
    def owed(self) -> int:
        """Rows that are not known to be in Redis."""
        return len(self._rows) + len(self._batch)

    async def _send_behind(self) -> None:
        assert self._stream is not None
        while True:
            if not self.owed:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(FLUSH_S)
            try:
                await self._send(self._stream)
            except LedgerError as error:
                self._trouble(error)
                await asyncio.sleep(TURN_S)

    async def _send(self, stream: DecisionStream) -> None:
        if not self._batch:
            taken, self._rows = self._rows[:BATCH], self._rows[BATCH:]
            self._batch = [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in taken]
            self._number += 1
            self._owners = {
                row["decision_id"]: row.get("key_id") or row.get("caller") or ""
                for row in taken
                if row.get("kind") == "decision"
            }
        self.dropped += await stream.add(self._replica, self._number, self._batch, self._settings.stream_rows)
        if self._owners:
            await stream.remember(self._owners, self._settings.known_s)
        self._batch, self._owners = [], {}

    async def _write_behind(self) -> None:
        assert self._stream is not None
        turn_s = min(TURN_S, self._settings.rotate_s)
        while not self._closing:
            try:
                wrote = await self.write_once(self._stream)
                self._troubled = False
            except (LedgerError, OSError) as error:
                self._trouble(error)
                wrote = False
            if not wrote:
                await asyncio.sleep(turn_s)

    async def write_once(self, stream: DecisionStream) -> bool:
        """One range, if this replica is the writer and one is due. Raises `LedgerError`, `OSError`."""
        self._fence = await stream.take(self._fence)
        if not self._fence:
            return False
        span = await stream.fixed()
        if span is None:
            rows, age_s = await stream.waiting()
            if rows == 0 or (rows < self._settings.rotate_rows and age_s < self._settings.rotate_s):
                return False
            found = await stream.read("+", self._settings.rotate_rows)
            if not found:
                return False
            span = Span(found[0][0], found[-1][0], len(found))
            if not await stream.fix(self._fence, span):
                return False
        else:
            found = await stream.read(span.last, span.rows)
        if not found or Span(found[0][0], found[-1][0], len(found)) != span:
            if await stream.take(self._fence) != self._fence:
                return False  # the next writer has taken the rows out
            raise LedgerError(f"the decision log's stream does not have the rows of its range {span}")
        name = f"{span.first}-{span.last}"
        await asyncio.to_thread(lambda: write(self._settings.folder, name, (orjson.loads(row) for _, row in found)))
        return await stream.done(self._fence, span)

    def _trouble(self, error: Exception) -> None:
        if not self._troubled:
            log.warning("decision log: %s; rows wait", error)
        self._troubled = True
