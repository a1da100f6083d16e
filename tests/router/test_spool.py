"""What a killed replica owed is written by the next one, once."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from redis_process import RedisProcess

from router.config import LedgerSettings
from router.ledger.account import today
from router.ledger.journal import Journal
from router.ledger.ledger import Ledger
from router.ledger.outbox import Batch
from router.ledger.spending import Spending
from router.ledger.spool import Spool
from router.ledger.store import Store, Unreachable, answering, connect, replica_key
from router.types import Entry, Load, Usage

ROOT = Path(__file__).parents[2]
#: Opens a ledger, waits for a line, records as many entries as it says, and waits to be killed.
REPLICA = """
import asyncio, os, random, signal, sys
from pathlib import Path
from router.config import LedgerSettings
from router.ledger.ledger import Ledger
from router.types import Entry, Payer, Usage

async def main(url, folder):
    ledger = Ledger(LedgerSettings(url=url, spool_dir=Path(folder)))
    await ledger.open()
    print("open", flush=True)
    for turn in (await asyncio.to_thread(sys.stdin.readline)).split():
        if turn == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif turn == "begin":
            ended = ledger.begin(Entry("a", True, Usage(10, 5, estimated=True), cost_nano=9))
        elif turn == "end":
            ended()
        elif turn == "wait":
            while ledger.owed:
                await asyncio.sleep(0.001)
        elif turn == "pause":
            await asyncio.sleep(random.random() / 50)
        elif turn == "keys":
            for i in range(1200):
                payer = Payer(f"key-{i}", "t", ("x",))
                ledger.record(Entry("a", True, Usage(10, 5), cost_nano=1_000_003, payer=payer))
        else:
            for _ in range(int(turn)):
                ledger.record(Entry("a", True, Usage(10, 5), cost_nano=1_000_003))
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def start(url: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", REPLICA, url, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def record(process: subprocess.Popen[str], count: int | str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{count}\n")
    process.stdin.flush()


def spooled(folder: Path, entries: int) -> bool:
    """Whether the files hold that many."""
    found = 0
    for path in files(folder):
        if batches := Spool(folder, "")._read(path):
            found += sum(batch.entries for batch in batches[0])
    return found == entries


def files(folder: Path, pattern: str = "*/*.json") -> list[Path]:
    return list(folder.glob(pattern))


async def until_spooled(folder: Path, entries: int) -> None:
    deadline = time.monotonic() + 20
    while not spooled(folder, entries):
        assert time.monotonic() < deadline, "it was never kept"
        await asyncio.sleep(0.02)


async def requests(ledger: Ledger) -> tuple[int, int]:
    found = (await ledger.snapshot()).get("a")
    return (found.requests, found.cost_nano) if found else (0, 0)


async def test_what_two_killed_replicas_owed_is_written_by_the_next_and_once(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    killed = [start(redis_process.url, tmp_path) for _ in range(2)]
    redis_process.kill()
    for process in killed:
        record(process, 500)
    await until_spooled(tmp_path, 1000)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    redis_process.start()
    settings = LedgerSettings(url=redis_process.url, spool_dir=tmp_path)
    both = [Ledger(settings) for _ in range(2)]
    await asyncio.gather(*(one.open() for one in both))
    try:
        assert await requests(both[0]) == (1000, 1000 * 1_000_003)
        assert not files(tmp_path, "*/*")
    finally:
        for one in both:
            await one.close()


async def test_a_living_replicas_file_is_left_to_it(redis_process: RedisProcess, tmp_path: Path) -> None:
    living = start(redis_process.url, tmp_path)
    redis_process.freeze()
    record(living, 50)
    await until_spooled(tmp_path, 50)
    redis_process.thaw()
    other = Ledger(LedgerSettings(url=redis_process.url, spool_dir=tmp_path))
    await other.open()
    try:
        deadline = time.monotonic() + 20
        while await requests(other) != (50, 50 * 1_000_003):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        while files(tmp_path):
            assert time.monotonic() < deadline, "what is written is not owed any more"
            await asyncio.sleep(0.05)
    finally:
        living.kill()
        living.wait()
        await other.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format": 1, "batches": [[1]]}',
        b'{"format": 99, "batches": []}',
        b'{"format": 2, "batches": [[1, 2e9, 1, ["a"], [], 5]]}',
        b'{"format": 2, "batches": [[1, 2e9, 1, ["a"], [], "{"]]}',
        b'{"format": 2, "batches": [[1, 2e9, 1, ["a"], [], "{\\"experts\\":[[\\"a\\",1.5]],\\"accounts\\":[]}"]]}',
        b'{"format": 2, "batches": [[1, 2e9, 1, ["a"], ["2026-99-99"], "{\\"experts\\":[],\\"accounts\\":[]}"]]}',
        b'{"format": 2, "batches": [[1, 2e9, 1, [{}], [], "{\\"experts\\":[],\\"accounts\\":[]}"]]}',
        b'{"format": 2, "batches": [[-1, 2e9, 1, [], [], "{\\"experts\\":[],\\"accounts\\":[]}"]]}',
    ],
)
async def test_a_damaged_or_foreign_file_is_left_out_with_a_word(
    redis_process: RedisProcess, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(redis_process.url, tmp_path)
    redis_process.kill()
    record(process, 3)
    await until_spooled(tmp_path, 3)
    process.kill()
    process.wait()
    (path,) = files(tmp_path)
    path.write_bytes(content)
    redis_process.start()
    ledger = Ledger(LedgerSettings(url=redis_process.url, spool_dir=tmp_path))
    await ledger.open()
    ledger.record(Entry("a", True, Usage(1, 1), cost_nano=7))
    await ledger.close()
    assert "cannot be read" in caplog.text


async def test_a_ledger_that_closes_while_redis_is_away_leaves_what_it_owes(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    settings = LedgerSettings(url=redis_process.url, spool_dir=tmp_path)
    first = Ledger(settings)
    await first.open()
    redis_process.kill()
    first.record(Entry("a", True, Usage(1, 1), cost_nano=7))
    await first.close()
    redis_process.start()
    second = Ledger(settings)
    await second.open()
    assert await requests(second) == (1, 7)
    await second.close()


async def test_a_replica_that_closes_leaves_no_file(redis_process: RedisProcess, tmp_path: Path) -> None:
    ledger = Ledger(LedgerSettings(url=redis_process.url, spool_dir=tmp_path))
    await ledger.open()
    for _ in range(20):
        ended = ledger.begin(Entry("a", True))
        ledger.record(Entry("a", True, Usage(1, 1), cost_nano=7))
        assert ended is not None
        ended()
        await asyncio.sleep(random.random() / 100)
    await ledger.close()
    assert not files(tmp_path, "**/*.*")


async def test_calls_behind_a_journal_that_began_anew_are_not_taken_for_written(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    for killed in range(1, 5):
        process = start(redis_process.url, tmp_path)
        record(process, "1 wait " * 5 + "1 die")
        process.wait()
        assert await adopted(redis_process, tmp_path) == (6 * killed, 6 * killed * 1_000_003)


USED = b'[10,5,0,false],[],["k","",[]]'


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'["call",1e18,[["a"],[]]]',
        b'["call",1e18,1]',
        b'["cut",{},1]',
        b'["cut",[1],1]',
        b'["cut",["a","b"],1]',
        b'["call",1e300,[["a",true,1,null,null],' + USED + b"]]",
        b'["call",2e9,[["a",true,"x",null,null],' + USED + b"]]",
        b'["call",2e9,[["a",true,1.5,null,null],' + USED + b"]]",
        b'["call",2e9,[[null,true,1,null,null],' + USED + b"]]",
        b'["call",2e9,[["a",true,1,"x",null],' + USED + b"]]",
        b'["call",2e9,[["a",true,1,null,null],' + USED.replace(b"10", b"-1") + b"]]",
        b'["call",2e9,[["a",true,1,null,null],' + USED.replace(b"[]]", b"[[]]]") + b"]]",
    ],
)
async def test_a_journal_of_another_version_stops_nobody(
    redis_process: RedisProcess, tmp_path: Path, content: bytes
) -> None:
    process = start(redis_process.url, tmp_path)
    record(process, "1 wait die")
    process.wait()
    (lock,) = files(tmp_path, "*/*.lock")
    Journal(lock.with_name(f"{lock.stem}.calls.x"), 1 << 20).append(content)
    assert await adopted(redis_process, tmp_path) == (1, 1_000_003)


async def adopted(redis_process: RedisProcess, folder: Path) -> tuple[int, int]:
    """What the ledger counts once a next replica was there; it leaves no file."""
    ledger = Ledger(LedgerSettings(url=redis_process.url, spool_dir=folder))
    await ledger.open()
    try:
        assert not files(folder, "*/*")
        return await requests(ledger)
    finally:
        await ledger.close()


@pytest.mark.parametrize("last", ["", "pause"])
async def test_a_replica_killed_at_any_moment_loses_no_call_and_none_counts_twice(
    redis_process: RedisProcess, tmp_path: Path, last: str
) -> None:
    for killed in range(1, 5):
        process = start(redis_process.url, tmp_path)
        record(process, f"300 pause 1 pause 98 pause 101 {last} die")
        process.wait()
        assert await adopted(redis_process, tmp_path) == (500 * killed, 500 * killed * 1_000_003)


@pytest.mark.parametrize("last", ["", "pause", "pause pause"])
async def test_of_many_accounts_that_a_killed_replica_owed_each_is_counted_once(
    redis_process: RedisProcess, tmp_path: Path, last: str
) -> None:
    for killed in range(1, 4):
        process = start(redis_process.url, tmp_path)
        record(process, f"keys pause keys {last} die")
        process.wait()
        assert await adopted(redis_process, tmp_path) == (2400 * killed, 2400 * killed * 1_000_003)
        reader = Spending(lambda: connect(redis_process.url, None), "Redis")
        found, _ = await reader.read(today(), today(), ("key", "team", "tag"))
        assert sorted(one.group for one in found) == sorted((f"key-{i}", "t", "x") for i in range(1200))
        assert {one.amounts()["cost_nano"] for one in found} == {2 * killed * 1_000_003}


async def test_a_replica_killed_soon_after_redis_came_back_loses_nothing(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    process = start(redis_process.url, tmp_path)
    redis_process.kill()
    record(process, f"40 {'pause 1 ' * 60} {'pause ' * 200} 7 die")
    await until_spooled(tmp_path, 100)
    redis_process.start()
    process.wait()
    assert await adopted(redis_process, tmp_path) == (107, 107 * 1_000_003)


async def test_what_fails_while_an_orphan_is_adopted_is_done_again_by_the_next_and_once(
    redis_process: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(redis_process.url, tmp_path)
    record(process, "300 pause 200 die")
    process.wait()
    ledger = Ledger(LedgerSettings(url=redis_process.url, spool_dir=tmp_path))
    written = Store.write

    async def lost(store: Store, batch: Batch, base: int, age_s: float) -> dict[str, Load]:
        await written(store, batch, base, age_s)
        raise Unreachable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lost)
        await ledger.open()
        await ledger.close()
    assert await adopted(redis_process, tmp_path) == (500, 500 * 1_000_003)


async def test_redis_that_goes_away_again_while_an_orphan_is_adopted_ends_no_writer(
    redis_process: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(redis_process.url, tmp_path)
    ledger = Ledger(LedgerSettings(url=redis_process.url, spool_dir=tmp_path))
    await ledger.open()
    record(process, "5 die")
    process.wait()
    tries = 0

    async def away(store: Store) -> int:
        nonlocal tries
        tries += 1
        raise Unreachable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "known", away)
        redis_process.kill()
        await until(lambda: ledger.degraded)
        redis_process.start()
        await until(lambda: tries > 1)
    await until(lambda: not ledger.degraded)
    ledger.record(Entry("a", True, Usage(1, 1), cost_nano=7))
    await until(lambda: not ledger.owed)
    assert await requests(ledger) == (6, 5 * 1_000_003 + 7)
    await ledger.close()


async def test_an_orphan_that_redis_refuses_holds_up_no_other_and_is_kept(
    redis_process: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (3, 4):
        process = start(redis_process.url, tmp_path)
        record(process, f"{count} die")
        process.wait()
    refused = sorted(path.stem for path in files(tmp_path, "*/*.lock"))[0]
    at = replica_key(refused)
    ledger = Ledger(LedgerSettings(url=redis_process.url, spool_dir=tmp_path))
    written = Store.write

    async def picky(store: Store, batch: Batch, base: int, age_s: float) -> dict[str, Load]:
        if store._marker == at:
            async with answering("it"):
                raise ResponseError("out of range")
        return await written(store, batch, base, age_s)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", picky)
        await ledger.open()
        assert (await requests(ledger))[0] in (3, 4)
        assert not ledger.degraded
        await ledger.close()
    assert {path.name.partition(".")[0] for path in files(tmp_path, "*/*")} == {refused}
    assert await adopted(redis_process, tmp_path) == (7, 7 * 1_000_003)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 20 s"
        await asyncio.sleep(0.002)


async def test_a_call_that_a_killed_replica_had_under_way_counts_as_it_was_expected(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    for killed in range(1, 3):
        process = start(redis_process.url, tmp_path)
        record(process, "begin begin end 1 pause begin pause 1 begin 1 end die")
        process.wait()
        assert await adopted(redis_process, tmp_path) == (5 * killed, killed * (3 * 1_000_003 + 2 * 9))
