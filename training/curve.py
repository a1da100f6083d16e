"""Cost and quality of a choice as its price of quality varies, and the bounds between which it must lie.

Between two points of a curve lies a mix of both: each query is sent by the one or the other choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.objective import utility
from router.types import Floats


@dataclass(frozen=True)
class Curve:
    """Points of (cost, quality), cheapest first; between two of them a mix of both is played."""

    cost: Floats  # [L]
    quality: Floats  # [L]

    @classmethod
    def through(cls, cost: Floats, quality: Floats) -> "Curve":
        order = np.argsort(cost, kind="stable")
        return cls(cost=cost[order], quality=quality[order])

    def at(self, cost: float) -> float:
        """The quality to be had for `cost`; beyond the last point, the last point's."""
        return float(np.interp(cost, self.cost, self.quality))

    def area(self, low: float, high: float) -> float:
        """Mean quality over the costs from `low` to `high`; beyond its ends a curve is flat."""
        if high <= low:
            return self.at(low)
        inner = (self.cost > low) & (self.cost < high)
        cost = np.concatenate([[low], self.cost[inner], [high]])
        quality = np.concatenate([[self.at(low)], self.quality[inner], [self.at(high)]])
        return float((np.diff(cost) * (quality[1:] + quality[:-1])).sum() / (2 * (high - low)))

    def reaching(self, quality: float) -> float:
        """The least cost at which this quality is reached; infinite where it never is."""
        over = np.flatnonzero(self.quality >= quality)
        if not len(over):
            return float("inf")
        k = int(over[0])
        if k == 0:
            return float(self.cost[0])
        part = (quality - self.quality[k - 1]) / (self.quality[k] - self.quality[k - 1])
        return float(self.cost[k - 1] + part * (self.cost[k] - self.cost[k - 1]))


class Mix(NamedTuple):
    """Two points of a path and the share of the second."""

    first: int
    second: int
    share: float

    def of(self, path: Floats) -> Floats:
        """What each query gets, [n], of `path` [n, L]."""
        return np.asarray(path[:, self.first] * (1 - self.share) + path[:, self.second] * self.share)


def mix_for(budget: float, cost: Floats) -> Mix:
    """The two neighbours among points of mean `cost` [L] that together cost `budget`, or the nearest alone."""
    order = np.argsort(cost, kind="stable")
    place = int(np.searchsorted(cost[order], budget, side="right"))
    if place in (0, len(order)):
        only = int(order[min(place, len(order) - 1)])
        return Mix(only, only, 0.0)
    first, second = int(order[place - 1]), int(order[place])
    return Mix(first, second, float((budget - cost[first]) / (cost[second] - cost[first])))


def hull(cost: Floats, quality: Floats) -> list[int]:
    """The points on the rising part of the upper convex hull of [L] points, cheapest first."""
    costs, qualities = cost.tolist(), quality.tolist()
    tiny = float(np.finfo(float).tiny)

    def slope(a: int, b: int) -> float:
        return float((qualities[b] - qualities[a]) / max(costs[b] - costs[a], tiny))

    kept: list[int] = []
    for k in np.lexsort((-quality, cost)).tolist():
        if kept and qualities[k] <= qualities[kept[-1]]:
            continue
        while len(kept) > 1 and slope(kept[-2], k) >= slope(kept[-2], kept[-1]):
            kept.pop()
        kept.append(k)
    return kept


def static_mix(cost: Floats, quality: Floats) -> Curve:
    """What mixing single experts reaches without looking at the query: the rising part of their upper hull.

    `cost` and `quality` are the experts' means, [K].
    """
    kept = hull(cost, quality)
    return Curve(cost=cost[kept], quality=quality[kept])


def sweep(quality: Floats, cost: Floats, points: int = 400) -> Iterator[Floats]:
    """The choices [n] of `argmax quality - lambda * cost` at ever higher lambda, from the best to the cheapest.

    `quality` [n, K] is predicted, `cost` [K] or [n, K] expected. Repeated choices are left out.
    """
    gaps = np.diff(np.unique(cost if cost.ndim == 1 else cost.mean(axis=0)))
    widest, narrowest = (float(gaps.sum()), float(gaps.min())) if len(gaps) else (1.0, 1.0)
    before = None
    for price in (0.0, *np.geomspace(1e-3 / widest, 2.0 / narrowest, points)):
        choice = utility(quality, cost, price).argmax(axis=1)
        if before is None or not np.array_equal(choice, before):
            yield choice
        before = choice


@dataclass(frozen=True)
class Sample:
    """Queries on which every expert was observed; `quality` and `cost` are [n, K]."""

    quality: Floats
    cost: Floats

    def choices(self, predicted: Floats, expected: Floats | None = None) -> NDArray[np.intp]:
        """The expert that each query gets at each lambda, [n, L], by `predicted` [n, K].

        The choice reckons with the `expected` cost [n, K]; default: each expert's mean over the sample.
        """
        return np.stack(list(sweep(predicted, self.cost.mean(axis=0) if expected is None else expected)), axis=1)

    def played(self, choices: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """What `choices` [n, L] cost and reach on each query; both [n, L]."""
        rows = np.arange(len(self.quality))[:, None]
        return self.cost[rows, choices], self.quality[rows, choices]

    def swept(self, predicted: Floats, expected: Floats | None = None) -> tuple[Floats, Floats]:
        """What choosing by `predicted` [n, K] costs and reaches on each query at each lambda; both [n, L]."""
        return self.played(self.choices(predicted, expected))
