"""Records in Redis as one replica knows them: in memory, told of changes by Redis, and asking every half second.

While Redis is away it goes by what it knows; the first thing it does when Redis is back is to ask what changed.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from router.ending import end
from router.errors import LedgerError
from router.keys.store import Changes, RecordStore
from router.ledger.store import Unreachable, answering, in_our_words

if TYPE_CHECKING:
    from redis.asyncio import Redis

POLL_S = 0.5
RETRY_S = 0.2

log = logging.getLogger(__name__)


class Follower(ABC):
    """All methods belong to one event loop; `what` is how messages call the records."""

    def __init__(self, connect: Callable[[], "Redis"], where: str, what: str) -> None:
        self._connect = connect
        self._where = where
        self._what = what
        self._lock = asyncio.Lock()
        self._client: Any = None
        self._heard: Any = None
        self._task: asyncio.Task[None] | None = None
        self._store: RecordStore | None = None
        self._epoch, self._number = "", 0
        self.known = False  # Redis has been read once
        self.reason: str | None = None  # why it may not be up to date

    @abstractmethod
    def _store_at(self, client: "Redis", where: str) -> RecordStore:
        """The store of its records."""

    @abstractmethod
    def _learn(self, changes: Changes) -> None:
        """Called with what is there once it is read, and with every change."""

    @property
    def store(self) -> RecordStore:
        if self._store is None:
            raise LedgerError(f"the {self._what} are not open")
        return self._store

    async def open(self) -> None:
        """Reads all. Raises `LedgerError` for what a person has to mend; where Redis is away it goes on."""
        self._client = self._connect()
        self._store = self._store_at(self._client, self._where)
        try:
            await self.refresh()
        except Unreachable as error:
            self._failed(error)
        self._task = asyncio.create_task(self._follow(), name=self._what)
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        if self._task is not None:
            await end({self._task})
        await self._unsubscribe()
        if self._store is not None:
            await self._store.close()

    async def refresh(self) -> None:
        """Learns what changed. Raises `LedgerError`."""
        async with self._lock:
            changes = await self.store.read(self._epoch, self._number)
            if changes.whole or changes.documents or not self.known:
                self._epoch, self._number = changes.epoch, changes.number
                self._learn(changes)
            self.known = True

    async def _follow(self) -> None:
        from redis.exceptions import RedisError

        while True:
            try:
                await self.refresh()
                self._worked()
                if self._heard is None:  # then once more: what changed before it listened is not told
                    await self._subscribe()
                    continue
                await self._heard.get_message(ignore_subscribe_messages=True, timeout=POLL_S)
            except (LedgerError, RedisError, OSError) as error:
                self._failed(error if isinstance(error, LedgerError) else in_our_words(error, self._where))
                await self._unsubscribe()
                await asyncio.sleep(RETRY_S)

    async def _subscribe(self) -> None:
        heard = self._client.pubsub()
        async with answering(self._where):
            await heard.subscribe(self.store.channel)
        self._heard = heard

    async def _unsubscribe(self) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            with contextlib.suppress(LedgerError):
                async with answering(self._where):
                    await heard.aclose()

    def _failed(self, error: LedgerError) -> None:
        if self.reason is None:
            log.warning("%s: %s; until that is mended they are what they were", self._what, error)
        self.reason = str(error)

    def _worked(self) -> None:
        if self.reason is not None:
            log.warning("%s: %s is back", self._what, self._where)
            self.reason = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        # our own bug, if at all: it must show in readiness, not only in asyncio's log
        if not task.cancelled() and task.exception():
            self.reason = f"the task that follows changes failed: {type(task.exception()).__name__}"
