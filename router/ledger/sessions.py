"""Where conversations are: which expert served each last, in Redis for all replicas and in memory for this one.

    pointsman:{ledger}:session:DIGEST    JSON [expert, messages, digest of them, input tokens, Unix time]; expires

The digests are `gateway.turn`'s; no prompt is kept. One task owns one connection: what is asked while it talks
gathers and goes out as one pipeline with what is to be kept. Who asks waits `wait_s` at most, and not at all while
Redis is silent: then a replica goes by what it has seen itself. What is kept goes out behind the answer, the last
word of each conversation alone; while Redis is away it waits in memory, bounded.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from router.config import StickySettings
from router.ending import end
from router.ledger.store import PREFIX, let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

RETRY_S = 0.1
CLOSE_TIMEOUT_S = 1.0
PIPELINE_MOST = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stand:
    """A conversation as its last request left it: so many `messages`, `tokens` long, went to `expert`."""

    expert: str
    messages: int
    digest: str
    tokens: int
    at: float  # Unix time


def session_key(key: str) -> str:
    return f"{PREFIX}session:{key}"


class Sessions:
    """All methods belong to one event loop. `connect` makes a client of the ledger's Redis."""

    def __init__(self, settings: StickySettings, connect: Callable[[], "Redis"], wait_s: float) -> None:
        self.settings = settings
        self._connect = connect
        self._wait_s = wait_s
        self._seen: OrderedDict[str, Stand] = OrderedDict()
        self._questions: dict[str, asyncio.Future[bytes | None]] = {}
        self._owed: OrderedDict[str, Stand] = OrderedDict()
        self._wake = asyncio.Event()
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.degraded = False

    def known(self, key: str) -> Stand | None:
        """What this replica has seen of the conversation."""
        return self._seen.get(key)

    async def ask(self, key: str) -> Stand | None:
        """What all replicas have seen, or this one where Redis does not tell in time."""
        if not self.degraded:
            reply = self._questions.get(key)
            if reply is None:
                reply = self._questions[key] = asyncio.get_running_loop().create_future()
                self._talking()
            await asyncio.wait({reply}, timeout=self._wait_s)
            for _ in range(3):  # on a loop that was held up the timer may fire before an answer is read
                if not reply.done():
                    await asyncio.sleep(0)
            if not reply.done():
                self._down("no answer in time")
            elif not reply.cancelled() and (stand := _decoded(reply.result())) is not None:
                self._see(key, stand)
        return self._seen.get(key)

    def keep(self, key: str, stand: Stand) -> None:
        """Notes where the conversation is now. Costs microseconds and never waits."""
        self._see(key, stand)
        self._owed[key] = stand
        self._owed.move_to_end(key)
        if len(self._owed) > self.settings.entries:
            self._owed.popitem(last=False)
        self._talking()

    async def close(self) -> None:
        """Writes what is owed, waiting a second at most."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            await end({self._task})
        if self._client is not None:
            await let_go(self._client)

    def _see(self, key: str, stand: Stand) -> None:
        self._seen[key] = stand
        self._seen.move_to_end(key)
        if len(self._seen) > self.settings.entries:
            self._seen.popitem(last=False)

    def _talking(self) -> None:
        """Nothing runs, and nothing is connected, before the first conversation comes."""
        if self._task is None and not self._closing:
            self._client = self._connect()
            self._task = asyncio.create_task(self._talk(), name="sessions")
        self._wake.set()

    async def _talk(self) -> None:
        while not self._closing or self._owed:
            if not (self._questions or self._owed):
                self._wake.clear()
                await self._wake.wait()
                continue
            asked = list(self._questions.items())[:PIPELINE_MOST]
            kept = list(self._owed.items())[:PIPELINE_MOST]
            for key, _ in asked:
                del self._questions[key]
            try:
                await self._send(asked, kept)
            except Exception as error:  # whatever it is: conversations go on by what this replica has seen
                self._down(type(error).__name__)
                for _, reply in asked:
                    reply.cancel()
                await asyncio.sleep(RETRY_S)
            else:
                if self.degraded:
                    log.warning("sessions: Redis answers again")
                self.degraded = False

    async def _send(
        self, asked: list[tuple[str, "asyncio.Future[bytes | None]"]], kept: list[tuple[str, Stand]]
    ) -> None:
        """One pipeline, writes first. Raises redis-py's errors; one key's error is that key's alone."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, stand in kept:
                pipeline.set(session_key(key), _encoded(stand), ex=self.settings.ttl_s)
            for key, _ in asked:
                pipeline.get(session_key(key))
            replies = await pipeline.execute(raise_on_error=False)
        written, told = replies[: len(kept)], replies[len(kept) :]
        for (key, stand), reply in zip(kept, written, strict=True):
            if isinstance(reply, Exception):
                raise reply
            if self._owed.get(key) is stand:
                del self._owed[key]
        for (_, future), reply in zip(asked, told, strict=True):
            if not future.done():
                future.set_result(reply if isinstance(reply, bytes) else None)

    def _down(self, why: str) -> None:
        if not self.degraded:
            log.warning("sessions: Redis does not answer (%s); this replica goes by what it has seen", why)
        self.degraded = True


def _encoded(stand: Stand) -> bytes:
    return orjson.dumps([stand.expert, stand.messages, stand.digest, stand.tokens, round(stand.at, 3)])


def _decoded(value: bytes | None) -> Stand | None:
    """None for nothing, and for what is not ours: the conversation then begins anew."""
    if value is None:
        return None
    try:
        expert, messages, digest, tokens, at = orjson.loads(value)
        stand = Stand(expert, messages, digest, tokens, at)
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None
    numbers = all(isinstance(n, int | float) and n >= 0 for n in (messages, tokens, at))
    return stand if numbers and isinstance(expert, str) and isinstance(digest, str) else None
