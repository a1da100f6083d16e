"""Ridge regression of every expert's quality on the prompt's vector and features.

The experts are rotated into directions in which they can be predicted independently (see `router.directions`); each
direction takes the strength that errs least with each prompt left out, and is shrunk by how far that guess can be
trusted. With `fourier`, random Fourier features (Rahimi and Recht, 2007) make it a kernel machine of fixed size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.directions import directions, slope
from router.errors import DataError
from router.features import ReadingPolicy, table_of
from router.ridge import RidgePath, ridge
from router.types import Floats, Outcomes, Queries

WAVES = 400
LEAST_STD = 0.01


class Linear(ReadingPolicy):
    """The weights of the blocks that make up the design: the `vector`, the words' `topics`, `counts`, `domains`.

    Each block is brought to a total variance of one first; 0 leaves it out. `fourier` is the weight of random waves
    over vector, topics and counts, `bandwidth` how fine they are.
    """

    space: ClassVar[Mapping[str, Any]] = {
        **{name: {"low": 0.0, "high": 1.0} for name in ("vector", "topics", "counts", "domains", "fourier")},
        "bandwidth": {"low": 0.1, "high": 4.0, "log": True},
    }

    def __init__(
        self,
        *,
        vector: float = 1.0,
        topics: float = 1.0,
        counts: float = 0.5,
        domains: float = 0.5,
        fourier: float = 0.0,
        bandwidth: float = 0.5,
        rng: int = 0,
    ) -> None:
        self.vector = vector
        self.topics = topics
        self.counts = counts
        self.domains = domains
        self.fourier = fourier
        self.bandwidth = bandwidth
        self.rng = rng

    def _learn(self, outcomes: Outcomes) -> None:
        if min(self.vector, self.topics, self.counts, self.domains, self.fourier) < 0 or self.bandwidth <= 0:
            raise DataError("weights of blocks must not be below 0, and bandwidth must be above 0")
        table = table_of(outcomes.queries)
        plain = self._scale(table, (self.vector, self.topics, self.counts, self.domains))
        self.waves_, self.phase_ = self._drawn(table)
        centre = table.mean(axis=0)
        waves = self._waved(table)
        wave_centre = waves.mean(axis=0)
        wave_scale = self.fourier / np.sqrt(max(float(waves.var(axis=0).sum()), 1e-12))
        table -= centre  # in place: of a million prompts, one such table is three gigabytes
        table *= plain
        design = np.hstack([table, (waves - wave_centre) * wave_scale]) if waves.size else table
        weights, bias = self._solved(design, outcomes.quality)
        self.weights_ = (weights[: len(plain)] * plain[:, None]).astype(np.float32)
        self.wave_weights_ = (weights[len(plain) :] * wave_scale).astype(np.float32)
        self.bias_ = (bias - centre @ self.weights_ - wave_centre @ self.wave_weights_).astype(np.float32)

    def _scale(self, table: Floats, weights: Sequence[float]) -> Floats:
        """The factor of each column of `table`, [d + F]."""
        blocks = self.reader_.blocks
        vector = table.shape[1] - blocks.domains.stop
        scale = np.zeros(table.shape[1], dtype=np.float32)
        places = (slice(0, vector), *(slice(vector + b.start, vector + b.stop) for b in blocks))
        for place, weight in zip(places, weights, strict=True):
            power = float(table[:, place].var(axis=0).sum())
            scale[place] = weight / np.sqrt(power) if power > 1e-9 else 0.0
        return scale

    def _drawn(self, table: Floats) -> tuple[Floats, Floats]:
        """Directions [d + F, W] and phases [W] of the waves, in half precision as they are stored."""
        if not self.fourier:
            return np.zeros((table.shape[1], 0), np.float32), np.zeros(0, np.float32)
        rng = np.random.default_rng(self.rng)
        scale = self._scale(table, (1.0, 1.0, 0.7, 0.0)) * np.sqrt(2.0 * self.bandwidth)
        drawn = rng.normal(size=(table.shape[1], WAVES)) * scale[:, None]
        waves = drawn.astype(np.float16).astype(np.float32)
        return waves, (rng.uniform(0.0, 2.0 * np.pi, WAVES) - table.mean(axis=0) @ waves).astype(np.float32)

    def _waved(self, table: Floats) -> Floats:
        return np.asarray(np.cos(table @ self.waves_ + self.phase_))

    def _solved(self, design: Floats, quality: Floats) -> tuple[Floats, Floats]:
        """Weights [., K] and intercepts [K]; leaves what each prompt would be predicted without it in `honest_`."""
        path = ridge(design, quality)
        best = int(path.error(quality).mean(axis=1).argmin())
        turned = directions(path.honest[best], quality)
        mean = np.nanmean(quality, axis=0)
        truth = (np.where(np.isfinite(quality), quality, path.honest[best]) - mean) @ turned.there
        guesses = (path.honest - mean) @ turned.there
        errors = ((guesses - truth) ** 2).mean(axis=1)
        pick = errors.argmin(axis=0)
        every = np.arange(quality.shape[1])
        trust = np.array([slope(guesses[pick[j], :, j], truth[:, j]) for j in every])
        self.honest_ = mean + (guesses[pick, :, every].T * trust) @ turned.back
        self.std_ = self._uncertainty(path, best, quality)
        rotated = np.stack([(path.weights[pick[j]] @ turned.there)[:, j] * trust[j] for j in every], axis=1)
        offset = np.array([((path.intercept[pick[j]] - mean) @ turned.there)[j] * trust[j] for j in every])
        return np.asarray(rotated @ turned.back), np.asarray(mean + offset @ turned.back)

    def _uncertainty(self, path: RidgePath, best: int, quality: Floats) -> Floats:
        """Of the expected quality, [K]: one answer's error, times the share of freedom that the fit used."""
        share = path.used[best] / np.isfinite(quality).sum(axis=0)
        return np.asarray(np.maximum(np.sqrt(path.error(quality)[best] * share), LEAST_STD), dtype=np.float32)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        table = table_of(queries)
        quality = table @ self.weights_ + self.bias_
        if len(self.phase_):
            quality = quality + self._waved(table) @ self.wave_weights_
        return np.minimum(np.maximum(quality, 0.0), 1.0), np.broadcast_to(self.std_, quality.shape)

    def _learned(self) -> dict[str, NDArray[Any]]:
        return {
            "weights": self.weights_,
            "bias": self.bias_,
            "std": self.std_,
            "waves": self.waves_.astype(np.float16),
            "phase": self.phase_,
            "wave_weights": self.wave_weights_,
        }

    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.weights_ = take(state, "weights", (None, experts))
        self.bias_ = take(state, "bias", (experts,))
        self.std_ = take(state, "std", (experts,))
        self.waves_ = take(state, "waves", (len(self.weights_), None))
        self.phase_ = take(state, "phase", (self.waves_.shape[1],))
        self.wave_weights_ = take(state, "wave_weights", (len(self.phase_), experts))
