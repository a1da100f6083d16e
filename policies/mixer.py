"""Clusters of prompts on which the experts do alike, and a linear gate to them: K-means and least squares only.

MixER: Better Mixture of Experts Routing for Hierarchical Meta-Learning (Nzoyem, Barton and Deakin, 2025): K-means
clusters the contexts, and least squares fit the gate's weights to the clusters, with no gradient. Here a prompt's
context is its vector beside what its experts did (as far as it was observed), and the gate sees the vector alone;
an expert is expected to do as it did in the clusters that the gate gives, shrunk (`router.division`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.artifact import take
from router.clustering import half_norms, kmeans
from router.division import Divided, DividingPolicy, Division
from router.parameters import at_least
from router.ridge import ridge
from router.types import Floats, Outcomes

CLUSTERS = (8, 32, 128)
LEAST_PROMPTS = 12  # per cluster, on average
OUTCOMES = (0.0, 1.0)  # weights of what the experts did, beside the vector
POWERS = (1.0, 2.0, 4.0)  # of the gate's scores: least squares are less sure of a cluster than they could be


@dataclass(frozen=True)
class Gate(Division):
    """Linear scores of the vector by `weights` [d, C] and `bias` [C], to the `power` [1]; none below zero."""

    weights: Floats
    bias: Floats
    power: Floats

    def shares(self, vectors: Floats) -> Floats:
        return self.shared(vectors @ self.weights + self.bias)

    def shared(self, score: Floats) -> Floats:
        kept = np.maximum(score, 1e-3).astype(np.float32) ** self.power
        return np.asarray(kept / kept.sum(axis=1, keepdims=True))

    def state(self) -> dict[str, Floats]:
        return {"weights": self.weights, "bias": self.bias, "power": self.power}


class Mixer(DividingPolicy):
    """`clusters`, and the `outcomes_weight` of what experts did in a context; None: chosen on prompts held out."""

    def __init__(
        self,
        *,
        clusters: int | None = None,
        outcomes_weight: float | None = None,
        pseudo_count: float | None = None,
        rng: int = 0,
    ) -> None:
        self.clusters = clusters
        self.outcomes_weight = outcomes_weight
        self.pseudo_count = pseudo_count
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        at_least(self, clusters=1, outcomes_weight=0.0, pseudo_count=0.01)
        super()._fit(outcomes)

    def _sizes(self, prompts: int) -> Sequence[int]:
        if self.clusters is not None:
            return [max(1, min(self.clusters, prompts))]
        return [size for size in CLUSTERS if size * LEAST_PROMPTS <= prompts] or [1]

    def _divided(self, size: int, vectors: Floats, quality: Floats) -> Sequence[Divided]:
        weights = OUTCOMES if self.outcomes_weight is None else (self.outcomes_weight,)
        contexts = [_contexts(vectors, quality, weight) for weight in weights]
        return [found for context in contexts for found in _gated(context, vectors, size, self.rng)]

    def _restored(self, state: Mapping[str, Floats]) -> Gate:
        weights = take(state, "weights", (None, None))
        return Gate(weights, take(state, "bias", (weights.shape[1],)), take(state, "power", (1,)))


def _contexts(vectors: Floats, quality: Floats, weight: float) -> Floats:
    """The vectors, and beside them `weight` times as loud what each expert did beyond its mean and the prompt's."""
    seen = np.isfinite(quality)
    mean = np.nanmean(quality, axis=0)
    above = np.where(seen, quality - mean, 0.0)
    above = np.where(seen, above - above.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1), 1)[:, None], 0.0)
    loud = np.sqrt(vectors.var(axis=0).sum() / max(float(above.var(axis=0).sum()), 1e-9))
    return np.hstack([vectors, weight * loud * above]).astype(np.float32) if weight else vectors


def _gated(contexts: Floats, vectors: Floats, size: int, seed: int) -> list[Divided]:
    """Clusters of the contexts, and gates to them; their strength is what errs least with each prompt left out."""
    centroids = kmeans(contexts, size, np.random.default_rng(seed))
    owner = (contexts @ centroids.T - half_norms(centroids)).argmax(axis=1)
    member = (owner[:, None] == np.arange(size)).astype(np.float64)
    path = ridge(vectors, member)
    best = int(path.error(member).mean(axis=1).argmin())
    weights, bias = path.weights[best].astype(np.float32), path.intercept[best].astype(np.float32)
    gates = [Gate(weights, bias, np.array([power], dtype=np.float32)) for power in POWERS]
    return [Divided(gate, gate.shared(path.honest[best])) for gate in gates]
