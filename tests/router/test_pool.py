"""Health and failover, with experts that do as they are told and a clock that stands where it is put."""

import asyncio
from collections.abc import Iterable

import pytest

from router.errors import ConfigError, ExpertError, FailureKind
from router.experts.base import Answer, Call, Expert, Stream
from router.experts.health import FIRST_REST_S, LONGEST_REST_S, Health
from router.experts.hedging import FEWEST
from router.experts.pool import Pool, PoolError, Served
from router.types import ExpertSpec, Price, Usage


def failed(times: int, now: float = 0.0) -> Health:
    health = Health()
    for _ in range(times):
        health.begin(now)
        health.fail(now, None)
    return health


def test_two_failures_are_borne() -> None:
    assert failed(2).resting_s(0.0) == 0.0


def test_the_third_failure_in_a_row_brings_a_rest() -> None:
    health = failed(3)
    assert health.resting_s(0.0) == FIRST_REST_S
    assert health.resting_s(1.5) == pytest.approx(FIRST_REST_S - 1.5)
    assert health.resting_s(FIRST_REST_S) == 0.0


def test_a_success_between_makes_failures_start_anew() -> None:
    health = failed(2)
    health.succeed()
    for _ in range(2):
        health.fail(0.0, None)
    assert health.resting_s(0.0) == 0.0


def test_after_a_rest_one_request_tries_and_the_others_stay_away() -> None:
    health = failed(3)
    health.begin(FIRST_REST_S)
    assert health.resting_s(FIRST_REST_S) > 0.0
    health.succeed()
    assert health.resting_s(FIRST_REST_S) == 0.0


def test_a_try_that_fails_rests_twice_as_long_up_to_a_bound() -> None:
    health = failed(3)
    now, rests = 0.0, []
    for _ in range(8):
        rest = health.resting_s(now)
        rests.append(rest)
        now += rest
        health.begin(now)
        health.fail(now, None)
    assert rests == [2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_REST_S, LONGEST_REST_S, LONGEST_REST_S]


def test_a_burst_of_failures_is_one_rest() -> None:
    assert failed(64).resting_s(0.0) == FIRST_REST_S


def test_failures_without_end_are_counted_without_end() -> None:
    health = Health()
    for i in range(3000):
        now = i * LONGEST_REST_S
        health.begin(now)
        health.fail(now, None)
    assert health.resting_s(now) == LONGEST_REST_S


def test_a_limit_that_says_when_rests_at_once_until_then() -> None:
    health = Health()
    health.fail(0.0, 7.0)
    assert health.resting_s(0.0) == 7.0


def test_a_limit_that_says_next_year_rests_no_longer_than_any() -> None:
    health = Health()
    health.fail(0.0, 1e7)
    assert health.resting_s(0.0) == LONGEST_REST_S


def test_a_shorter_limit_does_not_end_a_rest() -> None:
    health = failed(3)
    health.fail(0.0, 0.0)
    assert health.resting_s(0.0) == FIRST_REST_S


def test_a_try_nobody_saw_the_end_of_lets_the_next_one_try() -> None:
    health = failed(3)
    health.begin(FIRST_REST_S)
    health.abandon()
    assert health.resting_s(FIRST_REST_S) == 0.0


class Told(Expert):
    """Answers, or fails in the way that `failures` says next; an event holds it until it is set."""

    def __init__(self, name: str, failures: Iterable[FailureKind] = (), context_tokens: int = 1000) -> None:
        self.spec = ExpertSpec(name, Price(1, 1), context_tokens=context_tokens)
        self.failures = list(failures)
        self.asked = 0
        self.opened = False
        self.hold: asyncio.Event | None = None

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.opened = False

    async def complete(self, call: Call) -> Answer:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.failures:
            raise ExpertError(self.spec.name, self.failures.pop(0), "as told")
        return Answer(b"{}", Usage(), 0.0)

    async def stream(self, call: Call) -> Stream:
        raise NotImplementedError

    async def probe(self) -> str:
        return "there"


def call(seconds: float = 60.0) -> Call:
    return Call("chat/completions", {}, asyncio.get_running_loop().time() + seconds, "r")


async def ask(pool: Pool, *order: str, attempts: int = 3, seconds: float = 60.0) -> str:
    served = await pool.ask(call(seconds), order, attempts=attempts, streaming=False)
    return served.expert


RETRIED: tuple[FailureKind, ...] = ("connect", "timeout", "rate_limit", "server", "garbage", "cut", "auth")


@pytest.mark.parametrize("kind", RETRIED)
async def test_another_expert_is_asked_after_a_fault_that_is_not_the_callers(kind: FailureKind) -> None:
    pool = Pool([Told("a", [kind]), Told("b")])
    assert await ask(pool, "a", "b") == "b"


@pytest.mark.parametrize("kind", ["caller", "content_filter"])
async def test_nobody_else_is_asked_after_the_callers_fault(kind: FailureKind) -> None:
    other = Told("b")
    with pytest.raises(PoolError) as caught:
        await ask(Pool([Told("a", [kind]), other]), "a", "b")
    assert caught.value.last.kind == kind and not other.asked


async def test_the_order_and_the_attempts_are_told() -> None:
    pool = Pool([Told("a", ["server"]), Told("b", ["cut"]), Told("c")])
    served = await pool.ask(call(), ("b", "a", "c"), attempts=3, streaming=False)
    assert [(attempt.expert, attempt.failure and attempt.failure.kind) for attempt in served.attempts] == [
        ("b", "cut"),
        ("a", "server"),
        ("c", None),
    ]


async def test_only_larger_experts_are_asked_after_a_prompt_too_long() -> None:
    experts = [Told("a", ["context_length"], 100), Told("same", (), 100), Told("large", (), 101)]
    assert await ask(Pool(experts), "a", "same", "large") == "large"
    assert not experts[1].asked


async def test_the_most_telling_failure_is_the_one_told() -> None:
    pool = Pool([Told("a", ["context_length"], 10), Told("b", ["server"], 20), Told("c", ["connect"], 30)])
    with pytest.raises(PoolError) as caught:
        await ask(pool, "a", "b", "c")
    assert caught.value.last.kind == "context_length" and len(caught.value.attempts) == 3


async def test_without_a_telling_one_the_last_failure_is_told() -> None:
    with pytest.raises(PoolError) as caught:
        await ask(Pool([Told("a", ["server"]), Told("b", ["connect"])]), "a", "b")
    assert caught.value.last.kind == "connect"


async def test_no_attempt_is_made_after_the_deadline_but_the_first() -> None:
    experts = [Told("a", ["server"]), Told("b")]
    with pytest.raises(PoolError) as caught:
        await ask(Pool(experts), "a", "b", seconds=-1.0)
    assert [attempt.expert for attempt in caught.value.attempts] == ["a"]


async def test_the_callers_faults_do_not_tire_an_expert() -> None:
    pool = Pool([Told("a", ["caller"] * 5)])
    for _ in range(5):
        with pytest.raises(PoolError):
            await ask(pool, "a")
    assert pool.resting_s("a") == 0.0


async def test_streams_that_break_tire_an_expert() -> None:
    pool = Pool([Told("a")])
    for _ in range(3):
        pool.failed_midway(Served("a", pool.places("a")[0]), ExpertError("a", "cut", "as told"))
    assert pool.resting_s("a") > 0.0


async def test_a_call_given_up_is_no_verdict() -> None:
    expert = Told("a")
    expert.hold = asyncio.Event()
    pool = Pool([expert])
    task = asyncio.create_task(ask(pool, "a"))
    await asyncio.sleep(0)
    assert expert.asked
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.resting_s("a") == 0.0


async def test_what_was_opened_is_closed_where_one_cannot_open() -> None:
    class Broken(Told):
        async def open(self) -> None:
            raise ConfigError("no")

    first = Told("a")
    with pytest.raises(ConfigError):
        await Pool([first, Broken("b")]).open()
    assert not first.opened


async def test_whom_limits_refuse_is_passed_over_and_counts_for_no_attempt() -> None:
    a, b, c = Told("a", ["server"]), Told("b"), Told("c")
    asked_for: list[str] = []

    async def admits(expert: str) -> bool:
        asked_for.append(expert)
        return expert != "b"

    one = call()
    one.admits = admits
    served = await Pool([a, b, c]).ask(one, ("a", "b", "c"), attempts=2, streaming=False)
    assert (served.expert, a.asked, b.asked, c.asked) == ("c", 1, 0, 1)
    assert [attempt.expert for attempt in served.attempts] == ["a", "c"]
    assert asked_for == ["b", "c"], "the first was let before"


async def test_who_was_let_once_is_asked_again_without_another_question() -> None:
    a, b = Told("a", ["server"] * 2), Told("b", ["server"])
    asked_for: list[str] = []

    async def admits(expert: str) -> bool:
        asked_for.append(expert)
        return True

    one = call()
    one.admits = admits
    served = await Pool([a, b], retries=1).ask(one, ("a", "b"), attempts=2, streaming=False)
    assert (served.expert, a.asked, b.asked, asked_for) == ("b", 2, 2, ["b"])


async def test_where_limits_let_no_other_be_asked_beside_it_the_slow_one_answers() -> None:
    a, b = Told("a"), Told("b")
    pool = Pool([a, b], hedge={"a": 0.5})
    for _ in range(FEWEST):
        assert await ask(pool, "a", "b") == "a"
    a.hold = asyncio.Event()
    refused = asyncio.Event()

    async def admits(expert: str) -> bool:
        refused.set()
        return False

    one = call()
    one.admits = admits
    asking = asyncio.ensure_future(pool.ask(one, ("a", "b"), attempts=2, streaming=False))
    await refused.wait()
    a.hold.set()
    served = await asking
    assert (served.expert, b.asked) == ("a", 0)
