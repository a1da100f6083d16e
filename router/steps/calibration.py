"""What is foretold, brought to what came of it: one slope and one offset for all experts.

Platt scaling (Platt, 1999) on the log-odds of what a policy foretold of prompts that it was not fitted to. One
curve for all keeps the experts' order on every query. An offset for each expert calibrated a little better and
chose worse on held-out prompts: it takes back what a policy had shrunk on purpose.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.steps.base import Step
from router.types import Estimate, Floats, Queries

EDGE = 1e-3  # closest to 0 and 1 that log-odds are taken
PRIOR = 20.0  # pseudo-observations that hold the slope at 1 and the offset at 0


class Calibration(Step):
    """`slope` [1] and `offset` [1], in log-odds."""

    def __init__(self, slope: Floats, offset: Floats) -> None:
        self.slope = slope
        self.offset = offset

    @classmethod
    def fit(cls, foretold: Floats, observed: Floats) -> Self:
        """Both [n, K]; `observed` is NaN where unobserved."""
        from scipy.optimize import minimize

        seen = np.isfinite(observed)
        odds, truth = _log_odds(foretold)[seen], observed[seen]

        def loss(found: Floats) -> tuple[float, Floats]:
            slope, offset = found
            score = slope * odds + offset
            value = (np.logaddexp(0.0, score) - truth * score).sum()
            value += PRIOR * ((slope - 1.0) ** 2 + offset**2 / 4) / 2
            missed = 0.5 * (1.0 + np.tanh(score / 2)) - truth
            return value, np.array([missed @ odds + PRIOR * (slope - 1.0), missed.sum() + PRIOR * offset / 4])

        found = minimize(loss, [1.0, 0.0], jac=True, bounds=[(0.0, None), (None, None)], method="L-BFGS-B").x
        return cls(found[:1].astype(np.float32), found[1:].astype(np.float32))

    def apply(self, queries: Queries, estimate: Estimate) -> Estimate:
        score = self.slope * _log_odds(estimate.quality) + self.offset
        return replace(estimate, quality=0.5 * (1.0 + np.tanh(score / 2)))  # the logistic, without overflow

    def state(self) -> dict[str, NDArray[Any]]:
        return {"slope": self.slope, "offset": self.offset}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        return cls(take(state, "slope", (1,)), take(state, "offset", (1,)))


def _log_odds(quality: Floats) -> Floats:
    inside = np.minimum(np.maximum(quality, EDGE), 1.0 - EDGE)
    return np.asarray(np.log(inside / (1.0 - inside)))
