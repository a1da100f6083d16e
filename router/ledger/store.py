"""One Redis, spoken to through one script: addresses, errors in our words, figures decoded. It keeps nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from router.errors import LedgerError
from router.ledger.account import day_number
from router.ledger.outbox import Batch
from router.ledger.script import FORMAT, HASH, SCRIPT
from router.types import Load

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: A Redis that has not answered by then is taken for gone.
ANSWER_TIMEOUT_S = 1.0
#: After so long a silent replica's marker is forgotten. It must outlast every outage that is to be bridged exactly.
MARKER_LIFE_S = 7 * 86_400

PREFIX = "pointsman:{ledger}:"
FORMAT_KEY = PREFIX + "format"
EXPERTS_KEY = PREFIX + "experts"
ACCOUNTS_KEY = PREFIX + "accounts"

SCRIPT_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


def expert_key(expert: str) -> str:
    return f"{PREFIX}expert:{expert}"


def replica_key(replica: str) -> str:
    return f"{PREFIX}replica:{replica}"


def spend_key(day: str) -> str:
    return f"{PREFIX}spend:{day}"


def masked(url: str) -> str:
    """The URL without user, password and query: what messages may show."""
    scheme, _, rest = url.partition("://")
    # a password with an unescaped / ? or # in it is a mistake, and must not show either
    place = rest.rpartition("@")[2]
    if "?" in rest and rest.index("?") < len(rest) - len(place):
        return f"{scheme}://..."
    return f"{scheme}://{place.partition('?')[0].partition('#')[0]}"


class Unreachable(LedgerError):
    """Redis does not answer, or not now: it is worth trying again."""


class Forgotten(Exception):
    """Redis came back without batches that it had taken; it knows those up to `known`."""

    def __init__(self, known: int) -> None:
        super().__init__(known)
        self.known = known


class Store:
    """The connection of one replica. `where` is how messages call the server; every error is a `LedgerError`."""

    def __init__(
        self, client: "Redis", where: str, replica: str, half_life_s: float, accounts_days: int = 400
    ) -> None:
        self._client: Any = client  # its annotations change from version to version
        self._where = where
        self._fixed = (FORMAT, repr(half_life_s), str(MARKER_LIFE_S))
        self._marker = replica_key(replica)
        self._half_life_s = half_life_s
        self._accounts_days = accounts_days

    async def write(self, batch: Batch, base: int, age_s: float) -> dict[str, Load]:
        """Applies the batch unless it was applied before; the figures of its experts. Raises `Forgotten`."""
        return await self._run(batch.experts, batch.number, base, age_s, batch.payload, batch.days)

    async def read(self, base: int = 0) -> dict[str, Load]:
        """The figures of every expert that any replica ever wrote of. Raises `Forgotten`."""
        async with answering(self._where):
            names = await self._client.smembers(EXPERTS_KEY)
        return await self._run(sorted(name.decode() for name in names), 0, base, 0.0, b"")

    async def known(self) -> int:
        """The number of the last batch of this replica that was taken."""
        async with answering(self._where):
            found = await self._client.get(self._marker) or b"0"
        if not found.isdigit():
            raise LedgerError(foreign(self._where, f"the key {self._marker!r}"))
        return int(found)

    async def evicts(self) -> str | None:
        """The policy by which this Redis makes room by forgetting keys; None: it does not, or does not say."""
        from redis.exceptions import ResponseError

        async with answering(self._where):
            try:
                found = await self._client.info("memory")
            except ResponseError:  # many a host forbids the question
                return None
        policy = str(found.get("maxmemory_policy", "noeviction"))
        return None if policy == "noeviction" else policy

    async def ping(self) -> None:
        async with answering(self._where):
            await self._client.ping()

    async def close(self) -> None:
        await let_go(self._client)

    async def _run(
        self,
        experts: Sequence[str],
        number: int,
        base: int,
        age_s: float,
        payload: bytes,
        days: Sequence[str] = (),
    ) -> dict[str, Load]:
        from redis.exceptions import NoScriptError

        keys = (
            *(FORMAT_KEY, EXPERTS_KEY, self._marker, ACCOUNTS_KEY),
            *map(expert_key, experts),
            *map(spend_key, days),
        )
        ends = ((day_number(day) + 1 + self._accounts_days) * 86_400 for day in days)
        arguments = (*keys, *self._fixed, number, base, repr(age_s), payload, len(experts), *ends)
        async with answering(self._where):
            try:
                reply: Any = await self._client.evalsha(SCRIPT_SHA, len(keys), *arguments)
            except NoScriptError:
                reply = await self._client.eval(SCRIPT, len(keys), *arguments)
        status, detail, *hashes = reply
        if status == b"ok":
            now = float(detail)
            return {name: self._load(found, now) for name, found in zip(experts, hashes, strict=True) if found[0]}
        if status == b"gap":
            raise Forgotten(int(detail))
        if status == b"format":
            raise LedgerError(
                f"the ledger in {self._where} has format {detail.decode(errors='replace')!r}, this version "
                f"of pointsman writes {FORMAT!r}; run the version that wrote it, or use another database"
            )
        raise LedgerError(foreign(self._where, f"the key {detail.decode(errors='replace')!r}"))

    def _load(self, found: Sequence[bytes | None], now: float) -> Load:
        value = dict(zip(HASH, (field or b"0" for field in found), strict=True))
        fresh = 0.5 ** (max(now - float(value["at"]), 0.0) / self._half_life_s)
        return Load(
            ttft_s=_mean(value["ttft_sum_s"], value["ttft_weight"]),
            token_s=_mean(value["token_sum_s"], value["token_weight"]),
            # one more call that went well: old failures fade, and one failure alone is no verdict
            error_rate=float(value["failures"]) * fresh / (float(value["calls"]) * fresh + 1.0),
            requests=int(value["requests"]),
            errors=int(value["errors"]),
            input_tokens=int(value["input_tokens"]),
            output_tokens=int(value["output_tokens"]),
            cost_nano=int(value["cost_nano"]),
        )


async def let_go(client: Any) -> None:
    """Closes a client. Never raises and never waits long: who closes next must not pay for one that is gone."""
    from redis.exceptions import RedisError

    with suppress(RedisError, OSError):  # of which a timeout is one
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await client.aclose()


@asynccontextmanager
async def answering(where: str) -> AsyncIterator[None]:
    """Bounds the wait for the Redis that messages call `where`, and says in our words what went wrong."""
    from redis.exceptions import RedisError

    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            yield
    except (RedisError, OSError) as error:
        raise in_our_words(error, where) from error


def in_our_words(error: Exception, where: str) -> LedgerError:
    from redis import exceptions

    # the pool wraps what went wrong while it connected
    inner = error.__cause__ or error.__context__
    if isinstance(inner, exceptions.AuthenticationError | exceptions.AuthorizationError):
        error = inner
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return LedgerError(
                f"{where} refuses the password ({error}); check ledger.password or the one in ledger.url"
            )
        case exceptions.NoPermissionError():
            return LedgerError(f"{where} does not let this user keep the ledger: {error}")
        case TimeoutError() | exceptions.TimeoutError():
            return Unreachable(f"{where} did not answer within {ANSWER_TIMEOUT_S:g} s")
        case exceptions.ResponseError() if "WRONGTYPE" in str(error):
            return LedgerError(foreign(where, f"a key under {PREFIX}"))
        case exceptions.MovedError():
            return LedgerError(
                f"{where} is a cluster's node, and another one keeps the ledger's slot ({error}): "
                "set ledger.url to redis+cluster://HOST:PORT"
            )
        case exceptions.ResponseError():
            return Unreachable(f"{where} answers with an error: {error}")
        case _:
            return Unreachable(f"{where} cannot be reached: {str(error).rstrip('.')}")


def answered(error: LedgerError) -> bool:
    """Whether it is Redis' own answer to a command, which says nothing of the next."""
    from redis.exceptions import ResponseError

    return isinstance(error, Unreachable) and isinstance(error.__cause__, ResponseError)


def foreign(where: str, what: str) -> str:
    return f"{where} holds foreign data: {what} is not what the ledger writes; use another database"


def _mean(total: bytes, weight: bytes) -> float | None:
    return float(total) / float(weight) if float(weight) > 0 else None


def connect(url: str, password: str | None, asking: tuple[str | None, str] | None = None) -> "Redis":
    """A client for the URL; nothing is sent yet. Raises `LedgerError` for a URL that is none.

    `asking`: user and password of the Sentinels.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from router.ledger.located import place_of, pool_at

    options: dict[str, Any] = {
        "max_connections": 4,
        "timeout": ANSWER_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_connect_timeout": ANSWER_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),  # a repeated write must go through the outbox
        "protocol": 2,
    }
    try:
        place = place_of(url)
        holds_one = "password" in parse_url(url) if place is None else place.password is not None
        if password is not None and holds_one:
            raise LedgerError(f"both ledger.password and ledger.url {masked(url)} hold a password; keep one")
        if place is not None:
            return Redis.from_pool(pool_at(place, password, options, asking))
        options |= {"password": password} if password is not None else {}
        return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))
    except (ValueError, TypeError):
        # without its cause, which may quote the URL
        raise LedgerError(
            f"ledger.url {masked(url)} is not a Redis URL such as redis://host:6379/0, "
            "redis+sentinel://host:26379,host2:26379/service or redis+cluster://host:6379,host2:6379"
        ) from None
