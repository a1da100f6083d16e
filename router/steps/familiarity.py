"""How like its training prompts a query is, and how far the policy is therefore trusted.

On prompts of a domain that it never saw a learned policy loses to the best single model: the further a query is
from the training prompts, the more the estimate is drawn towards each expert's mean, which is the static mix.
Distance is read from three signals: the confidence of a classifier of domains (Hendrycks and Gimpel, 2017), the
nearest training prompts (Sun et al., 2022) and the Mahalanobis distance (Lee et al., 2018). How they weigh, and how
much trust is left at each distance, is learned by leaving whole domains out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.ridge import ridge
from router.steps.base import Step
from router.types import Estimate, Floats, Queries

BANK = 1_024  # training prompts among which the nearest are sought
NEAREST = 8
SHARPNESS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # of the classifier's posterior, tried in turn
SHRINKAGE = 0.3  # of the covariance, towards a multiple of the identity
BINS = 10
SIGNALS = 3
DOUBT = 1.0  # standard errors by which trust is less than it seems
CHUNK = 1_024


@dataclass(frozen=True)
class Likeness:
    """Signals of how like the training prompts a query is. `d` is the vectors' dimension, `F` the features'."""

    centre: Floats  # [d + F]
    scale: Floats  # [d + F]
    weights: Floats  # [d + F, D]
    bias: Floats  # [D]
    sharpness: Floats  # [1]
    bank: Floats  # [m, v], unit rows; v = d, or F where there are no vectors
    precision: Floats  # [v, v]

    @classmethod
    def fit(cls, queries: Queries, labels: NDArray[np.intp], rng: np.random.Generator) -> Self:
        """`labels` [n] are the training prompts' domains as numbers from 0."""
        table, vectors = _table(queries), _vectors(queries)
        centre = table.mean(axis=0)
        scale = _scale(table - centre, queries.embeddings.shape[1])
        target = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)
        path = ridge((table - centre) * scale, target)
        best = int(path.error(target).mean(axis=1).argmin())
        own = np.arange(len(labels)), labels
        fits = [np.log(_softmax(path.honest[best] * s)[own] + 1e-9).mean() for s in SHARPNESS]
        spread = np.cov((vectors - vectors.mean(axis=0)).T).reshape(vectors.shape[1], -1)
        power = np.trace(spread) / len(spread)
        return cls(
            centre=centre.astype(np.float32),
            scale=scale.astype(np.float32),
            weights=path.weights[best].astype(np.float32),
            bias=path.intercept[best].astype(np.float32),
            sharpness=np.array([SHARPNESS[int(np.argmax(fits))]], dtype=np.float32),
            bank=_half(vectors[np.sort(rng.permutation(len(vectors))[:BANK])]),
            precision=_half(np.linalg.inv(spread / power + SHRINKAGE * np.eye(len(spread))) / len(spread)),
        )

    def signals(self, queries: Queries) -> Floats:
        """[n, 3], each higher for a query that is more like the training prompts."""
        table, vectors = _table(queries), _vectors(queries)
        score = ((table - self.centre) * self.scale) @ self.weights + self.bias
        confidence = np.log(_softmax(score * self.sharpness).max(axis=1) + 1e-9)
        near = np.empty(len(vectors))
        for start in range(0, len(vectors), CHUNK):
            close = vectors[start : start + CHUNK] @ self.bank.T
            count = min(NEAREST, close.shape[1])
            near[start : start + CHUNK] = np.partition(close, -count, axis=1)[:, -count:].mean(axis=1)
        off = vectors - self._bank_mean
        return np.stack([confidence, near, -np.einsum("nd,nd->n", off @ self.precision, off)], axis=1)

    @cached_property
    def _bank_mean(self) -> Floats:
        return np.asarray(self.bank.mean(axis=0))

    def state(self) -> dict[str, NDArray[Any]]:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return arrays | {name: arrays[name].astype(np.float16) for name in ("bank", "precision")}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        centre = take(state, "centre", (None,))
        weights = take(state, "weights", (len(centre), None))
        bank = take(state, "bank", (None, None))
        return cls(
            centre=centre,
            scale=take(state, "scale", centre.shape),
            weights=weights,
            bias=take(state, "bias", weights.shape[1:]),
            sharpness=take(state, "sharpness", (1,)),
            bank=bank,
            precision=take(state, "precision", (bank.shape[1], bank.shape[1])),
        )


@dataclass(frozen=True)
class Evidence:
    """What policies said of prompts that they were not fitted to, and what came of them."""

    signals: Floats  # [n, 3]
    foretold: Floats  # [n, K], quality
    observed: Floats  # [n, K], quality, NaN where unobserved
    mean: Floats  # [n, K], the experts' means on what the policy was fitted to


class Familiarity(Step):
    """Draws the estimate of an unlike query towards the experts' `mean` [K]; `spread` [K] is how far they range
    between domains, which is the uncertainty of a mean in a domain that nobody saw.

    `weights` [3] and `shift` make a query's score of its signals; trust runs linearly between the `knots` [B, 2] of
    score and trust.
    """

    def __init__(self, likeness: Likeness, weights: Floats, knots: Floats, mean: Floats, spread: Floats) -> None:
        self.likeness = likeness
        self.weights = weights
        self.knots = knots
        self.mean = mean
        self.spread = spread

    @classmethod
    def fit(cls, likeness: Likeness, familiar: Evidence, unlike: Evidence, mean: Floats, spread: Floats) -> Self:
        """`familiar` are prompts held out at random, `unlike` those of domains that were left out whole."""
        weights = _told_apart(familiar.signals, unlike.signals)
        knots = _trust(weights, familiar, unlike)
        return cls(likeness, weights, knots, mean.astype(np.float32), spread.astype(np.float32))

    def trust_at(self, signals: Floats) -> Floats:
        """In [0, 1], one for each row of `signals` [n, 3]."""
        return np.asarray(np.interp(signals @ self.weights, self.knots[:, 0], self.knots[:, 1]))

    def apply(self, queries: Queries, estimate: Estimate) -> Estimate:
        return self.drawn(self.trust_at(self.likeness.signals(queries)), estimate)

    def drawn(self, trust: Floats, estimate: Estimate) -> Estimate:
        """The estimate drawn towards the means where `trust` [n] is less than one."""
        share = trust[:, None]
        return replace(
            estimate,
            quality=self.mean + share * (estimate.quality - self.mean),
            std=np.sqrt((share * estimate.std) ** 2 + ((1.0 - share) * self.spread) ** 2),
            familiarity=trust,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        own = {name: getattr(self, name) for name in ("weights", "knots", "mean", "spread")}
        return {**own, **nested("likeness", self.likeness.state())}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        mean = take(state, "mean", (None,))
        return cls(
            Likeness.restored(within("likeness", state)),
            take(state, "weights", (SIGNALS,)),
            take(state, "knots", (None, 2)),
            mean,
            take(state, "spread", mean.shape),
        )


def _told_apart(familiar: Floats, unlike: Floats) -> Floats:
    """Weights [3] of the signals, none below zero, by which familiar prompts score higher than unlike ones.

    Logistic regression, both kinds counting the same in all. The scale of the weights takes up the signals' own.
    """
    from scipy.optimize import minimize

    signals = np.concatenate([familiar, unlike])
    scale = signals.std(axis=0) + 1e-9
    table = (signals - signals.mean(axis=0)) / scale
    is_familiar = np.arange(len(table)) < len(familiar)
    side = np.where(is_familiar, 1.0, -1.0)
    count = np.where(is_familiar, 0.5 / len(familiar), 0.5 / len(unlike))

    def loss(found: Floats) -> tuple[float, Floats]:
        margin = side * (table @ found[:-1] + found[-1])
        slope = -side * count / (1.0 + np.exp(np.minimum(margin, 50.0)))
        value = float(count @ np.logaddexp(0.0, -margin)) + 1e-3 * float(found[:-1] @ found[:-1])
        return value, np.append(table.T @ slope + 2e-3 * found[:-1], slope.sum())

    bounds = [(0.0, None)] * SIGNALS + [(None, None)]
    found = minimize(loss, np.append(np.full(SIGNALS, 0.1), 0.0), jac=True, bounds=bounds, method="L-BFGS-B").x
    return np.asarray((found[:-1] + 1e-6) / scale, dtype=np.float32)


def _trust(weights: Floats, familiar: Evidence, unlike: Evidence) -> Floats:
    """Knots [B, 2]: at each score, the share of what the policy says of the experts' differences that holds there.

    A cautious regression slope through the origin in each bin of scores, made to rise with the score.
    """
    from scipy.optimize import isotonic_regression

    both = (familiar, unlike)
    score = np.concatenate([part.signals @ weights for part in both])
    count = np.concatenate([np.full(len(part.signals), 1.0 / len(part.signals)) for part in both])
    said = np.concatenate([_apart(part.foretold - part.mean, part.observed) for part in both])
    came = np.concatenate([_apart(part.observed - part.mean, part.observed) for part in both])
    order = np.argsort(score, kind="stable")
    reach = np.cumsum(count[order]) / count.sum()
    knots, slopes, powers = [], [], []
    for part in np.split(order, np.searchsorted(reach, np.arange(1, BINS) / BINS)):
        if not len(part):
            continue
        weight = count[part, None]
        power = float((weight * said[part] ** 2).sum()) + 1e-12
        slope = float((weight * said[part] * came[part]).sum()) / power
        error = ((weight * said[part] * (came[part] - slope * said[part])).sum(axis=1) ** 2).sum()
        knots.append(float(np.average(score[part], weights=count[part])))
        slopes.append(min(max(slope - DOUBT * float(np.sqrt(error)) / power, 0.0), 1.0))
        powers.append(power)
    rising = isotonic_regression(np.array(slopes), weights=np.array(powers)).x
    return np.stack([np.array(knots), rising], axis=1).astype(np.float32)


def _apart(deviation: Floats, observed: Floats) -> Floats:
    """What is each expert's own: the mean over the experts observed on the prompt taken out."""
    seen = np.isfinite(observed)
    kept = np.where(seen, deviation, 0.0)
    common = kept.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.where(seen, kept - common, 0.0))


def _table(queries: Queries) -> Floats:
    """Vector and features side by side, [n, d + F]."""
    if queries.features is None:
        return queries.embeddings
    return np.hstack([queries.embeddings, queries.features])


def _vectors(queries: Queries) -> Floats:
    """Unit rows [n, v]: the vectors, or the features of a policy that reads no vector."""
    if queries.embeddings.shape[1]:
        return queries.embeddings
    assert queries.features is not None
    return np.asarray(queries.features / (np.linalg.norm(queries.features, axis=1, keepdims=True) + 1e-9))


def _scale(table: Floats, dimension: int) -> Floats:
    """Per column, so that vectors as a whole vary like features as a whole, and these like each other."""
    variance = table.var(axis=0)
    scale = np.zeros(table.shape[1])
    power = float(variance[:dimension].sum())
    scale[:dimension] = 1.0 / np.sqrt(power) if power > 1e-9 else 0.0
    varied = np.flatnonzero(variance[dimension:] > 1e-9) + dimension
    scale[varied] = 1.0 / np.sqrt(variance[varied] * max(len(varied), 1))
    return scale


def _softmax(score: Floats) -> Floats:
    raised = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)
