"""Ridge regression of several targets on one design, at several strengths at once, with exact leave-one-out.

The eigenvectors of the design are found once and serve all strengths; what a row would have been predicted without
itself follows from its leverage, so choosing a strength costs no refits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.types import Floats

#: Penalty per row, for a design whose rows have a mean squared norm of about one.
STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
NEARLY_ALL = 0.95  # of the rows: an expert seen on so many is taken as seen on all, for speed
FULL_LEVERAGE = 0.95  # a row that fits itself better than this says nothing by leaving it out


@dataclass(frozen=True)
class RidgePath:
    """The fits at each of A strengths: `weights` [A, d, K], `intercept` [A, K], degrees of freedom `used` [A, K].

    `honest` [A, n, K]: each row as predicted by the fit to all other rows.
    """

    weights: Floats
    intercept: Floats
    honest: Floats
    used: Floats

    def error(self, target: Floats) -> Floats:
        """Mean squared leave-one-out error, [A, K], over the observed cells of `target`."""
        seen = np.isfinite(target)
        missed = np.where(seen, self.honest - np.where(seen, target, 0.0), 0.0)
        return np.asarray((missed**2).sum(axis=1) / np.maximum(seen.sum(axis=0), 1))


def ridge(design: Floats, target: Floats, strengths: Sequence[float] = STRENGTHS) -> RidgePath:
    """Fits `target` [n, K], NaN where unobserved, on `design` [n, d]. The intercept is not penalised."""
    target = _filled(target)
    seen = np.isfinite(target)
    shape = (len(strengths), design.shape[1], target.shape[1])
    weights, used = np.zeros(shape), np.zeros((shape[0], shape[2]))
    intercept, honest = np.zeros((shape[0], shape[2])), np.zeros((shape[0], *target.shape))
    patterns, group = np.unique(seen, axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):  # experts observed on the same rows share the eigenvectors
        columns = np.flatnonzero(group.ravel() == number)
        if not rows.any():
            continue
        part = design[rows].astype(np.float64)
        centre, mean = part.mean(axis=0), target[np.ix_(rows, columns)].mean(axis=0)
        part -= centre
        wanted = target[np.ix_(rows, columns)] - mean
        size, axes = np.linalg.eigh(part.T @ part)
        turned = part @ axes
        shared = turned.T @ wanted
        for a, strength in enumerate(strengths):
            damp = 1.0 / (np.maximum(size, 0.0) + strength * len(part))
            leverage = np.minimum((turned**2) @ damp + 1.0 / len(part), FULL_LEVERAGE)
            weights[a][:, columns] = axes @ (damp[:, None] * shared)
            intercept[a, columns] = mean - centre @ weights[a][:, columns]
            used[a, columns] = leverage.sum()
            fitted = design @ weights[a][:, columns] + intercept[a, columns]
            missed = (target[np.ix_(rows, columns)] - fitted[rows]) / (1.0 - leverage[:, None])
            fitted[rows] = target[np.ix_(rows, columns)] - missed
            honest[a][:, columns] = fitted
    return RidgePath(weights=weights, intercept=intercept, honest=honest, used=used)


def _filled(target: Floats) -> Floats:
    """Gaps in columns that are nearly whole are filled with the column's mean and what the row is above it."""
    seen = np.isfinite(target)
    whole = (seen.mean(axis=0) >= NEARLY_ALL) & ~seen.all(axis=0)
    if not whole.any():
        return target
    mean = np.nanmean(target, axis=0)
    above = np.where(seen, target - mean, 0.0).sum(axis=1) / (seen.sum(axis=1) + 1.0)
    gaps = ~seen & whole
    return np.asarray(np.where(gaps, mean + above[:, None], target))
