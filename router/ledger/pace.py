"""The pace of budgets: which price of quality the budgets of a caller ask for now, over all replicas.

Each replica steers by its own requests and by what Redis last told of the budget, so they need not agree on a
price: each lands its own requests on the same share of what is left. A price is not kept over a restart; it begins
where the policy's reference queries would spend what is left.
"""

import time
from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from router.ledger.caps import Cap
from router.ledger.share import Shares
from router.pacing import Pacer, Tariff


class Pace:
    def __init__(self, tariff: Tariff, shares: Shares) -> None:
        self._tariff = tariff
        self._shares = shares
        self._pacers: dict[str, Pacer] = {}

    def by(self, tariff: Tariff) -> "Pace":
        """The same budgets, paced by another tariff from now on."""
        pace = Pace(tariff, self._shares)
        pace._pacers = self._pacers
        for pacer in self._pacers.values():
            pacer.tariff = tariff
        return pace

    def arrived(self, caps: Sequence[Cap]) -> float | None:
        """The price of quality for a request that comes now: the highest of the caps that pace; None: none does."""
        now = time.time()
        for cap in caps:
            if cap.pace:
                pacer = self._pacers.get(cap.key)
                if pacer is None:
                    pacer = self._pacers[cap.key] = Pacer(self._tariff, now)
                replicas = self._shares.replicas
                left_usd = self._shares[cap].left_nano(cap, replicas) / 1e9
                pacer.arrived(left_usd / replicas, left_s(cap.period, now), now)
        return self.price(caps)

    def price(self, caps: Sequence[Cap]) -> float | None:
        """As it stands, for one that only asks."""
        prices = [self._pacers[cap.key].price for cap in caps if cap.pace and cap.key in self._pacers]
        return max(prices, default=None)

    def spent(self, caps: Sequence[Cap], cost_nano: int) -> None:
        """What a request under these caps came to."""
        for cap in caps:
            if cap.pace and (pacer := self._pacers.get(cap.key)) is not None:
                pacer.spent(cost_nano / 1e9)


def left_s(per: str, now: float) -> float:
    """Seconds from Unix time `now` to the end of its UTC day, week (Sunday) or month."""
    at = datetime.fromtimestamp(now, UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"day": 1, "week": 7 - at.weekday(), "month": monthrange(at.year, at.month)[1] - at.day + 1}[per]
    return (midnight + timedelta(days=days)).timestamp() - now
