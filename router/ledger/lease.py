"""Leases: of all replicas, one at a time tries an address that has been failing. Not on a request's path.

    pointsman:{ledger}:trial:NAME    which replica tries it; gone after two seconds

A replica that cannot ask tries on its own.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from router.ledger.store import let_go

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "pointsman:{ledger}:trial:"
LEASE_MS = 2_000
WAIT_S = 0.5

log = logging.getLogger(__name__)


class Leases:
    """`connect` makes a client of the ledger's Redis; that happens when the first lease is asked for."""

    def __init__(self, connect: Callable[[], "Redis"]) -> None:
        self._connect = connect
        self._replica = uuid.uuid4().hex.encode()
        self._client: Redis | None = None

    async def take(self, name: str) -> bool:
        """Whether this replica may try `name` now. Its own lease it may take again."""
        from redis.exceptions import RedisError

        if self._client is None:
            self._client = self._connect()
        key = PREFIX + name
        try:
            async with asyncio.timeout(WAIT_S):
                if await self._client.set(key, self._replica, nx=True, px=LEASE_MS):
                    return True
                return await self._client.get(key) in (None, self._replica)
        except (RedisError, OSError, TimeoutError) as error:
            log.info("lease of %s: not asked (%s); this replica goes on alone", name, type(error).__name__)
            return True

    async def close(self) -> None:
        if self._client is not None:
            await let_go(self._client)
            self._client = None
