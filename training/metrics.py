"""The published figures of a router, under their names and by their authors' definitions.

Those of RouteLLM are defined between a weak and a strong model. In a pool of more than two, the weak one is the
cheapest model and the strong one the best single model, and the policy chooses between these two alone.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from router.types import Floats
from training.curve import Curve, static_mix
from training.interval import Interval, interval, p_value

ARENA_BETA = 0.1
ARENA_COSTS = (0.0044, 200.0)  # USD per 1,000 queries


def aiq(curve: Curve, low: float, high: float) -> float:
    """RouterBench's Average Improvement in Quality (Hu et al., 2024).

    AIQ = 1 / (c_max - c_min) * integral from c_min to c_max of the router's non-decreasing convex hull, here from
    the cheapest to the dearest single model. The hull picks the best of the policy's points on the queries that it
    is judged on, which flatters it. The static mix is RouterBench's Zero router.
    """
    return static_mix(curve.cost, curve.quality).area(low, high)


def deferral_area(curve: Curve, dearest: float) -> float:
    """UniRoute's Area (Jitkrittum et al., 2025): under the deferral curve, quality over relative cost.

    Area = integral from 0 to 1 of Q(r) dr, r being the cost as a share of the dearest model's. The paper leaves
    open what holds beyond the curve's ends: here the curve is flat there.
    """
    return curve.area(0.0, dearest)


def quality_neutral_cost(curve: Curve, cost: float, quality: float) -> float:
    """UniRoute's QNC (Jitkrittum et al., 2025): the least relative cost at which the best single model is matched.

    QNC = min {c : Q(c) >= quality} / cost, for the best model's `quality` and `cost`. At most 1: where the policy
    does not get there for less, the best model alone does it at its own cost.
    """
    return min(1.0, curve.reaching(quality) / cost) if cost > 0 else 1.0


def arena_score(quality: float, cost_usd: float) -> float:
    """RouterArena's score (Lu et al., 2025) of a mean `quality` for a mean cost in USD per query.

    S = (1 + beta) A C / (beta A + C) with beta = 0.1; A is the accuracy and C the cost c in USD per 1,000 queries
    on a log scale: C = (log2 200 - log2 c) / (log2 200 - log2 0.0044), here kept within [0, 1].
    """
    low, high = np.log2(ARENA_COSTS)
    spent = np.log2(max(1_000 * cost_usd, ARENA_COSTS[0]))
    cheapness = float(np.clip((high - spent) / (high - low), 0.0, 1.0))
    below = ARENA_BETA * quality + cheapness
    return (1 + ARENA_BETA) * quality * cheapness / below if below > 0 else 0.0


@dataclass(frozen=True)
class Calls:
    """Queries in the order in which a policy would give them to the strong model, for RouteLLM's figures.

    `preference` [n] is what it expects the strong model to do better, `gap` [n] what it did better. Queries that
    are preferred alike are given over as one group, in an order drawn at random.
    """

    preference: Floats
    gap: Floats

    def recovered(self, weights: Floats) -> list[Curve | None]:
        """The performance gap recovered over the share of calls to the strong model, for `weights` [b, n].

        PGR = (quality - weak) / (strong - weak) (Ong et al., 2024). None where the strong model is not better.
        """
        order = np.argsort(-self.preference, kind="stable")
        ends = np.flatnonzero(np.diff(self.preference[order], append=np.inf) != 0)
        start = np.zeros((len(weights), 1))
        calls = np.hstack([start, np.cumsum(weights[:, order], axis=1)[:, ends]])
        gained = np.hstack([start, np.cumsum(weights[:, order] * self.gap[order], axis=1)[:, ends]])
        return [
            Curve(cost=share, quality=gain / gain[-1]) if gain[-1] > 0 else None
            for share, gain in zip(calls, gained, strict=True)
        ]


def apgr(recovered: Curve) -> float:
    """RouteLLM's Average PGR (Ong et al., 2024): the integral of PGR over the share of calls to the strong model.

    The paper sums it at ten shares; here it is exact. A choice without looking at the query has 0.5.
    """
    return recovered.area(0.0, 1.0)


def cpt(recovered: Curve, level: float) -> float:
    """RouteLLM's CPT(x) (Ong et al., 2024): the least share of calls to the strong model at which PGR reaches x.

    A choice without looking at the query has x itself.
    """
    return min(1.0, recovered.reaching(level))


def brier(predicted: Floats, observed: Floats) -> float:
    """The Brier score (Brier, 1950): the mean of (predicted - observed)^2, over the cells that are given."""
    return float(((predicted - observed) ** 2).mean())


def ece(predicted: Floats, observed: Floats, bins: NDArray[np.intp]) -> float:
    """Expected calibration error (Naeini et al., 2015): sum of |B| / N * |mean observed - mean predicted|.

    `bins` [N] numbers each answer's bin; Guo et al. (2017) take 15 of equal width (`equal_width`).
    """
    gaps = np.bincount(bins, weights=predicted - observed)
    return float(np.abs(gaps).sum() / len(predicted))


def equal_width(predicted: Floats, count: int = 15) -> NDArray[np.intp]:
    """The bin of each prediction, [0, 1] being cut into `count` of equal width."""
    return np.minimum((predicted * count).astype(np.intp), count - 1)


def equal_mass(predicted: Floats, count: int = 15) -> NDArray[np.intp]:
    """The bin of each prediction, every bin holding as many."""
    bins = np.empty(len(predicted), dtype=np.intp)
    for number, part in enumerate(np.array_split(np.argsort(predicted, kind="stable"), count)):
        bins[part] = number
    return bins


@dataclass(frozen=True)
class Metric:
    """A published figure of the policy beside the static mix's.

    `gain` is how much better the policy is, whichever direction is better; `p` is one-sided, of there being no
    gain.
    """

    policy: Interval
    static_mix: float
    gain: Interval
    p: float
    better: Literal["higher", "lower"]


#: figure -> whether more of it is better, and the static mix's where that follows from the definition
PUBLISHED: dict[str, tuple[Literal["higher", "lower"], float | None]] = {
    "AIQ": ("higher", None),
    "APGR": ("higher", 0.5),
    "CPT(50)": ("lower", 0.5),
    "CPT(80)": ("lower", 0.8),
    "deferral area": ("higher", None),
    "QNC": ("lower", 1.0),
    "arena score": ("higher", None),
}


def published(figures: dict[str, Floats]) -> dict[str, Metric]:
    """The metrics from each figure's values on the sample and its resamples; undefined ones are left out.

    `figures` holds `NAME policy` and, where it does not follow from the definition, `NAME static_mix`.
    """
    found = {}
    for name, (better, fixed) in PUBLISHED.items():
        reached = figures[f"{name} policy"]
        if not np.isfinite(reached[0]):
            continue
        mix = figures[f"{name} static_mix"] if fixed is None else np.full(len(reached), fixed)
        gain = reached - mix if better == "higher" else mix - reached
        found[name] = Metric(interval(reached), float(mix[0]), interval(gain), p_value(gain), better)
    return found
