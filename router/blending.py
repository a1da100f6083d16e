"""Weights of several predictions of the same, and what a choice by predictions is worth."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.directions import slope
from router.objective import utility
from router.types import Floats

PENALTY = 0.1  # on the weights, as a share of the predictions' mean power
PRICES = 40  # of quality, at which a choice is tried
SHRINKAGE = (0.55, 0.7, 0.85, 1.0)
TABLE_SHARES = (0.0, 0.5)


class Narrowing(NamedTuple):
    """How far the differences between experts are drawn in, and the share of a plain table in them."""

    shrinkage: float
    table_share: float


UNTRIED = Narrowing(0.85, 0.0)


def weighed(guesses: Floats, truth: Floats, folds: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Non-negative weights [M, J] of `guesses` [M, n, J] for `truth` [n, J], and the blend [n, J].

    Every row of the blend has the weights that were found without its fold. Both are shrunk by how far that honest
    blend can be trusted, so that a direction in which nothing is foretold is left out.
    """
    weights = np.zeros((len(guesses), truth.shape[1]))
    blend = np.zeros(truth.shape)
    for j in range(truth.shape[1]):
        table, wanted = guesses[:, :, j].T, truth[:, j]
        for fold in np.unique(folds):
            held = folds == fold
            blend[held, j] = table[held] @ _non_negative(table[~held], wanted[~held])
        trust = slope(blend[:, j], wanted)
        weights[:, j] = trust * _non_negative(table, wanted)
        blend[:, j] *= trust
    return weights, blend


def _non_negative(table: Floats, wanted: Floats) -> Floats:
    """Ridge regression under the condition that no weight is below zero."""
    from scipy.optimize import nnls

    power = table.T @ table
    power = power + (PENALTY * np.trace(power) / len(power) + 1e-9) * np.eye(len(power))
    factor = np.linalg.cholesky(power)
    return np.asarray(nnls(factor.T, np.linalg.solve(factor, table.T @ wanted))[0])


def narrowed(guess: Floats, table: Floats | None, how: Narrowing) -> Floats:
    """`guess` [n, K], or [K, K] where it mixes experts, with its differences between experts drawn in."""
    apart = np.eye(guess.shape[1]) - 1.0 / guess.shape[1]
    if table is None:
        return np.asarray(guess - (1.0 - how.shrinkage) * (guess @ apart))
    kept, given = how.shrinkage * (1.0 - how.table_share), how.shrinkage * how.table_share
    return np.asarray(guess - (1.0 - kept) * (guess @ apart) + given * (table @ apart))


def area(guess: Floats, expected: Floats, quality: Floats, cost: Floats) -> float:
    """The mean quality, over the costs from the cheapest to the best expert's, of choosing by `guess`.

    All are [n, K]; `expected` is the cost that the choice reckons with. Experts without costs and rows that are not
    complete are left out; NaN where nothing is left.
    """
    priced = np.isfinite(cost).mean(axis=0) > 0.5
    rows = np.isfinite(cost[:, priced]).all(axis=1) & np.isfinite(quality[:, priced]).all(axis=1)
    if priced.sum() < 2 or rows.sum() < 2:
        return float("nan")
    guess, expected, quality, cost = (m[rows][:, priced] for m in (guess, expected, quality, cost))
    usual = cost.mean(axis=0)
    low, high = usual.min(), usual[quality.mean(axis=0).argmax()]
    gaps = np.diff(np.unique(usual))
    if not len(gaps) or high <= low:
        return float("nan")
    every = np.arange(len(guess))
    points = []
    for price in (0.0, *np.geomspace(1e-2 / gaps.sum(), 2.0 / gaps.min(), PRICES)):
        choice = utility(guess, expected, price).argmax(axis=1)
        points.append((cost[every, choice].mean(), quality[every, choice].mean()))
    spent, reached = np.array(sorted(points)).T
    grid = np.linspace(low, high, 129)
    return float(np.interp(grid, spent, np.maximum.accumulate(reached)).mean())
