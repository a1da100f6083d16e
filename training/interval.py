"""A figure with its bootstrap interval over queries. Systems share the resamples: their differences are paired."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from router.types import Floats

RESAMPLES = 1_000
LEVEL = 0.95
CHUNK = 64  # resamples held at once


@dataclass(frozen=True)
class Interval:
    """A figure on the sample, and the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


def resampled(queries: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Weights [b, n] of the queries in bootstrap resamples, in chunks; the first row is the sample itself."""
    yield np.full((1, queries), 1.0 / queries)
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        yield rng.multinomial(queries, np.full(queries, 1.0 / queries), size=size) / queries


def interval(values: Floats) -> Interval:
    """`values[0]` is the sample's own, the others the resamples'; those in which it is undefined are NaN."""
    low, high = bounds(values[1:][np.isfinite(values[1:])])
    return Interval(float(values[0]), float(low), float(high))


def bounds(resamples: Floats) -> Floats:
    """Of the interval: [2, ...] for resamples in the first axis."""
    return np.asarray(np.quantile(resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))


def mean_intervals(values: Floats, rng: np.random.Generator) -> list[Interval]:
    """The means of M values per query, [n, M], on the same resamples."""
    means = np.concatenate([weights @ values for weights in resampled(len(values), RESAMPLES, rng)])
    return [interval(column) for column in means.T]


def p_value(gains: Floats) -> float:
    """One-sided, by the paired bootstrap (Koehn, 2004): the share of resamples in which nothing is gained.

    `gains[0]`, the sample's own, counts as one resample more, so the least p is 1 / (1 + resamples).
    """
    found = gains[1:][np.isfinite(gains[1:])]
    return float((1 + (found <= 0).sum()) / (1 + len(found)))
