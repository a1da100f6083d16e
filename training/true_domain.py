"""The means by the true label of the query: what no policy can know, and every policy is compared with."""

from collections.abc import Mapping

import numpy as np

from router.errors import DataError
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

TRUE_DOMAIN = "true domain label"
PSEUDO_COUNT = 10.0


class TrueDomain(Policy):
    """A yardstick, not to be served: it reads `Queries.domains`, and is shrunk like the others' tables."""

    def _fit(self, outcomes: Outcomes) -> None:
        if outcomes.queries.domains is None:
            raise DataError("the table names no domains")
        labels = np.array(outcomes.queries.domains)
        self.mean_ = np.nanmean(outcomes.quality, axis=0)
        above = outcomes.quality - self.mean_
        self.effect_ = {
            str(label): np.nansum(above[labels == label], axis=0)
            / (np.isfinite(above[labels == label]).sum(axis=0) + PSEUDO_COUNT)
            for label in np.unique(labels)
        }

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        assert queries.domains is not None
        none = np.zeros_like(self.mean_)
        quality = self.mean_ + np.array([self.effect_.get(label, none) for label in queries.domains])
        return np.clip(quality, 0.0, 1.0), np.full(quality.shape, 0.1)

    def state(self) -> dict[str, Floats]:
        return {"mean": self.mean_}

    def restore(self, state: Mapping[str, Floats]) -> None:
        self.mean_ = state["mean"]
