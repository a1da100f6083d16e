"""The ledger against a real Redis: exact counts, shared figures, outages that lose and double nothing."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis_process import RedisProcess

from router.config import LedgerSettings
from router.errors import LedgerError
from router.ledger.ledger import Ledger
from router.ledger.outbox import KEEP_S, Outbox
from router.ledger.script import FORMAT
from router.ledger.store import (
    EXPERTS_KEY,
    FORMAT_KEY,
    Forgotten,
    Store,
    connect,
    expert_key,
    masked,
)
from router.types import Entry, Load, Usage

HALF_LIFE_S = 300.0


def entry(expert: str = "a", ok: bool = True, ttft_s: float | None = 0.5) -> Entry:
    usage = Usage(input_tokens=100, output_tokens=20, cached_tokens=30)
    return Entry(expert, ok, usage, cost_nano=1_234_567, ttft_s=ttft_s, token_s=0.01)


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - Redis sets no event of ours
            await asyncio.sleep(0.005)


async def written(ledger: Ledger) -> None:
    await until(lambda: not ledger.owed)


async def fields(url: str, expert: str) -> dict[str, float]:
    client = connect(url, None)
    found = await client.hgetall(expert_key(expert))
    await client.aclose()
    return {name.decode(): float(value) for name, value in found.items()}


@pytest.fixture
async def ledger(redis_process: RedisProcess) -> AsyncIterator[Ledger]:
    ledger = Ledger(LedgerSettings(url=redis_process.url))
    await ledger.open()
    yield ledger
    await ledger.close()


@pytest.fixture
async def other(redis_process: RedisProcess) -> AsyncIterator[Ledger]:
    other = Ledger(LedgerSettings(url=redis_process.url))
    await other.open()
    yield other
    await other.close()


def make_store(url: str, replica: str = "r") -> Store:
    return Store(connect(url, None), "redis", replica, HALF_LIFE_S)


# counting


async def test_ten_thousand_entries_are_counted_exactly(ledger: Ledger) -> None:
    rng = random.Random(5)
    entries = [
        Entry(
            rng.choice(["small", "large"]),
            rng.random() < 0.9,
            Usage(rng.randrange(9000), rng.randrange(9000), rng.randrange(50)),
            rng.randrange(10**10),
        )
        for _ in range(10_000)
    ]
    for i, one in enumerate(entries):
        ledger.record(one)
        if i % 97 == 0:
            await asyncio.sleep(0)
    await written(ledger)
    for name, load in (await ledger.snapshot()).items():
        mine = [one for one in entries if one.expert == name]
        assert (load.requests, load.errors) == (len(mine), sum(not one.ok for one in mine))
        assert load.input_tokens == sum(one.usage.input_tokens for one in mine)
        assert load.output_tokens == sum(one.usage.output_tokens for one in mine)
        assert load.cost_nano == sum(one.cost_nano for one in mine)


async def test_sums_beyond_what_a_double_can_hold_stay_exact(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.record(Entry("a", True, cost_nano=2**53 - 1))
        await written(ledger)
    assert ledger.load("a").cost_nano == 3 * (2**53 - 1)


async def test_cached_tokens_are_kept(ledger: Ledger, redis_process: RedisProcess) -> None:
    ledger.record(entry())
    await written(ledger)
    assert (await fields(redis_process.url, "a"))["cached_tokens"] == 30


@pytest.mark.parametrize("name", ["gpt-4o", "org/model:free@v1+x", "modèle.ü_1", "x" * 200])
async def test_any_name_that_the_configuration_allows_is_counted(ledger: Ledger, name: str) -> None:
    ledger.record(entry(name))
    await written(ledger)
    assert (await ledger.snapshot())[name].requests == 1


async def test_an_expert_nobody_asked_yet_has_an_empty_load(ledger: Ledger) -> None:
    assert ledger.load("never") == Load()


async def test_two_replicas_see_each_others_figures(ledger: Ledger, other: Ledger) -> None:
    for _ in range(10):
        ledger.record(entry(ttft_s=0.1))
        other.record(entry(ttft_s=0.3))
    await until(lambda: ledger.load("a").requests == other.load("a").requests == 20)
    assert ledger.load("a").ttft_s == pytest.approx(0.2, rel=0.05)
    assert other.load("a").cost_nano == 20 * 1_234_567


async def test_a_replica_that_records_nothing_learns_of_an_expert_it_never_asked(
    ledger: Ledger, other: Ledger
) -> None:
    ledger.record(entry("new"))
    await until(lambda: other.load("new").requests == 1)


async def test_a_nan_does_not_poison_the_shared_estimate(ledger: Ledger) -> None:
    ledger.record(entry(ttft_s=float("nan")))
    ledger.record(entry(ttft_s=0.5))
    await written(ledger)
    assert ledger.load("a").ttft_s == pytest.approx(0.5)


async def test_what_is_owed_at_the_end_is_written_on_close(redis_process: RedisProcess, other: Ledger) -> None:
    ledger = Ledger(LedgerSettings(url=redis_process.url, flush_ms=1000))
    await ledger.open()
    ledger.record(entry())
    await ledger.close()
    assert (await other.snapshot())["a"].requests == 1


# fading


async def test_estimates_fade_by_half_in_a_half_life_of_the_servers_time(redis_process: RedisProcess) -> None:
    half_life_s = 0.05
    ledger = Ledger(LedgerSettings(url=redis_process.url, half_life_s=half_life_s))
    await ledger.open()
    ledger.record(entry(ttft_s=1.0))
    await written(ledger)
    first = await fields(redis_process.url, "a")
    ledger.record(entry(ttft_s=3.0))
    await written(ledger)
    second = await fields(redis_process.url, "a")
    await ledger.close()
    kept = 0.5 ** ((second["at"] - first["at"]) / half_life_s)
    new = second["ttft_weight"] - kept * first["ttft_weight"]
    assert 0 < new <= 1, "the newest entry is as old as its way to Redis took"
    assert second["ttft_sum_s"] == pytest.approx(kept * first["ttft_sum_s"] + 3.0 * new, rel=1e-4)
    assert second["calls"] == pytest.approx(kept * first["calls"] + new, rel=1e-4)
    assert second["requests"] == 2


async def test_an_entry_that_waited_weighs_as_little_as_its_age_says(redis_url: str) -> None:
    store = make_store(redis_url, "waited")
    outbox = Outbox(HALF_LIFE_S)
    outbox.add([entry("waited", ok=False)], now=0.0)
    outbox.add([entry("waited")], now=HALF_LIFE_S)
    batch = outbox.next()
    assert batch is not None
    await store.write(batch, 0, age_s=HALF_LIFE_S)
    found = await fields(redis_url, "waited")
    await store.close()
    assert found["calls"] == pytest.approx(0.75)
    assert found["failures"] == pytest.approx(0.25)


async def test_old_figures_stay_until_new_ones_outweigh_them(redis_process: RedisProcess) -> None:
    ledger = Ledger(LedgerSettings(url=redis_process.url, half_life_s=1e-4))
    await ledger.open()
    for ttft_s in (1.0, 2.0):
        ledger.record(entry(ttft_s=ttft_s, ok=ttft_s == 2.0))
        await written(ledger)
        assert (await ledger.snapshot())["a"].ttft_s == pytest.approx(ttft_s, rel=1e-3)
    await until(lambda: ledger.load("a").error_rate < 1e-3)
    await ledger.close()


async def test_failures_raise_the_error_rate_and_one_alone_does_not_condemn(ledger: Ledger) -> None:
    ledger.record(entry(ok=False))
    await written(ledger)
    assert ledger.load("a").error_rate == pytest.approx(0.5, abs=0.01)
    for _ in range(98):
        ledger.record(entry(ok=False))
    await written(ledger)
    assert ledger.load("a").error_rate == pytest.approx(0.99, abs=0.01)


# outages


async def test_a_redis_killed_in_the_middle_and_restarted_ends_with_exact_totals(
    ledger: Ledger, redis_process: RedisProcess
) -> None:
    sent = 0
    for round_ in range(3):
        for i in range(400):
            ledger.record(entry())
            sent += 1
            if i == 200:
                redis_process.kill()
            await asyncio.sleep(0.0005)
        await until(lambda: ledger.degraded)
        assert ledger.owed > 0, round_
        redis_process.start()
        await until(lambda: not ledger.degraded)
    await written(ledger)
    load = (await ledger.snapshot())["a"]
    assert (load.requests, load.cost_nano) == (sent, sent * 1_234_567)


async def test_a_frozen_redis_never_blocks_the_loop_and_nothing_counts_twice(
    ledger: Ledger, redis_process: RedisProcess
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    ledger.record(entry())
    await written(ledger)
    redis_process.freeze()
    ledger.record(entry())  # its batch lies in the frozen server's socket, and is sent again
    await until(lambda: ledger.degraded)
    assert ticks >= 20, "the event loop went on while Redis hung"
    for _ in range(100):
        ledger.record(entry())
    status = ledger.status()
    assert not status.ok and status.owed == 101 and "did not answer" in str(status.reason)
    redis_process.thaw()
    await until(lambda: not ledger.degraded)
    await written(ledger)
    assert (await ledger.snapshot())["a"].requests == 102
    ticking.cancel()


async def test_owed_entries_are_summed_so_that_an_outage_does_not_fill_the_memory(
    ledger: Ledger, redis_process: RedisProcess
) -> None:
    redis_process.kill()
    for _ in range(20_000):
        ledger.record(entry())
    await until(lambda: ledger.degraded)
    assert ledger.owed == 20_000
    assert len(ledger._inbox) < 5_000
    redis_process.start()
    await written(ledger)
    assert (await ledger.snapshot())["a"].requests == 20_000


async def test_a_batch_that_is_sent_twice_counts_once(redis_url: str) -> None:
    store = make_store(redis_url, "twice")
    outbox = Outbox(HALF_LIFE_S)
    outbox.add([entry("twice")], 0.0)
    batch = outbox.next()
    assert batch is not None and outbox.next() is batch
    for _ in range(3):
        loads = await store.write(batch, 0, 0.0)
    await store.close()
    assert loads["twice"].requests == 1


async def test_the_same_number_from_two_replicas_counts_twice(redis_url: str) -> None:
    for replica in ("one", "two"):
        store = make_store(redis_url, replica)
        outbox = Outbox(HALF_LIFE_S)
        outbox.add([entry("both")], 0.0)
        batch = outbox.next()
        assert batch is not None
        loads = await store.write(batch, 0, 0.0)
        await store.close()
    assert loads["both"].requests == 2


async def test_a_redis_that_comes_back_without_its_last_writes_gets_them_again(redis_url: str) -> None:
    """As after a crash between two syncs, or a promoted replica that lagged."""
    store, outbox, client = make_store(redis_url, "lost"), Outbox(HALF_LIFE_S), connect(redis_url, None)
    keys = [expert_key("lost"), "pointsman:{ledger}:replica:lost"]
    dumps = []
    for number in range(1, 5):
        outbox.add([entry("lost")], 0.0)
        batch = outbox.next()
        assert batch is not None and batch.number == number
        await store.write(batch, outbox.base, 0.0)
        outbox.taken(batch, 0.0)
        dumps.append([await client.dump(key) for key in keys])
    for key, dump in zip(keys, dumps[1], strict=True):
        await client.restore(key, 0, dump, replace=True)
    with pytest.raises(Forgotten) as gap:
        await store.read(outbox.base)
    outbox.forgotten(gap.value.known)
    assert outbox.owed == 2
    while batch := outbox.next():
        loads = await store.write(batch, outbox.base, 0.0)
        outbox.taken(batch, 0.0)
    assert loads["lost"].requests == 4
    await client.aclose()
    await store.close()


def test_batches_are_kept_only_while_redis_might_lose_them() -> None:
    outbox = Outbox(HALF_LIFE_S)
    outbox.add([entry()], 0.0)
    first = outbox.next()
    assert first is not None
    outbox.taken(first, 0.0)
    outbox.forgotten(0)
    assert outbox.next() is first
    outbox.taken(first, 1.0)
    outbox.heard(1.0 + 2 * KEEP_S)
    outbox.forgotten(0)
    assert outbox.next() is None and outbox.owed == 0


async def test_a_gateway_starts_while_redis_is_away_and_writes_when_it_comes(
    redis_process: RedisProcess,
) -> None:
    redis_process.kill()
    ledger = Ledger(LedgerSettings(url=redis_process.url))
    await ledger.open()
    assert ledger.degraded
    ledger.record(entry())
    redis_process.start()
    await written(ledger)
    await until(lambda: not ledger.degraded)
    assert ledger.load("a").requests == 1
    await ledger.close()


async def test_an_outage_is_logged_once_and_so_is_its_end(
    ledger: Ledger, redis_process: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "router.ledger")
    redis_process.kill()
    for _ in range(50):
        ledger.record(entry())
        await asyncio.sleep(0.01)
    await until(lambda: ledger.degraded)
    redis_process.start()
    await until(lambda: not ledger.degraded and len(caplog.records) > 1)
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["ledger"] * 2


async def test_close_does_not_wait_long_for_a_redis_that_is_gone(redis_process: RedisProcess) -> None:
    ledger = Ledger(LedgerSettings(url=redis_process.url))
    await ledger.open()
    redis_process.freeze()
    ledger.record(entry())
    async with asyncio.timeout(20):
        await ledger.close()
    assert ledger.owed == 1
    redis_process.thaw()


# the private server


async def test_the_private_server_is_restarted_when_it_dies_and_totals_stay_exact(
    redis_binary: Path, tmp_path: Path
) -> None:
    ledger = Ledger(LedgerSettings(data_dir=tmp_path))
    await ledger.open()
    assert ledger.status().server == "embedded" and await ledger.ping() > 0
    for i in range(300):
        ledger.record(entry())
        if i == 150:
            await written(ledger)
            assert ledger._server is not None and ledger._server._child is not None
            ledger._server._child.kill()
            ledger.record(entry())
            await until(lambda: ledger.degraded)
        await asyncio.sleep(0.001)
    await written(ledger)
    assert not ledger.degraded
    assert (await ledger.snapshot())["a"].requests == 301
    await ledger.close()


async def test_two_gateways_on_one_data_folder_share_it_and_the_second_survives_the_first(
    redis_binary: Path, tmp_path: Path
) -> None:
    first, second = Ledger(LedgerSettings(data_dir=tmp_path)), Ledger(LedgerSettings(data_dir=tmp_path))
    await first.open()
    await second.open()
    first.record(entry())
    await until(lambda: second.load("a").requests == 1)
    await first.close()
    second.record(entry())
    await written(second)
    await until(lambda: not second.degraded)
    assert (await second.snapshot())["a"].requests == 2
    await second.close()


# what a person has to mend


@pytest.mark.parametrize("redis_process", [("--requirepass", "right-secret")], indirect=True)
async def test_a_wrong_password_is_an_error_that_does_not_show_it(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wrong-secret\n")
    for options in ({}, {"password": {"file": str(tmp_path / "password")}}):
        ledger = Ledger(LedgerSettings.model_validate({"url": redis_process.url} | options))
        with pytest.raises(LedgerError, match=r"refuses the password.*ledger\.password") as error:
            await ledger.open()
        assert "secret" not in str(error.value)
    (tmp_path / "password").write_text("right-secret\n")
    ledger = Ledger(LedgerSettings.model_validate({"url": redis_process.url} | options))
    await ledger.open()
    assert not ledger.degraded
    await ledger.close()


async def test_a_ledger_of_another_version_is_an_error_and_stays_untouched(
    redis_process: RedisProcess,
) -> None:
    redis_process.command(f"SET {FORMAT_KEY} {int(FORMAT) + 1}")
    with pytest.raises(LedgerError, match=f"format '{int(FORMAT) + 1}'.*writes '{FORMAT}'"):
        await Ledger(LedgerSettings(url=redis_process.url)).open()


@pytest.mark.parametrize(
    "command",
    [
        f"LPUSH {FORMAT_KEY} x",
        f"SET {EXPERTS_KEY} x",
        f"SADD {EXPERTS_KEY} a\r\nSET {expert_key('a')} x",
        f"SADD {EXPERTS_KEY} a\r\nHSET {expert_key('a')} at 1 requests many",
    ],
)
async def test_foreign_data_under_our_keys_is_an_error(redis_process: RedisProcess, command: str) -> None:
    redis_process.command(command)
    with pytest.raises(LedgerError, match="foreign data"):
        await Ledger(LedgerSettings(url=redis_process.url)).open()


async def test_foreign_data_that_appears_later_degrades_and_half_applies_nothing(
    ledger: Ledger, redis_process: RedisProcess
) -> None:
    redis_process.command(f"SET {expert_key('b')} x")
    ledger.record(entry("a"))
    ledger.record(entry("b"))
    await until(lambda: "foreign data" in str(ledger.status().reason))
    redis_process.command(f"DEL {expert_key('b')}")
    await written(ledger)
    loads = await ledger.snapshot()
    assert (loads["a"].requests, loads["b"].requests) == (1, 1)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pass@host:6379/0", "redis://host:6379/0"),
        ("redis://:pa/s?s#w@ss@host:6379/0", "redis://..."),
        ("redis://:pa/ss@host/0?db=1", "redis://host/0"),
        ("rediss://host/0?password=pass", "rediss://host/0"),
        ("redis://host/0?password=p@ss", "redis://..."),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_messages_never_show_what_a_url_holds_in_secret(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("url", ["redis://:secret@host:port/0", "redis://h/0?socket_timeout=secret"])
async def test_a_url_that_is_none_is_an_error_without_its_secrets(url: str) -> None:
    with pytest.raises(LedgerError, match="is not a Redis URL") as error:
        await Ledger(LedgerSettings(url=url)).open()
    assert "secret" not in str(error.value) and error.value.__cause__ is None


async def test_a_redis_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(url=f"unix://:hidden@{tmp_path}/none.sock"))
    await ledger.open()
    reason = str(ledger.status().reason)
    assert "cannot be reached" in reason and "hidden" not in reason
    with pytest.raises(LedgerError, match="cannot be reached"):
        await ledger.ping()
    await ledger.close()


async def test_asking_before_it_is_open_is_an_error() -> None:
    ledger = Ledger(LedgerSettings(url="redis://localhost:1/0"))
    ledger.record(entry())
    assert ledger.owed == 1 and ledger.degraded
    with pytest.raises(LedgerError, match="not open"):
        await ledger.snapshot()
