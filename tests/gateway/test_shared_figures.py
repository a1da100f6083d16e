"""What replicas tell each other of an expert's addresses, through a real Redis."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from redis_process import RedisProcess
from serving import HELLO, Loop, World, expert, request_bytes, until
from upstream import Upstream, hang

from router.ledger import figures
from router.ledger.figures import KEY, Figures, SharedFigures
from router.ledger.store import connect


class Teller:
    def __init__(self, **own: tuple[float, ...]) -> None:
        self.own: Figures = own
        self.others: Figures = {}
        self.replicas = 0

    def figures(self) -> Figures:
        return self.own

    def told(self, others: Figures, replicas: int) -> None:
        self.others, self.replicas = others, replicas


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PERIOD_S", 0.02)


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - Redis sets no event of ours
            await asyncio.sleep(0.005)


def shared(redis: RedisProcess) -> SharedFigures:
    return SharedFigures(lambda: connect(redis.url, None))


async def test_each_learns_the_sums_of_the_others_until_they_are_gone(redis_process: RedisProcess) -> None:
    tellers = [Teller(x=(1.0, 10.0)), Teller(x=(2.0, 20.0), y=(5.0, 5.0)), Teller(x=(4.0, 40.0))]
    replicas = [shared(redis_process) for _ in tellers]
    for one, teller in zip(replicas, tellers, strict=True):
        one.follow(teller)
    await becomes(lambda: [teller.replicas for teller in tellers] == [2, 2, 2])
    assert tellers[0].others == {"x": (6.0, 60.0), "y": (5.0, 5.0)}
    assert tellers[1].others == {"x": (5.0, 50.0)}
    await replicas[2].close()
    await becomes(lambda: tellers[0].others == {"x": (2.0, 20.0), "y": (5.0, 5.0)})
    tellers[1].own = {"x": (3.0, 30.0)}
    await becomes(lambda: tellers[0].others == {"x": (3.0, 30.0)})
    for one in replicas[:2]:
        await one.close()
    client = connect(redis_process.url, None)
    assert await client.hlen(KEY) == 0  # type: ignore[misc]
    await client.aclose()


async def test_one_that_was_killed_counts_no_more_and_its_row_is_removed(redis_process: RedisProcess) -> None:
    client = connect(redis_process.url, None)
    rows = {
        "killed": orjson.dumps([7, {"x": [3.0]}]),
        "foreign": "text",
        "nonsense": orjson.dumps([1, {"x": [-1]}]),
    }
    await client.hset(KEY, mapping=rows)  # type: ignore[misc]
    teller, one = Teller(x=(1.0,)), shared(redis_process)
    one.follow(teller)
    await becomes(lambda: teller.others == {"x": (3.0,)})
    await becomes(lambda: teller.replicas == 0)
    while await client.hlen(KEY) > 1:  # type: ignore[misc]  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await one.close()
    await client.aclose()


async def test_without_redis_each_goes_by_its_own_and_learns_again(redis_process: RedisProcess) -> None:
    first, second = Teller(x=(1.0,)), Teller(x=(2.0,))
    replicas = [shared(redis_process) for _ in range(2)]
    for one, teller in zip(replicas, (first, second), strict=True):
        one.follow(teller)
    await becomes(lambda: first.others == {"x": (2.0,)})
    redis_process.kill()
    await becomes(lambda: not first.others and not first.replicas)
    redis_process.start()
    await becomes(lambda: first.others == {"x": (2.0,)})
    for one in replicas:
        await one.close()


async def test_where_no_expert_has_several_addresses_nothing_is_asked() -> None:
    def connected() -> Any:
        raise AssertionError("asked")

    one = SharedFigures(connected)
    one.follow(Teller())
    await asyncio.sleep(0.1)
    await one.close()


@pytest.fixture
def twin(other_loop: Loop) -> Iterator[Upstream]:
    upstream = Upstream(other_loop)
    yield upstream
    upstream.stop()


def test_a_replica_leaves_alone_the_address_that_another_keeps_busy(
    world: World, twin: Upstream, redis_process: RedisProcess
) -> None:
    world.settings["ledger"] = {"url": redis_process.url}
    pair = expert("large", "") | {"endpoints": [{"url": world.large.url}, {"url": twin.url}]}
    del pair["url"]
    one, other = (world.start(experts=[pair]) for _ in range(2))
    world.large.script(*[hang] * 6)
    waiting = [one.connect() for _ in range(6)]
    # as if the twin were far away from this replica: all that it asks goes to the first address
    first, second = one.service.pool.places("large")
    second.in_flight = 100
    for client in waiting:
        client.sendall(request_bytes(json.dumps({"model": "large", "messages": HELLO}).encode()))
    until(lambda: first.in_flight == 6, "six calls hang")
    second.in_flight = 0

    def known() -> bool:
        told = [place.others.in_flight for place in other.service.pool.places("large")]
        return told[0] > 2 and told[1] < 0.1

    until(known, "the other is told")
    asked = len(twin.requests)
    for _ in range(3):
        assert other.chat("large").status_code == 200
    assert len(twin.requests) == asked + 3
    for client in waiting:
        client.close()
