"""How much is kept of what two heads guess: as much as proved true of prompts that neither had seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.blending import weighed
from router.directions import directions
from router.types import Floats

FOLDS = 5
LEAST_STD = 0.01


@dataclass(frozen=True)
class Trust:
    """What each of M guesses is above the experts' `mean` [K] is mixed by `mixing` [M, K, K] and added up."""

    mean: Floats
    mixing: Floats

    @classmethod
    def earned(cls, guesses: Floats, truth: Floats, mean: Floats, rng: np.random.Generator) -> "Trust":
        """From honest guesses [M, m, K] and what came of them, NaN where unobserved. Nothing is kept where m is 0.

        Each direction in which the experts differ (`router.directions`) is weighed by itself, as in a stack
        (`router.blending`); where an expert was seldom observed, each expert.
        """
        members, _, experts = guesses.shape
        seen = np.isfinite(truth)
        mixing = np.zeros((members, experts, experts))
        if seen.any():
            average = guesses.mean(axis=0)
            turned = directions(average, truth)
            apart = np.array_equal(turned.there, np.eye(experts))
            above = (guesses - mean) @ turned.there
            wanted = (np.where(seen, truth, average) - mean) @ turned.there
            folds = rng.integers(FOLDS, size=len(truth))
            for j in range(experts):
                rows = seen[:, j] if apart else np.ones(len(truth), dtype=bool)
                if not rows.any():
                    continue
                weights, _ = weighed(above[:, rows, j, None], wanted[rows, j, None], folds[rows])
                mixing += weights[:, :, None] * np.outer(turned.there[:, j], turned.back[j])
        return cls(mean.astype(np.float32), mixing.astype(np.float32))

    def kept(self, guesses: Floats) -> tuple[Floats, Floats]:
        """Quality and std [n, K] of guesses [M, n, K]; how far these lie from the quality is its uncertainty."""
        quality = self.mean + ((guesses - self.mean) @ self.mixing).sum(axis=0)
        quality = np.minimum(np.maximum(quality, 0.0), 1.0)
        return quality, np.maximum(np.sqrt(((guesses - quality) ** 2).mean(axis=0)), LEAST_STD)

    def state(self) -> dict[str, Floats]:
        return {"mean": self.mean, "mixing": self.mixing}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]], members: int, experts: int) -> "Trust":
        return cls(take(state, "mean", (experts,)), take(state, "mixing", (members, experts, experts)))
