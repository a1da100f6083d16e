"""Parts of the queries, each by itself: what the policy costs and reaches at half the best single expert's cost.

The choice is made over all queries, as a router makes it; a part may cost more or less than half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.clustering import half_norms, kmeans
from router.types import Floats
from training.curve import Mix, Sample, hull, mix_for
from training.interval import Interval, mean_intervals

LEAST = 10  # queries of a part; smaller ones are put together
PER_CLUSTER = 20  # queries, on average
CLUSTERS = (6, 60)  # at least and at most
SIZES = ("head", "medium", "tail")


@dataclass(frozen=True)
class Spot:
    """Means per query."""

    cost_usd: float
    quality: float


@dataclass(frozen=True)
class Slice:
    """`gain` is the policy's quality above the static mix's, `above_best` above the best single expert's.

    `chosen` is the share of the part's queries that the policy sends to each expert.
    """

    name: str
    queries: int
    policy: Spot
    static_mix: Spot
    best: Spot
    oracle: Spot
    gain: Interval
    above_best: Interval
    chosen: Mapping[str, float]


@dataclass(frozen=True)
class Plays:
    """What each system costs and reaches on each query, [n], and which share of it each expert gets, [n, K]."""

    systems: Mapping[str, tuple[Floats, Floats]]
    sent: Floats

    def slices(self, labels: Sequence[str], experts: Sequence[str], rng: np.random.Generator) -> tuple[Slice, ...]:
        """One per label, the largest first."""
        names, index, counts = np.unique(np.array(labels, dtype=object), return_inverse=True, return_counts=True)
        order = np.lexsort((np.arange(len(names)), -counts))
        return tuple(self._slice(str(names[k]), np.flatnonzero(index == k), experts, rng) for k in order.tolist())

    def _slice(self, name: str, rows: NDArray[np.intp], experts: Sequence[str], rng: np.random.Generator) -> Slice:
        spots = {
            system: Spot(float(cost[rows].mean()), float(quality[rows].mean()))
            for system, (cost, quality) in self.systems.items()
        }
        reached = {system: quality[rows] for system, (_, quality) in self.systems.items()}
        gains = np.stack([reached["policy"] - reached[other] for other in ("static_mix", "best")], axis=1)
        gain, above_best = mean_intervals(gains, rng)
        share = self.sent[rows].mean(axis=0)
        return Slice(
            name=name,
            queries=len(rows),
            **spots,
            gain=gain,
            above_best=above_best,
            chosen={expert: float(part) for expert, part in zip(experts, share, strict=True) if part > 0},
        )


def plays_at(sample: Sample, choices: Mapping[str, NDArray[np.intp]], spend: float) -> Plays:
    """All systems where each spends the share `spend` of the best single expert's cost, or its least.

    `choices` [n, L] are those of `policy` and `oracle` at each lambda.
    """
    cost, quality = sample.cost.mean(axis=0), sample.quality.mean(axis=0)
    best = int(quality.argmax())
    budget = max(spend * float(cost[best]), float(cost.min()))
    systems = {"best": (sample.cost[:, best], sample.quality[:, best])}
    kept = hull(cost, quality)
    mix = mix_for(budget, cost[kept])
    systems["static_mix"] = (mix.of(sample.cost[:, kept]), mix.of(sample.quality[:, kept]))
    sent: Floats = np.zeros(sample.cost.shape)
    for name, chosen in choices.items():
        spent, reached = sample.played(chosen)
        mix = mix_for(budget, spent.mean(axis=0))
        systems[name] = (mix.of(spent), mix.of(reached))
        if name == "policy":
            sent = _sent(chosen, mix, sample.cost.shape[1])
    return Plays(systems=systems, sent=sent)


def _sent(choices: NDArray[np.intp], mix: Mix, experts: int) -> Floats:
    each = np.eye(experts)
    return np.asarray(each[choices[:, mix.first]] * (1 - mix.share) + each[choices[:, mix.second]] * mix.share)


def domain_labels(domains: Sequence[str]) -> list[str]:
    """The domains, those with few queries put together."""
    found, counts = np.unique(np.array(domains, dtype=object), return_counts=True)
    few = {str(name) for name, count in zip(found, counts, strict=True) if count < LEAST}
    other = f"({len(few)} smaller domains)"
    return [other if len(few) > 1 and name in few else name or "(no domain)" for name in domains]


def tail_labels(vectors: Floats, rng: np.random.Generator) -> list[str]:
    """`head`, `medium` or `tail`: clusters of the queries by size, each name for about a third of the queries.

    After RIDE (Wang et al., 2021), which tells classes with many, a medium number of and few examples apart;
    queries have no classes, so K-means stands in for them.
    """
    count = min(int(np.clip(len(vectors) // PER_CLUSTER, *CLUSTERS)), len(vectors))
    centroids = kmeans(vectors, count, rng)
    cluster = (vectors @ centroids.T - half_norms(centroids)).argmax(axis=1)
    sizes = np.bincount(cluster, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    group = np.empty(len(sizes), dtype=np.intp)
    group[order] = np.minimum(3 * before // len(vectors), 2).astype(np.intp)
    return [SIZES[place] for place in group[cluster].tolist()]
