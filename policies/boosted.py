"""Gradient-boosted trees over what can be counted in a prompt: topics of its words, numbers, marks, its domain.

Stochastic gradient boosting (Friedman, 2002): each small tree learns, from half of the prompts, a part of what the
trees before it leave. The vector itself is left to other policies. The trees foretell the few directions in which
the experts differ predictably (`router.directions`), all at once; how many trees there are, and how far a direction
is trusted, is chosen on prompts held out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.directions import directions, slope
from router.effects import held_out
from router.features import ReadingPolicy
from router.parameters import at_least
from router.ridge import evened, ridge
from router.trees import Boosting, boost, packed
from router.trees import Forest as Trees
from router.types import Floats, Outcomes, Queries

DIRECTIONS = 8
TOPICS = 64
SHARE = 0.2  # of the features, among which a split is chosen
FEW = 20  # trees, where too few prompts are there to choose by
LEAST_STD = 0.01


class Boosted(ReadingPolicy):
    """At most `trees` of `depth`, with `leaf` prompts in a leaf, each learning `rate` of what is left."""

    def __init__(
        self, *, trees: int = 200, depth: int = 4, leaf: int = 20, rate: float = 0.05, rng: int = 0
    ) -> None:
        self.trees = trees
        self.depth = depth
        self.leaf = leaf
        self.rate = rate
        self.rng = rng

    def _learn(self, outcomes: Outcomes) -> None:
        at_least(self, trees=1, depth=1, leaf=1, rate=0.001)
        features, quality = self._features(outcomes.queries), outcomes.quality
        path = ridge(evened(features), quality)
        base = path.honest[int(path.error(quality).mean(axis=1).argmin())]
        turned = directions(base, quality)
        mean = np.nanmean(quality, axis=0)
        kept = min(DIRECTIONS, quality.shape[1])
        truth = ((np.where(np.isfinite(quality), quality, base) - mean) @ turned.there)[:, :kept]
        trees, trust, error = self._chosen(features, truth, quality)
        how = Boosting(trees, self.depth, self.leaf, SHARE, self.rate)
        self.forest_ = packed([tree.tree_ for tree in boost(features, truth, how, self.rng)])
        self.mean_ = mean.astype(np.float32)
        # a forest gives the mean of its trees, and boosting is their sum
        self.back_ = ((self.rate * trees * trust)[:, None] * turned.back[:kept]).astype(np.float32)
        spread = np.sqrt((turned.back[:kept] ** 2 * error[:, None]).sum(axis=0) * self.leaf / len(quality))
        self.std_ = np.maximum(spread, LEAST_STD).astype(np.float32)

    def _chosen(self, features: Floats, truth: Floats, quality: Floats) -> tuple[int, Floats, Floats]:
        """How many trees err least on prompts held out, how far each direction is to be trusted, and its error."""
        held = held_out(quality, np.random.default_rng(self.rng))
        if held is None:
            return min(FEW, self.trees), np.ones(truth.shape[1]), truth.var(axis=0)
        how = Boosting(self.trees, self.depth, self.leaf, SHARE, self.rate)
        guess, best, least = np.zeros(truth[held].shape), np.zeros(truth[held].shape), np.inf
        found = 1
        for number, tree in enumerate(boost(features[~held], truth[~held], how, self.rng), start=1):
            guess = guess + self.rate * tree.predict(features[held]).reshape(guess.shape)
            if (error := float(((guess - truth[held]) ** 2).mean())) < least:
                least, found, best = error, number, guess
        trust = [slope(best[:, j] - best[:, j].mean(), truth[held, j]) for j in range(truth.shape[1])]
        return found, np.array(trust), ((best - truth[held]) ** 2).mean(axis=0)

    def _features(self, queries: Queries) -> Floats:
        assert queries.features is not None
        blocks = self.reader_.blocks
        topics = slice(blocks.topics.start, min(blocks.topics.stop, TOPICS))
        rest = slice(blocks.counts.start, blocks.domains.stop)
        return np.hstack([queries.features[:, topics], queries.features[:, rest]]).astype(np.float32, copy=False)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        quality = self.mean_ + self.forest_.predict(self._features(queries)) @ self.back_
        return np.minimum(np.maximum(quality, 0.0), 1.0), np.broadcast_to(self.std_, quality.shape)

    def _learned(self) -> dict[str, NDArray[Any]]:
        own = {"mean": self.mean_, "back": self.back_, "std": self.std_}
        return {**own, **nested("quality", self.forest_.state())}

    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.mean_ = take(state, "mean", (experts,))
        self.back_ = take(state, "back", (None, experts))
        self.std_ = take(state, "std", (experts,))
        blocks = self.reader_.blocks
        width = min(blocks.topics.stop, TOPICS) + blocks.domains.stop - blocks.counts.start
        self.forest_ = Trees.restored(within("quality", state), width, len(self.back_))
