"""What operators change at run time, in Redis: virtual keys with their teams, and experts. It keeps nothing itself.

Keys, under the ledger's hash tag, so that a change and its line in the audit log are one step in one slot:

    pointsman:{ledger}:keys:state      hash: `format`, `check` (tells whether the server secret is the same one),
                                       `epoch` (drawn with the first record), `number` of the last change
    pointsman:{ledger}:keys:records    hash: `key:ID` and `team:NAME` -> JSON; secrets as HMAC-SHA-256 only
    pointsman:{ledger}:keys:changed    sorted set: the same members by the number of their last change
    pointsman:{ledger}:keys:audit      stream of every change, `AUDIT_MOST` entries or a few more
    pointsman:{ledger}:keys            the channel on which each change is told
    pointsman:{ledger}:experts:state, experts:records, experts:changed, experts:changes
                                       the same of experts: their names -> JSON, and the channel
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from router.errors import LedgerError
from router.keys.records import digest_of
from router.keys.script import COMMIT, READ, SHA
from router.ledger.store import PREFIX, answering, let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

FORMAT = "1"
AUDIT_MOST = 10_000
AUDIT_KEY = PREFIX + "keys:audit"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where records of one sort are."""

    what: str  # as messages call them
    state: str
    changed: str
    records: str
    channel: str


KEYS = Shelf("keys", PREFIX + "keys:state", PREFIX + "keys:changed", PREFIX + "keys:records", PREFIX + "keys")
EXPERTS = Shelf(
    "experts",
    PREFIX + "experts:state",
    PREFIX + "experts:changed",
    PREFIX + "experts:records",
    PREFIX + "experts:changes",
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a version: document by member, None where it is gone. `whole`: all there is."""

    epoch: str
    number: int
    whole: bool
    documents: dict[str, bytes | None]


def key_store(client: "Redis", where: str, server_secret: bytes) -> "RecordStore":
    return RecordStore(client, where, KEYS, digest_of(server_secret, b"which secret is this?").hex()[:16])


class RecordStore:
    """Every method raises `LedgerError`; `where` is how messages call the server. `check` tells whose they are."""

    def __init__(self, client: "Redis", where: str, shelf: Shelf, check: str = "-") -> None:
        self._client: Any = client
        self._where = where
        self._shelf = shelf
        self._keys = (shelf.state, shelf.changed, shelf.records)
        self._fixed = (FORMAT, check)
        self.channel = shelf.channel

    async def read(self, epoch: str, number: int) -> Changes:
        """What changed since then."""
        _, epoch_now, number_now, whole, *pairs = await self._run(READ, self._keys, epoch, number)
        documents = {
            member.decode(errors="replace"): document or None
            for member, document in zip(pairs[::2], pairs[1::2], strict=True)
        }
        return Changes(epoch_now.decode(), int(number_now), whole == b"1", documents)

    async def commit(self, epoch: str, number: int, member: str, document: bytes, entry: bytes) -> bool:
        """One change, b"" to delete, and its audit entry; False where there was another since `number`."""
        change = (secrets.token_hex(8), member, document, entry, AUDIT_MOST, self.channel)
        reply = await self._run(COMMIT, (*self._keys, AUDIT_KEY), epoch, number, *change)
        return bool(reply[0] == b"ok")

    async def note(self, entry: bytes) -> None:
        """An entry of the audit log alone."""
        async with answering(self._where):
            await self._client.xadd(AUDIT_KEY, {"entry": entry}, maxlen=AUDIT_MOST, approximate=True)

    async def audit(self, count: int, before: str | None) -> list[dict[str, Any]]:
        """The newest entries first, those older than the id `before`; `at` is the server's time."""
        if before and not before.strip("0-"):
            return []  # the very first id: Redis calls what is before it no range
        async with answering(self._where):
            rows = await self._client.xrevrange(AUDIT_KEY, f"({before}" if before else "+", "-", count)
        found = []
        for name, fields in rows:
            at = datetime.fromtimestamp(int(name.partition(b"-")[0]) / 1e3, UTC)
            found.append({"id": name.decode(), "at": at.isoformat(), **orjson.loads(fields[b"entry"])})
        return found

    async def close(self) -> None:
        await let_go(self._client)

    async def _run(self, script: str, keys: tuple[str, ...], *arguments: Any) -> list[Any]:
        from redis.exceptions import NoScriptError

        given = (*keys, *self._fixed, *arguments)
        async with answering(self._where):
            try:
                reply: list[Any] = await self._client.evalsha(SHA[script], len(keys), *given)
            except NoScriptError:
                reply = await self._client.eval(script, len(keys), *given)
        if reply[0] == b"format":
            raise LedgerError(
                f"the {self._shelf.what} in {self._where} have format {reply[1].decode(errors='replace')!r}, this "
                f"version of pointsman writes {FORMAT!r}; run the version that wrote them, or use another database"
            )
        if reply[0] == b"secret":
            raise LedgerError(
                f"auth.secret is not the one under which the keys in {self._where} are kept: give that one back, "
                "or no key would be known"
            )
        return reply
