"""Tasks are cancelled until they have ended."""

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_S = 1.0


async def end(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancels them and waits until all have ended, whatever became of them.

    One that does not end is cancelled again: up to Python 3.11 `asyncio.wait_for`, in which redis-py sends each
    command, loses a cancellation that comes just as what it waits for is done.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
