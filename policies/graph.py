"""Scores smoothed over a graph of alike prompts: a prompt attends to its neighbours, and they to theirs.

Improving Routing in Sparse Mixture of Experts with Graph of Tokens (Nguyen et al., 2025): a token's expert scores
are averaged with those of the tokens that are like it, so that its route fluctuates less. Here the nodes are the
training prompts; what the experts did on them walks the graph for a few steps, and a new prompt attends to its
neighbours' smoothed scores. What the experts share on a prompt is smoothed apart, and both are shrunk.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.clustering import half
from router.effects import DIFFICULTY_PRIOR, estimated, held_out, learn, ranking_error
from router.parameters import at_least
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

STEPS = (0, 1, 3)  # on the graph
PSEUDO_COUNTS = (3.0, 10.0, 30.0)
CHUNK = 512
MOST_NODES = 20_000  # of more prompts, a sample

Rows = NDArray[np.intp]


class Graph(Policy):
    """Each node attends to `neighbours` by exp(cosine / `temperature`); `kept`: share of itself in each step.

    `steps` on the graph and `pseudo_count` (observations' worth of belief that an expert does on a prompt as it
    does everywhere) are chosen on prompts held out, where they are None.
    """

    def __init__(
        self,
        *,
        neighbours: int = 120,
        temperature: float = 0.2,
        kept: float = 0.3,
        steps: int | None = None,
        pseudo_count: float | None = None,
        rng: int = 0,
    ) -> None:
        self.neighbours = neighbours
        self.temperature = temperature
        self.kept = kept
        self.steps = steps
        self.pseudo_count = pseudo_count
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        at_least(self, neighbours=1, temperature=0.001, kept=0.0, steps=0, pseudo_count=0.01)
        rows = np.sort(np.random.default_rng(self.rng).permutation(len(outcomes))[:MOST_NODES])
        vectors, quality = half(outcomes.queries.embeddings[rows]), outcomes.quality[rows]
        if not np.isfinite(quality).any(axis=0).all():  # an expert seen on few of very many prompts
            vectors, quality = half(outcomes.queries.embeddings), outcomes.quality
        steps, pseudo_count = self._chosen(vectors, quality)
        mean, nodes = _nodes(quality)
        self.vectors_, self.mean_ = vectors, mean.astype(np.float32)
        self.nodes_ = half(list(self._walked(vectors, nodes, steps))[-1])
        self.pseudo_count_ = np.array([pseudo_count], dtype=np.float32)

    def _chosen(self, vectors: Floats, quality: Floats) -> tuple[int, float]:
        """Steps and pseudo-count that err least, in ranking experts, on the prompts held out."""
        held = held_out(quality, np.random.default_rng(self.rng))
        most = max(STEPS) if self.steps is None else self.steps
        tried = STEPS if self.steps is None else (most,)
        counts = PSEUDO_COUNTS if self.pseudo_count is None else (self.pseudo_count,)
        if held is None:
            return tried[0], counts[-1]  # too few to hold some out: the cautious choice
        if len(tried) == len(counts) == 1:
            return tried[0], counts[0]
        mean, nodes = _nodes(quality[~held])
        near, weight = self._attended(vectors[held], vectors[~held])
        errors = {}
        for step, smoothed in enumerate(self._walked(vectors[~held], nodes, most)):
            gathered = _gathered(near, weight, smoothed)
            for count in counts if step in tried else ():
                errors[step, count] = ranking_error(mean + _drawn_in(gathered, count)[0], quality[held])
        return min(errors, key=lambda choice: errors[choice])

    def _walked(self, vectors: Floats, nodes: Floats, steps: int) -> Iterator[Floats]:
        """What stands at the nodes at first, and after each of the steps."""
        yield nodes
        if steps:
            near, weight = self._attended(vectors, vectors, apart=True)
            weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
        for _ in range(steps):
            nodes = self.kept * nodes + (1.0 - self.kept) * _gathered(near, weight, nodes)
            yield nodes

    def _attended(self, vectors: Floats, to: Floats, apart: bool = False) -> tuple[Rows, Floats]:
        """The nearest of `to`, and how far each is attended to [n, neighbours]: the nearest by 1. `apart`: no row
        attends to the row of its own number."""
        most = min(self.neighbours, len(to))
        near, weight = np.empty((len(vectors), most), dtype=np.intp), np.empty((len(vectors), most), np.float32)
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            cosine = vectors[part] @ to.T
            if apart:
                cosine[np.arange(len(cosine)), np.arange(start, start + len(cosine))] = -np.inf
            near[part] = np.argpartition(cosine, -most, axis=1)[:, -most:]
            close = np.take_along_axis(cosine, near[part], axis=1)
            top = np.maximum(close.max(axis=1, keepdims=True), -1.0)
            weight[part] = np.exp((close - top) / self.temperature)
        return near, weight

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        near, weight = self._attended(queries.embeddings, self.vectors_)
        above, evidence = _drawn_in(_gathered(near, weight, self.nodes_), float(self.pseudo_count_[0]))
        return estimated(self.mean_ + above, evidence)

    def state(self) -> dict[str, Floats]:
        return {
            "vectors": self.vectors_.astype(np.float16),
            "nodes": self.nodes_.astype(np.float16),
            "mean": self.mean_,
            "pseudo_count": self.pseudo_count_,
        }

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.vectors_ = take(state, "vectors", (None, None))
        self.nodes_ = take(state, "nodes", (len(self.vectors_), 2 * experts + 2))
        self.mean_ = take(state, "mean", (experts,))
        self.pseudo_count_ = take(state, "pseudo_count", (1,))


def _nodes(quality: Floats) -> tuple[Floats, Floats]:
    """The experts' means [K], and per node [n, 2 K + 2]: what each did beyond its mean and the prompt's difficulty,
    whether it was seen, the difficulty, and whether that was seen (several answers show it)."""
    seen = np.isfinite(quality)
    mean = learn([np.ones((len(quality), 1), dtype=np.float32)], quality, PSEUDO_COUNTS[0]).mean
    above = np.where(seen, quality - mean, 0.0)
    several = (seen.sum(axis=1) > 1)[:, None]
    hardness = np.where(several, above.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1), 1)[:, None], 0.0)
    return mean, np.hstack([np.where(seen, above - hardness, 0.0), seen, hardness, several]).astype(np.float32)


def _gathered(near: Rows, weight: Floats, nodes: Floats) -> Floats:
    """The weighted sum over the neighbours' rows."""
    parts = [
        np.einsum("nm,nmk->nk", weight[start : start + CHUNK], nodes[near[start : start + CHUNK]])
        for start in range(0, len(near), CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, nodes.shape[1]), np.float32)


def _drawn_in(gathered: Floats, pseudo_count: float) -> tuple[Floats, Floats]:
    """(above the experts' means, evidence), both [n, K]."""
    experts = gathered.shape[1] // 2 - 1
    own, count = gathered[:, :experts], gathered[:, experts:-2]
    hardness = gathered[:, -2:-1] / (gathered[:, -1:] + DIFFICULTY_PRIOR)
    return hardness + own / (count + pseudo_count), count + pseudo_count
