"""MoDEM's table: a prompt's domain is foretold, and every expert is expected to do as it did in that domain.

MoDEM: Mixture of Domain Expert Models (Simonds et al., 2024). The classifier is linear over vector and features
(`router.features`); its doubt is kept, so a prompt between two domains takes of both. Where the data name no
domains, clusters of prompts stand for them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.effects import estimated
from router.errors import DataError
from router.features import ReadingPolicy
from router.types import Floats, Outcomes, Queries

CHUNK = 1_024


class Domain(ReadingPolicy):
    """`pseudo_count`: observations' worth of belief that an expert does in a domain as it does everywhere."""

    space: ClassVar[Mapping[str, Any]] = {"pseudo_count": {"low": 1.0, "high": 200.0, "log": True}}

    def __init__(self, *, pseudo_count: float = 10.0, rng: int = 0) -> None:
        self.pseudo_count = pseudo_count
        self.rng = rng

    def _learn(self, outcomes: Outcomes) -> None:
        if self.pseudo_count <= 0:
            raise DataError(f"pseudo_count: {self.pseudo_count} is not above 0")
        seen = np.isfinite(outcomes.quality)
        self.mean_ = (np.where(seen, outcomes.quality, 0.0).sum(axis=0) / seen.sum(axis=0)).astype(np.float32)
        above = np.where(seen, outcomes.quality - self.mean_, 0.0)
        share = self._share(outcomes.queries).astype(np.float64)
        total, count = share.T @ above, share.T @ seen
        self.effect_ = (total / (count + self.pseudo_count)).astype(np.float32)
        self.evidence_ = (count + self.pseudo_count).astype(np.float32)
        self.honest_ = np.empty(outcomes.quality.shape)
        for start in range(0, len(share), CHUNK):  # each prompt by the table of the others
            part = slice(start, start + CHUNK)
            own = share[part, :, None]
            others = (total - own * above[part, None, :]) / (count - own * seen[part, None, :] + self.pseudo_count)
            self.honest_[part] = self.mean_ + np.einsum("nd,ndk->nk", share[part], others)

    def _share(self, queries: Queries) -> Floats:
        assert queries.features is not None
        return queries.features[:, self.reader_.blocks.domains]

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        share = self._share(queries)
        return estimated(self.mean_ + share @ self.effect_, share @ self.evidence_)

    def _learned(self) -> dict[str, NDArray[Any]]:
        return {"mean": self.mean_, "effect": self.effect_, "evidence": self.evidence_}

    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.mean_ = take(state, "mean", (experts,))
        self.effect_ = take(state, "effect", (None, experts))
        self.evidence_ = take(state, "evidence", (len(self.effect_), experts))
