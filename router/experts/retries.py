"""Asking again: how long to wait before it, and how much of it an expert may be burdened with.

A repeat at the same expert is load that no caller asked for, and it comes when the expert has too much of it
already. So repeats are bounded by a share of the requests of the last seconds. A repeat after a connection that was
never made is no load and always allowed; so is another expert's first attempt.
"""

import random
import time
from email.utils import parsedate_to_datetime

from router.errors import ExpertError

WINDOW_S = 30.0
SLOTS = 10
SHARE = 0.1
FLOOR = 10  # repeats that a quiet expert may have in a window
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
#: What may be over in a moment; not our key, our URL, or an answer that is none.
PASSING = frozenset({"connect", "cut", "server", "rate_limit"})
LASTING_STATUSES = frozenset({404, 405, 501})
LONGEST_TOLD_S = 86_400.0


class RetryBudget:
    """Requests and repeats of one expert in a window that slides by tenths."""

    __slots__ = ("_at", "_repeats", "_requests")

    def __init__(self) -> None:
        self._requests = [0] * SLOTS
        self._repeats = [0] * SLOTS
        self._at = 0

    def asked(self, now: float) -> None:
        """Counts one request's first attempt."""
        self._requests[self._slot(now)] += 1

    def left(self, now: float) -> bool:
        """Whether one more repeat may be."""
        self._slot(now)
        return sum(self._repeats) + 1 <= max(FLOOR, SHARE * sum(self._requests))

    def take(self, now: float) -> bool:
        """Counts one repeat, if it may be."""
        allowed = self.left(now)
        self._repeats[self._slot(now)] += allowed
        return allowed

    def _slot(self, now: float) -> int:
        at = int(now * (SLOTS / WINDOW_S))
        if at != self._at:
            for gone in range(max(self._at + 1, at - SLOTS + 1), at + 1):
                self._requests[gone % SLOTS] = self._repeats[gone % SLOTS] = 0
            self._at = at
        return at % SLOTS


def retry_after_s(plain: str | None, milliseconds: str | None = None) -> float | None:
    """What a server says of when to come back: `retry-after`, which is seconds or a date (RFC 9110, 10.2.3), or
    `retry-after-ms`, which goes before it. None for neither, and for what says nothing.
    """
    for said, scale in ((milliseconds, 1e-3), (plain, 1.0)):
        if said is None:
            continue
        try:
            seconds = float(said) * scale
        except ValueError:
            try:
                seconds = max(parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
            except (ValueError, OverflowError):
                continue
        if seconds >= 0:
            return min(seconds, LONGEST_TOLD_S)
    return None


def pause_s(failures: list[ExpertError], rounds: int, left_s: float) -> float | None:
    """How long to wait until all are asked again; None where that does not help or does not fit into `left_s`.

    Full jitter: any time up to a bound that doubles with every round, and no shorter than the shortest
    `Retry-After` that was given.
    """
    passing = [one for one in failures if one.kind in PASSING and one.status not in LASTING_STATUSES]
    if not passing:
        return None
    wait_s = random.uniform(0.0, min(FIRST_PAUSE_S * 2**rounds, LONGEST_PAUSE_S))
    told = [one.retry_after_s for one in passing if one.retry_after_s is not None]
    if len(told) == len(passing):
        wait_s += min(told)
    return wait_s if wait_s < min(left_s, LONGEST_PAUSE_S) else None
