"""Bayesian linear regression: what is believed of a few weights beforehand, and what some observations make of it.

The weights come in groups. How firmly a group's prior is held is up to the observations: its variance is multiplied
by the factor of highest evidence (MacKay, 1992), under a log-normal prior that keeps a handful of observations from
choosing extremes. Leaving each observation out in turn chose no better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.types import Floats

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
ROUNDS = 3  # in which each group's factor is chosen, given the others'


@dataclass(frozen=True)
class Group:
    """Weights that share a prior: `mean`, and a `variance` that is multiplied by one of FACTORS if it is `free`."""

    table: Floats  # [n, p], what the weights multiply
    variance: float
    mean: float = 0.0
    free: bool = False


@dataclass(frozen=True)
class Belief:
    """Of the weights of all groups, in their order."""

    weights: Floats  # [P]
    covariance: Floats  # [P, P]

    def of(self, sums: Floats) -> "Belief":
        """What follows for some `sums` [Q, P] of the weights."""
        return Belief(sums @ self.weights, sums @ self.covariance @ sums.T)


def believed(groups: Sequence[Group], target: Floats, noise: float) -> Belief:
    """From `target` [n]; `noise` is the variance of one observation."""
    table = np.hstack([group.table for group in groups]).astype(np.float64)
    sizes = [group.table.shape[1] for group in groups]
    prior = np.repeat([group.mean for group in groups], sizes)
    variance = np.repeat([group.variance for group in groups], sizes)
    left = target - table @ prior
    power, pull = table.T @ table / noise, table.T @ left / noise

    def doubt(factors: Sequence[float]) -> float:
        """Minus the logarithm of the evidence and of the factors' prior, up to a constant."""
        size = np.sqrt(variance * np.repeat(factors, sizes))
        triangle = np.linalg.cholesky(np.eye(len(size)) + size[:, None] * power * size)
        explained = np.linalg.solve(triangle, size * pull)
        unlikely = float((np.log(factors) ** 2).sum()) / 2
        return float(np.log(np.diag(triangle)).sum() - explained @ explained / 2) + unlikely

    factors = [1.0] * len(groups)
    choosable = [place for place, group in enumerate(groups) if group.free and group.table.shape[1]]
    for _ in range(ROUNDS):
        before = list(factors)
        for place in choosable:
            others = [[*factors[:place], factor, *factors[place + 1 :]] for factor in FACTORS]
            factors = others[int(np.argmin([doubt(other) for other in others]))]
        if factors == before:
            break
    size = np.sqrt(variance * np.repeat(factors, sizes))
    covariance = np.linalg.inv(np.eye(len(size)) + size[:, None] * power * size) * size * size[:, None]
    return Belief(weights=prior + covariance @ pull, covariance=covariance)
