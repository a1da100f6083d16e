"""Virtual keys and teams in Redis; it keeps nothing itself.

Keys, under the ledger's hash tag, so that a change and its line in the audit log are one step in one slot:

    pointsman:{ledger}:keys:state      hash: `format`, `check` (tells whether the server secret is the same one),
                                       `epoch` (drawn with the first record), `number` of the last change
    pointsman:{ledger}:keys:records    hash: `key:ID` and `team:NAME` -> JSON; secrets as HMAC-SHA-256 only
    pointsman:{ledger}:keys:changed    sorted set: the same members by the number of their last change
    pointsman:{ledger}:keys:audit      stream of every change, `AUDIT_MOST` entries or a few more
    pointsman:{ledger}:keys            the channel on which each change is told
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
CHANNEL = PREFIX + "keys"
STATE_KEY, RECORDS_KEY = PREFIX + "keys:state", PREFIX + "keys:records"
CHANGED_KEY, AUDIT_KEY = PREFIX + "keys:changed", PREFIX + "keys:audit"


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a version: document by member, None where it is gone. `whole`: all there is."""

    epoch: str
    number: int
    whole: bool
    documents: dict[str, bytes | None]


class KeyStore:
    """Every method raises `LedgerError`; `where` is how messages call the server."""

    def __init__(self, client: "Redis", where: str, server_secret: bytes) -> None:
        self._client: Any = client
        self._where = where
        self._fixed = (FORMAT, digest_of(server_secret, b"which secret is this?").hex()[:16])

    async def read(self, epoch: str, number: int) -> Changes:
        """What changed since then."""
        _, epoch_now, number_now, whole, *pairs = await self._run(
            READ, (STATE_KEY, CHANGED_KEY, RECORDS_KEY), epoch, number
        )
        documents = {
            member.decode(errors="replace"): document or None
            for member, document in zip(pairs[::2], pairs[1::2], strict=True)
        }
        return Changes(epoch_now.decode(), int(number_now), whole == b"1", documents)

    async def commit(self, epoch: str, number: int, member: str, document: bytes, entry: bytes) -> bool:
        """One change, b"" to delete, and its audit entry; False where there was another since `number`."""
        keys = (STATE_KEY, CHANGED_KEY, RECORDS_KEY, AUDIT_KEY)
        change = (secrets.token_hex(8), member, document, entry, AUDIT_MOST, CHANNEL)
        reply = await self._run(COMMIT, keys, epoch, number, *change)
        return bool(reply[0] == b"ok")

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
                f"the keys in {self._where} have format {reply[1].decode(errors='replace')!r}, this version of "
                f"pointsman writes {FORMAT!r}; run the version that wrote them, or use another database"
            )
        if reply[0] == b"secret":
            raise LedgerError(
                f"auth.secret is not the one under which the keys in {self._where} are kept: give that one back, "
                "or no key would be known"
            )
        return reply
