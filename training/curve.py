"""Cost and quality of a choice as its price of quality varies, and the bounds between which it must lie.

Everything is computed for one sample and for many bootstrap resamples of its queries at once: arrays are [B, L], a
curve of L points for each of B resamples. Resamples are shared by all systems, so differences are paired.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from router.objective import utility
from router.types import Floats

GRID = 513  # costs at which an area is summed
CHUNK = 64  # resamples held at once


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
        """Mean quality over the costs from `low` to `high`."""
        return float(np.interp(np.linspace(low, high, GRID), self.cost, self.quality).mean())


def static_mix(cost: Floats, quality: Floats) -> Curve:
    """What mixing single experts reaches without looking at the query: the rising part of their upper hull.

    `cost` and `quality` are the experts' means, [K].
    """
    hull: list[int] = []
    for k in np.lexsort((-quality, cost)):
        if hull and quality[k] <= quality[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(cost, quality, hull[-2], k) >= _slope(cost, quality, hull[-2], hull[-1]):
            hull.pop()
        hull.append(int(k))
    return Curve(cost=cost[hull], quality=quality[hull])


def _slope(cost: Floats, quality: Floats, a: int, b: int) -> float:
    return float((quality[b] - quality[a]) / max(cost[b] - cost[a], np.finfo(float).tiny))


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

    def swept(self, predicted: Floats, expected: Floats | None = None) -> tuple[Floats, Floats]:
        """What choosing by `predicted` [n, K] costs and reaches on each query at each lambda; both [n, L].

        The choice reckons with the `expected` cost [n, K]; default: each expert's mean over the sample.
        """
        rows = np.arange(len(self.quality))
        choices = list(sweep(predicted, self.cost.mean(axis=0) if expected is None else expected))
        cost = np.stack([self.cost[rows, choice] for choice in choices], axis=1)
        quality = np.stack([self.quality[rows, choice] for choice in choices], axis=1)
        return cost, quality


def resampled(queries: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Weights [b, n] of the queries in bootstrap resamples, in chunks; the first row is the sample itself."""
    yield np.full((1, queries), 1.0 / queries)
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        yield rng.multinomial(queries, np.full(queries, 1.0 / queries), size=size) / queries
