"""Nearest neighbours: an expert does as it did on the most similar prompts.

The yardstick of routing (RouterBench, Hu et al., 2024; Rethinking Predictive Modeling for LLM Routing, Li, 2025).
Plain means over few neighbours lose to a constant, since the best of many noisy means is a lucky one: here the
neighbours' weights fall with distance, and an expert's estimate is drawn towards its mean as if that had been
observed so often. Both, and how many neighbours, are chosen by leaving each prompt out in turn.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.effects import estimated
from router.errors import DataError
from router.policy import Policy
from router.types import Floats, Outcomes, Queries

NEIGHBOURS = (10, 30, 100)
TEMPERATURES = (0.05, 0.15, 10.0)  # of exp(-(1 - cosine) / temperature); the last: all alike
PSEUDO_COUNTS = (3.0, 10.0, 30.0)
CHUNK = 512
JUDGED = 3_000  # prompts left out in turn; more only take longer

Rows = NDArray[np.intp]


class Knn(Policy):
    """`neighbours`, the kernel's `temperature` and the `pseudo_count` of the expert's mean; None: chosen."""

    space: ClassVar[Mapping[str, Any]] = {
        "neighbours": {"low": 5, "high": 300, "log": True},
        "temperature": {"low": 0.02, "high": 10.0, "log": True},
        "pseudo_count": {"low": 1.0, "high": 100.0, "log": True},
    }

    def __init__(
        self,
        *,
        neighbours: int | None = None,
        temperature: float | None = None,
        pseudo_count: float | None = None,
        rng: int = 0,
    ) -> None:
        self.neighbours = neighbours
        self.temperature = temperature
        self.pseudo_count = pseudo_count
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        for name, value in (("neighbours", self.neighbours), ("temperature", self.temperature)):
            if value is not None and value <= 0:
                raise DataError(f"{name}: {value} is not above 0")
        seen = np.isfinite(outcomes.quality)
        self.vectors_ = outcomes.queries.embeddings.astype(np.float16).astype(np.float32)
        self.mean_ = (np.where(seen, outcomes.quality, 0.0).sum(axis=0) / seen.sum(axis=0)).astype(np.float32)
        self.quality_ = np.where(seen, outcomes.quality, 0.0).astype(np.float16).astype(np.float32)
        self.seen_ = seen.astype(np.float32)
        self.settings_ = np.array(self._chosen(outcomes.quality), dtype=np.float32)

    def _chosen(self, quality: Floats) -> tuple[float, float, float]:
        """The settings that err least when each of a sample of prompts is predicted from the others."""
        choices = list(
            product(
                NEIGHBOURS if self.neighbours is None else (self.neighbours,),
                TEMPERATURES if self.temperature is None else (self.temperature,),
                PSEUDO_COUNTS if self.pseudo_count is None else (self.pseudo_count,),
            )
        )
        if len(choices) == 1 or len(quality) < 2:
            return choices[-1]  # the most cautious
        rows = np.sort(np.random.default_rng(self.rng).permutation(len(quality))[:JUDGED])
        errors = np.zeros(len(choices))
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            truth = quality[part]
            found = self._nearest(self.vectors_[part], max(choice[0] for choice in choices), left_out=part)
            for c, choice in enumerate(choices):
                guess = self._means(*found, choice)[0]
                errors[c] += float(np.nansum((guess - truth) ** 2))
        return choices[int(errors.argmin())]

    def _nearest(self, vectors: Floats, most: int, left_out: Rows | None = None) -> tuple[Rows, Floats]:
        """Rows and cosines [n, most] of the nearest training prompts, nearest first."""
        close = vectors @ self.vectors_.T
        if left_out is not None:
            close[np.arange(len(vectors)), left_out] = -np.inf
        most = min(most, close.shape[1])
        near = np.argpartition(close, -most, axis=1)[:, -most:]
        cosine = np.take_along_axis(close, near, axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1), np.take_along_axis(cosine, order, axis=1)

    def _means(self, near: Rows, cosine: Floats, choice: tuple[float, float, float]) -> tuple[Floats, Floats]:
        """(quality, evidence), both [n, K]: the drawn-in means, and how many observations they rest on."""
        neighbours, temperature, pseudo_count = int(choice[0]), choice[1], choice[2]
        near, cosine = near[:, :neighbours], cosine[:, :neighbours]
        weight = np.exp((cosine - cosine[:, :1]) / temperature)  # the nearest has 1
        weight = np.where(np.isfinite(cosine), weight, 0.0)[:, None, :]
        total = (weight @ self.quality_[near])[:, 0]
        count = (weight @ self.seen_[near])[:, 0]
        return (total + pseudo_count * self.mean_) / (count + pseudo_count), count + pseudo_count

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        settings = float(self.settings_[0]), float(self.settings_[1]), float(self.settings_[2])
        quality = np.empty((len(queries), len(self.mean_)), dtype=np.float32)
        evidence = np.empty_like(quality)
        for start in range(0, len(queries), CHUNK):
            part = slice(start, start + CHUNK)
            found = self._nearest(queries.embeddings[part], int(settings[0]))
            quality[part], evidence[part] = self._means(*found, settings)
        return estimated(quality, evidence)

    def state(self) -> dict[str, Floats]:
        return {
            "vectors": self.vectors_.astype(np.float16),
            "quality": self.quality_.astype(np.float16),
            "seen": self.seen_.astype(np.uint8),
            "mean": self.mean_,
            "settings": self.settings_,
        }

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.vectors_ = take(state, "vectors", (None, None))
        self.quality_ = take(state, "quality", (len(self.vectors_), experts))
        self.seen_ = take(state, "seen", (len(self.vectors_), experts))
        self.mean_ = take(state, "mean", (experts,))
        self.settings_ = take(state, "settings", (3,))
