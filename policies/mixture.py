"""Soft clusters of a Gaussian mixture, fitted to the prompts alone and never to the experts' outcomes.

Input Domain Aware MoE (2025): a probabilistic mixture partitions the input, trained apart from the task, so that
boundaries stay where the inputs are. Here over the vectors' main axes, with diagonal covariances; an expert is
expected to do as it did in the components that a prompt belongs to, shrunk (`router.division`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.artifact import take
from router.axes import main_axes
from router.clustering import kmeans, shares
from router.division import Divided, DividingPolicy, Division
from router.parameters import at_least
from router.types import Floats, Outcomes

COMPONENTS = (16, 64)
LEAST_PROMPTS = 20  # per component, on average: each has two numbers per axis to learn
SHARPNESS = (1.0, 0.3)  # of the posterior: over many axes it is surer of itself than the experts' outcomes bear out
LEAST_WIDTH = 0.05  # of a component along an axis, as a share of the mean variance per axis
ROUNDS = 30


@dataclass(frozen=True)
class Posterior(Division):
    """softmax(`sharpness` x (z^2 `square` + z `linear` + `constant`)) of z = the vector along `axes` [d, a]."""

    axes: Floats
    square: Floats
    linear: Floats
    constant: Floats
    sharpness: Floats

    def shares(self, vectors: Floats) -> Floats:
        placed = vectors @ self.axes
        score = placed**2 @ self.square + placed @ self.linear + self.constant
        return shares(score * self.sharpness, score.shape[1], temperature=2.0)

    def state(self) -> dict[str, Floats]:
        return {name: np.asarray(part, dtype=np.float32) for name, part in vars(self).items()}


class Mixture(DividingPolicy):
    """`components` over the `axes` main axes of the vectors. What is None is chosen on prompts held out."""

    def __init__(
        self,
        *,
        components: int | None = None,
        axes: int = 24,
        sharpness: float | None = None,
        pseudo_count: float | None = None,
        rng: int = 0,
    ) -> None:
        self.components = components
        self.axes = axes
        self.sharpness = sharpness
        self.pseudo_count = pseudo_count
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        at_least(self, components=1, axes=1, sharpness=0.001, pseudo_count=0.01)
        super()._fit(outcomes)

    def _sizes(self, prompts: int) -> Sequence[int]:
        if self.components is not None:
            return [max(1, min(self.components, prompts))]
        return [size for size in COMPONENTS if size * LEAST_PROMPTS <= prompts] or [1]

    def _divided(self, size: int, vectors: Floats, quality: Floats) -> Sequence[Divided]:
        axes = main_axes(vectors, self.axes)
        found = _fitted(vectors @ axes, size, np.random.default_rng(self.rng))
        sharpness = SHARPNESS if self.sharpness is None else (self.sharpness,)
        divisions = [Posterior(axes, *found, np.array([s], dtype=np.float32)) for s in sharpness]
        return [Divided(division, division.shares(vectors)) for division in divisions]

    def _restored(self, state: Mapping[str, Floats]) -> Posterior:
        axes = take(state, "axes", (None, None))
        constant = take(state, "constant", (None,))
        shape = (axes.shape[1], len(constant))
        parts = take(state, "square", shape), take(state, "linear", shape), constant
        return Posterior(axes, *parts, take(state, "sharpness", (1,)))


def _fitted(placed: Floats, size: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """The mixture of points [n, a] by expectation maximisation from K-means, as `Posterior`'s three parts."""
    least = LEAST_WIDTH * placed.var(axis=0).mean() + 1e-9
    means = kmeans(placed, size, rng)
    width = np.tile(placed.var(axis=0) / size ** (2 / placed.shape[1]) + least, (size, 1))
    weight = np.full(size, 1.0 / size)
    squares = placed**2
    for _ in range(ROUNDS):
        square, linear = -0.5 / width.T, (means / width).T
        constant = np.log(weight) - 0.5 * (np.log(width) + means**2 / width).sum(axis=1)
        member = shares(squares @ square + placed @ linear + constant, size, temperature=2.0)
        count = member.sum(axis=0) + 1e-6
        means = (member.T @ placed) / count[:, None]
        width = np.maximum((member.T @ squares) / count[:, None] - means**2, 0.0) + least
        weight = count / count.sum()
    return square.astype(np.float32), linear.astype(np.float32), constant.astype(np.float32)
