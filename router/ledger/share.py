"""One replica's share of every cap, from memory: what holds while Redis does not answer.

A replica takes its part, one of the replicas that were last seen, of a rate limit, of the places of a concurrency
limit, and of what was left of a budget when Redis last told.
"""

import time
from collections import defaultdict, deque
from datetime import UTC, datetime

from router.ledger.caps import SLOTS, Cap

MINUTE_S = SLOTS * 0.2


class Share:
    """What this replica did under one cap. Times are seconds on one monotonic clock."""

    __slots__ = ("_entries", "_period", "_since", "_sum", "active", "told")

    def __init__(self) -> None:
        self.active = 0
        self.told = 0  # used by all replicas, as Redis last said
        self._since = 0  # nano-dollars taken since then
        self._period: tuple[int, ...] = ()
        self._entries: deque[tuple[float, int]] = deque()  # of the last minute
        self._sum = 0

    def tell(self, cap: Cap, used: int) -> None:
        """Redis said how much is used, this request included."""
        self.told, self._since = used, 0
        if cap.kind == "calendar":
            self._period = _period(cap.period)

    def take(self, cap: Cap, amount: int, now: float) -> None:
        """Counts what was admitted, or what it came to be beyond that."""
        if cap.kind == "lease":
            self.active += 1
        elif cap.what == "usd":
            self._since += amount
        elif amount:
            self._forget(now)
            self._entries.append((now, amount))
            self._sum += amount

    def left_nano(self, cap: Cap, replicas: int) -> int:
        """Of a budget, as far as this replica knows."""
        if cap.kind == "calendar":
            self._begin(cap)
        return cap.limit - self.told - self._since * replicas

    def _begin(self, cap: Cap) -> None:
        if self._period != (period := _period(cap.period)):
            self.told, self._since, self._period = 0, 0, period

    def has_room(self, cap: Cap, amount: int, replicas: int, now: float) -> bool:
        """Whether the share leaves room; a replica may always have one request a minute and one at once."""
        if cap.kind == "lease":
            return self.active < max(cap.limit // replicas, 1)
        if cap.what == "usd":
            return not amount or amount * replicas <= self.left_nano(cap, replicas)
        self._forget(now)
        least = 1 if cap.what == "requests" else 0
        return self._sum + amount <= max(cap.limit // replicas, least)

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - MINUTE_S:
            self._sum -= self._entries.popleft()[1]


class Shares:
    """The shares by cap, and how many replicas there are."""

    def __init__(self) -> None:
        self.replicas = 1
        self._of: defaultdict[str, Share] = defaultdict(Share)

    def __getitem__(self, cap: Cap) -> Share:
        return self._of[cap.key]

    def refuses(self, caps: tuple[Cap, ...], amounts: tuple[int, ...]) -> Cap | None:
        """The first cap without room; None: all have it, and it is not yet taken."""
        now = time.monotonic()
        for cap, amount in zip(caps, amounts, strict=True):
            if not self._of[cap.key].has_room(cap, amount, self.replicas, now):
                return cap
        return None

    def left(self, cap: Cap) -> int:
        """Of this replica's share of a budget; of another cap nobody asks."""
        return self._of[cap.key].left_nano(cap, self.replicas) // self.replicas if cap.what == "usd" else 0

    def take(self, caps: tuple[Cap, ...], amounts: tuple[int, ...]) -> None:
        now = time.monotonic()
        for cap, amount in zip(caps, amounts, strict=True):
            self._of[cap.key].take(cap, amount, now)


def _period(per: str) -> tuple[int, ...]:
    today = datetime.now(UTC)
    if per == "day":
        return today.year, today.month, today.day
    if per == "month":
        return today.year, today.month
    return today.isocalendar()[:2]
