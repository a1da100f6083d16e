"""Rows of the decision log that Redis does not have when their gateway ends are sent by the next, and once."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis_process import RedisProcess

from router.config import DecisionSettings
from router.ledger.decision_stream import PREFIX, STREAM
from router.ledger.decisions import Decisions
from router.ledger.store import connect

RECORDER = Path(__file__).with_name("decision_recorder.py")
ROOT = Path(__file__).parents[2]


def row(number: int) -> dict[str, Any]:
    return {"kind": "decision", "decision_id": f"dec_{number:05}", "at": 1.7e9, "caller": "a", "ok": True}


def names(count: int) -> list[str]:
    return [f"dec_{number:05}" for number in range(count)]


@contextlib.asynccontextmanager
async def logging_to(server: RedisProcess, folder: Path) -> AsyncIterator[Decisions]:
    """One that writes no files: its rows stay in the stream."""
    settings = DecisionSettings(folder=str(folder / "log"), rotate_rows=1_000_000, rotate_s=3600)
    decisions = Decisions(settings, lambda: connect(server.url, None), folder / "spool")
    decisions.open()
    try:
        yield decisions
    finally:
        await decisions.close()


def left(folder: Path) -> list[Path]:
    return list(folder.glob("spool/*"))


def start_recorder(server: RedisProcess, folder: Path, burst: int) -> "subprocess.Popen[str]":
    command = [sys.executable, str(RECORDER), server.url, str(folder / "spool"), str(folder), str(burst)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


async def in_stream(server: RedisProcess) -> list[str]:
    client: Any = connect(server.url, None)
    try:
        return [orjson.loads(fields[b"row"])["decision_id"] for _, fields in await client.xrange(STREAM)]
    finally:
        await client.aclose()


async def until_in_stream(server: RedisProcess, count: int) -> list[str]:
    deadline = time.monotonic() + 20
    while len(found := await in_stream(server)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} rows came"
        await asyncio.sleep(0.02)
    return found


async def test_what_waits_while_redis_is_away_outlives_the_gateway(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    async with logging_to(redis_process, tmp_path) as first:
        for number in range(10):
            first.record(row(number))
        await until_in_stream(redis_process, 10)
        redis_process.kill()
        for number in range(10, 500):
            first.record(row(number))
    redis_process.start()
    async with logging_to(redis_process, tmp_path) as second:
        assert await until_in_stream(redis_process, 500) == names(500)
        assert await second.owner("dec_00499") == "a"  # and may be rated
    assert not left(tmp_path)


async def test_a_gateway_that_starts_while_redis_is_away_sends_them_later(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    redis_process.kill()
    async with logging_to(redis_process, tmp_path) as first:
        first.record(row(0))
    async with logging_to(redis_process, tmp_path) as second:
        second.record(row(1))
        redis_process.start()
        assert sorted(await until_in_stream(redis_process, 2)) == names(2)


@pytest.mark.parametrize("burst", [1, 40, 300])
async def test_a_gateway_killed_at_any_moment_loses_no_row_and_none_is_there_twice(
    burst: int, redis_process: RedisProcess, tmp_path: Path
) -> None:
    killed = start_recorder(redis_process, tmp_path, burst)
    assert killed.stdout is not None
    told = 0
    for line in killed.stdout:
        told = int(line)
        if told >= 20 * burst:
            break
    killed.kill()
    told = max(told, *map(int, killed.stdout.read().split()), 0)
    killed.wait()
    async with logging_to(redis_process, tmp_path):
        found = await until_in_stream(redis_process, told)
    assert found == names(len(found))


async def test_rows_of_a_living_gateway_are_left_to_it(redis_process: RedisProcess, tmp_path: Path) -> None:
    redis_process.freeze()
    try:
        async with logging_to(redis_process, tmp_path) as first:
            first.record(row(0))
            async with logging_to(redis_process, tmp_path):
                redis_process.thaw()
                await until_in_stream(redis_process, 1)
                await asyncio.sleep(0.2)
                assert not first.owed
                assert await in_stream(redis_process) == names(1)
    finally:
        redis_process.thaw()


async def test_a_row_that_cannot_be_written_is_dropped_and_counted(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    async with logging_to(redis_process, tmp_path) as decisions:
        decisions.record({**row(0), "output_tokens": 2**70})
        decisions.record(row(0))
        assert decisions.dropped == 1
        assert await until_in_stream(redis_process, 1) == names(1)


async def test_a_mark_that_is_not_ours_sends_nothing_twice(
    redis_process: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redis_process.kill()
    async with logging_to(redis_process, tmp_path) as first:
        first.record(row(0))
    redis_process.start()
    redis_process.command(f"SET {PREFIX}replica:{first._replica} mine")
    async with logging_to(redis_process, tmp_path) as second:
        second.record(row(1))
        assert await until_in_stream(redis_process, 1) == ["dec_00001"]
    assert "foreign data" in caplog.text and left(tmp_path)
