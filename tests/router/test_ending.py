"""A task that loses a cancellation ends all the same."""

import asyncio

import pytest

from router import ending


async def test_a_cancellation_that_is_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    lost = 0

    async def loses_two() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(work()) for work in (loses_two, fails)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await ending.end(tasks)
    assert tasks[0].cancelled() and lost == 2
    assert isinstance(tasks[1].exception(), ValueError)
    await ending.end([])
