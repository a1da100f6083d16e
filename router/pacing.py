"""Budget pacing: the price of quality is steered so that what is spent lands on the budget as its period ends.

Adaptive pacing (Balseiro and Gur, Learning in Repeated Auctions with Budgets, 2019): the price of quality is the
dual of the budget, and each request moves it by how far its cost was from what is left for each request still to
come. It is one primal step (the choice at that price) and one dual step a request, as in the primal-dual reading of
loss-free balancing (ALF-LB); the step is multiplicative, since prices range over many orders of magnitude.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from router.objective import utility
from router.types import Floats

STEP = 0.02  # of the price's logarithm, for a request that cost twice what was left for it
LARGEST_MISS = 20.0  # a request's cost in what was left for it, beyond which it counts no more
HOURS, HOUR_S = 24, 3_600.0
FIRST_S = 60.0  # of traffic that a new pacer takes for granted: one request in it
DOUBT_S = 600.0  # of an hour's own traffic that weigh as much as the mean of all hours
PRICES = 64
EDGE = 0.01  # of the way between the least and the most that choices cost, from which on a price changes nothing


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a request costs on average at each price of quality: `prices` [P] rise, `spend` [P] falls, in USD."""

    prices: Floats
    spend: Floats

    @classmethod
    def of(cls, quality: Floats, cost_usd: Floats) -> Self | None:
        """By estimates [m, K] on reference queries; None where every choice costs the same."""
        positive = cost_usd[cost_usd > 0]
        if not positive.size:
            return None
        rows = np.arange(len(quality))

        def spend(price: float) -> float:
            return float(cost_usd[rows, utility(quality, cost_usd, price).argmax(axis=1)].mean())

        wide = np.geomspace(1e-6 / float(positive.max()), 1e6 / float(positive.min()), 4 * PRICES)
        spent = np.array([spend(price) for price in wide])
        if spent[0] <= spent[-1]:
            return None
        edge = EDGE * (spent[0] - spent[-1])
        inside = np.flatnonzero((spent < spent[0] - edge) & (spent > spent[-1] + edge))
        first, last = (max(inside[0] - 1, 0), min(inside[-1] + 1, len(wide) - 1)) if inside.size else (0, -1)
        prices = np.geomspace(wide[first], wide[last], PRICES)
        return cls(prices, np.minimum.accumulate([spend(price) for price in prices]))

    def price_at(self, usd: float) -> float:
        """At which a request costs `usd` on average; the nearest there is."""
        return float(np.exp(np.interp(-usd, -self.spend, np.log(self.prices))))


class Forecast:
    """How many requests are to come, by how many came at each hour of the day. Times are Unix seconds, UTC.

    An hour's rate is a mean over the days, older ones counting half as much with each day, drawn to that of all
    hours while it is hardly known.
    """

    def __init__(self, now: float) -> None:
        self._arrivals = [0.0] * HOURS
        self._seen_s = [0.0] * HOURS
        self._at = now

    def arrived(self, now: float) -> None:
        self._watched_until(now)
        self._arrivals[_hour(now)] += 1.0

    def coming(self, now: float, left_s: float) -> float:
        """Requests expected in the `left_s` seconds from `now`, at least one."""
        mean = (sum(self._arrivals) + 1.0) / (sum(self._seen_s) + FIRST_S)
        rates = [
            (count + mean * DOUBT_S) / (seen + DOUBT_S)
            for count, seen in zip(self._arrivals, self._seen_s, strict=True)
        ]
        days, rest = divmod(left_s, HOURS * HOUR_S)
        total = days * HOUR_S * sum(rates)
        while rest > 0:
            part = min(HOUR_S - now % HOUR_S, rest)
            total += part * rates[_hour(now)]
            now, rest = now + part, rest - part
        return max(total, 1.0)

    def _watched_until(self, now: float) -> None:
        """Counts the time since the last look, and forgets half of an hour's past as it begins."""
        at = max(self._at, now - HOURS * HOUR_S)
        while at < now:
            hour, until = _hour(at), min((at // HOUR_S + 1) * HOUR_S, now)
            if at % HOUR_S == 0:
                self._arrivals[hour] *= 0.5
                self._seen_s[hour] *= 0.5
            self._seen_s[hour] += until - at
            at = until
        self._at = max(now, self._at)


class Pacer:
    """One budget's price of quality. Times are Unix seconds, UTC; money is USD."""

    def __init__(self, tariff: Tariff, now: float) -> None:
        self.tariff = tariff
        self._forecast = Forecast(now)
        self._share_usd = 0.0
        self._begun = False
        self.price = 0.0

    def arrived(self, left_usd: float, left_s: float, now: float) -> None:
        """A request comes `now`, while so much is left of the budget and of its period; `price` is its price."""
        self._forecast.arrived(now)
        self._share_usd = max(left_usd, 0.0) / self._forecast.coming(now, left_s)
        if not self._begun:
            self._begun, self.price = True, self.tariff.price_at(self._share_usd)

    def spent(self, cost_usd: float) -> None:
        """What a request came to."""
        missed = min(cost_usd / self._share_usd, LARGEST_MISS) if self._share_usd > 0 else LARGEST_MISS
        least, most = self.tariff.prices[[0, -1]].tolist()
        self.price = min(max(self.price * math.exp(STEP * (missed - 1.0)), least), most)


def _hour(at: float) -> int:
    return int(at // HOUR_S) % HOURS
