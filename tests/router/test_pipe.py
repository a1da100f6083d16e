"""One connection that commands are written to as they come, on a real Redis."""

import asyncio
from typing import Any

import hiredis
import pytest
from redis_process import RedisProcess

from router.ledger.pipe import Pipe
from router.ledger.store import connect


async def test_answers_come_in_order_and_an_error_is_one_command_s_alone(redis_process: RedisProcess) -> None:
    client, told = connect(redis_process.url, None), list[Any]()
    pipe = await Pipe.open(client, lambda: None)
    for command in (("SET", "a", 1), ("INCR", "a"), ("LPUSH", "a", "x"), ("MGET", "a", "b")):
        pipe.send(command, told.append)
    assert await pipe.ask("GET", "a") == b"2"
    assert (told[0], told[1], told[3]) == (b"OK", 2, [b"2", None])
    assert isinstance(told[2], hiredis.ReplyError)
    pipe.close()
    await client.aclose()


@pytest.mark.parametrize("redis_process", [("--requirepass", "an open secret")], indirect=True)
async def test_it_speaks_as_the_user_and_in_the_database_of_the_url(redis_process: RedisProcess) -> None:
    client = connect(f"{redis_process.url}?db=3", "an open secret")
    pipe = await Pipe.open(client, lambda: None)
    await pipe.ask("SET", "here", "x")
    assert await client.get("here") == b"x"
    assert "db=3" in (await pipe.ask("CLIENT", "INFO")).decode()
    pipe.close()
    await client.aclose()


async def test_who_waits_hears_that_the_connection_is_gone(redis_process: RedisProcess) -> None:
    client, told, lost = connect(redis_process.url, None), list[Any](), asyncio.Event()
    pipe = await Pipe.open(client, lost.set)
    redis_process.freeze()
    pipe.send(("PING",), told.append)
    redis_process.kill()
    await asyncio.wait_for(lost.wait(), 20)
    assert isinstance(told[0], ConnectionError)
    pipe.send(("PING",), told.append)
    assert isinstance(told[1], ConnectionError)
    await client.aclose()
