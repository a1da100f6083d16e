"""Experts that came after the training, each known from some labelled prompts: the others' estimates say the rest.

An expert is described by how it does on prompts that the others are estimated on too, as UniRoute describes it by
its errors (Jitkrittum et al., 2025); and what is hard for them is likely to be hard for it, as in item response
theory. Its quality is a linear function of what the policy says of the experts that it knows. Beforehand it is
believed to deviate from its mean as they do on average; its labelled prompts say how much more as some than as
others, and what is its own on some kinds of prompts (see `router.belief`). Outcomes of known experts on the same
prompts, where they are given, take out of its scores what was the prompt's luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.belief import Belief, Group, believed
from router.steps.base import Step
from router.types import Estimate, Floats, Queries

# Beforehand. What one expert's own deviations count is set by how far the known ones' range.
LEAST_MEAN_VARIANCE = 0.002
SLOPE_VARIANCE = 0.1  # of how far the common deviation is shared, around wholly
KIND_VARIANCE = 0.005  # of what is a newcomer's own on a kind of prompts
SURPRISE = 0.7  # how far it shares in what known experts did better on a prompt than was said of them
SURPRISE_VARIANCE = 0.1
OWN_SURPRISE = 0.5  # what one expert's surprise counts, beside its deviation
NOISE = 0.85  # share of a score's variance that estimates leave
NOISE_BESIDE = 0.6  # the same where known experts' scores are there too
USUAL_VARIANCE = 0.16  # of a score
USUAL_WEIGHT = 5.0  # how many scores that belief is worth
LENGTH_WEIGHT = 10.0  # how many answers the belief is worth that they are as long as the others'
LEAST_STD = 0.01


@dataclass(frozen=True)
class Kinds:
    """Kinds of prompts, told apart by a linear classifier over vector and features; `mean` [C] are their shares."""

    weights: Floats  # [d + F, C]
    bias: Floats  # [C]
    mean: Floats  # [C]

    @classmethod
    def fit(cls, weights: Floats, bias: Floats, reference: Queries) -> Self:
        """`reference` are queries like those of the training."""
        found = cls(weights.astype(np.float32), bias.astype(np.float32), np.zeros(len(bias), np.float32))
        return replace(found, mean=found.above(_table(reference)).mean(axis=0))

    def above(self, table: Floats) -> Floats:
        """How far each query is of each kind, above the mean, [n, C], by vector and features [n, d + F]."""
        score = table @ self.weights + self.bias
        raised = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True) - self.mean)

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        bias = take(state, "bias", (None,))
        return cls(take(state, "weights", (None, len(bias))), bias, take(state, "mean", bias.shape))


@dataclass(frozen=True)
class Ground:
    """What newcomers are described by: K known experts, and kinds of prompts by several classifiers, C in all."""

    centre: Floats  # [K], what is said of the known experts on prompts like those of the training, on average
    lengths: Floats  # [K], and of their output tokens
    kinds: tuple[Kinds, ...]

    @classmethod
    def fit(cls, reference: Estimate, kinds: Sequence[Kinds]) -> Self:
        centre, lengths = reference.quality.mean(axis=0), reference.output_tokens.mean(axis=0)
        return cls(centre.astype(np.float32), lengths.astype(np.float32), tuple(kinds))

    def shares(self, queries: Queries, estimate: Estimate) -> list[Floats]:
        """By each classifier, [n, c]. On a query unlike the training's the kind is a guess, and counts less."""
        trust = 1.0 if estimate.familiarity is None else estimate.familiarity[:, None]
        table = _table(queries)
        return [kinds.above(table) * trust for kinds in self.kinds]

    def longer(self, estimate: Estimate) -> Floats:
        """How many times longer answers are expected to be than on average, [n, 1]."""
        return np.asarray((estimate.output_tokens / self.lengths).mean(axis=1, keepdims=True))

    @property
    def size(self) -> int:
        """1 + K + C."""
        return 1 + len(self.centre) + sum(len(kinds.bias) for kinds in self.kinds)

    def state(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {"centre": self.centre, "lengths": self.lengths}
        for place, kinds in enumerate(self.kinds):
            arrays |= nested(f"kinds.{place}", vars(kinds))
        return arrays

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        kinds: list[Kinds] = []
        while arrays := within(f"kinds.{len(kinds)}", state):
            kinds.append(Kinds.restored(arrays))
        centre = take(state, "centre", (None,))
        return cls(centre, take(state, "lengths", centre.shape), tuple(kinds))


@dataclass(frozen=True)
class Labelled:
    """What N newcomers made of some prompts, NaN where unobserved; and, where it is known, what others did."""

    queries: Queries
    estimate: Estimate  # of the K known experts
    observed: Floats  # [n, K], the known experts' quality
    quality: Floats  # [n, N], the newcomers'
    output_tokens: Floats  # [n, N]


class Newcomers(Step):
    """Adds N experts to the K that it is given. `length` [N] is their mean length in output tokens.

    `weights` [1 + K + C, N] are of one, of the known experts' deviations and of the kinds; `factor` [N, 1 + K + C,
    1 + K + C] times its transpose is their covariance.
    """

    def __init__(self, ground: Ground, weights: Floats, factor: Floats, length: Floats) -> None:
        self.ground = ground
        self.weights = weights
        self.factor = factor
        self.length = length
        self.adds = len(length)

    @classmethod
    def fit(cls, ground: Ground, labelled: Labelled) -> Self:
        shares = ground.shares(labelled.queries, labelled.estimate)
        found = [_learned(ground, labelled, shares, place) for place in range(labelled.quality.shape[1])]
        counted = np.isfinite(labelled.output_tokens)
        made = np.where(counted, labelled.output_tokens, 0.0).sum(axis=0)
        times = (counted * ground.longer(labelled.estimate)).sum(axis=0)
        length = (made + LENGTH_WEIGHT * ground.lengths.mean()) / (times + LENGTH_WEIGHT)
        return cls(
            ground,
            np.stack([belief.weights for belief in found], axis=1).astype(np.float32),
            np.stack([_root(belief.covariance) for belief in found]).astype(np.float32),
            length.astype(np.float32),
        )

    def apply(self, queries: Queries, estimate: Estimate) -> Estimate:
        return self.joined(estimate, self.ground.shares(queries, estimate))

    def foretold(self, estimate: Estimate) -> Estimate:
        """For queries of which nothing is known but the estimate [n, K]: they are of no kind in particular."""
        blank = np.zeros((len(estimate.quality), self.ground.size - 1 - len(self.ground.centre)))
        return self.joined(estimate, [blank])

    def joined(self, estimate: Estimate, shares: Sequence[Floats]) -> Estimate:
        """The estimate [n, K] and the newcomers', for queries with these `shares` of the kinds."""
        one = np.ones((len(estimate.quality), 1), dtype=np.float32)
        table = np.hstack([one, estimate.quality - self.ground.centre, *shares])
        own = np.square(table @ self.factor).sum(axis=2).T
        # errors in what is said of the known experts are taken to go together
        theirs = estimate.std @ np.abs(self.weights[1 : 1 + len(self.ground.centre)])
        quality = np.minimum(np.maximum(table @ self.weights, 0.0), 1.0)
        return Estimate(
            quality=np.hstack([estimate.quality, quality]),
            std=np.hstack([estimate.std, np.sqrt(np.maximum(own + theirs**2, LEAST_STD**2))]),
            output_tokens=np.hstack([estimate.output_tokens, self.ground.longer(estimate) * self.length]),
            familiarity=estimate.familiarity,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        own = {"weights": self.weights, "factor": self.factor, "length": self.length}
        return {**own, **nested("ground", self.ground.state())}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        ground = Ground.restored(within("ground", state))
        length = take(state, "length", (None,))
        return cls(
            ground,
            take(state, "weights", (ground.size, len(length))),
            take(state, "factor", (len(length), ground.size, ground.size)),
            length,
        )


def _learned(ground: Ground, labelled: Labelled, shares: Sequence[Floats], place: int) -> Belief:
    """Of the weights of one, of the known experts' deviations and of the kinds, for one newcomer."""
    rows = np.isfinite(labelled.quality[:, place])
    quality, observed = labelled.quality[rows, place], labelled.observed[rows]
    said = labelled.estimate.quality[rows].astype(np.float64)
    seen = np.isfinite(observed)
    surprise = np.where(seen, observed - said, 0.0)
    common = surprise.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    deviation = said - ground.centre
    shared = deviation.mean(axis=1, keepdims=True)
    mean, spread = float(ground.centre.mean()), float(ground.centre.var()) + LEAST_MEAN_VARIANCE
    each = 1.0 / max(len(ground.centre) - 1, 1)
    groups = [
        Group(np.ones((len(quality), 1)), spread, mean),
        Group(shared, SLOPE_VARIANCE, 1.0),
        Group(deviation - shared, each, free=True),
        *(Group(share[rows], KIND_VARIANCE, free=True) for share in shares),
        Group(common, SURPRISE_VARIANCE, SURPRISE),
        Group(np.where(seen, surprise - common, 0.0), each * OWN_SURPRISE, free=True),
    ]
    variance = (len(quality) * quality.var() + USUAL_WEIGHT * USUAL_VARIANCE) / (len(quality) + USUAL_WEIGHT)
    belief = believed(groups, quality, variance * (NOISE_BESIDE if seen.any() else NOISE))
    return belief.of(_of_deviations(len(ground.centre), ground.size, len(belief.weights)))


def _of_deviations(known: int, size: int, weights: int) -> Floats:
    """[size, weights]: the mean deviation and what is above it become plain deviations; no surprise is foreseen."""
    there = np.zeros((size, weights))
    there[0, 0] = 1.0
    there[1 : 1 + known, 1] = 1.0 / known
    there[1 : 1 + known, 2 : 2 + known] = np.eye(known) - 1.0 / known
    there[1 + known :, 2 + known : 1 + size] = np.eye(size - 1 - known)
    return there


def _root(covariance: Floats) -> Floats:
    size, axes = np.linalg.eigh(covariance)
    return np.asarray(axes * np.sqrt(np.maximum(size, 0.0)))


def _table(queries: Queries) -> Floats:
    """Vector and features side by side, [n, d + F]."""
    if queries.features is None:
        return queries.embeddings
    return np.hstack([queries.embeddings, queries.features])
