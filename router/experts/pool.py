"""All experts and their health: asks them in the order it is given until one answers."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from router.errors import CALLERS_FAULT, ConfigError, ExpertError
from router.experts.base import Answer, Call, Expert, Stream
from router.types import ExpertSpec

FAILURES_TO_REST = 3
FIRST_REST_S = 2.0
LONGEST_REST_S = 60.0
FAIR_S = 5.0  # a timeout under it is the caller's haste and no fault of the expert
MOST_DOUBLINGS = 5


@dataclass(slots=True)
class Health:
    """Rests an expert after three failures in a row, twice as long each time it fails again on its return.

    When a rest is over, one request tries the expert; the others stay away until that one has ended.
    A 429 that says when to come back rests it at once.
    """

    failures: int = 0
    rests: int = 0
    until: float = 0.0
    trying: bool = False

    def resting_s(self, now: float) -> float:
        """Seconds until the expert may be asked; zero while it is healthy."""
        if self.until == 0.0:
            return 0.0
        if now < self.until:
            return self.until - now
        return FIRST_REST_S if self.trying else 0.0

    def begin(self, now: float) -> None:
        if self.until and now >= self.until:
            self.trying = True

    def succeed(self) -> None:
        self.failures = self.rests = 0
        self.until = 0.0
        self.trying = False

    def fail(self, now: float, retry_after_s: float | None) -> None:
        self.failures += 1
        if retry_after_s is not None:
            self.until = max(self.until, now + min(retry_after_s, LONGEST_REST_S))
        elif self.trying or (self.failures >= FAILURES_TO_REST and now >= self.until):
            # calls that were under way when a rest began, and named ones meanwhile, do not lengthen it
            self.until = now + min(FIRST_REST_S * 2 ** min(self.rests, MOST_DOUBLINGS), LONGEST_REST_S)
            self.rests += 1
        self.trying = False

    def abandon(self) -> None:
        """The try ended without a verdict (the caller left): the next request tries again."""
        self.trying = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One expert asked. `failure` is None for the one that answered."""

    expert: str
    failure: ExpertError | None
    blamed: bool = True  # False: the caller gave it too little time, or we had no connection left for it


@dataclass(slots=True)
class Served:
    """Who answered, and who was asked before. Exactly one of `answer` and `stream` is there."""

    expert: str
    answer: Answer | None = None
    stream: Stream | None = None
    attempts: list[Attempt] = field(default_factory=list)
    took_s: float = 0.0  # by the one that answered: until the whole answer, or until the stream's first event


class PoolError(Exception):
    """No expert answered. `last` is the failure to tell the caller of; `attempts` all that were made."""

    def __init__(self, last: ExpertError, attempts: list[Attempt]) -> None:
        super().__init__(str(last))
        self.last = last
        self.attempts = attempts


class Pool:
    """The experts by name. Everything runs on one event loop."""

    def __init__(self, experts: Iterable[Expert]) -> None:
        self.experts: dict[str, Expert] = {expert.spec.name: expert for expert in experts}
        self._health: dict[str, Health] = {name: Health() for name in self.experts}

    @property
    def specs(self) -> tuple[ExpertSpec, ...]:
        return tuple(expert.spec for expert in self.experts.values())

    async def open(self) -> None:
        """Opens every enabled expert. Raises `ConfigError`; what was opened is closed again."""
        try:
            for expert in self.experts.values():
                if expert.spec.enabled:
                    await expert.open()
        except (ConfigError, OSError):
            await self.close()
            raise

    async def close(self) -> None:
        for expert in self.experts.values():
            await expert.close()

    def resting_s(self, name: str) -> float:
        """Seconds until the expert may be asked again; zero while it is healthy."""
        return self._health[name].resting_s(asyncio.get_running_loop().time())

    def failed_midway(self, error: ExpertError) -> None:
        """A stream that had begun broke off: counts against its expert like a failed attempt."""
        self._note(self._health[error.expert], error, asyncio.get_running_loop().time())

    async def ask(self, call: Call, order: Sequence[str], *, attempts: int, streaming: bool) -> Served:
        """Asks the experts of `order`, at most `attempts` of them, until one answers or its stream has begun.

        While others are left to be asked, an attempt gets half of the time that is left, so that one that hangs
        cannot spend it all. After a prompt that was too long, only experts with a larger context are asked.
        Raises `PoolError` with the failure that says most: the first that is not a mere fault of transport, else
        the last.
        """
        loop = asyncio.get_running_loop()
        made: list[Attempt] = []
        needed_context = 0
        last = min(attempts, len(order)) - 1
        for name in order:
            expert = self.experts[name]
            if expert.spec.context_tokens < needed_context:
                continue
            if len(made) >= attempts or (made and loop.time() >= call.deadline):
                break
            health = self._health[name]
            began, asked = loop.time(), time.perf_counter()
            health.begin(began)
            call.asked.append(name)
            call.asked_at = began
            call.first_byte_by = call.deadline if len(made) == last else (began + call.deadline) / 2
            try:
                served = Served(name)
                if streaming:
                    served.stream = await expert.stream(call)
                else:
                    served.answer = await expert.complete(call)
                served.took_s = time.perf_counter() - asked
            except ExpertError as error:
                hurried = error.kind == "timeout" and call.first_byte_by - began < FAIR_S
                blamed = not hurried and error.kind != "busy"
                made.append(Attempt(name, error, blamed))
                if blamed:
                    self._note(health, error, loop.time())
                else:
                    health.abandon()
                if error.kind == "context_length":
                    needed_context = expert.spec.context_tokens + 1
                if not error.retryable and not (error.kind == "content_filter" and call.moves_on_refusal):
                    break
            except BaseException:
                health.abandon()
                raise
            else:
                health.succeed()
                made.append(Attempt(name, None))
                served.attempts = made
                return served
        failures = [attempt.failure for attempt in made if attempt.failure is not None]
        telling = [failure for failure in failures if failure.kind in CALLERS_FAULT]
        raise PoolError((telling or failures[::-1])[0], made)

    @staticmethod
    def _note(health: Health, error: ExpertError, now: float) -> None:
        if error.kind in CALLERS_FAULT:
            health.succeed()  # it answered: the request was at fault, not the expert
        else:
            health.fail(now, error.retry_after_s if error.kind == "rate_limit" else None)
