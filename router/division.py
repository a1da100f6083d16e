"""Policies that share a prompt among parts and expect of an expert what it did in each: how they choose and learn.

How prompts are divided is the policy's own affair; that the experts' means per part are shrunk, told from the
prompts' difficulty, and that what was not given is chosen on prompts held out, is common to all.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from router.artifact import nested, take, within
from router.effects import estimated, held_out, learn, ranking_error
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

PSEUDO_COUNTS = (3.0, 10.0, 30.0, 100.0)


class Division(ABC):
    """Shares vectors among parts."""

    @abstractmethod
    def shares(self, vectors: Floats) -> Floats:
        """Shares [n, C] of vectors [n, d]; rows sum to one."""

    @abstractmethod
    def state(self) -> dict[str, Floats]: ...


class Divided(NamedTuple):
    """A division, and the training prompts' shares in it [n, C], each as if it had not been trained on."""

    division: Division
    shares: Floats


class DividingPolicy(Policy):
    """`pseudo_count`: observations' worth of belief that an expert does in a part as it does everywhere."""

    pseudo_count: float | None
    rng: int

    @abstractmethod
    def _sizes(self, prompts: int) -> Sequence[int]:
        """The numbers of parts to try for so many prompts."""

    @abstractmethod
    def _divided(self, size: int, vectors: Floats, quality: Floats) -> Sequence[Divided]:
        """Divisions into `size` parts: as many, in the same order, whatever the vectors are."""

    @abstractmethod
    def _restored(self, state: Mapping[str, Floats]) -> Division:
        """Takes back a division's `state`."""

    def _fit(self, outcomes: Outcomes) -> None:
        vectors = np.ascontiguousarray(outcomes.queries.embeddings, dtype=np.float32)
        size, variant, pseudo_count = self._chosen(vectors, outcomes.quality)
        self.division_, share = self._divided(size, vectors, outcomes.quality)[variant]
        table = learn([share], outcomes.quality, pseudo_count)
        self.mean_, self.effect_ = table.mean.astype(np.float32), table.effects[0].astype(np.float32)
        self.evidence_ = (table.count + pseudo_count).astype(np.float32)

    def _chosen(self, vectors: Floats, quality: Floats) -> tuple[int, int, float]:
        """Size, variant and pseudo-count that err least, in ranking experts, on the prompts held out."""
        held = held_out(quality, np.random.default_rng(self.rng))
        counts = PSEUDO_COUNTS if self.pseudo_count is None else (self.pseudo_count,)
        sizes = self._sizes(len(vectors) if held is None else int((~held).sum()))
        if held is None:
            return sizes[0], 0, counts[-1]  # too few to hold some out: the cautious choice
        errors = {}
        for size in sizes:
            for variant, (division, fitted) in enumerate(self._divided(size, vectors[~held], quality[~held])):
                judged = division.shares(vectors[held])
                for count in counts:
                    table = learn([fitted], quality[~held], count)
                    guess = table.mean + judged @ table.effects[0]
                    errors[size, variant, count] = ranking_error(guess, quality[held])
        return min(errors, key=lambda choice: errors[choice])

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        share = self.division_.shares(queries.embeddings)
        return estimated(self.mean_ + share @ self.effect_, share @ self.evidence_)

    def state(self) -> dict[str, Floats]:
        table = {"mean": self.mean_, "effect": self.effect_, "evidence": self.evidence_}
        return {**table, **nested("division", self.division_.state())}

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.division_ = self._restored(within("division", state))
        self.mean_ = take(state, "mean", (experts,))
        self.effect_ = take(state, "effect", (None, experts))
        self.evidence_ = take(state, "evidence", (len(self.effect_), experts))
