"""Every expert alike, and every choice a draw: the baseline of knowing nothing, and a way to collect a fair log."""

from collections.abc import Mapping

import numpy as np

from router.artifact import take
from router.policy import Policy
from router.types import Floats, Outcomes, Queries


class Uniform(Policy):
    """One mean for all experts, with the spread of their means as its uncertainty; always explores."""

    reads_query = False
    explore = 1.0

    def _fit(self, outcomes: Outcomes) -> None:
        means = np.nanmean(outcomes.quality, axis=0)
        # with one expert, or none that differs, the spread says nothing: a floor keeps it positive
        self.mean_ = np.array([means.mean()], dtype=np.float32)
        self.std_ = np.array([max(float(means.std()), 0.01)], dtype=np.float32)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        shape = (len(queries), len(self.experts_))
        return np.broadcast_to(self.mean_, shape), np.broadcast_to(self.std_, shape)

    def state(self) -> dict[str, Floats]:
        return {"mean": self.mean_, "std": self.std_}

    def restore(self, state: Mapping[str, Floats]) -> None:
        self.mean_ = take(state, "mean", (1,))
        self.std_ = take(state, "std", (1,))
