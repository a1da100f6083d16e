"""A Redis without memory: requests go on, and what they came to is there once it has room."""

import logging
from typing import Any

import pytest
import redis
from redis_process import RedisProcess
from serving import Gateway, World, expert, until

from gateway.doctor import examine
from router.config import parse_settings
from router.ledger.ledger import Ledger

EXPERT = {"name": "a", "kind": "simulated", "tier": "small", "price": {"input": 1, "output": 1}}
PRICE = {"input": 1.0, "output": 2.0}
COST = 11 * 1_000 + 2 * 2_000  # of an answer of the tests' upstream, in nano-dollars


@pytest.fixture
def alone(world: World, redis_process: RedisProcess) -> World:
    world.settings["ledger"] = {"url": redis_process.url, "wait_ms": 1000}
    world.settings["experts"] = [expert("small", world.small.url, price=PRICE)]
    return world


def ask(gateway: Gateway, count: int) -> None:
    for _ in range(count):
        assert gateway.chat("small").status_code == 200


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1_000}, {"concurrency": 50}])
def test_a_full_redis_refuses_nobody_and_loses_nothing(
    alone: World, redis_process: RedisProcess, limits: dict[str, Any]
) -> None:
    gateway = alone.start(limits=limits, budget={"usd": 1, "per": "month"})
    admission, ledger = gateway.service.admission, gateway.service.ledger
    assert admission is not None
    ask(gateway, 5)
    redis_process.command("CONFIG SET maxmemory 1")
    ask(gateway, 20)
    until(lambda: admission.degraded and ledger.degraded, "both notice")
    assert ledger.owed > 0
    ask(gateway, 5)
    redis_process.command("CONFIG SET maxmemory 0")
    until(lambda: not ledger.owed and not admission.owed and not admission.degraded, "what was owed is written")
    assert value(redis_process, "pointsman:{ledger}:expert:small", "cost_nano") == 30 * COST
    budget = "pointsman:{ledger}:cap:gateway:usd:month"
    until(lambda: value(redis_process, budget, "spent") == 30 * COST, "spares are given back")


def value(server: RedisProcess, key: str, field: str) -> int:
    with redis.Redis(unix_socket_path=server.url.removeprefix("unix://")) as client:
        found = client.hget(key, field)
    assert isinstance(found, bytes)
    return int(found)


@pytest.mark.parametrize("redis_process", [("--maxmemory-policy", "allkeys-lru")], indirect=True)
async def test_a_redis_that_forgets_keys_is_told(
    redis_process: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    settings = parse_settings({"experts": [EXPERT], "ledger": {"url": redis_process.url}})
    ledger = Ledger(settings.ledger)
    with caplog.at_level(logging.WARNING):
        await ledger.open()
    await ledger.close()
    assert "maxmemory-policy allkeys-lru" in caplog.text
    (found,) = [one for one in await examine(settings) if one.what == "ledger"]
    assert not found.ok and "set maxmemory-policy noeviction" in found.text
