"""When all are asked again, after how long, and how often an expert may be burdened with it."""

import time
from email.utils import formatdate

import pytest

from router.errors import ExpertError, FailureKind
from router.experts.retries import (
    FIRST_PAUSE_S,
    FLOOR,
    LONGEST_PAUSE_S,
    WINDOW_S,
    RetryBudget,
    pause_s,
    retry_after_s,
)


def failure(kind: FailureKind, *, status: int | None = None, after_s: float | None = None) -> ExpertError:
    return ExpertError("a", kind, "as told", status=status, retry_after_s=after_s)


def taken(budget: RetryBudget, now: float, tries: int = 1000) -> int:
    return sum(budget.take(now) for _ in range(tries))


def test_a_quiet_expert_may_have_a_few_repeats() -> None:
    assert taken(RetryBudget(), 1e6) == FLOOR


def test_a_busy_expert_may_have_a_tenth_more() -> None:
    budget = RetryBudget()
    for i in range(1000):
        budget.asked(1e6 + i / 100)
    assert taken(budget, 1e6 + 10) == 100


def test_the_window_slides() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.asked(1e6)
    assert taken(budget, 1e6) == 100
    assert taken(budget, 1e6 + WINDOW_S / 2) == 0
    assert taken(budget, 1e6 + WINDOW_S + 3) == FLOOR


def test_pauses_are_jittered_over_a_bound_that_doubles() -> None:
    for rounds, bound in ((0, FIRST_PAUSE_S), (1, 2 * FIRST_PAUSE_S), (9, LONGEST_PAUSE_S)):
        pauses = [pause for _ in range(400) if (pause := pause_s([failure("cut")], rounds, 60.0)) is not None]
        assert max(pauses) <= bound and max(pauses) > 0.8 * bound and min(pauses) < 0.2 * bound


def test_retry_after_is_waited_for() -> None:
    pause = pause_s([failure("rate_limit", after_s=3.0), failure("rate_limit", after_s=2.0)], 0, 60.0)
    assert pause is not None and 2.0 <= pause <= 2.0 + FIRST_PAUSE_S


def test_one_that_did_not_ask_for_a_wait_is_not_waited_with() -> None:
    pause = pause_s([failure("rate_limit", after_s=3.0), failure("server", status=500)], 0, 60.0)
    assert pause is not None and pause <= FIRST_PAUSE_S


@pytest.mark.parametrize(("after_s", "left_s"), [(3.0, 2.0), (LONGEST_PAUSE_S + 1, 60.0), (0.0, 0.0)])
def test_a_wait_that_does_not_fit_is_not_begun(after_s: float, left_s: float) -> None:
    assert pause_s([failure("rate_limit", after_s=after_s)], 0, left_s) is None


@pytest.mark.parametrize(
    "lasting",
    [failure("auth", status=401), failure("server", status=404), failure("garbage"), failure("timeout")],
    ids=["our key", "our URL", "no answer at all", "the time is spent"],
)
def test_what_will_not_pass_is_not_repeated(lasting: ExpertError) -> None:
    assert pause_s([lasting], 0, 60.0) is None


@pytest.mark.parametrize(
    ("plain", "milliseconds", "seconds"),
    [
        ("7", None, 7.0),
        ("7", "1500", 1.5),
        ("7", "soon", 7.0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", None, 86_400.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None, 0.0),
        ("1e999", None, 86_400.0),
        ("-1", None, None),
        ("nan", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_a_server_says_when_to_come_back_in_seconds_or_as_a_date(
    plain: str | None, milliseconds: str | None, seconds: float | None
) -> None:
    assert retry_after_s(plain, milliseconds) == seconds


def test_a_date_is_so_far_from_now() -> None:
    said = retry_after_s(formatdate(time.time() + 60, usegmt=True))
    assert said is not None and 30 < said <= 61
