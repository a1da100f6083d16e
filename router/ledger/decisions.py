"""The decision log: one row per routed request, through a stream in Redis into Parquet files, each exactly once.

`record` appends to a list. One task sends what has gathered, in numbered batches that Redis takes once, and a
second one, which writes in one replica at a time, fixes a range of the stream, writes the file that it names,
and only then takes the range out. While Redis is away rows wait in memory, at most as many as the stream may
hold; those beyond are dropped and counted. What waits is in files, too (`router.ledger.decision_spool`): the next
replica with that folder sends what one that was killed, or closed while Redis was away, had not.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from router.config import DecisionSettings
from router.ending import end
from router.errors import LedgerError
from router.ledger.decision_rows import Keep, Row, check_writable, write
from router.ledger.decision_spool import DecisionSpool
from router.ledger.decision_stream import DecisionStream, Span

if TYPE_CHECKING:
    from redis.asyncio import Redis

FLUSH_S = 0.05
BATCH = 200
TURN_S = 1.0
CLOSE_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    number: int  # of this replica's rows
    place: int  # in the spool; 0: it is not there
    row: bytes
    owner: tuple[str, str] | None  # of a decision: its id, and whose it is


class Decisions:
    """All methods belong to one event loop. `connect` makes a client of the ledger's Redis, `spool` is a folder."""

    def __init__(
        self, settings: DecisionSettings, connect: Callable[[], "Redis"], spool: Path | None = None
    ) -> None:
        check_writable(settings.folder)
        self._settings = settings
        self._connect = connect
        self._replica = uuid.uuid4().hex
        self._spool = DecisionSpool(spool, self._replica)
        self._rows: list[_Waiting] = []
        self._batch: list[_Waiting] = []  # sent, and not known to be in Redis
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
            log.warning("decision log: closed with %d rows that are not sent; they are in the spool", self.owed)
        self._spool.close()
        await self._stream.close()

    def record(self, row: Row) -> None:
        """Takes one row. Never waits, never raises."""
        if self.owed >= self._settings.stream_rows:
            self.dropped += 1
            return
        try:
            data = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:  # a number beyond 64 bits
            log.warning("decision log: a row cannot be written and is dropped: %s", error)
            self.dropped += 1
            return
        self._number += 1
        self._rows.append(_Waiting(self._number, self._spool.keep(self._number, data), data, _owner(row)))
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
        adopted = False
        while True:
            if not adopted:
                adopted = await self._adopt(self._stream)
                await asyncio.sleep(0.0 if adopted else TURN_S)
            if not self.owed and adopted:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(FLUSH_S)
            try:
                if self.owed:
                    await self._send(self._stream)
            except LedgerError as error:
                self._trouble(error)
                await asyncio.sleep(TURN_S)

    async def _send(self, stream: DecisionStream) -> None:
        if not self._batch:
            self._batch, self._rows = self._rows[:BATCH], self._rows[BATCH:]
        batch = self._batch
        await self._add(
            stream, self._replica, batch[-1].number, [one.row for one in batch], (o.owner for o in batch)
        )
        self._spool.done(max(one.place for one in batch))
        self._batch = []

    async def _add(
        self,
        stream: DecisionStream,
        replica: str,
        number: int,
        rows: list[bytes],
        owners: Iterable[tuple[str, str] | None],
    ) -> None:
        self.dropped += await stream.add(replica, number, rows, self._settings.stream_rows)
        if known := dict(owner for owner in owners if owner is not None):
            await stream.remember(known, self._settings.known_s)

    async def _adopt(self, stream: DecisionStream) -> bool:
        """Sends what replicas that are gone had not; False: it is to be tried again."""
        try:
            for replica, found in self._spool.orphans():
                taken = await stream.taken(replica)
                left = [(number, row) for number, row in found if number > taken]
                for at in range(0, len(left), BATCH):
                    part = left[at : at + BATCH]
                    rows = [row for _, row in part]
                    await self._add(stream, replica, part[-1][0], rows, (_owner(orjson.loads(row)) for row in rows))
                if left:
                    log.warning("decision log: a replica that is gone left %d rows; they are sent", len(left))
        except LedgerError as error:
            self._trouble(error)
            return False
        except (OSError, ValueError) as error:
            log.warning("decision log: what a replica that is gone left cannot be read: %s", error)
        return True

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
                await self._spool.sync()
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


def _owner(row: Any) -> tuple[str, str] | None:
    if row.get("kind") != "decision":
        return None
    return row["decision_id"], row.get("key_id") or row.get("caller") or ""
