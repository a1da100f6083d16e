"""All experts and their health: asks them in the order it is given until one answers.

An expert has one or several addresses (`router.experts.balancer`). Health is kept per address; an expert rests
while all of its addresses do. A failure goes to another address of the same expert first, then to the next expert,
and when all have been asked, after a pause, to all of them again (`router.experts.retries`).
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from router.errors import CALLERS_FAULT, ExpertError
from router.experts.balancer import Balancer, Place, Told, Watched, helps_elsewhere
from router.experts.base import Answer, Call, Expert, Stream
from router.experts.checks import Checks, Lease
from router.experts.hedging import Patience
from router.experts.retries import PASSING, RetryBudget, pause_s
from router.types import ExpertSpec

FAIR_S = 5.0  # a timeout under it is the caller's haste and no fault of the expert


@dataclass(slots=True)
class Attempt:
    """One expert asked. `failure` is None for the one that answered."""

    expert: str
    failure: ExpertError | None
    blamed: bool = True  # False: the caller gave it too little time, or we had no connection left for it
    place: str = ""  # which of the expert's addresses
    waited_s: float = 0.0  # for an expert that failed


@dataclass(slots=True)
class Served:
    """Who answered, and who was asked before. Exactly one of `answer` and `stream` is there."""

    expert: str
    place: Place
    answer: Answer | None = None
    stream: Stream | None = None
    attempts: list[Attempt] = field(default_factory=list)
    took_s: float = 0.0  # by the one that answered: until the whole answer, or until the stream's first event
    beaten: tuple[str, float] | None = None  # who was asked beside it and was slower, and since when


class PoolError(Exception):
    """No expert answered. `last` is the failure to tell the caller of; `attempts` all that were made."""

    def __init__(self, last: ExpertError, attempts: list[Attempt]) -> None:
        super().__init__(str(last))
        self.last = last
        self.attempts = attempts


@dataclass(slots=True)
class Asking:
    """One request on its way through the pool."""

    call: Call
    order: Sequence[str]
    most: int  # experts, and addresses of each
    streaming: bool
    made: list[Attempt] = field(default_factory=list)
    asked: int = 0  # experts, in this round
    needed_context: int = 0
    again: bool = False  # all have been asked before
    hedging: bool = False  # the next attempt runs beside one that is under way; it is paid for
    admitted: dict[str, bool] = field(default_factory=dict)  # by expert, whether limits let it be asked

    async def admits(self, name: str) -> bool:
        """Whether limits let the expert be asked; of the first of the order they were asked before."""
        if self.call.admits is None:
            return True
        if name not in self.admitted:
            self.admitted[name] = await self.call.admits(name)
        return self.admitted[name]


class Pool:
    """The experts by name. Experts of one name are the addresses of one. Everything runs on one event loop."""

    def __init__(
        self,
        experts: Iterable[Expert],
        *,
        zone: str | None = None,
        retries: int = 0,
        hedge: Mapping[str, float] | None = None,
        lease: Lease | None = None,
    ) -> None:
        """`zone`: the gateway's own. `retries`: how often all may be asked again. `hedge`: by expert, the share of
        answers that begin before a second attempt is made beside the first. `lease`: see `Checks`.
        """
        named: dict[str, list[Expert]] = {}
        for expert in experts:
            named.setdefault(expert.spec.name, []).append(expert)
        self.experts = {name: one[0] for name, one in named.items()}
        self._retries = retries
        self._balancers = {name: Balancer(one, zone) for name, one in named.items()}
        self._budgets = {name: RetryBudget() for name in named}
        self._patience = {
            (name, streaming): Patience(share)
            for name, share in (hedge or {}).items()
            for streaming in (False, True)
        }
        self._checks = Checks(lease)

    def succeeds(self, other: "Pool", unlike: Collection[str] = ()) -> None:
        """Takes over what another pool has learned, before this one is opened; both may be asked from then on.

        An expert that both hold keeps its connections too. Of one that is reached as before its health is kept,
        unless it is in `unlike`.
        """
        self._checks = other._checks
        for name in self.experts.keys() & other.experts.keys():
            ours, theirs = self._balancers[name], other._balancers[name]
            if [place.expert for place in ours.places] == [place.expert for place in theirs.places]:
                self._balancers[name] = theirs
            elif name not in unlike:
                ours.succeeds(theirs)
            self._budgets[name] = other._budgets[name]
        for key in self._patience.keys() & other._patience.keys():
            if self._patience[key].share == other._patience[key].share:
                self._patience[key] = other._patience[key]

    @property
    def specs(self) -> tuple[ExpertSpec, ...]:
        return tuple(expert.spec for expert in self.experts.values())

    def places(self, name: str) -> tuple[Place, ...]:
        """The addresses of an expert."""
        return self._balancers[name].places

    async def open(self) -> None:
        """Opens every enabled expert that is not open. Raises `ConfigError`; what was opened is closed again."""
        fresh = [place for place in self._places() if place.expert.spec.enabled and not place.opened]
        try:
            for place in fresh:
                place.opened = True
                await place.expert.open()
        except BaseException:
            for place in fresh:
                await self._shut(place)
            raise
        self._checks.begin(fresh)

    async def close(self, others: Iterable["Pool"] = ()) -> None:
        """Closes what none of the `others` holds."""
        kept = {place for other in others for place in other._places()}
        leaving = [place for place in self._places() if place not in kept]
        await self._checks.end(leaving)
        for place in leaving:
            await self._shut(place)

    @staticmethod
    async def _shut(place: Place) -> None:
        if place.opened:
            place.opened = False
            await place.expert.close()

    def _places(self) -> list[Place]:
        return [place for balancer in self._balancers.values() for place in balancer.places]

    def figures(self) -> dict[str, Told]:
        """What this replica knows of the addresses of experts that have several, to tell the others."""
        now = asyncio.get_running_loop().time()
        return {name: own for one in self._balancers.values() for name, own in one.figures(now).items()}

    def told(self, others: Mapping[str, tuple[float, ...]], replicas: int) -> None:
        """What the other replicas, so many, know of them in sum."""
        for balancer in self._balancers.values():
            balancer.told(others, replicas)

    def resting_s(self, name: str) -> float:
        """Seconds until the expert may be asked again; zero while it is healthy."""
        return self._balancers[name].resting_s(asyncio.get_running_loop().time())

    def state(self, name: str) -> str:
        """In a word: `ok`, `resting`, or how many of its addresses rest."""
        now, places = asyncio.get_running_loop().time(), self.places(name)
        resting = sum(place.health.resting_s(now) > 0.0 for place in places)
        if not resting:
            return "ok"
        return "resting" if resting == len(places) else f"{resting} of {len(places)} endpoints resting"

    def ended(self, served: Served) -> None:
        """A stream came to its end."""
        served.place.health.succeed()
        if served.place.expert.place:
            self._balancers[served.expert].judge(served.place, asyncio.get_running_loop().time(), failed=False)

    def failed_midway(self, served: Served, error: ExpertError) -> None:
        """A stream that had begun broke off: counts like a failed attempt."""
        self._note(served.place, error, asyncio.get_running_loop().time())

    async def ask(self, call: Call, order: Sequence[str], *, attempts: int, streaming: bool) -> Served:
        """Asks the experts of `order`, at most `attempts` of them, until one answers or its stream has begun.

        While others are left to be asked, an attempt gets half of the time that is left, so that one that hangs
        cannot spend it all. After a prompt that was too long, only experts with a larger context are asked; those
        that limits (`Call.admits`) refuse are passed over.
        Raises `PoolError` with the failure that says most: the first that is not a mere fault of transport, else
        the last.
        """
        asking = Asking(call, order, attempts, streaming, admitted={order[0]: True})
        places = self._balancers[order[0]].places
        if len(places) == 1 and not self._patience:  # nearly always all there is to it
            asking.asked = 1
            self._budgets[order[0]].asked(asyncio.get_running_loop().time())
            served = await self._attempt(asking, call, places[0], min(attempts, len(order)) == 1)
            if served is not None:
                return served
        for rounds in range(self._retries + 1):
            served = await self._round(asking)
            if served is not None:
                return served
            failures = [attempt.failure for attempt in asking.made if attempt.failure is not None]
            telling = [failure for failure in failures if failure.kind in CALLERS_FAULT]
            if rounds == self._retries or telling:
                break
            now = asyncio.get_running_loop().time()
            passing = {failure.expert for failure in failures if failure.kind in PASSING}
            asking.order = [name for name in order if name in passing and self._budgets[name].left(now)]
            pause = pause_s(failures, rounds, call.deadline - now)
            if pause is None or not asking.order:
                break
            await asyncio.sleep(pause)
            asking.again, asking.asked = True, 0
        raise PoolError((telling or failures[::-1])[0], asking.made)

    async def _round(self, asking: Asking) -> Served | None:
        """Asks each candidate once; None where none answered."""
        call, streaming = asking.call, asking.streaming
        if asking.asked and _is_final(asking):
            return None
        candidates = self._candidates(asking)
        for place, last in candidates:
            if self._patience and (patience := self._patience.get((place.expert.spec.name, streaming))):
                served = await self._hedged(asking, candidates, place, last, patience)
            else:
                served = await self._attempt(asking, call, place, last)
            if served is not None:
                return served
            if _is_final(asking):
                return None
        return None

    def _candidates(self, asking: Asking) -> Iterator[tuple[Place, bool]]:
        """Whom to ask next, decided when asked for, and whether nobody is left after that one."""
        clock, made, asked = asyncio.get_running_loop().time, asking.made, asking.asked
        for name in asking.order[asked:]:
            if self.experts[name].spec.context_tokens < asking.needed_context:
                continue
            now = clock()
            if asked >= asking.most or (made and now >= asking.call.deadline):
                return
            balancer, budget = self._balancers[name], self._budgets[name]
            if not asking.again:
                budget.asked(now)
            elif not budget.take(now):
                continue
            asked += 1
            last = asked == asking.most or name == asking.order[-1]
            if len(balancer.places) == 1:
                yield balancer.places[0], last
                asked -= not asking.admitted.get(name, True)
                continue
            tried: list[Place] = []
            place = balancer.choose(now)
            while place is not None:
                tried.append(place)
                before = len(made)
                left = len(tried) < asking.most and balancer.others_left(now, tried)
                yield place, last and not left
                if not asking.admitted.get(name, True):
                    asked -= 1
                    break
                failure = made[-1].failure if len(made) > before else None
                now = clock()
                if not left or now >= asking.call.deadline or not (failure is None or helps_elsewhere(failure)):
                    break
                # a connection that was never made burdened nobody: the next attempt is no more than the first
                free = asking.hedging or (failure is not None and failure.kind == "connect")
                if not free and not budget.take(now):
                    break
                place = balancer.choose(now, tried)

    async def _attempt(self, asking: Asking, call: Call, place: Place, last: bool) -> Served | None:
        """Asks one address. None where it failed, which the attempts then say, or limits do not let it be asked."""
        loop = asyncio.get_running_loop()
        expert, health, made = place.expert, place.health, asking.made
        name = expert.spec.name
        if not await asking.admits(name):
            return None
        shared = expert.place != ""
        began, asked = loop.time(), time.perf_counter()
        mark = (name, began)
        health.begin(began)
        call.under_way.append(mark)
        call.first_byte_by = call.deadline if last else (began + call.deadline) / 2
        place.in_flight += 1
        busy = False
        try:
            served = Served(name, place)
            if asking.streaming:
                served.stream = await expert.stream(call)
                if shared:
                    served.stream, busy = Watched(served.stream, place), True
            else:
                served.answer = await expert.complete(call)
            served.took_s = time.perf_counter() - asked
        except ExpertError as error:
            call.under_way.remove(mark)
            hurried = error.kind == "timeout" and call.first_byte_by - began < FAIR_S
            blamed = not hurried and error.kind != "busy"
            made.append(Attempt(name, error, blamed, expert.place, time.perf_counter() - asked))
            if blamed:
                self._note(place, error, loop.time())
            else:
                health.abandon()
            if error.kind == "context_length":
                asking.needed_context = max(asking.needed_context, expert.spec.context_tokens + 1)
            return None
        except BaseException:
            health.abandon()
            raise
        finally:
            if not busy:
                place.in_flight -= 1
        call.under_way.remove(mark)
        if served.answer is None:
            health.begun()
        else:
            health.succeed()
            if shared:
                self._balancers[name].judge(place, began, failed=False)
                place.measured(loop.time(), served.took_s, served.answer.usage)
        made.append(Attempt(name, None, True, expert.place))
        served.attempts = made
        return served

    async def _hedged(
        self,
        asking: Asking,
        candidates: Iterator[tuple[Place, bool]],
        place: Place,
        last: bool,
        patience: Patience,
    ) -> Served | None:
        """As `_attempt`; where the answer is late, the next candidate is asked too and the first to answer wins.

        The other is cancelled. What it may have cost stands in `beaten`.
        """
        call = asking.call
        bound_s = None if last else patience.bound_s()
        if bound_s is None:
            served = await self._attempt(asking, call, place, last)
            if served is not None:
                patience.add(served.took_s)
            return served
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(self._attempt(asking, call, place, last))
        running = {first}
        try:
            await asyncio.wait(running, timeout=bound_s)
            if not first.done() and self._budgets[place.expert.spec.name].take(loop.time()):
                asking.hedging = True
                beside = next(candidates, None)
                asking.hedging = False
                if beside is not None:
                    copy = replace(call)  # whose time is its own; who is under way is told of both
                    running.add(asyncio.ensure_future(self._attempt(asking, copy, *beside)))
            served = None
            while running and served is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if served is None:
                        served = task.result()
                    else:
                        running.add(task)  # both at once: the second is let go
        finally:
            late = await _let_go(running)
        if served is None:
            return None
        if call.under_way:
            served.beaten = call.under_way.pop()
        elif late:
            served.beaten = late[0].expert, loop.time() - late[0].took_s
        self._learn(served.expert, served.took_s, streaming=asking.streaming)
        if served.beaten is not None:
            self._learn(served.beaten[0], loop.time() - served.beaten[1], streaming=asking.streaming)
        return served

    def _learn(self, expert: str, took_s: float, *, streaming: bool) -> None:
        if (patience := self._patience.get((expert, streaming))) is not None:
            patience.add(took_s)

    def _note(self, place: Place, error: ExpertError, now: float) -> None:
        health, fault = place.health, error.kind in CALLERS_FAULT
        if fault:
            health.succeed()  # it answered: the request was at fault, not the expert
        else:
            health.fail(now, error.retry_after_s if error.kind == "rate_limit" else None)
        self._balancers[place.expert.spec.name].judge(place, now, failed=not fault)
        if error.kind != "rate_limit":
            self._checks.rests(place)


def _is_final(asking: Asking) -> bool:
    """Whether the last failure is nothing that another expert could mend."""
    failure = asking.made[-1].failure
    assert failure is not None
    return not failure.retryable and not (failure.kind == "content_filter" and asking.call.moves_on_refusal)


async def _let_go(running: set[asyncio.Task[Served | None]]) -> list[Served]:
    """Cancels attempts that nobody waits for any more; those that had answered all the same."""
    for task in running:
        task.cancel()
    late = [ended for ended in await asyncio.gather(*running, return_exceptions=True) if isinstance(ended, Served)]
    for served in late:
        if served.stream is not None:
            await served.stream.aclose()
    return late
