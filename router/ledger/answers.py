"""Answers kept for a while in the ledger's Redis, for the caches. A slow or absent Redis has none.

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

Command = tuple[str | bytes | int, ...]


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

    @property
    def ttl_ms(self) -> int:
        return max(round(self._ttl_s * 1e3), 1)

    @property
    def resting(self) -> bool:
        """Whether Redis is left alone, since it did not answer."""
        return asyncio.get_running_loop().time() < self._rests_until

    async def find(self, digest: str, max_age_s: float | None = None) -> KeptAnswer | None:
        """None where there is none, it is as old as `max_age_s`, or Redis does not say so in time."""
        key = PREFIX + "answer:" + digest
        replies = await self.ask(("GET", key), ("PTTL", key))
        return None if replies is None or replies[0] is None else _read(replies[0], replies[1], max_age_s)

    async def ask(self, *commands: Command) -> list[Any] | None:
        """What Redis replies to commands that read; None where it does not in time."""
        if self.resting:
            return None
        client = self._connected()
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._wait_s):
                asking: Any = client.pipeline(transaction=False)
                for command in commands:
                    asking.execute_command(*command)
                replies: list[Any] = await asking.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest(error)
            return None
        return replies

    def keep(self, digest: str, expert: str, body: bytes, beside: tuple[Command, ...] = ()) -> None:
        """Begins to write the answer, and what else is to be written with it; never waits, never raises."""
        if len(body) > self.most_bytes or len(self._writes) >= WRITES_MOST:
            return
        head = orjson.dumps({"expert": expert, "ttl_s": self._ttl_s})
        kept = ("SET", PREFIX + "answer:" + digest, head + b"\n" + body, "PX", self.ttl_ms)
        task = asyncio.get_running_loop().create_task(self._write(kept, *beside))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes, timeout=WRITE_WAIT_S)
        if self._client is not None:
            await let_go(self._client)
            self._client = None

    async def _write(self, *commands: Command) -> None:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(WRITE_WAIT_S):
                writing: Any = self._connected().pipeline(transaction=False)
                for command in commands:
                    writing.execute_command(*command)
                await writing.execute()
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
