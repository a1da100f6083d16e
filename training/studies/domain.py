"""Leave one domain out: the policy never saw it, and is asked about nothing else.

What it must not fall below is what one would do without a policy: take the best single model of the training data,
or the static mix of the training data, whatever the new domain's own best would be.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.policy import Policy
from router.types import Floats, Outcomes
from training.curve import Curve, Sample, hull
from training.data import experts_of, rows_of
from training.evaluate import comparable, known_experts
from training.interval import RESAMPLES, Interval, interval, mean_intervals, resampled
from training.studies.base import Setup, Tick, silent

LEAST = 10  # held-out queries of a domain
MOST = 24  # domains, the largest first: each takes a training


@dataclass(frozen=True)
class UnseenDomain:
    """`best` is the best single model of the training data, `policy` and `best_quality` are means at the preference
    `best`, `above_best` their difference. `above_mix` is the policy's area above the static mix of the training
    data.
    """

    domain: str
    queries: int
    best: str
    policy: float
    best_quality: float
    above_best: Interval
    above_mix: Interval


@dataclass(frozen=True)
class DomainStudy:
    """`above_best` and `above_mix` are over all domains, each counting by its queries."""

    domains: tuple[UnseenDomain, ...]
    above_best: Interval
    above_mix: Interval
    skipped: Mapping[str, str]


def left_out_domains(setup: Setup, most: int = MOST) -> tuple[list[str], dict[str, str]]:
    """The domains to leave out in turn, the largest first, and why others are not. Raises `DataError`."""
    seen, held = setup.train.queries.domains, setup.held_out.queries.domains
    if seen is None or held is None:
        raise DataError("leaving domains out needs a column `domain`")
    named = Counter(label for label in held if label)
    found = [label for label, count in named.most_common() if count >= LEAST]
    if len({label for label in seen if label}) < 2 or not found:
        raise DataError(
            f"leaving domains out needs two domains in training and {LEAST} held-out queries of one; held out are: "
            + (", ".join(f"{label} ({count})" for label, count in named.most_common(8)) or "none with a name")
        )
    few = {label: count for label, count in named.items() if count < LEAST}
    skipped = {label: f"{count} held-out queries, {LEAST} are needed" for label, count in few.items()}
    skipped |= dict.fromkeys(found[most:], f"only the {most} largest are left out in turn")
    return found[:most], skipped


def without_each_domain(setup: Setup, tick: Tick = silent, most: int = MOST) -> DomainStudy:
    """Trains once per domain, on the training rows of all others. Raises `DataError` where there are not two."""
    labels, skipped = left_out_domains(setup, most)
    seen, held = (np.array(part.queries.domains, dtype=object) for part in (setup.train, setup.held_out))
    domains, gains, areas = [], [], []
    for place, label in enumerate(labels):
        others = np.flatnonzero(seen != label)
        own = np.flatnonzero(held == label)
        try:
            parts = rows_of(setup.train, others), rows_of(setup.held_out, own)
            found = _unseen(setup.trained(parts[0]), *parts, setup.rng(place))
        except DataError as error:
            skipped[label] = str(error)
        else:
            domains.append(replace(found[0], domain=label))
            gains.append(found[1])
            areas.append(found[2])
        tick(label)
    if not domains:
        raise DataError(f"no domain could be left out; {next(iter(skipped.values()))}")
    weights = np.array([unseen.queries for unseen in domains]) / sum(unseen.queries for unseen in domains)
    (above_best,) = mean_intervals(np.concatenate(gains)[:, None], setup.rng(len(labels)))
    above_mix = interval(np.einsum("d,dr->r", weights, np.stack(areas)))
    return DomainStudy(tuple(domains), above_best, above_mix, skipped)


def _unseen(
    policy: Policy, train: Outcomes, own: Outcomes, rng: np.random.Generator
) -> tuple[UnseenDomain, Floats, Floats]:
    """The domain's line, the gain over the best single model on each query, and the resampled gain in area."""
    known, columns, _ = known_experts(own, policy.experts_)
    rows, kept, _ = comparable(known)
    names = [known.experts[k] for k in kept]
    alternatives = _Alternatives.of(experts_of(train, [train.experts.index(name) for name in names]))
    predicted = policy.predict(known.queries).quality[:, columns][np.ix_(rows, kept)]
    sample = Sample(quality=known.quality[np.ix_(rows, kept)], cost=known.cost_usd[np.ix_(rows, kept)])
    chosen = sample.quality[np.arange(len(rows)), predicted.argmax(axis=1)]
    reached = sample.quality[:, alternatives.best]
    gain, areas = chosen - reached, alternatives.area_gains(sample, predicted, rng)
    line = UnseenDomain(
        domain="",
        queries=len(rows),
        best=names[alternatives.best],
        policy=float(chosen.mean()),
        best_quality=float(reached.mean()),
        above_best=mean_intervals(gain[:, None], rng)[0],
        above_mix=interval(areas),
    )
    return line, gain, areas


@dataclass(frozen=True)
class _Alternatives:
    """What the training data alone would have one do: columns of experts, and their mean costs [K]."""

    cheapest: int
    best: int
    mix: list[int]
    cost: Floats

    @classmethod
    def of(cls, train: Outcomes) -> "_Alternatives":
        whole = np.isfinite(train.quality).all(axis=1) & np.isfinite(train.cost_usd).all(axis=1)
        if not whole.any():
            raise DataError("no training query was answered, with costs, by every expert that is compared")
        cost, quality = train.cost_usd[whole].mean(axis=0), train.quality[whole].mean(axis=0)
        return cls(int(cost.argmin()), int(quality.argmax()), hull(cost, quality), cost)

    def area_gains(self, sample: Sample, predicted: Floats, rng: np.random.Generator) -> Floats:
        """The policy's area above the static mix's on the sample and its resamples, [1 + RESAMPLES].

        The policy reckons with the costs of the training data; all are charged what was recorded.
        """
        choices = sample.choices(predicted, np.broadcast_to(self.cost, predicted.shape))
        policy, mix = sample.played(choices), sample.played(_constant(self.mix, len(predicted)))
        ends = sample.played(_constant([self.cheapest, self.best], len(predicted)))[0]
        gains = []
        for weights in resampled(len(predicted), RESAMPLES, rng):
            spent = [(weights @ cost, weights @ quality) for cost, quality in (policy, mix)]
            for b, (low, high) in enumerate(weights @ ends):
                routed, mixed = (Curve.through(cost[b], quality[b]).area(low, high) for cost, quality in spent)
                gains.append(routed - mixed)
        return np.array(gains)


def _constant(columns: list[int], queries: int) -> NDArray[np.intp]:
    return np.tile(np.array(columns, dtype=np.intp), (queries, 1))
