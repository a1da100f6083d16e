"""Limits and budgets over several replicas and one real Redis."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import hiredis
import orjson
import pytest
from admissions import DOLLAR, all_settled, ask, caps, replicas, spent, until, value
from redis_process import RedisProcess

from router.errors import ConfigError, OverLimit
from router.ledger.admission import Admission
from router.ledger.caps import PREFIX
from router.ledger.caps_script import RESERVE_SHA
from router.ledger.journal import Journal
from router.ledger.share import Share
from router.ledger.store import connect


@pytest.mark.parametrize("count", [1, 3])
async def test_a_budget_is_overshot_by_less_than_one_request(redis_process: RedisProcess, count: int) -> None:
    rng, paid = random.Random(5), []
    async with replicas(redis_process.url, count, budget={"usd": 10, "per": "day"}) as running:

        async def caller(number: int) -> None:
            for turn in range(40):
                expected = rng.randrange(DOLLAR // 100, DOLLAR // 10)
                one = running[number % count]
                held = await ask(one, f"{number}:{turn}", cost_nano=expected)
                if held is None:
                    continue
                await asyncio.sleep(rng.random() / 1000)
                paid.append(round(expected * rng.uniform(0.2, 2.8)))  # dearer than expected, by half on average
                one.settle(held, 1, paid[-1])

        await asyncio.gather(*(caller(number) for number in range(64)))
        await all_settled(*running)
        assert not any(one.degraded for one in running)
        assert 9.7 * DOLLAR < sum(paid) <= 10 * DOLLAR + 1.8 * DOLLAR / 10
        assert await spent(redis_process.url) == sum(paid)


@pytest.mark.parametrize("count", [1, 3])
async def test_requests_and_tokens_hold_exactly_on_any_number_of_replicas(
    redis_process: RedisProcess, count: int
) -> None:
    limits = {"requests_per_minute": 100, "tokens_per_minute": 1000}
    async with replicas(redis_process.url, count, limits=limits) as running:
        few = await asyncio.gather(*(ask(running[k % count], f"few{k}", tokens=5) for k in range(150)))
        assert sum(held is not None for held in few) == 100
        for k, held in enumerate(few):
            if held is not None:
                running[k % count].settle(held, 5, 0)
        await all_settled(*running)
        assert await value(redis_process.url, "HGET", f"{PREFIX}cap:gateway:requests", "sum") == b"100"
        assert await value(redis_process.url, "HGET", f"{PREFIX}cap:gateway:tokens", "sum") == b"500"


@pytest.mark.parametrize("silent", [False, True])
async def test_a_refusal_says_whether_a_budget_is_spent_or_the_call_too_dear_for_what_is_left(
    redis_process: RedisProcess, silent: bool
) -> None:
    async with replicas(redis_process.url, 1, budget={"usd": 1, "per": "day"}) as (one,):
        if silent:
            redis_process.kill()
            await until(lambda: one.degraded)
        held = await ask(one, "a", cost_nano=900_000_000)
        assert held
        one.settle(held, 1, 900_000_100)
        if not silent:
            await all_settled(one)
        dear = one.reservation("b", "anonymous", "x", 1, 200_000_000)
        share = "this gateway's share of " if silent else ""
        with pytest.raises(OverLimit) as told:
            await one.admit(dear)
        assert str(told.value) == (
            f"the gateway has $0.0999999 left of {share}its budget of $1 per day, "
            "and the call is expected to cost $0.2"
        )
        assert told.value.budget
        rest = await ask(one, "c", cost_nano=99_999_900)
        assert rest
        one.settle(rest, 1, 150_000_000)
        if not silent:
            await all_settled(one)
        with pytest.raises(OverLimit) as told:
            await one.admit(one.reservation("d", "anonymous", "x", 1, 1))
        assert str(told.value) == (
            "the gateway has spent its budget of $1 per day: $0 is left, "
            "and the call is expected to cost $0.000000001"
        )


async def test_a_clock_that_is_set_back_lets_nobody_in_and_keeps_nobody_out_for_long(
    redis_process: RedisProcess,
) -> None:
    """Redis' clock goes ten minutes back: what it wrote before is ten minutes ahead."""
    ahead = 10 * 60_000 // 200
    limits = {"requests_per_minute": 5}
    key = f"{PREFIX}cap:gateway:requests"
    async with replicas(redis_process.url, 1, limits=limits) as (one,):
        for k in range(5):
            held = await ask(one, f"{k}")
            assert held
            one.settle(held, 1, 0)
        await all_settled(one)
        kept: dict[bytes, bytes] = await value(redis_process.url, "HGETALL", key)
        moved = {str(int(slot) + ahead): count for slot, count in kept.items() if slot.isdigit()}
        await value(redis_process.url, "DEL", key)
        both = {"sum": kept[b"sum"], "tail": str(int(kept[b"tail"]) + ahead), **moved}
        await value(redis_process.url, "HSET", key, *(part for pair in both.items() for part in pair))
        late = one.reservation("late", "anonymous", "x", 1, 0)
        with pytest.raises(OverLimit) as told:
            await one.admit(late)
        assert told.value.retry_after_s is not None and 50 < told.value.retry_after_s <= 61
        assert await value(redis_process.url, "HGET", key, "sum") == b"5"
        assert 50_000 < await value(redis_process.url, "PTTL", key) <= 61_000


@pytest.mark.parametrize("period", ["day", "week", "month"])
async def test_a_clock_that_is_set_back_gives_no_spent_budget_anew(
    redis_process: RedisProcess, period: str
) -> None:
    key = f"{PREFIX}cap:gateway:usd:{period}"
    async with replicas(redis_process.url, 1, budget={"usd": 1, "per": period}) as (one,):
        held = await ask(one, "a", cost_nano=DOLLAR)
        assert held
        one.settle(held, 1, DOLLAR)
        await all_settled(one)
        await value(redis_process.url, "HINCRBY", key, "period", 1)  # the next one, as it seemed then
        assert not await ask(one, "b", cost_nano=1)
        assert await value(redis_process.url, "HGET", key, "spent") == str(DOLLAR).encode()


async def test_what_one_cap_refuses_is_taken_under_none(redis_process: RedisProcess) -> None:
    limits = {"requests_per_minute": 100, "tokens_per_minute": 10, "concurrency": 50}
    async with replicas(redis_process.url, 1, limits=limits, budget={"usd": 1, "per": "week"}) as (one,):
        assert await ask(one, "a", tokens=10, cost_nano=7)
        assert not await ask(one, "b", tokens=10, cost_nano=7)
        assert await value(redis_process.url, "HGET", f"{PREFIX}cap:gateway:requests", "sum") == b"1"
        assert await value(redis_process.url, "ZCARD", f"{PREFIX}cap:gateway:concurrency") == 1
        assert await value(redis_process.url, "HGET", f"{PREFIX}cap:gateway:usd:week", "spent") == b"7"


async def test_a_window_gives_back_what_has_left_it(redis_process: RedisProcess) -> None:
    client = connect(redis_process.url, None)
    script: Any = None
    async with replicas(redis_process.url, 1, limits={"requests_per_minute": 1}) as (one,):
        assert await ask(one, "loads the scripts")
        script = RESERVE_SHA

    async def reserve(name: str, amount: int) -> Any:  # a window of 60 ms, in slots of 2
        row = ("window", 10, amount, 2, 30, "", 0)
        return await client.evalsha(script, 2, f"{PREFIX}reservation:{name}", f"{PREFIX}w", 60, name, *row)

    began = time.monotonic()
    taken, number = 0, 0
    while time.monotonic() - began < 0.6:
        number += 1
        reply = await reserve(str(number), 1)
        if reply[0] == b"ok":
            taken += 1
        else:
            assert 0 < int(reply[2]) <= 62
            await asyncio.sleep(0.001)
    took = time.monotonic() - began
    await client.aclose()
    assert taken <= 10 * (took / 0.06 + 1)
    assert taken > 10  # it did give back


async def test_the_places_of_a_crashed_replica_are_free_again(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a lease's life is part of the cap: a crash is a replica that no longer renews
    monkeypatch.setattr("router.ledger.caps.LEASE_MS", 200)
    async with replicas(redis_process.url, 2, limits={"concurrency": 2}) as (crashed, alive):
        assert await ask(crashed, "a")
        assert await ask(crashed, "b")
        assert not await ask(alive, "c")
        await value(redis_process.url, "PERSIST", f"{PREFIX}cap:gateway:concurrency")  # the leases end, not the key
        assert crashed._task is not None
        crashed._task.cancel()
        crashed._open.clear()
        deadline = time.monotonic() + 20
        while not await ask(alive, "d"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_a_long_call_keeps_its_place(redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.ledger.caps.LEASE_MS", 1)
    async with replicas(redis_process.url, 1, limits={"concurrency": 1}) as (one,):
        held = await ask(one, "long")
        assert held
        key = f"{PREFIX}cap:gateway:concurrency"
        deadline = time.monotonic() + 20
        while not await value(redis_process.url, "ZSCORE", key, "long"):  # lost at once, and then renewed
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        one.settle(held, 1, 0)
        await all_settled(one)
        assert await value(redis_process.url, "EXISTS", key) == 0


async def test_a_replayed_settlement_counts_once(redis_process: RedisProcess) -> None:
    async with replicas(redis_process.url, 1, budget={"usd": 1, "per": "day"}) as (one,):
        held = await ask(one, "a", cost_nano=100)
        assert held
        one.settle(held, 1, 30)
        await all_settled(one)
        assert await spent(redis_process.url) == 30
        for _ in range(3):
            held.held = True
            one.settle(held, 1, 30)
            await all_settled(one)
        assert await spent(redis_process.url) == 30


async def test_a_call_admitted_while_redis_was_away_is_charged_when_it_is_back(redis_process: RedisProcess) -> None:
    async with replicas(redis_process.url, 1, budget={"usd": 1, "per": "day"}) as (one,):
        assert await ask(one, "a", cost_nano=DOLLAR // 2)
        one._wait_s = 0.005
        redis_process.kill()
        held = [await ask(one, f"b{k}", cost_nano=DOLLAR // 10) for k in range(8)]
        assert [reservation is not None for reservation in held] == [True] * 5 + [False] * 3
        for reservation in held:
            if reservation is not None:
                one.settle(reservation, 1, DOLLAR // 20)
        redis_process.start()
        await all_settled(one)
        assert await spent(redis_process.url) == DOLLAR // 2 + 5 * DOLLAR // 20


async def test_three_replicas_take_a_third_each_while_redis_is_frozen(redis_process: RedisProcess) -> None:
    limits = {"requests_per_minute": 30, "concurrency": 30}
    async with replicas(redis_process.url, 3, wait_s=0.005, limits=limits) as running:
        await until(lambda: all(one.shares.replicas == 3 for one in running))
        redis_process.freeze()
        try:
            for number, one in enumerate(running):
                answers = [await ask(one, f"{number}:{k}") for k in range(20)]
                assert sum(held is not None for held in answers) == 10
        finally:
            redis_process.thaw()


def test_a_share_of_a_calendar_budget_begins_anew_with_the_period() -> None:
    (cap,) = caps(budget={"usd": 1, "per": "month"}).of("anonymous", "x")
    share = Share()
    share.tell(cap, cap.limit)
    assert not share.has_room(cap, 1, 1, 0.0)
    share._period = (1999, 1)
    assert share.has_room(cap, 1, 1, 0.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"budget": {"usd": -1, "per": "day"}}, "budget.0.usd: Input should be greater than 0, got -1"),
        ({"budget": {"usd": 1}}, "exactly one of `per` \\(day, week or month\\) or `rolling_hours`"),
        ({"budget": {"usd": 1, "per": "year"}}, "'day', 'week' or 'month', got 'year'"),
        ({"budget": [{"usd": 1, "per": "day"}, {"usd": 2, "per": "day"}]}, "two budgets per day; keep one"),
        (
            {"limits": {"requests_per_minute": 0}},
            "limits.requests_per_minute: .* greater than or equal to 1, got 0",
        ),
        ({"limits": {"rpm": 5}}, "limits.rpm: unknown key"),
        (
            {"auth": {"keys": [{"name": "a", "env": "A", "budget": {"usd": 0, "per": "day"}}]}},
            "auth.keys.0.budget.0.usd: .* greater than 0, got 0",
        ),
        (
            {
                "auth": {
                    "keys": [{"name": "a", "env": "A"}, {"name": "a", "env": "B", "limits": {"concurrency": 1}}]
                }
            },
            "two keys are called 'a', with different limits or budgets",
        ),
    ],
)
def test_a_wrong_limit_stops_the_start_and_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        caps(**settings)


async def test_what_is_left_is_kept_for_calls_under_way_and_given_to_the_next_once_they_end(
    redis_process: RedisProcess,
) -> None:
    async with replicas(redis_process.url, 2, budget={"usd": 10, "per": "month"}) as (one, two):
        first = await ask(one, "a", cost_nano=3 * DOLLAR)
        assert first is not None
        second = two.reservation("b", "anonymous", "x", 1, 2 * DOLLAR)
        with pytest.raises(OverLimit, match="kept for calls under way") as told:
            await two.admit(second)
        assert not told.value.budget  # it is worth trying again
        assert told.value.retry_after_s == 0.5
        one.settle(first, 1, 4 * DOLLAR)
        await all_settled(one)
        assert await ask(two, "c", cost_nano=2 * DOLLAR) is not None
        assert await value(redis_process.url, "HGET", f"{PREFIX}cap:gateway:usd:month", "open") == b"2000000000"


async def test_what_a_killed_replica_owed_is_settled_by_the_next_and_once(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    def made() -> Admission:
        return Admission(
            caps(budget={"usd": 1, "per": "day"}), lambda: connect(redis_process.url, None), 5.0, tmp_path
        )

    # else a busy disk may keep Redis from writing what it has answered already, and the kill below takes it
    assert redis_process.command("CONFIG SET appendfsync always") == b"+OK\r\n"
    killed = made()
    await killed.open()
    held = [await ask(killed, f"a{k}", cost_nano=100) for k in range(600)]
    for k, reservation in enumerate(held[:300]):
        assert reservation is not None
        killed.settle(reservation, 1, k)
    await all_settled(killed)
    redis_process.kill()
    for k, reservation in enumerate(held[300:], 300):
        assert reservation is not None
        killed.settle(reservation, 1, k)
    assert killed._task is not None
    killed._task.cancel()
    assert killed._owed._claim is not None
    assert killed._owed._claim._lock is not None
    killed._owed._claim._lock.close()  # as the system does when the process is gone
    redis_process.start()
    for _ in range(2):
        following = made()
        await following.open()
        await until(lambda: not list(tmp_path.glob("*")))
        await following.close()
        assert await spent(redis_process.url) == sum(range(600))


async def test_what_was_damaged_of_a_killed_replica_s_settlements_holds_up_no_other(
    redis_process: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settled = ["2", f"{PREFIX}held:a", f"{PREFIX}cap:gateway:usd:day", "60", "a"]
    good = [*settled, "calendar", "1000", "7", "0", "300", "day", "2"]
    (tmp_path / "a.lock").touch()
    journal = Journal(tmp_path / "a.settlements", 1 << 20)
    for record in (b"5", b"{", b'{"a":1}', b"[[1]]", b"[-1]", b'["x"]', orjson.dumps(good)):
        journal.append(record)
    journal._segments[0].map.close()
    one = Admission(caps(budget={"usd": 1, "per": "day"}), lambda: connect(redis_process.url, None), 5.0, tmp_path)
    await one.open()
    await until(lambda: not list(tmp_path.glob("a.*")))
    assert not one.degraded
    assert await spent(redis_process.url) == 7
    assert caplog.text.count("it is left out") == 6
    await one.close()


@pytest.mark.parametrize(
    "answer",
    [
        *("*0", ":5", "$-1", "+OK", "*1\r\n+ok", "*3\r\n+ok\r\n+1\r\n+2", "*2\r\n+ok\r\n+x", "*2\r\n+ok\r\n-ERR x"),
        *(
            "*4\r\n+no\r\n+7\r\n+5\r\n+1",
            "*4\r\n+no\r\n+0\r\n+5\r\n+1",
            "*2\r\n:1\r\n:1",
            "-LOADING x",
            "HTTP/1.1 400",
        ),
    ],
)
async def test_what_is_no_answer_to_the_question_is_taken_for_none(answer: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                asked = command[:1] == [b"EVALSHA"] and command[1].decode() == RESERVE_SHA
                writer.write(f"{answer}\r\n".encode() if asked else b":1\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with replicas(url, 1, limits={"requests_per_minute": 1}) as (one,):
        admitted = await ask(one, "a")
        assert admitted is not None
        assert one.degraded
        assert await ask(one, "b") is None
        one.settle(admitted, 1, 0)
    server.close()


async def test_settlements_beyond_the_most_are_dropped_and_counted(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.settlements.OWED_MOST", 3)
    budget = {"usd": 1e-5, "per": "day"}  # no room for spares
    async with replicas(redis_process.url, 1, budget=budget) as (one,):
        held = [await ask(one, f"a{k}", cost_nano=100) for k in range(5)]
        redis_process.kill()
        for reservation in held:
            assert reservation is not None
            one.settle(reservation, 1, 1)
        assert (one.owed, one.dropped) == (3, 2)
        redis_process.start()
        await all_settled(one)
        assert await spent(redis_process.url) == 3 + 2 * 100  # of the others the expected cost stands


async def test_what_is_free_is_kept_from_nothing_by_a_budget(redis_process: RedisProcess) -> None:
    async with replicas(redis_process.url, 1, budget={"usd": 10, "per": "month"}) as (one,):
        assert await ask(one, "a", cost_nano=9 * DOLLAR) is not None
        assert await ask(one, "b", cost_nano=DOLLAR // 10) is None
        assert await ask(one, "c", cost_nano=0) is not None


async def test_a_budget_holds_where_dearer_experts_stand_in(redis_process: RedisProcess) -> None:
    paid: list[int] = []
    async with replicas(redis_process.url, 2, budget={"usd": 3, "per": "day"}) as running:

        async def call(k: int) -> None:
            one = running[k % 2]
            first = await ask(one, str(k), cost_nano=DOLLAR // 1000)
            if first is None:
                return
            dearer = one.beside(first, f"{k}+0", "y", 1, DOLLAR // 10)
            try:
                await one.admit(dearer)
            except OverLimit:
                one.settle(first, 1, 0)
                return
            paid.append(DOLLAR // 10)
            one.settle(first, 1, paid[-1], own=(0, 0))
            one.settle(dearer, 0, 0, own=(1, paid[-1]))

        await asyncio.gather(*map(call, range(64)))
        for k in range(64, 200):
            await call(k)
        await all_settled(*running)
        # the last ten cents are kept: what the first expert holds is of a call under way
        assert await spent(redis_process.url) == sum(paid) == 29 * DOLLAR // 10
        assert await value(redis_process.url, "HGET", f"{PREFIX}cap:gateway:usd:day", "open") == b"0"
