"""The recommendation: the stack that did best where it was chosen by the training prompts alone.

Under a few hundred prompts only what shrinks hard is safe, so the trees and the kernel stay out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies import policy_class
from router.artifact import take
from router.features import ReadingPolicy
from router.policy import Policy
from router.types import Estimate, Outcomes, Queries

FEW = 300  # prompts
CAUTIOUS: list[dict[str, Any]] = [
    {"kind": "domain", "pseudo_count": 20.0},
    {"kind": "linear"},
    {"kind": "linear", "vector": 0.0, "topics": 0.0, "domains": 1.0},
]
FULL: list[dict[str, Any]] = [
    {"kind": "domain"},
    {"kind": "linear", "vector": 0.5, "topics": 0.5, "counts": 0.3, "domains": 1.0},
    {"kind": "linear", "counts": 1.0, "domains": 0.5, "vector": 0.0, "topics": 0.0},
    {"kind": "linear", "domains": 0.0, "fourier": 0.7},
    {
        "kind": "linear",
        "vector": 0.0,
        "topics": 0.0,
        "counts": 0.0,
        "domains": 1.0,
        "fourier": 0.5,
        "bandwidth": 2.0,
    },
    {"kind": "forest"},
    {"kind": "forest", "leaf": 10, "share": 0.6, "length_trees": 0},
]


class Best(Policy):
    """A stack of what the number of training prompts can bear."""

    def __init__(self, *, rng: int = 0) -> None:
        self.rng = rng

    def _stack(self, full: bool) -> ReadingPolicy:
        stack = policy_class("stack")(**{"members": FULL if full else CAUTIOUS, "rng": self.rng})
        assert isinstance(stack, ReadingPolicy)
        return stack

    def _fit(self, outcomes: Outcomes) -> None:
        self.full_ = len(outcomes) >= FEW
        self.stack_ = self._stack(self.full_).fit(outcomes)

    def worded(self, queries: Queries) -> Queries:
        return self.stack_.worded(queries)

    def described(self, queries: Queries) -> Queries:
        return self.stack_.described(queries)

    def _estimate(self, queries: Queries) -> Estimate:
        return self.stack_.predict(queries)

    def state(self) -> dict[str, NDArray[Any]]:
        return {"full": np.array([self.full_], dtype=np.uint8), **self.stack_.state()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.full_ = bool(take(state, "full", (1,))[0])
        self.stack_ = self._stack(self.full_)
        self.stack_.experts_, self.stack_.output_tokens_ = self.experts_, self.output_tokens_
        self.stack_.restore(state)
