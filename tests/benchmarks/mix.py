"""The static mix: what choosing among single models at random, whatever the query, reaches at a given cost."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def static_mix(cost: Floats, quality: Floats, at_cost: Floats) -> Floats:
    """The convex hull of single models at `at_cost` [b], from mean cost and quality [b, K] each; gives [b].

    A mix of two models that costs exactly `at_cost`, or one model that costs less, whichever is best;
    -inf where every model costs more.
    """
    x = at_cost[:, None, None]
    low, high = cost[:, :, None], cost[:, None, :]
    inside = (low <= x) & (x <= high) & (low < high)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = (x - low) / (high - low)
        mixed = (1 - weight) * quality[:, :, None] + weight * quality[:, None, :]
    pairs = np.where(inside, mixed, -np.inf).max(axis=(1, 2))
    singles = np.where(cost <= at_cost[:, None], quality, -np.inf).max(axis=1)
    return np.asarray(np.maximum(pairs, singles))


def weighted_means(values: Floats, weights: Floats) -> Floats:
    """Means over the observed part of `values` [n, K] under `weights` [b, n]; gives [b, K]."""
    seen = np.isfinite(values)
    total = weights @ np.where(seen, values, 0.0)
    return np.asarray(total / np.maximum(weights @ seen.astype(float), 1e-12))


def resamples(n: int, count: int, seed: int) -> Floats:
    """Bootstrap weights [count + 1, n]: the sample itself in row 0, then `count` resamples of queries."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=count)
    return np.vstack([np.ones(n), drawn]).astype(float)
