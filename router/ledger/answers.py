"""Answers kept for a while in the ledger's Redis, for the exact cache. A slow or absent Redis has none.

    pointsman:{ledger}:answer:DIGEST    one line of JSON (who wrote it, for how long it is kept), then the answer

Reading waits a few milliseconds at most; after a failure Redis is left alone for a second. Writing is behind the
answer and goes on in that second: at most `WRITES_MOST` at once, more are dropped. Ages are Redis' own, from
what is left of a key's life.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from router.ledger.store import PREFIX, let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

WRITES_MOST = 32
WRITE_WAIT_S = 1.0
PAUSE_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was given: a whole body, or a stream's events one after the other."""

    expert: str  # that wrote it
    body: bytes
    age_s: float


class Answers:
    """`connect` makes a client of the ledger's Redis; that happens when the first answer is looked for."""

    def __init__(self, connect: Callable[[], "Redis"], *, ttl_s: float, most_bytes: int, wait_s: float) -> None:
        self.most_bytes = most_bytes
        self._connect = connect
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._client: Redis | None = None
        self._rests_until = 0.0
        self._writes: set[asyncio.Task[None]] = set()

    async def find(self, digest: str, max_age_s: float | None = None) -> KeptAnswer | None:
        """None where there is none, it is as old as `max_age_s`, or Redis does not say so in time."""
        if asyncio.get_running_loop().time() < self._rests_until:
            return None
        client = self._connected()
        from redis.exceptions import RedisError

        key = PREFIX + "answer:" + digest
        try:
            async with asyncio.timeout(self._wait_s):
                asking: Any = client.pipeline(transaction=False)
                found, left_ms = await asking.get(key).pttl(key).execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest(error)
            return None
        return None if found is None else _read(found, left_ms, max_age_s)

    def keep(self, digest: str, expert: str, body: bytes) -> None:
        """Begins to write the answer; never waits, never raises."""
        if len(body) > self.most_bytes or len(self._writes) >= WRITES_MOST:
            return
        head = orjson.dumps({"expert": expert, "ttl_s": self._ttl_s})
        task = asyncio.get_running_loop().create_task(self._write(digest, head + b"\n" + body))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes, timeout=WRITE_WAIT_S)
        if self._client is not None:
            await let_go(self._client)
            self._client = None

    async def _write(self, digest: str, value: bytes) -> None:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(WRITE_WAIT_S):
                await self._connected().set(PREFIX + "answer:" + digest, value, px=max(round(self._ttl_s * 1e3), 1))
        except (RedisError, OSError, TimeoutError) as error:
            log.info("cache: an answer was not kept (%s)", type(error).__name__)

    def _connected(self) -> "Redis":
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _rest(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._rests_until:
            log.info("cache: Redis does not answer (%s); without it for %g s", type(error).__name__, PAUSE_S)
        self._rests_until = now + PAUSE_S


def _read(found: bytes, left_ms: int, max_age_s: float | None) -> KeptAnswer | None:
    head, _, body = found.partition(b"\n")
    try:
        said = orjson.loads(head)
        expert, ttl_s = str(said["expert"]), float(said["ttl_s"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None  # not what `keep` writes
    age_s = max(ttl_s - left_ms / 1e3, 0.0)
    return None if max_age_s is not None and age_s >= max_age_s else KeptAnswer(expert, body, age_s)
