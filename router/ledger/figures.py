"""What replicas tell each other of the addresses of experts that have several, once a second.

    pointsman:{ledger}:places    hash: replica -> JSON [count, {expert and address: [figures]}]

A replica whose row does not change for three looks is taken for gone, and its row for nobody's after ten; so no
clock is compared with another. While Redis does not answer each replica goes by its own figures. Where no expert
has several addresses nothing is asked.
"""

import asyncio
import logging
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from router.ending import end
from router.ledger.store import ANSWER_TIMEOUT_S, let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEY = "pointsman:{ledger}:places"
PERIOD_S = 1.0
LIFE_S = 60
SILENT, GONE = 3, 10  # looks without a change
#: Beyond it a figure is nonsense.
MOST = 1e9

log = logging.getLogger(__name__)

#: Of each address, by name, whatever its figures are: numbers, always as many.
Figures = Mapping[str, tuple[float, ...]]


class Teller(Protocol):
    """Whose figures are told, and who is told the others'."""

    def figures(self) -> Figures:
        """Its own; empty where there is nothing to tell."""

    def told(self, others: Figures, replicas: int) -> None:
        """The sums over the other replicas, and how many there are."""


class SharedFigures:
    """Of one replica, on one event loop. `connect` makes a client of the ledger's Redis, when there is need."""

    def __init__(self, connect: Callable[[], "Redis"]) -> None:
        self._connect = connect
        self._replica = uuid.uuid4().hex.encode()
        self._client: Any = None
        self._teller: Teller | None = None
        self._task: asyncio.Task[None] | None = None
        self._count = 0
        self._seen: dict[bytes, tuple[bytes, int]] = {}  # another's row, and how often it was the same

    def follow(self, teller: Teller) -> None:
        """Tells of this one from now on."""
        self._teller = teller
        if self._task is None and teller.figures():
            self._task = asyncio.create_task(self._go_on(), name="figures")

    async def close(self) -> None:
        if self._task is not None:
            await end({self._task})
        if self._client is not None:
            from redis.exceptions import RedisError

            with suppress(RedisError, OSError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._client.hdel(KEY, self._replica)
            await let_go(self._client)

    async def _go_on(self) -> None:
        from redis.exceptions import RedisError

        while True:
            assert self._teller is not None
            others: list[Figures] = []
            if own := self._teller.figures():
                try:
                    others = await self._exchange(own)
                except (RedisError, OSError) as error:
                    log.info("figures of addresses: not exchanged (%s)", type(error).__name__)
            self._teller.told(_sums(others), len(others))
            await asyncio.sleep(PERIOD_S)

    async def _exchange(self, own: Figures) -> list[Figures]:
        self._client = self._client or self._connect()
        self._count += 1
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hset(KEY, self._replica, orjson.dumps([self._count, own], default=list))
            pipeline.expire(KEY, LIFE_S)
            pipeline.hgetall(KEY)
            *_, rows = await pipeline.execute()
            rows.pop(self._replica, None)
            looks = {name: self._look(name, row) for name, row in rows.items()}
            if gone := [name for name, same in looks.items() if same >= GONE]:
                await self._client.hdel(KEY, *gone)
        self._seen = {name: (rows[name], same) for name, same in looks.items() if same < GONE}
        living = (_read(rows[name]) for name, same in looks.items() if same < SILENT)
        return [one for one in living if one is not None]

    def _look(self, name: bytes, row: bytes) -> int:
        before, same = self._seen.get(name, (b"", 0))
        return same + 1 if row == before else 0


def _sums(rows: list[Figures]) -> Figures:
    found: defaultdict[str, tuple[float, ...]] = defaultdict(tuple)
    for row in rows:
        for place, figures in row.items():
            before = found[place] or (0.0,) * len(figures)
            if len(before) == len(figures):
                found[place] = tuple(map(sum, zip(before, figures, strict=True)))
    return dict(found)


def _read(row: bytes) -> Figures | None:
    """None for what no replica of this version writes."""
    try:
        _, figures = orjson.loads(row)
        found = {place: tuple(map(float, own)) for place, own in figures.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    sound = all(math.isfinite(one) and 0 <= one <= MOST for own in found.values() for one in own)
    return found if sound else None
