"""Ridge regression of several targets on one design, at several strengths at once, with exact leave-one-out.

The eigenvectors of the design are found once and serve all strengths; what a row would have been predicted without
itself follows from its leverage, so choosing a strength costs no refits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.types import Floats

#: Penalty per row, for a design whose rows have a mean squared norm of about one.
STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
NEARLY_ALL = 0.95  # of the rows: an expert seen on so many is taken as seen on all, for speed
CHUNK = 16_384  # rows in double precision at a time
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
        wanted = np.where(seen, target, 0.0)
        missed = [(np.where(seen, honest - wanted, 0.0) ** 2).sum(axis=0) for honest in self.honest]
        return np.asarray(np.stack(missed) / np.maximum(seen.sum(axis=0), 1))


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
        wanted = target[:, columns]
        mean = wanted[rows].mean(axis=0)
        centre, power, shared = _moments(design, rows, wanted - mean)
        size, axes = np.linalg.eigh(power)
        shared = axes.T @ shared
        damp = 1.0 / (np.maximum(size, 0.0) + np.array(strengths)[:, None] * rows.sum())
        weights[:, :, columns] = axes @ (damp[:, :, None] * shared)
        intercept[:, columns] = mean - centre @ weights[:, :, columns]
        for part in _chunks(len(design)):
            table = design[part].astype(np.float64)
            fitted = table @ weights[:, :, columns] + intercept[:, None, columns]
            own = rows[part]
            leverage = ((table[own] - centre) @ axes) ** 2 @ damp.T + 1.0 / rows.sum()
            leverage = np.minimum(leverage, FULL_LEVERAGE).T
            used[:, columns] += leverage.sum(axis=1)[:, None]
            truth = wanted[part][own]
            fitted[:, own] = truth - (truth - fitted[:, own]) / (1.0 - leverage[:, :, None])
            honest[:, part, columns] = fitted
    return RidgePath(weights=weights, intercept=intercept, honest=honest, used=used)


def _moments(design: Floats, rows: NDArray[np.bool_], wanted: Floats) -> tuple[Floats, Floats, Floats]:
    """Of some rows, a chunk at a time: their mean [d], their products about it [d, d], and with `wanted` [d, K]."""
    chunks = list(_chunks(len(design)))
    centre = sum(design[part][rows[part]].sum(axis=0, dtype=np.float64) for part in chunks) / rows.sum()
    power, shared = np.zeros((len(centre), len(centre))), np.zeros((len(centre), wanted.shape[1]))
    for part in chunks:
        table = design[part][rows[part]].astype(np.float64) - centre
        power += table.T @ table
        shared += table.T @ wanted[part][rows[part]]
    return centre, power, shared


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))


def evened(table: Floats) -> Floats:
    """Columns of one variance, rows of mean squared norm one; a column that does not vary is zero."""
    spread = table.std(axis=0)
    scale = np.where(spread > 1e-6, spread, np.inf) * table.shape[1] ** 0.5
    return np.asarray((table - table.mean(axis=0)) / scale)


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
