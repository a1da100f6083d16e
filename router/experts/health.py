"""When to leave one address of an expert alone, and when to try it again."""

import math
from dataclasses import dataclass

FAILURES_TO_REST = 3
FIRST_REST_S = 2.0
LONGEST_REST_S = 60.0
MOST_DOUBLINGS = 5
#: Of the calls of the last seconds; fewer than `FEWEST_CALLS` show nothing.
FADE_S = 10.0
FEWEST_CALLS = 10.0
OUTLIER = 0.5


@dataclass(slots=True)
class Health:
    """Rests an address after three failures in a row, twice as long each time it fails again on its return.

    When a rest is over, one request tries it; the others stay away until that one has ended. A 429 that says when
    to come back rests it at once.
    """

    failures: int = 0
    rests: int = 0
    until: float = 0.0
    trying: bool = False

    def resting_s(self, now: float) -> float:
        """Seconds until it may be asked; zero while it is healthy."""
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

    def begun(self) -> None:
        """A stream has begun: the address is back. Earlier failures count until one ends as it should."""
        self.until = 0.0
        self.trying = False

    def fail(self, now: float, retry_after_s: float | None) -> None:
        self.failures += 1
        if retry_after_s is not None:
            self.until = max(self.until, now + min(retry_after_s, LONGEST_REST_S))
        elif self.trying or (self.failures >= FAILURES_TO_REST and now >= self.until):
            # calls that were under way when a rest began, and named ones meanwhile, do not lengthen it
            self.rest(now)
        self.trying = False

    def rest(self, now: float) -> None:
        self.until = now + min(FIRST_REST_S * 2 ** min(self.rests, MOST_DOUBLINGS), LONGEST_REST_S)
        self.rests += 1

    def abandon(self) -> None:
        """The try ended without a verdict (the caller left): the next request tries again."""
        self.trying = False


@dataclass(slots=True)
class ErrorRate:
    """The share of calls that failed, of the last seconds: fading counts."""

    calls: float = 0.0
    errors: float = 0.0
    at: float = 0.0

    def count(self, now: float, *, failed: bool) -> None:
        self.fade(now)
        self.calls += 1.0
        self.errors += failed

    def outlies(self, others: list["ErrorRate"]) -> bool:
        """Half of its calls fail, and at least twice the share of the others' calls together; of one moment."""
        if self.calls < FEWEST_CALLS or self.errors < OUTLIER * self.calls:
            return False
        calls, errors = sum(other.calls for other in others), sum(other.errors for other in others)
        return calls >= 1.0 and 2.0 * errors / calls <= self.errors / self.calls

    def fade(self, now: float) -> None:
        left = math.exp((self.at - now) / FADE_S)
        self.calls *= left
        self.errors *= left
        self.at = now
