"""Reservations made ahead, with a real Redis: no wait where there is room, never more than Redis admitted."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from admissions import ask, caps, replicas, until, value
from redis_process import RedisProcess

from router.ledger.admission import Admission
from router.ledger.caps import PREFIX
from router.ledger.store import connect

AMPLE = {"limits": {"requests_per_minute": 10_000, "tokens_per_minute": 10**7, "concurrency": 200}}


async def used(url: str, what: str = "requests") -> int:
    return int(await value(url, "HGET", f"{PREFIX}cap:gateway:{what}", "sum") or 0)


async def spare_of(one: Admission, tokens: int = 10) -> None:
    """Two requests, and the spare that is made behind the second."""
    for name in ("first", "second"):
        held = await ask(one, f"{name} of {id(one)}", tokens)
        assert held is not None
        one.settle(held, tokens, 0)
    await until(lambda: any(spare.used for spare in one._spares.all()))


@asynccontextmanager
async def with_spare(url: str, **settings: Any) -> AsyncIterator[Admission]:
    async with replicas(url, 1, **settings) as (one,):
        await spare_of(one)
        yield one


async def test_a_request_that_finds_a_spare_does_not_wait_for_redis(redis_process: RedisProcess) -> None:
    async with with_spare(redis_process.url, **AMPLE) as one:
        redis_process.freeze()
        try:
            held = await asyncio.wait_for(ask(one, "third"), 1.0)  # the wait for Redis would be five seconds
            assert held is not None and held.used[0] == 3
            assert not one.degraded
        finally:
            redis_process.thaw()
        one.settle(held, 7, 0)
        await until(lambda: not one.owed)


@pytest.mark.parametrize("tokens", [21, 30_000])
async def test_a_request_that_is_dearer_than_the_spare_asks_redis(redis_process: RedisProcess, tokens: int) -> None:
    async with with_spare(redis_process.url, **AMPLE) as one:
        (spare,) = one._spares.all()
        held = await ask(one, "third", tokens)
        assert held is not None and held.id == "third"
        assert spare in one._spares.all()


async def test_what_no_request_took_is_given_back(redis_process: RedisProcess) -> None:
    async with with_spare(redis_process.url, **AMPLE) as one:
        assert await used(redis_process.url) == 3
        await until(lambda: not one._spares.all() and not one.owed)
        assert await used(redis_process.url) == 2
        assert await used(redis_process.url, "tokens") == 20
        assert await value(redis_process.url, "ZCARD", f"{PREFIX}cap:gateway:concurrency") == 0


async def test_who_asks_less_than_once_in_a_second_leaves_nothing_reserved(redis_process: RedisProcess) -> None:
    async with replicas(redis_process.url, 1, **AMPLE) as (one,):
        for name in ("first", "second"):
            assert await ask(one, name)
            await asyncio.sleep(1.05)
        assert await used(redis_process.url) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"limits": {"requests_per_minute": 101}},
        {"limits": {"tokens_per_minute": 2_010}},
        {"limits": {"concurrency": 101}},
        {"budget": {"usd": 2e-7, "per": "day"}},
    ],
)
async def test_near_a_limit_there_are_none(redis_process: RedisProcess, settings: dict[str, Any]) -> None:
    async with replicas(redis_process.url, 1, **settings) as (one,):
        for number in range(4):
            assert await ask(one, f"{number}", tokens=10, cost_nano=1)
        assert not one._spares.all()


async def test_limits_hold_exactly_with_spares_on_any_number_of_replicas(redis_process: RedisProcess) -> None:
    rng = random.Random(3)
    async with replicas(redis_process.url, 3, limits={"requests_per_minute": 400}) as running:
        admitted, by_spare = 0, 0

        async def caller(number: int) -> None:
            nonlocal admitted, by_spare
            for turn in range(60):
                one = running[number % 3]
                held = await ask(one, f"{number}:{turn}")
                if held is not None:
                    admitted += 1
                    by_spare += held.id.startswith("spare:")
                    await asyncio.sleep(rng.random() / 200)
                    one.settle(held, 1, 0)

        await asyncio.gather(*(caller(number) for number in range(12)))
        assert admitted == 400
        assert by_spare > 20
        assert not any(one.degraded for one in running)


async def test_a_change_of_the_caps_leaves_spares_of_the_old_ones_unused(redis_process: RedisProcess) -> None:
    async with with_spare(redis_process.url, **AMPLE) as one:
        one.caps = caps(limits={"requests_per_minute": 1_000})
        held = await ask(one, "third")
        assert held is not None and held.id == "third"


async def test_what_was_open_when_a_replica_was_killed_is_settled_by_the_next(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    budget = {"usd": 1, "per": "day"}

    def made() -> Admission:
        return Admission(caps(budget=budget), lambda: connect(redis_process.url, None), 5.0, tmp_path)

    killed = made()
    await killed.open()
    await spare_of(killed)
    held = await ask(killed, "under way", cost_nano=1_000)
    assert held is not None and killed._spares.all()
    await until(lambda: not killed.owed)
    assert killed._task is not None
    killed._task.cancel()
    assert killed._owed._claim is not None and killed._owed._claim._lock is not None
    killed._owed._claim._lock.close()  # as the system does when the process is gone

    following = made()
    await following.open()
    await until(lambda: not list(tmp_path.glob(f"{killed._replica}*")))
    kept = await value(redis_process.url, "HMGET", f"{PREFIX}cap:gateway:usd:day", "spent", "open")
    assert kept == [b"1000", b"0"]  # what was expected of the call, and of the spare nothing
    await following.close()
    await until(lambda: not list(tmp_path.glob("*")))
