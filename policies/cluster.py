"""UniRoute's cluster policy: an expert is the vector of its mean qualities on clusters of prompts.

Universal Model Routing for Efficient LLM Inference (Jitkrittum et al., 2025): K-means over prompt embeddings; what
is expected of an expert on a new prompt is its mean in the prompt's cluster. Added, each for what was measured:
clusters of several sizes, where the fine ones hold only what the coarse ones leave to explain, shrunk towards
nothing where an expert was seldom seen (argmax over noisy means picks lucky experts); and a prompt belongs to the
several clusters that it lies between. The paper's second form learns which clusters a prompt belongs to
(`router.cluster_map`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from router.artifact import take
from router.cluster_map import refined
from router.clustering import half, half_norms, kmeans, shares
from router.effects import Effects, estimated, held_out, learn, ranking_error
from router.errors import ConfigError
from router.parameters import at_least
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

SIZES = (16, 64, 256)  # more would bring little and make one prediction slower than 100 us
LEAST_PROMPTS = 8  # per cluster, on average
PSEUDO_COUNTS = (3.0, 10.0, 30.0, 100.0)


class Cluster(Policy):
    """Means per cluster, coarse to fine.

    `clusters`: of the finest level; each coarser one has a quarter of them. `pseudo_count`: observations' worth of
    belief that an expert does in a cluster as it does around it. What is None is chosen on a part of the training
    prompts. The `nearest` clusters of a level share a prompt by exp(-squared distance / `temperature`); a `learned`
    map starts there, with all clusters of a level.
    """

    def __init__(
        self,
        *,
        clusters: int | None = None,
        pseudo_count: float | None = None,
        nearest: int = 8,
        temperature: float = 0.12,
        map: Literal["kmeans", "learned"] = "kmeans",
        rng: int = 0,
    ) -> None:
        self.clusters = clusters
        self.pseudo_count = pseudo_count
        self.nearest = nearest
        self.temperature = temperature
        self.map = map
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        at_least(self, clusters=1, pseudo_count=0.01, nearest=1, temperature=0.001)
        if self.map not in ("kmeans", "learned"):
            raise ConfigError(f"the policy cluster, parameter map: expected kmeans or learned, got {self.map!r}")
        vectors = np.ascontiguousarray(outcomes.queries.embeddings, dtype=np.float32)
        sizes, pseudo_count = self._chosen(vectors, outcomes.quality)
        levels = self._levels(vectors, sizes)
        table = learn([self._share(vectors, level) for level in levels], outcomes.quality, pseudo_count)
        self.sizes_ = np.array(sizes, dtype=np.float32)
        self.centroids_ = np.concatenate(levels)
        self._learn_map(vectors, outcomes.quality, table)
        self.mean_ = table.mean.astype(np.float32)
        # in half precision, as they are stored: what is predicted now is what a restored policy predicts
        self.effect_ = half(np.concatenate(table.effects))
        self.evidence_ = half(np.minimum(table.count + pseudo_count, 60_000.0))
        self._prepare()

    def _learn_map(self, vectors: Floats, quality: Floats, table: Effects) -> None:
        self.offsets_ = half_norms(self.centroids_)
        held = held_out(quality, np.random.default_rng(self.rng))
        if self.map == "kmeans" or held is None:
            return
        start = self.centroids_, self.offsets_
        centroids, offsets = refined(start, table, self.temperature, vectors, quality, held, self.rng)
        self.centroids_, self.offsets_ = half(centroids), offsets.astype(np.float32)

    def _chosen(self, vectors: Floats, quality: Floats) -> tuple[list[int], float]:
        """The clusters of each level and the pseudo-count: as given, else what errs least on held-out prompts."""
        held = held_out(quality, np.random.default_rng(self.rng))
        sizes = self._sizes(len(vectors) if held is None else int((~held).sum()))
        counts = PSEUDO_COUNTS if self.pseudo_count is None else (self.pseudo_count,)
        if len(counts) == 1 and self.clusters is not None:
            return sizes, counts[0]
        if held is None:
            return sizes, counts[-1]  # too few to hold some out: the cautious choice
        levels = self._levels(vectors[~held], sizes)
        fitted = [self._share(vectors[~held], level) for level in levels]
        judged = [self._share(vectors[held], level) for level in levels]
        errors = {}
        for count in counts:
            table = learn(fitted, quality[~held], count)
            predicted = table.mean
            for depth, (share, effect) in enumerate(zip(judged, table.effects, strict=True), start=1):
                predicted = predicted + share @ effect
                if self.clusters is None or depth == len(sizes):
                    errors[depth, count] = ranking_error(predicted, quality[held])
        depth, count = min(errors, key=lambda choice: errors[choice])
        return sizes[:depth], count

    def _sizes(self, prompts: int) -> list[int]:
        if self.clusters is None:
            return [size for size in SIZES if size * LEAST_PROMPTS <= prompts] or [1]
        sizes = [max(1, min(self.clusters, prompts))]
        while sizes[0] // 4 >= SIZES[0]:
            sizes.insert(0, sizes[0] // 4)
        return sizes

    def _levels(self, vectors: Floats, sizes: Sequence[int]) -> list[Floats]:
        rng = np.random.default_rng(self.rng)
        return [half(kmeans(vectors, size, rng)) for size in sizes]

    def _share(self, vectors: Floats, centroids: Floats) -> Floats:
        return shares(vectors @ centroids.T - half_norms(centroids), self.nearest, self.temperature)

    def _prepare(self) -> None:
        self._edges = [0, *np.cumsum(self.sizes_).astype(int).tolist()]
        self._nearest = self.nearest if self.map == "kmeans" else len(self.offsets_)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        closeness = queries.embeddings @ self.centroids_.T - self.offsets_
        share = np.empty_like(closeness)
        for start, end in zip(self._edges, self._edges[1:], strict=False):
            share[:, start:end] = shares(closeness[:, start:end], self._nearest, self.temperature)
        return estimated(self.mean_ + share @ self.effect_, share[:, self._edges[-2] :] @ self.evidence_)

    def state(self) -> dict[str, Floats]:
        return {
            "sizes": self.sizes_,
            "centroids": self.centroids_.astype(np.float16),
            "mean": self.mean_,
            "effect": self.effect_.astype(np.float16),
            "evidence": self.evidence_.astype(np.float16),
            **({} if self.map == "kmeans" else {"offsets": self.offsets_}),
        }

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.sizes_ = take(state, "sizes", (None,))
        clusters = int(self.sizes_.sum())
        self.centroids_ = take(state, "centroids", (clusters, None))
        self.mean_ = take(state, "mean", (experts,))
        self.effect_ = take(state, "effect", (clusters, experts))
        self.evidence_ = take(state, "evidence", (int(self.sizes_[-1]), experts))
        learned = self.map == "learned"
        self.offsets_ = take(state, "offsets", (clusters,)) if learned else half_norms(self.centroids_)
        self._prepare()
