"""The keys and teams as one replica knows them: in memory, told of changes by Redis, and asking every half second.

While Redis is away it goes by what it knows; the first thing it does when Redis is back is to ask what changed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from router.errors import LedgerError
from router.keys.records import KeyRecord, TeamRecord
from router.keys.store import CHANNEL, Changes, KeyStore
from router.ledger.store import Unreachable, answering, in_our_words

if TYPE_CHECKING:
    from redis.asyncio import Redis

POLL_S = 0.5
RETRY_S = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Book:
    """All keys by id and all teams by name, as they were after change `number`."""

    epoch: str = ""
    number: int = 0
    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    teams: Mapping[str, TeamRecord] = field(default_factory=dict)

    def team_of(self, key: KeyRecord) -> TeamRecord | None:
        return None if key.team is None else self.teams.get(key.team)


class KeyRegistry:
    """`told` gets the book once it is read and after every change, on the event loop that all methods belong to."""

    def __init__(
        self, connect: Callable[[], "Redis"], where: str, server_secret: bytes, told: Callable[[Book], None]
    ) -> None:
        self._connect = connect
        self._where = where
        self._server_secret = server_secret
        self._told = told
        self._lock = asyncio.Lock()
        self._client: Any = None
        self._heard: Any = None
        self._task: asyncio.Task[None] | None = None
        self._store: KeyStore | None = None
        self.book = Book()
        self.known = False  # Redis has been read once
        self.reason: str | None = None  # why it may not be up to date

    @property
    def store(self) -> KeyStore:
        if self._store is None:
            raise LedgerError("the keys are not open")
        return self._store

    async def open(self) -> None:
        """Reads all keys. Raises `LedgerError` for what a person has to mend; where Redis is away it goes on."""
        self._client = self._connect()
        self._store = KeyStore(self._client, self._where, self._server_secret)
        try:
            await self.refresh()
        except Unreachable as error:
            self._failed(error)
        self._task = asyncio.create_task(self._follow(), name="keys")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._unsubscribe()
        if self._store is not None:
            await self._store.close()

    async def refresh(self) -> None:
        """Learns what changed. Raises `LedgerError`."""
        async with self._lock:
            changes = await self.store.read(self.book.epoch, self.book.number)
            if changes.whole or changes.documents or not self.known:
                self.book = self._changed(changes)
                self._told(self.book)
            self.known = True

    def _changed(self, changes: Changes) -> Book:
        keys = {} if changes.whole else dict(self.book.keys)
        teams = {} if changes.whole else dict(self.book.teams)
        for member, document in changes.documents.items():
            kind, _, name = member.partition(":")
            keys.pop(name, None) if kind == "key" else teams.pop(name, None)
            if document is None:
                continue
            try:
                if kind == "key":
                    keys[name] = KeyRecord.model_validate_json(document)
                else:
                    teams[name] = TeamRecord.model_validate_json(document)
            except ValidationError:  # its words would quote the record
                log.error("keys: %s in %s is not what this version writes; it lets nobody in", member, self._where)
        return Book(changes.epoch, changes.number, keys, teams)

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
            await heard.subscribe(CHANNEL)
        self._heard = heard

    async def _unsubscribe(self) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            with contextlib.suppress(LedgerError):
                async with answering(self._where):
                    await heard.aclose()

    def _failed(self, error: LedgerError) -> None:
        if self.reason is None:
            log.warning("keys: %s; until that is mended they are what they were", error)
        self.reason = str(error)

    def _worked(self) -> None:
        if self.reason is not None:
            log.warning("keys: %s is back", self._where)
            self.reason = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        # our own bug, if at all: it must show in readiness, not only in asyncio's log
        if not task.cancelled() and task.exception():
            self.reason = f"the task that follows changes failed: {type(task.exception()).__name__}"
