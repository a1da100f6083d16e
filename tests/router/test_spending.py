"""The accounts against a real Redis: whose spend on which day, exact and once, whatever becomes of Redis."""

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import orjson
import pytest
from redis_process import RedisProcess

from router.config import LedgerSettings
from router.errors import InvalidRequest, LedgerError
from router.ledger import outbox as outboxes
from router.ledger import spending as reading
from router.ledger.account import OTHERS, day_number
from router.ledger.ledger import Ledger
from router.ledger.outbox import Outbox
from router.ledger.spending import Spend, Spending
from router.ledger.store import ACCOUNTS_KEY, Forgotten, Store, connect, spend_key
from router.types import NOBODY, Entry, Parts, Payer, Usage

NIGHT = date(2026, 3, 1)
NOON_S = day_number("2026-03-01") * 86_400 + 43_200.0
NAME = r'"[\"a\",\"key_ann\",\"lab\",[\"prod\",\"eu\"]]"'
ANN, BOB = Payer("key_ann", "lab", ("prod", "eu")), Payer("bob")


class Clock:
    def __init__(self, now: float = NOON_S) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def entry(payer: Payer = ANN, cost_nano: int = 1_234_567, expert: str = "a", ok: bool = True) -> Entry:
    return Entry(expert, ok, Usage(100, 20, 30), cost_nano, payer=payer)


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - Redis sets no event of ours
            await asyncio.sleep(0.005)


async def opened(redis: RedisProcess, clock: Callable[[], float] | None = None, **settings: object) -> Ledger:
    options = {"url": redis.url, "accounts_days": 3660, **settings}
    ledger = Ledger(LedgerSettings.model_validate(options), clock or Clock())
    await ledger.open()
    return ledger


async def spent(
    url: str, *by: str, first: date = NIGHT, last: date = NIGHT, key: str | None = None
) -> tuple[dict[tuple[str, ...], int], Spend]:
    """Nano-dollars by group, and the total."""
    rows, total = await Spending(lambda: connect(url, None), "redis").read(first, last, by, key)
    return {row.group: row.amounts()["cost_nano"] for row in rows}, total


async def test_thousands_of_calls_are_on_the_right_accounts_to_the_nano_dollar(redis_process: RedisProcess) -> None:
    rng = random.Random(3)
    replicas = [await opened(redis_process) for _ in range(2)]
    payers = [ANN, BOB, Payer("key_cy", "lab", ("prod",)), NOBODY]
    expected: Counter[tuple[str, ...]] = Counter()
    for i in range(4000):
        usage = Usage(rng.randrange(9000), rng.randrange(900), 7, parts=Parts(*rng.choices(range(50), k=7)))
        one = Entry(rng.choice("ab"), rng.random() < 0.9, usage, rng.randrange(10**9), payer=rng.choice(payers))
        rng.choice(replicas).record(one)
        for group in [("expert", one.expert), ("key", one.payer.key), ("team", one.payer.team)]:
            expected[group] += one.cost_nano
        for tag in one.payer.tags or ("",):
            expected["tag", tag] += one.cost_nano
        amounts = {"input": usage.input_tokens, "output": usage.output_tokens, "errors": not one.ok, "calls": 1}
        for name, amount in {**amounts, **usage.parts._asdict()}.items():
            expected["all", name] += amount
        if i % 97 == 0:
            await asyncio.sleep(0)
    for replica in replicas:
        await replica.close()
    found: Counter[tuple[str, ...]] = Counter()
    for dimension in ("expert", "key", "team", "tag"):
        groups, total = await spent(redis_process.url, dimension)
        found.update({(dimension, *group): cost for group, cost in groups.items()})
    amounts = total.amounts()
    assert amounts["cached_tokens"] == 4000 * 7
    names = {"input": "input_tokens", "output": "output_tokens"}
    found.update({("all", name): amounts[names.get(name, name)] for kind, name in expected if kind == "all"})
    assert found == expected


async def test_several_dimensions_are_crossed(redis_process: RedisProcess) -> None:
    ledger = await opened(redis_process)
    for payer, expert, cost in [(ANN, "a", 1), (ANN, "b", 20), (BOB, "a", 300)]:
        ledger.record(entry(payer, cost, expert))
    await ledger.close()
    groups, total = await spent(redis_process.url, "team", "expert", "day")
    assert groups == {
        ("", "a", "2026-03-01"): 300,
        ("lab", "a", "2026-03-01"): 1,
        ("lab", "b", "2026-03-01"): 20,
    }
    assert total.amounts()["cost_nano"] == 321
    assert (await spent(redis_process.url, "tag"))[0] == {("",): 300, ("eu",): 21, ("prod",): 21}
    assert (await spent(redis_process.url, "expert", key="key_ann"))[0] == {("a",): 1, ("b",): 20}
    assert (await spent(redis_process.url, "expert", key="nobody"))[0] == {}


async def test_a_day_ends_at_midnight_utc(redis_process: RedisProcess) -> None:
    clock = Clock(day_number("2026-03-02") * 86_400 - 0.001)
    ledger = await opened(redis_process, clock, flush_ms=1000)
    ledger.record(entry(cost_nano=1))
    clock.now += 0.001
    ledger.record(entry(cost_nano=20))
    clock.now -= 3600  # somebody sets the clock back
    ledger.record(entry(cost_nano=300))
    await ledger.close()
    groups, _ = await spent(redis_process.url, "day", last=date(2026, 3, 5))
    assert groups == {("2026-03-01",): 301, ("2026-03-02",): 20}


async def test_past_spend_stays_with_the_team_and_tags_it_was_spent_under(redis_process: RedisProcess) -> None:
    ledger = await opened(redis_process)
    ledger.record(entry(ANN, 1))
    await until(lambda: not ledger.owed)
    ledger.record(entry(ANN._replace(team="sales", tags=("new",)), 20))
    await ledger.close()
    assert (await spent(redis_process.url, "key"))[0] == {("key_ann",): 21}
    assert (await spent(redis_process.url, "team"))[0] == {("lab",): 1, ("sales",): 20}
    assert (await spent(redis_process.url, "tag"))[0] == {("eu",): 1, ("prod",): 1, ("new",): 20}


async def test_sums_beyond_what_a_double_can_hold_stay_exact(redis_process: RedisProcess) -> None:
    ledger = await opened(redis_process)
    for _ in range(3):
        ledger.record(entry(cost_nano=2**53 - 1))  # together in one batch
    await ledger.close()
    assert (await spent(redis_process.url))[1].amounts()["cost_nano"] == 3 * (2**53 - 1)


@pytest.mark.parametrize("name", ["modèle.ü_1", "a:b", 'with"quote', "x" * 200])
async def test_any_name_makes_an_account(redis_process: RedisProcess, name: str) -> None:
    ledger = await opened(redis_process)
    ledger.record(entry(Payer(name, name, (name,)), 7, name))
    await ledger.close()
    assert (await spent(redis_process.url, "expert", "key", "team", "tag"))[0] == {(name,) * 4: 7}


# once


async def test_a_batch_that_is_sent_again_counts_once_on_the_accounts(redis_process: RedisProcess) -> None:
    store = Store(connect(redis_process.url, None), "redis", "r", 300.0, 3660)
    outbox = Outbox(300.0)
    outbox.add([entry(cost_nano=5)], 0.0, day_number("2026-03-01"))
    outbox.add([entry(cost_nano=6)], 0.0, day_number("2026-03-02"))
    batch = outbox.next()
    assert batch is not None and batch.days == ("2026-03-01", "2026-03-02")
    for _ in range(3):
        await store.write(batch, 0, 0.0)
    await store.close()
    assert (await spent(redis_process.url, "day", last=date(2026, 3, 2)))[0] == {
        ("2026-03-01",): 5,
        ("2026-03-02",): 6,
    }


async def test_a_redis_that_comes_back_without_its_last_writes_gets_them_again(redis_process: RedisProcess) -> None:
    store, outbox = Store(connect(redis_process.url, None), "redis", "r", 300.0, 3660), Outbox(300.0)
    client, kept = connect(redis_process.url, None), {}
    for number in range(1, 4):
        outbox.add([entry(cost_nano=10**number)], 0.0, day_number("2026-03-01"))
        batch = outbox.next()
        assert batch is not None
        await store.write(batch, outbox.base, 0.0)
        outbox.taken(batch, 0.0)
        if number == 1:
            kept = {key: await client.dump(key) for key in await client.keys("*")}
    for key, dump in kept.items():
        await client.restore(key, 0, dump, replace=True)
    with pytest.raises(Forgotten) as gap:
        await store.read(outbox.base)
    outbox.forgotten(gap.value.known)
    while batch := outbox.next():
        await store.write(batch, outbox.base, 0.0)
        outbox.taken(batch, 0.0)
    await client.aclose()
    await store.close()
    assert (await spent(redis_process.url))[1].amounts()["cost_nano"] == 1110


async def test_a_redis_killed_in_the_middle_ends_with_exact_accounts_of_two_replicas(
    redis_process: RedisProcess,
) -> None:
    replicas = [await opened(redis_process) for _ in range(2)]
    expected: Counter[tuple[str, ...]] = Counter()
    for round_ in range(2):
        for i in range(400):
            one = entry((ANN, BOB)[i % 2], round_ * 1000 + i, "ab"[i % 3 > 0])
            expected[one.payer.key, one.expert] += one.cost_nano
            replicas[i % 5 > 1].record(one)
            if i == 200:
                redis_process.kill()
            await asyncio.sleep(0.0005)
        await until(lambda: all(replica.degraded for replica in replicas))
        redis_process.start()
        await until(lambda: not any(replica.degraded or replica.owed for replica in replicas))
    for replica in replicas:
        await replica.close()
    assert (await spent(redis_process.url, "key", "expert"))[0] == expected


#: Opens a ledger, waits for a line, records what three keys spend, and waits to be killed.
REPLICA = """
import asyncio, sys
from pathlib import Path
from router.config import LedgerSettings
from router.ledger.ledger import Ledger
from router.types import Entry, Payer, Usage

async def main(url, folder):
    ledger = Ledger(LedgerSettings(url=url, spool_dir=Path(folder)))
    await ledger.open()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for i in range(300):
        ledger.record(Entry("a", True, Usage(10, 5), 1_000_003, payer=Payer(f"key_{i % 3}", "lab", ("x",))))
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def start(url: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", REPLICA, url, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    return process


def spooled(folder: Path) -> list[Path]:
    return list(folder.glob("*/*.json"))


async def test_what_a_killed_replica_owed_is_on_the_accounts_of_who_spent_it(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    process = start(redis_process.url, tmp_path)
    assert process.stdin is not None
    today = date.today()
    redis_process.kill()
    process.stdin.write("go\n")
    process.stdin.flush()

    def kept() -> bool:
        files = [orjson.loads(path.read_bytes()) for path in spooled(tmp_path)]
        return sum(batch[2] for file in files for batch in file["batches"]) == 300

    await until(kept)
    process.send_signal(signal.SIGKILL)
    process.wait()
    redis_process.start()
    for _ in range(2):
        await (await opened(redis_process, spool_dir=str(tmp_path))).close()
    groups, _ = await spent(redis_process.url, "key", "team", first=today, last=date.today())
    assert groups == {(f"key_{i}", "lab"): 100 * 1_000_003 for i in range(3)}


async def test_a_spool_of_the_version_before_is_written_for_its_experts(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    """Its rows know of no accounts."""
    first = await opened(redis_process, spool_dir=str(tmp_path))
    redis_process.kill()
    first.record(entry(cost_nano=70))
    await first.close()
    (path,) = spooled(tmp_path)
    file = orjson.loads(path.read_bytes())
    number, at, entries, experts, _, payload = file["batches"][0]
    old = orjson.dumps(orjson.loads(payload)["experts"]).decode()
    path.write_bytes(orjson.dumps({"format": 1, "batches": [[number, at, entries, experts, old]]}))
    redis_process.start()
    second = await opened(redis_process, spool_dir=str(tmp_path))
    assert (await second.snapshot())["a"].cost_nano == 70
    await second.close()
    assert (await spent(redis_process.url))[1].amounts()["cost_nano"] == 0


# bounds


async def test_a_day_is_forgotten_after_its_time(redis_process: RedisProcess) -> None:
    ledger = Ledger(LedgerSettings(url=redis_process.url, accounts_days=400))
    await ledger.open()
    ledger.record(entry())
    await ledger.close()
    client = connect(redis_process.url, None)
    (key,) = await client.keys(spend_key("*"))
    assert 399 * 86_400 < await client.ttl(key) <= 401 * 86_400
    await client.aclose()


async def test_more_accounts_than_a_batch_may_have_go_in_several(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "BATCH_MOST", 3)
    clock = Clock(day_number("2026-03-02") * 86_400 - 0.001)
    ledger = await opened(redis_process, clock, flush_ms=1000)
    for i in range(40):
        ledger.record(entry(Payer(f"key_{i % 10}"), 10**i % 997, "abc"[i % 3], ok=i % 4 > 0))
        clock.now += 0.001 * (i == 19)
    await ledger.close()
    expected: Counter[tuple[str, ...]] = Counter()
    for i in range(40):
        expected[f"key_{i % 10}", "abc"[i % 3], f"2026-03-0{1 + (i > 19)}"] += 10**i % 997
    assert (await spent(redis_process.url, "key", "expert", "day", last=date(2026, 3, 2)))[0] == expected
    other = await opened(redis_process)
    loads = await other.snapshot()
    await other.close()
    assert {name: load.requests for name, load in loads.items()} == {"a": 14, "b": 13, "c": 13}
    assert loads["b"].error_rate == pytest.approx(3 / 14, rel=0.01), "what fades is told once"


async def test_more_accounts_than_may_wait_are_still_paid_for(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "WAITING_MOST", 2)
    ledger = await opened(redis_process)
    for key in ("x", "y", "z", "w", "x"):
        ledger.record(entry(Payer(key), 10))
    await ledger.close()
    assert (await spent(redis_process.url, "key"))[0] == {("x",): 20, ("y",): 10, (OTHERS.key,): 20}


@pytest.mark.parametrize(
    "command",
    [
        f"SET {ACCOUNTS_KEY} x",
        f"HSET {ACCOUNTS_KEY} {NAME} y",
        f"SET {spend_key('2026-03-01')} x",
        f"HSET {spend_key('2026-03-01')} 1:r many 1:n 5",
    ],
)
async def test_foreign_data_under_the_accounts_half_applies_nothing(
    redis_process: RedisProcess, command: str
) -> None:
    ledger = await opened(redis_process)
    redis_process.command(command)
    ledger.record(entry(cost_nano=7))
    await until(lambda: "foreign data" in str(ledger.status().reason))
    redis_process.command(f"DEL {ACCOUNTS_KEY} {spend_key('2026-03-01')}")
    await until(lambda: not ledger.owed)
    await ledger.close()
    assert (await spent(redis_process.url))[1].amounts()["cost_nano"] == 7


async def test_foreign_data_is_an_error_to_who_reads_it(redis_process: RedisProcess) -> None:
    for command in (f"SET {ACCOUNTS_KEY} x", f"HSET {ACCOUNTS_KEY} x y", f"SET {spend_key('2026-03-01')} x"):
        redis_process.command(f"DEL {ACCOUNTS_KEY} {spend_key('2026-03-01')}")
        redis_process.command(command)
        with pytest.raises(LedgerError, match="foreign data"):
            await spent(redis_process.url)


async def test_an_answer_that_would_be_too_long_is_refused(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROWS_MOST", 2)
    ledger = await opened(redis_process)
    for key in ("x", "y", "z"):
        ledger.record(entry(Payer(key)))
    await ledger.close()
    with pytest.raises(InvalidRequest, match="more than 2 rows by key"):
        await spent(redis_process.url, "key")


async def test_an_answer_that_would_take_too_long_is_refused(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SUMS_MOST", 8)
    ledger = await opened(redis_process)
    for key in ("x", "y"):
        ledger.record(entry(Payer(key)))
    await ledger.close()
    with pytest.raises(InvalidRequest, match="10 sums are kept from 2026-03-01 to 2026-03-01, at most 8"):
        await spent(redis_process.url, "key")
    assert (await spent(redis_process.url, key="x"))[1].amounts()["calls"] == 1, "few are read for one key"
