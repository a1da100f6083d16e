"""Pilot vectors: where an expert did well and where it did badly, each expert by itself.

RouterRetriever: Exploring the Benefits of Routing over Multiple Expert Embedding Models (Lee et al., 2024): the
prompts on which an expert did best are kept as a few pilot vectors, a prompt goes to the expert whose pilots it is
closest to, and an expert is added or removed without training. So that no expert's estimate depends on another's,
pilots of an expert's failures stand against those of its successes here, and how far their closeness foretells its
quality is measured on its own prompts, one half by the pilots of the other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.clustering import half_norms, kmeans
from router.directions import slope
from router.effects import estimated
from router.errors import DataError
from router.parameters import at_least
from router.policy import Policy, mean_length
from router.types import Floats, Outcomes, Queries

LEAST_PROMPTS = 8  # per pilot, on average


class Pilots(NamedTuple):
    """One expert: `vectors` [2 P, d], successes first, and the logarithms of their weights [2 P]; the score's usual
    value, what a score is worth, the mean quality, and the number of prompts."""

    vectors: Floats
    weights: Floats
    record: tuple[float, float, float, float]


class Pilot(Policy):
    """`pilots` for an expert's successes and as many for its failures, one of each per cluster of its prompts.

    A prompt's closeness to either is log(sum of weight x exp(cosine / `temperature`)). A pilot weighs as much as
    the expert succeeded or failed there, its mean added as if that had been observed `pseudo_count` times.
    """

    def __init__(
        self, *, pilots: int = 32, temperature: float = 0.1, pseudo_count: float = 10.0, rng: int = 0
    ) -> None:
        self.pilots = pilots
        self.temperature = temperature
        self.pseudo_count = pseudo_count
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        at_least(self, pilots=1, temperature=0.001, pseudo_count=0.01)
        vectors, quality = outcomes.queries.embeddings, outcomes.quality
        self._keep([self._learned(vectors, quality[:, k]) for k in range(len(self.experts_))])

    def add(self, expert: str, vectors: Floats, quality: Floats, output_tokens: Floats) -> None:
        """One more expert, known by its own outcomes `quality` [n] on prompts [n, d]; no other's estimate changes.

        Raises `DataError` where it is there already, or nothing of it was observed.
        """
        if expert in self.experts_:
            raise DataError(f"expert {expert!r} is there already; there are: {', '.join(self.experts_)}")
        if not np.isfinite(quality).any():
            raise DataError(f"expert {expert!r} has no observed quality")
        self._keep([*self._kept(), self._learned(vectors, quality)])
        self.experts_ = (*self.experts_, expert)
        self.output_tokens_ = np.append(self.output_tokens_, mean_length(output_tokens[:, None]))

    def remove(self, expert: str) -> None:
        """Forgets an expert. Raises `DataError` where it is not there."""
        if expert not in self.experts_:
            raise DataError(f"expert {expert!r} is not there; there are: {', '.join(self.experts_)}")
        gone = self.experts_.index(expert)
        self._keep([own for k, own in enumerate(self._kept()) if k != gone])
        self.experts_ = tuple(name for name in self.experts_ if name != expert)
        self.output_tokens_ = np.delete(self.output_tokens_, gone)

    def _learned(self, vectors: Floats, quality: Floats) -> Pilots:
        seen = np.isfinite(quality)
        vectors, quality = np.asarray(vectors[seen], dtype=np.float32), quality[seen]
        rng = np.random.default_rng(
            self.rng
        )  # for each expert the same: asked the same prompts, they share clusters
        centres = kmeans(vectors, max(1, min(self.pilots, len(vectors) // LEAST_PROMPTS)), rng)
        member = (vectors @ centres.T - half_norms(centres)).argmax(axis=1)[:, None] == np.arange(len(centres))
        first = rng.permutation(len(quality)) % 2 == 0
        score = np.zeros(len(quality))
        for part in (first, ~first):
            score[part] = self._scores(
                vectors[part], *self._placed(vectors, quality, member & ~part[:, None], centres)
            )
            score[part] -= score[part].mean() if part.any() else 0.0
        placed = self._placed(vectors, quality, member, centres)
        usual = float(self._scores(vectors, *placed).mean())
        worth, mean = slope(score, quality - quality.mean()), float(quality.mean())
        return Pilots(*placed, (usual, worth, mean, float(len(quality))))

    def _placed(
        self, vectors: Floats, quality: Floats, member: NDArray[np.bool_], centres: Floats
    ) -> tuple[Floats, Floats]:
        """Pilots [2 P, d] and their weights' logarithms [2 P] by the prompts' membership [n, C] in clusters."""
        mean = float((quality[:, None] * member).sum() / max(member.sum(), 1))
        found, weights = [], []
        for worth, usual in ((quality, mean), (1.0 - quality, 1.0 - mean)):
            own = (member * worth[:, None]).astype(np.float32)
            prior = self.pseudo_count * max(usual, 0.01)
            mass = own.sum(axis=0) + prior
            pilots = (own.T @ vectors + prior * centres) / mass[:, None]
            found.append(np.resize(pilots, (self.pilots, vectors.shape[1])))  # fewer are repeated
            weights.append(np.resize(np.log(mass), self.pilots))
        return np.concatenate(found), np.concatenate(weights)

    def _scores(self, vectors: Floats, pilots: Floats, weights: Floats) -> Floats:
        """How much closer to the successes than to the failures, [n, ...], of `pilots` [..., 2 P, d].

        Each expert is multiplied by itself: one product over all rounds an expert's figures by how many there are.
        """
        cosine = np.moveaxis(vectors @ np.swapaxes(pilots, -1, -2), -2, 0)
        close = np.exp((cosine - 1.0) / self.temperature + weights)
        both = np.log(close.reshape(*close.shape[:-1], 2, self.pilots).sum(axis=-1) + 1e-12)
        return np.asarray(both[..., 0] - both[..., 1])

    def _keep(self, known: list[Pilots]) -> None:
        self.pilots_ = np.array([own.vectors for own in known], dtype=np.float16).astype(np.float32)
        self.weights_ = np.array([own.weights for own in known], dtype=np.float32)
        self.record_ = np.array([own.record for own in known], dtype=np.float32)

    def _kept(self) -> list[Pilots]:
        records = [(usual, worth, mean, count) for usual, worth, mean, count in self.record_.tolist()]
        return [Pilots(*own) for own in zip(self.pilots_, self.weights_, records, strict=True)]

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        usual, worth, mean, count = self.record_.T
        quality = mean + worth * (self._scores(queries.embeddings, self.pilots_, self.weights_) - usual)
        return estimated(quality, np.broadcast_to(count / self.pilots, quality.shape))

    def state(self) -> dict[str, Floats]:
        return {"pilots": self.pilots_.astype(np.float16), "weights": self.weights_, "record": self.record_}

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.pilots_ = take(state, "pilots", (experts, 2 * self.pilots, None))
        self.weights_ = take(state, "weights", (experts, 2 * self.pilots))
        self.record_ = take(state, "record", (experts, 4))
