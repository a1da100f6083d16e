"""Looking at addresses without asking them anything that is billed: `Expert.probe`, a list of models.

An address that rests is looked at when its rest is over, before a caller's request may try it: while nobody is
there it goes on resting. Beyond that an address is looked at every `health_check_s` seconds, where that is set. A
look that finds a server says nothing of its model, so it never makes an address healthy: only an answer does.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable

from router.errors import ExpertError
from router.experts.balancer import Place
from router.experts.health import FIRST_REST_S

#: Whether this replica may try an address now, by its name; one replica at a time may.
Lease = Callable[[str], Awaitable[bool]]


class Checks:
    """The tasks that look at addresses: of each from `begin` until `end`."""

    def __init__(self, lease: Lease | None = None) -> None:
        self._lease = lease
        self._tasks: dict[asyncio.Task[None], Place] = {}
        self._watched: set[Place] = set()  # those that a task waits for to end their rest
        self._begun: set[Place] = set()

    def begin(self, places: Iterable[Place]) -> None:
        for place in places:
            self._begun.add(place)
            if place.expert.health_check_s is not None:
                self._start(place, self._every(place, place.expert.health_check_s))
            self.rests(place)

    async def end(self, places: Iterable[Place]) -> None:
        ending = set(places)
        self._begun -= ending
        tasks = [task for task, place in self._tasks.items() if place in ending]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def rests(self, place: Place) -> None:
        """The address has failed and perhaps rests now."""
        if place.health.until and place in self._begun and place not in self._watched:
            self._watched.add(place)
            self._start(place, self._until_back(place))

    def _start(self, place: Place, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = place
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _until_back(self, place: Place) -> None:
        loop, health = asyncio.get_running_loop(), place.health
        try:
            while health.until:
                if (wait_s := health.until - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                    continue
                if health.trying:  # a request tries it already
                    await asyncio.sleep(FIRST_REST_S)
                    continue
                health.trying = True
                try:
                    may = self._lease is None or await self._lease(f"{place.expert.spec.name}:{place.expert.place}")
                    there = may and await _is_there(place)
                finally:
                    health.trying = False
                if there:
                    return
                if may:
                    health.rest(loop.time())
                else:
                    health.until = loop.time() + FIRST_REST_S
        finally:
            self._watched.discard(place)

    async def _every(self, place: Place, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # replicas do not look in step
            if not place.health.until and not await _is_there(place):
                place.health.fail(asyncio.get_running_loop().time(), None)
                self.rests(place)


async def _is_there(place: Place) -> bool:
    try:
        await place.expert.probe()
    except ExpertError as error:
        # any other failure is a word of the server's: a list of models that it has not, or a key it refuses
        gone = error.kind in ("connect", "timeout", "cut", "garbage")
        return not (gone or (error.kind == "server" and (error.status or 500) >= 500))
    return True
