"""The keys and teams as one replica knows them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from router.keys.follower import Follower
from router.keys.records import KeyRecord, TeamRecord
from router.keys.store import Changes, RecordStore, key_store

if TYPE_CHECKING:
    from redis.asyncio import Redis

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


class KeyRegistry(Follower):
    """`told` gets the book once it is read and after every change, on the event loop that all methods belong to."""

    def __init__(
        self, connect: Callable[[], "Redis"], where: str, server_secret: bytes, told: Callable[[Book], None]
    ) -> None:
        super().__init__(connect, where, "keys")
        self._server_secret = server_secret
        self._told = told
        self.book = Book()

    def _store_at(self, client: "Redis", where: str) -> RecordStore:
        return key_store(client, where, self._server_secret)

    def _learn(self, changes: Changes) -> None:
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
        self.book = Book(changes.epoch, changes.number, keys, teams)
        self._told(self.book)
