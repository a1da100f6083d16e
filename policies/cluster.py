"""UniRoute's cluster policy: an expert is the vector of its mean qualities on clusters of prompts.

Universal Model Routing for Efficient LLM Inference (Jitkrittum et al., 2025): K-means over prompt embeddings; what
is expected of an expert on a new prompt is its mean in the prompt's cluster. Added, each for what was measured:
clusters of several sizes, where the fine ones hold only what the coarse ones leave to explain, shrunk towards
nothing where an expert was seldom seen (argmax over noisy means picks lucky experts); and a prompt belongs to the
several clusters that it lies between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.artifact import take
from router.errors import ConfigError
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

SIZES = (16, 64, 256)  # more would bring little and make one prediction slower than 100 us
LEAST_PROMPTS = 8  # per cluster, on average
PSEUDO_COUNTS = (3.0, 10.0, 30.0, 100.0)
HELD_OUT = 0.2  # of the training prompts, to choose what was not given
DIFFICULTY_PRIOR = 5.0  # observations' worth of belief that a cluster is no harder than the coarser one around it
ROUNDS = 8  # in which difficulties and experts are told apart
LEAST_VARIANCE = 0.05  # of one answer, where the estimate is close to 0 or 1


class Cluster(Policy):
    """Means per cluster, coarse to fine.

    `clusters`: of the finest level; each coarser one has a quarter of them. `pseudo_count`: observations' worth of
    belief that an expert does in a cluster as it does around it. What is None is chosen on a part of the training
    prompts. The `nearest` clusters of a level share a prompt by exp(-squared distance / `temperature`).
    """

    def __init__(
        self,
        *,
        clusters: int | None = None,
        pseudo_count: float | None = None,
        nearest: int = 8,
        temperature: float = 0.12,
        rng: int = 0,
    ) -> None:
        self.clusters = clusters
        self.pseudo_count = pseudo_count
        self.nearest = nearest
        self.temperature = temperature
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        self._check()
        vectors = np.ascontiguousarray(outcomes.queries.embeddings, dtype=np.float32)
        sizes, pseudo_count = self._chosen(vectors, outcomes.quality)
        levels = self._levels(vectors, sizes)
        table = learn([self._share(vectors, level) for level in levels], outcomes.quality, pseudo_count)
        self.sizes_ = np.array(sizes, dtype=np.float32)
        self.centroids_ = np.concatenate(levels)
        self.mean_ = table.mean.astype(np.float32)
        # in half precision, as they are stored: what is predicted now is what a restored policy predicts
        self.effect_ = _half(np.concatenate(table.effects))
        self.evidence_ = _half(np.minimum(table.count + pseudo_count, 60_000.0))
        self._prepare()

    def _check(self) -> None:
        for name, least in (("clusters", 1), ("pseudo_count", 0.01), ("nearest", 1), ("temperature", 0.001)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"the policy cluster, parameter {name}: expected at least {least}, got {value}")

    def _chosen(self, vectors: Floats, quality: Floats) -> tuple[list[int], float]:
        """The clusters of each level and the pseudo-count: as given, else what errs least on held-out prompts."""
        held = np.random.default_rng(self.rng).random(len(vectors)) < HELD_OUT
        sizes = self._sizes(int((~held).sum()))
        counts = PSEUDO_COUNTS if self.pseudo_count is None else (self.pseudo_count,)
        if len(counts) == 1 and self.clusters is not None:
            return sizes, counts[0]
        seen = np.isfinite(quality)
        if not seen[held].any() or not seen[~held].any(axis=0).all():
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
                    errors[depth, count] = _ranking_error(predicted, quality[held])
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
        return [_half(kmeans(vectors, size, rng)) for size in sizes]

    def _share(self, vectors: Floats, centroids: Floats) -> Floats:
        return shares(vectors @ centroids.T - _half_norms(centroids), self.nearest, self.temperature)

    def _prepare(self) -> None:
        self._offsets = _half_norms(self.centroids_)
        self._edges = [0, *np.cumsum(self.sizes_).astype(int).tolist()]

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        closeness = queries.embeddings @ self.centroids_.T - self._offsets
        share = np.empty_like(closeness)
        for start, end in zip(self._edges, self._edges[1:], strict=False):
            share[:, start:end] = shares(closeness[:, start:end], self.nearest, self.temperature)
        quality = np.minimum(np.maximum(self.mean_ + share @ self.effect_, 0.0), 1.0)
        variance = np.maximum(quality * (1.0 - quality), LEAST_VARIANCE)
        evidence = share[:, self._edges[-2] :] @ self.evidence_
        return quality, np.sqrt(variance / (evidence + 1.0))

    def state(self) -> dict[str, Floats]:
        return {
            "sizes": self.sizes_,
            "centroids": self.centroids_.astype(np.float16),
            "mean": self.mean_,
            "effect": self.effect_.astype(np.float16),
            "evidence": self.evidence_.astype(np.float16),
        }

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.sizes_ = take(state, "sizes", (None,))
        clusters = int(self.sizes_.sum())
        self.centroids_ = take(state, "centroids", (clusters, None))
        self.mean_ = take(state, "mean", (experts,))
        self.effect_ = take(state, "effect", (clusters, experts))
        self.evidence_ = take(state, "evidence", (int(self.sizes_[-1]), experts))
        self._prepare()


@dataclass(frozen=True)
class Table:
    """`mean` [K] of the experts; per level the `effects` [C, K] on top; the finest level's `count` [C, K]."""

    mean: Floats
    effects: Sequence[Floats]
    count: Floats


def learn(shares: Sequence[Floats], quality: Floats, pseudo_count: float) -> Table:
    """From each prompt's share in the clusters of each level [n, C] and the qualities [n, K], NaN where unseen.

    An effect is the cluster's difficulty, common to the experts, and the expert's own deviation, shrunk.
    """
    # single precision throughout: one double among them would copy every share matrix
    seen = np.isfinite(quality).astype(np.float32)
    filled: Floats = np.where(np.isfinite(quality), quality, 0.0).astype(np.float32)
    centre = filled.sum() / seen.sum()
    mean: Floats = np.full(quality.shape[1], centre, dtype=np.float32)
    for _ in range(ROUNDS * 4):
        hardness, _ = _difficulty(shares[0], filled - seen * mean, seen)
        mean = ((filled - seen * hardness).sum(axis=0) + pseudo_count * centre) / (seen.sum(axis=0) + pseudo_count)
    left: Floats = filled - seen * mean
    effects: list[Floats] = []
    for share in shares:
        count = share.T @ seen
        own: Floats = np.zeros_like(count)
        for _ in range(ROUNDS):
            hardness, common = _difficulty(share, left - seen * (share @ own), seen)
            own = share.T @ (left - seen * hardness) / (count + pseudo_count)
        effects.append(own + common)
        left = left - seen * (share @ effects[-1])
    return Table(mean=mean, effects=effects, count=count)


def _difficulty(share: Floats, left: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """What the experts have in common, on each prompt [n, 1] and in each cluster [C, 1].

    `left` [n, K] is what is left to explain, zero where unseen. Where several experts were seen on a prompt, it is
    theirs alone: so experts that were seen on different prompts compare on the same ground, even where two tables
    hold like prompts and one of them the harder ones. A prompt with one answer is taken for its clusters' like.
    """
    observed, total = seen.sum(axis=1, keepdims=True), left.sum(axis=1, keepdims=True)
    own = total / np.maximum(observed, 1)
    common = (share.T @ own) / (share.T @ np.minimum(observed, 1) + DIFFICULTY_PRIOR)
    return np.where(observed > 1, own, share @ common), common


def shares(closeness: Floats, nearest: int, temperature: float) -> Floats:
    """Shares [n, C], rows sum to one, from minus half the squared distances (plus anything common to a row)."""
    if nearest < closeness.shape[1]:
        edge = np.partition(closeness, -nearest, axis=1)[:, -nearest, None]
        closeness = np.where(closeness >= edge, closeness, -np.inf)
    share = np.exp((closeness - closeness.max(axis=1, keepdims=True)) * (2.0 / temperature))
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def kmeans(vectors: Floats, clusters: int, rng: np.random.Generator, rounds: int = 12) -> Floats:
    """Lloyd's K-means from k-means++ seeds; centroids [C, d]. An emptied cluster keeps its place."""
    centroids = _seeds(vectors, clusters, rng)
    before = None
    for _ in range(rounds):
        owner = (vectors @ centroids.T - _half_norms(centroids)).argmax(axis=1)
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


def _ranking_error(predicted: Floats, quality: Floats) -> float:
    """Mean squared error over the observed cells, each row's common part taken out where several were observed.

    What all experts share on a prompt is no help in choosing one.
    """
    seen = np.isfinite(quality)
    error = np.where(seen, predicted - quality, 0.0)
    several = seen.sum(axis=1, keepdims=True)
    common = np.where(several > 1, error.sum(axis=1, keepdims=True) / np.maximum(several, 1), 0.0)
    return float((np.where(seen, error - common, 0.0) ** 2).sum() / seen.sum())


def _half_norms(centroids: Floats) -> Floats:
    return np.asarray(0.5 * np.einsum("cd,cd->c", centroids, centroids))


def _half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)
