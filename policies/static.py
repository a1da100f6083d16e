"""Each expert's mean quality, whatever the query: the baseline that every policy is held against."""

from collections.abc import Mapping

import numpy as np

from router.artifact import take
from router.policy import Policy
from router.types import Floats, Outcomes, Queries


class Static(Policy):
    """The mean of each expert's observed qualities; its uncertainty is that of a mean under a flat Beta prior."""

    reads_query = False

    def _fit(self, outcomes: Outcomes) -> None:
        seen = np.isfinite(outcomes.quality)
        count = seen.sum(axis=0)
        total = np.where(seen, outcomes.quality, 0.0).sum(axis=0)
        self.mean_ = (total / count).astype(np.float32)
        smooth = (total + 1.0) / (count + 2.0)
        self.std_ = np.sqrt(smooth * (1.0 - smooth) / (count + 3.0)).astype(np.float32)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        shape = (len(queries), len(self.mean_))
        return np.broadcast_to(self.mean_, shape), np.broadcast_to(self.std_, shape)

    def state(self) -> dict[str, Floats]:
        return {"mean": self.mean_, "std": self.std_}

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.mean_ = take(state, "mean", (experts,))
        self.std_ = take(state, "std", (experts,))
