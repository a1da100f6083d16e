"""The addresses of one expert: which is asked next, by the least expected wait.

The wait at an address is what is under way there times its time per token. Waits within `TIE` of the least count
as equal: then an address of the gateway's own zone goes first, and among those the one that the loss-free bias
lifts most (Wang et al. 2024: a bias on the choice alone, moved against each address's excess over its share).

Times are fading, and blended with what the expert's addresses show together, so that one that was slow once and is
asked no more is taken for an ordinary one in time. Times and errors are those of all replicas, as each last told
(`router.ledger.figures`). Of the calls that are under way elsewhere a replica reckons with the mean over replicas:
all see the same and act on it at once, and with the sum they would drive the load from one address to the other.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import NamedTuple

from router.errors import ExpertError
from router.experts.base import Expert, Stream
from router.experts.health import ErrorRate, Health
from router.types import Usage

TIE = 0.2
FADE_S = 60.0
PRIOR_TOKENS = 50.0  # how many tokens what is known of the others counts for


class Told(NamedTuple):
    """Figures of an address that replicas tell each other: fading sums, but for the calls under way."""

    in_flight: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0
    calls: float = 0.0
    errors: float = 0.0


NOTHING = Told()


class Place:
    """One address of an expert and what is known of it. An expert of one address has one, and needs no figures."""

    __slots__ = (
        "_at",
        "bias",
        "errors",
        "expert",
        "health",
        "in_flight",
        "near",
        "opened",
        "others",
        "seconds",
        "tokens",
    )

    def __init__(self, expert: Expert, zone: str | None) -> None:
        self.expert = expert
        self.health = Health()
        self.errors = ErrorRate()
        self.near = zone is not None and expert.zone == zone
        self.opened = False
        self.in_flight = 0
        self.bias = 0.0
        self.seconds = 0.0
        self.tokens = 0.0
        self._at = 0.0
        self.others = NOTHING  # of the other replicas; `in_flight` is the mean over all replicas

    def succeeds(self, other: "Place") -> None:
        """Takes over what is known of the same address: calls that it still answers there go on to count."""
        self.health, self.errors = other.health, other.errors
        self.seconds, self.tokens, self._at = other.seconds, other.tokens, other._at
        self.others = other.others

    def measured(self, now: float, seconds: float, usage: Usage) -> None:
        self.fade(now)
        self.seconds += seconds
        self.tokens += max(usage.output_tokens, 1)

    def fade(self, now: float) -> None:
        left = math.exp((self._at - now) / FADE_S)
        self.seconds *= left
        self.tokens *= left
        self._at = now

    def figures(self, now: float) -> Told:
        """This replica's own."""
        self.fade(now)
        self.errors.fade(now)
        return Told(self.in_flight, self.seconds, self.tokens, self.errors.calls, self.errors.errors)

    def told(self, others: Told, replicas: int) -> None:
        """What the others know, in sum, of whom there are so many. Their calls under way are smoothed."""
        in_flight = (self.others.in_flight + others.in_flight / (replicas + 1)) / 2
        self.others = others._replace(in_flight=in_flight)

    def seen(self, now: float) -> ErrorRate:
        """Calls and errors of all replicas."""
        self.errors.fade(now)
        return ErrorRate(self.errors.calls + self.others.calls, self.errors.errors + self.others.errors, now)


class Balancer:
    """The addresses of one expert. Building one with a single address costs nothing later."""

    def __init__(self, experts: Sequence[Expert], zone: str | None = None) -> None:
        self.places = tuple(Place(expert, zone) for expert in experts)
        self._weight = sum(expert.weight for expert in experts)

    def succeeds(self, other: "Balancer") -> None:
        """Takes over what is known of addresses that stay the same."""
        known = {place.expert.address: place for place in other.places}
        for place in self.places:
            if (before := known.get(place.expert.address)) is not None:
                place.succeeds(before)

    def resting_s(self, now: float) -> float:
        """Seconds until one of them may be asked."""
        places = self.places
        if len(places) == 1:
            return places[0].health.resting_s(now)
        return min(place.health.resting_s(now) for place in places)

    def choose(self, now: float, tried: Collection[Place] = ()) -> Place | None:
        """The next to ask. Where all rest, the one that is back first, and then no other."""
        free = [p for p in self.places if p not in tried and p.health.resting_s(now) == 0.0]
        if not free:
            return None if tried else min(self.places, key=lambda place: place.health.resting_s(now))
        if len(free) == 1:
            return free[0]
        waits = self._waits(free, now)
        bound = min(waits) * (1.0 + TIE)
        ties = [place for place, wait in zip(free, waits, strict=True) if wait <= bound]
        chosen = max(ties, key=lambda place: (place.near, place.bias))
        for place in ties:
            place.bias += place.expert.weight / self._weight
        chosen.bias -= sum(place.expert.weight for place in ties) / self._weight
        return chosen

    def others_left(self, now: float, tried: Collection[Place]) -> bool:
        return any(p not in tried and p.health.resting_s(now) == 0.0 for p in self.places)

    def _waits(self, free: list[Place], now: float) -> list[float]:
        for place in self.places:
            place.fade(now)
        seconds = sum(p.seconds + p.others.seconds for p in self.places)
        tokens = sum(p.tokens + p.others.tokens for p in self.places)
        prior = seconds / tokens if tokens > 1.0 else self.places[0].expert.spec.token_s
        return [
            ((p.in_flight + p.others.in_flight) / p.expert.weight + 1)
            * (p.seconds + p.others.seconds + PRIOR_TOKENS * prior)
            / (p.tokens + p.others.tokens + PRIOR_TOKENS)
            for p in free
        ]

    def figures(self, now: float) -> dict[str, Told]:
        """Of its addresses, by name; none of an expert with one."""
        if len(self.places) == 1:
            return {}
        return {f"{place.expert.spec.name} {place.expert.place}": place.figures(now) for place in self.places}

    def told(self, others: Mapping[str, tuple[float, ...]], replicas: int) -> None:
        for place in self.places:
            figures = others.get(f"{place.expert.spec.name} {place.expert.place}", NOTHING)
            place.told(Told(*figures) if len(figures) == len(NOTHING) else NOTHING, replicas)

    def judge(self, place: Place, now: float, *, failed: bool) -> None:
        """Counts a call, and rests an address that fails far more often than its siblings."""
        if len(self.places) == 1:
            return
        place.errors.count(now, failed=failed)
        if not failed or place.health.until:
            return
        siblings = [other for other in self.places if other is not place and not other.health.until]
        if place.seen(now).outlies([other.seen(now) for other in siblings]):
            place.health.rest(now)


class Watched(Stream):
    """A stream that its address is busy with until it ends."""

    def __init__(self, stream: Stream, place: Place) -> None:
        self._stream = stream
        self._place: Place | None = place
        self._began = time.perf_counter()
        self.ttft_s = stream.ttft_s
        self.headers = stream.headers

    @property
    def usage(self) -> Usage:
        return self._stream.usage

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for events in self._stream:
            yield events
        self._ended(whole=True)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._ended(whole=False)

    def _ended(self, *, whole: bool) -> None:
        place, self._place = self._place, None
        if place is None:
            return
        place.in_flight -= 1
        if whole:
            took_s = self.ttft_s + time.perf_counter() - self._began
            place.measured(asyncio.get_running_loop().time(), took_s, self.usage)


def helps_elsewhere(failure: ExpertError) -> bool:
    """Whether another address of the same model could answer what this one did not."""
    return failure.retryable and failure.kind != "context_length"
