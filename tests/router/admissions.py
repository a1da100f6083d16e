"""Admissions of several replicas on one real Redis, for tests."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from router.config import parse_settings
from router.errors import OverLimit
from router.ledger.admission import Admission
from router.ledger.caps import PREFIX, Caps
from router.ledger.reservation import Reservation
from router.ledger.store import connect

DOLLAR = 10**9
EXPERT = {"name": "x", "kind": "simulated", "price": {"input": 1, "output": 1}}


def caps(**settings: Any) -> Caps:
    expert = {**EXPERT, **settings.pop("expert", {})}
    return Caps(parse_settings({"experts": [expert], **settings}))


@contextlib.asynccontextmanager
async def replicas(url: str, count: int, wait_s: float = 5.0, **settings: Any) -> AsyncIterator[list[Admission]]:
    """Admissions with connections of their own; by default with time to wait on a busy machine."""
    running = [Admission(caps(**settings), lambda: connect(url, None), wait_s) for _ in range(count)]
    for one in running:
        await one.open()
    try:
        yield running
    finally:
        for one in running:
            await one.close()


async def ask(one: Admission, name: str, tokens: int = 1, cost_nano: int = 0) -> Reservation | None:
    reservation = one.reservation(name, "anonymous", "x", tokens, cost_nano)
    try:
        await one.admit(reservation)
    except OverLimit:
        return None
    return reservation


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while True:
        if condition():
            return
        assert time.monotonic() < deadline, "it did not happen in 20 s"
        await asyncio.sleep(0.002)


async def all_settled(*running: Admission) -> None:
    await until(lambda: not any(one.owed for one in running))


async def value(url: str, *command: Any) -> Any:
    client = connect(url, None)
    try:
        return await client.execute_command(*command)
    finally:
        await client.aclose()


async def spent(url: str, scope: str = "gateway") -> int:
    return int(await value(url, "HGET", f"{PREFIX}cap:{scope}:usd:day", "spent"))
