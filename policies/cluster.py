"""UniRoute's cluster policy: an expert is the vector of its mean qualities on clusters of prompts.

Universal Model Routing for Efficient LLM Inference (Jitkrittum et al., 2025): K-means over prompt embeddings; an
expert's estimate on a new prompt is its mean in the prompt's cluster. Two things are added, each for what was
measured: a cluster's mean is shrunk towards what the expert's mean and the cluster's difficulty foretell, since
argmax over noisy means picks lucky experts; and a prompt belongs to its nearest clusters by distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router.artifact import take
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

#: Prompts per cluster below which a table says nothing about a cluster.
LEAST_PROMPTS = 8


class Cluster(Policy):
    """`clusters`: how many. `pseudo_count`: the weight of the prior beside a cluster's own prompts.

    `nearest` clusters share a prompt, by a softmax over minus squared distance / `temperature`.
    """

    def __init__(
        self,
        *,
        clusters: int = 64,
        pseudo_count: float = 10.0,
        nearest: int = 8,
        temperature: float = 0.15,
        rng: int = 0,
    ) -> None:
        self.clusters = clusters
        self.pseudo_count = pseudo_count
        self.nearest = nearest
        self.temperature = temperature
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        vectors = np.ascontiguousarray(outcomes.queries.embeddings, dtype=np.float32)
        clusters = max(1, min(self.clusters, len(vectors) // LEAST_PROMPTS))
        centroids = kmeans(vectors, clusters, np.random.default_rng(self.rng))
        # as they are stored: what is predicted now is what a restored policy predicts
        self.centroids_ = centroids.astype(np.float16).astype(np.float32)
        table = Table.of(assign(vectors, self.centroids_, self.nearest, self.temperature), outcomes.quality)
        quality, count = table.shrunk(self.pseudo_count)
        self.quality_ = quality.astype(np.float32)
        self.count_ = count.astype(np.float32)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        share = assign(queries.embeddings, self.centroids_, self.nearest, self.temperature)
        quality = share @ self.quality_
        spread = self.quality_ * (1.0 - self.quality_) / (self.count_ + self.pseudo_count + 1.0)
        return np.clip(quality, 0.0, 1.0), np.sqrt(share**2 @ spread + 1e-6)

    def state(self) -> dict[str, Floats]:
        return {
            "centroids": self.centroids_.astype(np.float16),
            "quality": self.quality_,
            "count": self.count_,
        }

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.centroids_ = take(state, "centroids", (None, None))
        self.quality_ = take(state, "quality", (len(self.centroids_), experts))
        self.count_ = take(state, "count", (len(self.centroids_), experts))


@dataclass(frozen=True)
class Table:
    """How often each expert was seen in each cluster, and the sum of its qualities there; [C, K]."""

    count: Floats
    total: Floats

    @classmethod
    def of(cls, share: Floats, quality: Floats) -> "Table":
        """From each prompt's share in each cluster [n, C] and the observed qualities [n, K], NaN where unseen."""
        seen = np.isfinite(quality)
        return cls(count=share.T @ seen, total=share.T @ np.where(seen, quality, 0.0))

    def prior(self, prompts: float = 5.0, rounds: int = 10) -> Floats:
        """The expert's mean plus the cluster's difficulty, the latter common to the experts seen there; [C, K].

        The difficulty is shrunk by `prompts` observations' worth, so experts that were seen in different clusters
        are compared on the same ground.
        """
        difficulty = np.zeros((len(self.count), 1))
        for _ in range(rounds):
            mean = (self.total - self.count * difficulty).sum(axis=0) / self.count.sum(axis=0)
            residual = (self.total - self.count * mean).sum(axis=1, keepdims=True)
            difficulty = residual / (self.count.sum(axis=1, keepdims=True) + prompts)
        return np.asarray(np.clip(mean + difficulty, 0.01, 0.99))

    def shrunk(self, pseudo_count: float) -> tuple[Floats, Floats]:
        """Posterior means [C, K] under `pseudo_count` prior observations, and the counts [C, K]."""
        posterior = (self.total + pseudo_count * self.prior()) / (self.count + pseudo_count)
        return np.clip(posterior, 0.0, 1.0), self.count


def assign(vectors: Floats, centroids: Floats, nearest: int, temperature: float) -> Floats:
    """Each vector's share in each cluster [n, C]; rows sum to one, all but the `nearest` are zero."""
    closeness = (vectors @ centroids.T) * 2.0 - np.einsum("cd,cd->c", centroids, centroids)
    if nearest < closeness.shape[1]:
        edge = np.partition(closeness, -nearest, axis=1)[:, -nearest, None]
        closeness = np.where(closeness >= edge, closeness, -np.inf)
    share = np.exp((closeness - closeness.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def kmeans(vectors: Floats, clusters: int, rng: np.random.Generator, rounds: int = 25) -> Floats:
    """Lloyd's K-means from k-means++ seeds; centroids [C, d]. An emptied cluster starts again at a random row."""
    centroids = _seeds(vectors, clusters, rng)
    before = None
    for _ in range(rounds):
        owner = (vectors @ centroids.T - 0.5 * np.einsum("cd,cd->c", centroids, centroids)).argmax(axis=1)
        if before is not None and np.array_equal(owner, before):
            break
        before = owner
        member = np.zeros((len(vectors), clusters), dtype=np.float32)
        member[np.arange(len(vectors)), owner] = 1.0
        size = member.sum(axis=0)
        filled = size > 0
        centroids[filled] = (member.T @ vectors)[filled] / size[filled, None]
        centroids[~filled] = vectors[rng.integers(len(vectors), size=int((~filled).sum()))]
    return centroids


def _seeds(vectors: Floats, clusters: int, rng: np.random.Generator) -> Floats:
    """k-means++: each next seed is drawn with probability proportional to its squared distance to those chosen."""
    chosen = [int(rng.integers(len(vectors)))]
    distance = ((vectors - vectors[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < clusters:
        reach = np.cumsum(distance, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), len(vectors) - 1))
        distance = np.minimum(distance, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(vectors[chosen])
