"""Randomised trees over vector, topics, counts and domains: what interacts, where a ridge only adds up.

Extremely randomised trees (Geurts, Ernst and Wehenkel, 2006) foretell the qualities along the few directions in
which the experts differ predictably (`router.directions`), and a second forest how much longer than usual each
expert's answer will be: an answer's cost is known to within a factor of its length only.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.axes import main_axes
from router.directions import LEAST_SEEN, directions, slope
from router.errors import DataError
from router.features import table_of
from router.ridge import evened, ridge
from router.tree_policy import TreePolicy
from router.trees import Forest as Trees
from router.trees import Growth, grow
from router.types import Estimate, Floats, Outcomes, Queries

DIRECTIONS = 8
AXES = 48  # of the vectors
TOPICS = 64
LONGEST = 0.995  # quantile of the length ratios beyond which a length counts no more
CAUTION = 0.75  # share of a predicted deviation from the usual length that is believed
LENGTHS = Growth(trees=40, leaf=10, share=0.4)
LEAST_STD = 0.01


class Forest(TreePolicy):
    """`trees` whose leaves hold at least `leaf` prompts, splitting the best of a `share` of the features.

    `length_trees` foretell the lengths; with 0, an expert's mean length stands for all its answers.
    """

    space: ClassVar[Mapping[str, Any]] = {  # more trees are never worse, only slower
        "leaf": {"low": 1, "high": 40, "log": True},
        "share": {"low": 0.05, "high": 1.0, "log": True},
    }

    def __init__(
        self, *, trees: int = 80, leaf: int = 5, share: float = 0.3, length_trees: int = LENGTHS.trees, rng: int = 0
    ) -> None:
        self.trees = trees
        self.leaf = leaf
        self.share = share
        self.length_trees = length_trees
        self.rng = rng

    def _learn(self, outcomes: Outcomes) -> None:
        if self.trees < 1 or self.leaf < 1 or not 0 < self.share <= 1 or self.length_trees < 0:
            raise DataError("a forest needs trees and leaves of at least 1, and a share in (0, 1]")
        self.axes_ = main_axes(outcomes.queries.embeddings, AXES)
        features, quality = self.tree_features(outcomes.queries), outcomes.quality
        path = ridge(evened(table_of(outcomes.queries)), quality)
        base = path.honest[int(path.error(quality).mean(axis=1).argmin())]
        turned = directions(base, quality)
        mean = np.nanmean(quality, axis=0)
        truth = (np.where(np.isfinite(quality), quality, base) - mean) @ turned.there
        kept = min(DIRECTIONS, quality.shape[1])
        growth = Growth(trees=self.trees, leaf=self.leaf, share=self.share)
        self.forest_, guess = grow(features, truth[:, :kept], growth, self.rng)
        trust = np.array([slope(guess[:, j] - guess[:, j].mean(), truth[:, j]) for j in range(kept)])
        back = trust[:, None] * turned.back[:kept]
        self.mean_, self.back_ = mean.astype(np.float32), back.astype(np.float32)
        self.honest_ = mean + guess @ back
        spread = np.sqrt(np.nanmean((quality - self.honest_) ** 2, axis=0) * self.leaf / (self.leaf + len(quality)))
        self.std_ = np.maximum(spread, LEAST_STD).astype(np.float32)
        self._learn_lengths(features, outcomes.output_tokens)

    def _learn_lengths(self, features: Floats, output_tokens: Floats) -> None:
        self.lengths_: Trees | None = None
        self.honest_lengths_ = np.asarray(np.broadcast_to(self.output_tokens_, output_tokens.shape))
        seen = np.isfinite(output_tokens)
        if not self.length_trees or seen.mean() < LEAST_SEEN:
            return
        ratio = np.where(seen, output_tokens, self.output_tokens_) / self.output_tokens_
        ratio = np.minimum(ratio, np.quantile(ratio, LONGEST, axis=0))
        growth = Growth(trees=self.length_trees, leaf=LENGTHS.leaf, share=LENGTHS.share)
        self.lengths_, guess = grow(features, ratio, growth, self.rng + 1)
        self.honest_lengths_ = self.output_tokens_ * (1.0 + CAUTION * (guess - 1.0))

    @property
    def foretells_lengths(self) -> bool:
        return self.lengths_ is not None

    def tree_features(self, queries: Queries) -> Floats:
        assert queries.features is not None
        blocks = self.reader_.blocks
        topics = slice(blocks.topics.start, min(blocks.topics.stop, TOPICS))
        rest = slice(blocks.counts.start, blocks.domains.stop)
        parts = (queries.embeddings @ self.axes_, queries.features[:, topics], queries.features[:, rest])
        return np.hstack(parts).astype(np.float32, copy=False)

    def forests(self) -> Sequence[Trees]:
        return (self.forest_,) if self.lengths_ is None else (self.forest_, self.lengths_)

    def of_trees(self, said: Sequence[Floats]) -> Estimate:
        quality = self.mean_ + said[0] @ self.back_
        usual = np.broadcast_to(self.output_tokens_, quality.shape)
        return Estimate(
            quality=np.minimum(np.maximum(quality, 0.0), 1.0),
            std=np.broadcast_to(self.std_, quality.shape),
            output_tokens=usual if len(said) == 1 else usual * (1.0 + CAUTION * (said[1] - 1.0)),
        )

    def _learned(self) -> dict[str, NDArray[Any]]:
        lengths = {} if self.lengths_ is None else nested("lengths", self.lengths_.state())
        return {
            "axes": self.axes_,
            "mean": self.mean_,
            "back": self.back_,
            "std": self.std_,
            **nested("quality", self.forest_.state()),
            **lengths,
        }

    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.axes_ = take(state, "axes", (None, None))
        self.mean_ = take(state, "mean", (experts,))
        self.back_ = take(state, "back", (None, experts))
        self.std_ = take(state, "std", (experts,))
        blocks = self.reader_.blocks
        width = self.axes_.shape[1] + min(blocks.topics.stop, TOPICS) + blocks.domains.stop - blocks.counts.start
        self.forest_ = Trees.restored(within("quality", state), width, len(self.back_))
        lengths = within("lengths", state)
        self.lengths_ = Trees.restored(lengths, width, experts) if lengths else None
