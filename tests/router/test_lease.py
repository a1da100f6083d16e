"""Which replica may try what has been failing."""

import asyncio

from redis_process import RedisProcess

from router.ledger.lease import LEASE_MS, Leases
from router.ledger.store import connect


async def test_one_replica_at_a_time_may_try(redis_process: RedisProcess) -> None:
    first, second = (Leases(lambda: connect(redis_process.url, None)) for _ in range(2))
    try:
        taken = await asyncio.gather(*(one.take("a:0") for one in (first, second)))
        assert sorted(taken) == [False, True]
        owner, other = (first, second) if taken[0] else (second, first)
        assert await owner.take("a:0"), "its own it may take again"
        assert await other.take("b:0")
        redis_process.command("DEL pointsman:{ledger}:trial:a:0")  # as it is after a while
        assert await other.take("a:0") and not await owner.take("a:0")
        left = int(redis_process.command("PTTL pointsman:{ledger}:trial:a:0")[1:])
        assert 0 < left <= LEASE_MS, "one that dies with it leaves it to the others"
    finally:
        await first.close()
        await second.close()


async def test_a_replica_whose_redis_is_gone_tries_alone(redis_process: RedisProcess) -> None:
    lease = Leases(lambda: connect(redis_process.url, None))
    redis_process.kill()
    assert await lease.take("a:0")
    await lease.close()
