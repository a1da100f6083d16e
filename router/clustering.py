"""Clusters of vectors: where their centres are, and how far a vector belongs to each."""

import numpy as np

from router.types import Floats

SAMPLE = 65_536  # vectors
CHUNK = 16_384  # rows at a time


def kmeans(vectors: Floats, clusters: int, rng: np.random.Generator, rounds: int = 12) -> Floats:
    """Lloyd's K-means from k-means++ seeds; centroids [C, d]. An emptied cluster keeps its place.

    Of more than `SAMPLE` vectors a sample is taken: some hundred per cluster tell where its centre is.
    """
    if len(vectors) > SAMPLE:
        vectors = vectors[np.sort(rng.choice(len(vectors), SAMPLE, replace=False))]
    centroids = _seeds(vectors, clusters, rng)
    before = None
    for _ in range(rounds):
        owner = (vectors @ centroids.T - half_norms(centroids)).argmax(axis=1)
        if before is not None and np.array_equal(owner, before):
            break
        before = owner
        total = np.zeros_like(centroids)
        for start in range(0, len(vectors), 4_096):  # a product with a table of ones: many times faster than add.at
            part = slice(start, start + 4_096)
            member = owner[part] == np.arange(clusters)[:, None]
            total += member.astype(np.float32) @ vectors[part]
        size = np.bincount(owner, minlength=clusters)
        centroids[size > 0] = total[size > 0] / size[size > 0, None]
    return centroids


def _seeds(vectors: Floats, clusters: int, rng: np.random.Generator) -> Floats:
    """k-means++: each next seed is drawn with probability proportional to its squared distance to those chosen."""
    chosen = [int(rng.integers(len(vectors)))]
    norms = np.einsum("nd,nd->n", vectors, vectors)
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < clusters:
        last = vectors[chosen[-1]]
        distance = np.minimum(distance, np.maximum(norms + last @ last - 2.0 * (vectors @ last), 0.0))
        reach = np.cumsum(distance, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), len(vectors) - 1))
    return np.array(vectors[chosen])


def shares(closeness: Floats, nearest: int, temperature: float) -> Floats:
    """Shares [n, C], rows sum to one, from minus half the squared distances (plus anything common to a row)."""
    if len(closeness) <= CHUNK:
        return _shares(closeness, nearest, temperature)
    whole = np.empty_like(closeness)
    for start in range(0, len(closeness), CHUNK):
        part = slice(start, start + CHUNK)
        whole[part] = _shares(closeness[part], nearest, temperature)
    return whole


def _shares(closeness: Floats, nearest: int, temperature: float) -> Floats:
    if nearest < closeness.shape[1]:
        edge = np.partition(closeness, -nearest, axis=1)[:, -nearest, None]
        closeness = np.where(closeness >= edge, closeness, -np.inf)
    share = np.exp((closeness - closeness.max(axis=1, keepdims=True)) * (2.0 / temperature))
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def half_norms(centroids: Floats) -> Floats:
    """Half the squared length of each row, [C]."""
    return np.asarray(0.5 * np.einsum("cd,cd->c", centroids, centroids))


def half(values: Floats) -> Floats:
    """As an artifact keeps them, so that what is predicted now is what a restored policy predicts."""
    return values.astype(np.float16).astype(np.float32)
