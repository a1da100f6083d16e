"""Estimates into a choice: quality, cost and latency under the caller's wishes.

The utility of an expert is `quality - lambda * cost_usd`, where lambda, the price of quality, is in quality per
dollar. Preferences are shares of what the best single expert would cost on the policy's reference queries: lambda
is found once per pool so that the mean expected cost meets the share. So `balanced` means the same in a pool of
cents and in a pool of dollars.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.errors import NoExpertFits
from router.types import Floats, Preference, Wishes

#: Mean spend of each preference, as a share of the best single expert's.
SPEND: dict[Preference, float] = {"cheap": 0.2, "balanced": 0.5, "best": 1.0}


def utility(quality: Floats, cost_usd: Floats, price_of_quality: float) -> Floats:
    """`quality - lambda * cost`, elementwise over [..., K]."""
    return np.asarray(quality - price_of_quality * cost_usd)


def cheapest_first(cost_usd: Floats) -> NDArray[np.intp]:
    """The experts [..., K] in an order in which the first of the highest utility is the one that `choose` takes."""
    return np.asarray(np.argsort(cost_usd, axis=-1, kind="stable"))


def price_of_quality(quality: Floats, cost_usd: Floats, share: float) -> float:
    """The smallest lambda at which choosing by `utility` spends at most `share` of the best single expert's cost.

    `quality` and `cost_usd` are [m, K] over reference queries. Bisects on a log scale: spend falls as lambda
    grows. Where even the cheapest choice spends more than `share`, the lambda of that cheapest choice returns.
    """
    rows = np.arange(len(quality))
    target = share * cost_usd[:, quality.mean(axis=0).argmax()].mean()

    def spend(price: float) -> float:
        return float(cost_usd[rows, utility(quality, cost_usd, price).argmax(axis=1)].mean())

    if spend(0.0) <= target:
        return 0.0
    positive = cost_usd[cost_usd > 0]
    low, high = 1e-6 / float(positive.max()), 1e6 / float(positive.min())
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if spend(middle) <= target else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class Choice:
    """What `choose` decided; `order` indexes the experts to try, best first, `propensity` sums to one."""

    order: tuple[int, ...]
    utility: Floats  # [K]
    propensity: Floats  # [K]
    ruled_out: dict[int, str]


@dataclass(frozen=True, slots=True)
class Terms:
    """The estimates of one query for K experts, all [K]."""

    quality: Floats
    cost_usd: Floats
    latency_s: Floats


def choose(
    terms: Terms,
    ruled_out: dict[int, str],
    wishes: Wishes,
    price: float,
    *,
    favours: Floats | float = 0.0,
    explore: float = 0.0,
    draw: float = 0.0,
) -> Choice:
    """Caps first, then the quality floor among what the caps leave, then the highest utility.

    `ruled_out` maps experts that cannot take the request to the reason. `explore` is the share of decisions
    drawn uniformly from the candidates; `draw` in [0, 1) is the random number that decides. `favours` [K] are added
    to the utilities by which the candidates are ranked, and not to those that are returned.
    Raises `NoExpertFits` when nothing is left, naming the limit that ruled out the last.
    """
    out = dict(ruled_out)
    left = np.ones(len(terms.quality), dtype=bool)
    left[list(out)] = False
    if not left.any():
        raise NoExpertFits("no expert can take this request: " + "; ".join(sorted(set(out.values()))))
    if wishes.max_cost_usd is not None:
        _cap(left, out, terms.cost_usd, wishes.max_cost_usd, "max_cost_usd")
    if wishes.max_latency_s is not None:
        _cap(left, out, terms.latency_s, wishes.max_latency_s, "max_latency_s")
    if wishes.quality_floor is not None:
        floor = wishes.quality_floor * terms.quality[left].max()
        for k in np.flatnonzero(left & (terms.quality < floor)):
            left[k] = False
            out[int(k)] = f"expected quality {terms.quality[k]:.3f} is under the floor {floor:.3f}"
    worth = utility(terms.quality, terms.cost_usd, price)
    candidates = np.flatnonzero(left)
    # ties go to the cheaper one, as in `cheapest_first`
    ranked = candidates[np.lexsort((terms.cost_usd[candidates], -(worth + favours)[candidates]))]
    return _explored(ranked, worth, out, explore, draw)


def _cap(left: NDArray[np.bool_], out: dict[int, str], values: Floats, cap: float, name: str) -> None:
    over = np.flatnonzero(left & (values > cap))
    for k in over:
        left[k] = False
        out[int(k)] = f"expects {values[k]:.6g}, over {name} {cap:g}"
    if len(over) and not left.any():
        raise NoExpertFits(
            f"no expert is expected to stay within {name} {cap:g}; the least is {values[over].min():.6g}",
            param=f"routing.{name}",
        )


def _explored(ranked: NDArray[np.intp], worth: Floats, out: dict[int, str], explore: float, draw: float) -> Choice:
    propensity = np.zeros(len(worth))
    propensity[ranked] = explore / len(ranked)
    propensity[ranked[0]] += 1.0 - explore
    order = [int(k) for k in ranked]
    if draw < explore:
        chosen = order.pop(int(draw / explore * len(order)))
        order.insert(0, chosen)
    return Choice(order=tuple(order), utility=worth, propensity=propensity, ruled_out=out)
