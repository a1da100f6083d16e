"""Gradient descent on small nets, by NumPy alone: minibatches, decay, early stopping on prompts held out.

Adam (Kingma and Ba, 2015) with decoupled weight decay (Loshchilov and Hutter, 2019). What is kept is the running
average of the weights (Polyak and Juditsky, 1992), where it erred least on the held-out prompts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from router.types import Floats

Parameters = dict[str, Floats]
Memory = Mapping[str, Any]

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # Adam's own constants
LEAST_BATCHES = 4  # in an epoch: with fewer, early stopping has too little to choose from
LEAST_GAIN = 1e-5  # of the held-out loss that counts as a step forward
SHORTEST = 1e-6  # squared length of a row below which its direction is not believed
MARGIN = 0.01  # of a chance from 0 and 1, where it becomes a logit


@dataclass(frozen=True)
class Descent:
    """How a net is trained.

    `noise` is the standard deviation of what is added to every number of the design, as in S2MoE (Do et al., 2025).
    `dropout` is the chance that a minibatch teaches nothing about an expert, as in MoEC (Xie et al., 2022).
    `balance` weighs the penalty on experts' uneven shares of a minibatch (Shazeer et al., 2017).
    """

    rate: float = 4e-3
    decay: float = 3.0
    batch: int = 256
    epochs: int = 60
    patience: int = 6
    noise: float = 0.0
    dropout: float = 0.0
    balance: float = 0.0


class Net(ABC):
    """A function from a design [n, d] to one logit for each of K experts, with its derivatives."""

    #: Each parameter and its axes: `d` the design's columns, `k` the experts, other letters sizes of the net's own.
    axes: ClassVar[Mapping[str, str]]

    @abstractmethod
    def start(self, width: int, usual: Floats, rng: np.random.Generator) -> Parameters:
        """Parameters before training, for a design of `width` columns; `usual` [K]: logits of the experts' means.

        Those of one axis are not decayed.
        """

    @abstractmethod
    def logits(self, parameters: Parameters, design: Floats) -> tuple[Floats, Memory]:
        """Logits [n, K], and what `gradient` needs of the way there."""

    @abstractmethod
    def gradient(self, parameters: Parameters, memory: Memory, slope: Floats) -> Parameters:
        """Of each parameter, from the derivative of the loss by the logits, [n, K]."""

    def loss(
        self, parameters: Parameters, design: Floats, quality: Floats, balance: float = 0.0
    ) -> tuple[float, Parameters]:
        """The loss on prompts whose `quality` [n, K] is NaN where unobserved, and its gradient."""
        logits, memory = self.logits(parameters, design)
        value, slope = cross_entropy(logits, quality)
        if balance:
            uneven, push = unevenness(logits)
            value, slope = value + balance * uneven, slope + balance * push
        own, pull = self.beside(memory, quality)
        return value + own, self.gradient(parameters, {**memory, **pull}, slope)

    def beside(self, memory: Memory, quality: Floats) -> tuple[float, Memory]:
        """A loss of the net's own beside that of the qualities, and what `gradient` needs of it."""
        return 0.0, {}


def sigmoid(logits: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def softmax(score: Floats) -> Floats:
    """Over the last axis."""
    raised = np.exp(score - score.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def drawn(rng: np.random.Generator, spread: float, *shape: int) -> Floats:
    return (spread * rng.standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class OnSphere:
    """Rows [n, s] scaled to length one."""

    unit: Floats
    length: Floats

    @classmethod
    def of(cls, rows: Floats) -> "OnSphere":
        length = np.sqrt((rows * rows).sum(axis=1, keepdims=True) + SHORTEST)
        return cls(unit=rows / length, length=length)

    def back(self, slope: Floats) -> Floats:
        """The derivative by the rows as they were, from that by the unit rows."""
        along = (slope * self.unit).sum(axis=1, keepdims=True)
        return np.asarray((slope - along * self.unit) / self.length)


def cross_entropy(logits: Floats, quality: Floats) -> tuple[float, Floats]:
    """Mean over the observed cells, and its derivative by the logits; a quality may be a fraction."""
    seen = np.isfinite(quality)
    cells = max(int(seen.sum()), 1)
    target = np.where(seen, quality, 0.0)
    lost = np.maximum(logits, 0.0) - logits * target + np.log1p(np.exp(-np.abs(logits)))
    slope = np.where(seen, sigmoid(logits) - target, 0.0) / cells
    return float(lost[seen].sum() / cells), slope.astype(logits.dtype)


def unevenness(logits: Floats) -> tuple[float, Floats]:
    """Squared coefficient of variation of the experts' shares of a batch, each query shared out by softmax."""
    n, experts = logits.shape
    shares = softmax(logits)
    load = shares.mean(axis=0)
    pull = 2.0 * experts * load / n
    slope = shares * (pull - (shares * pull).sum(axis=1, keepdims=True))
    return float(experts * (load**2).sum() - 1.0), slope.astype(logits.dtype)


class Adam:
    """Changes `weights` in place, step by step."""

    def __init__(self, weights: Parameters, rate: float, decay: float) -> None:
        self._weights, self._rate, self._decay = weights, rate, decay
        self._mean = {name: np.zeros_like(array) for name, array in weights.items()}
        self._power = {name: np.zeros_like(array) for name, array in weights.items()}
        self._steps = 0

    def step(self, slopes: Parameters) -> None:
        self._steps += 1
        fix, fix_power = 1.0 - FIRST**self._steps, 1.0 - SECOND**self._steps
        for name, array in self._weights.items():
            slope, mean, power = slopes[name], self._mean[name], self._power[name]
            mean += (1.0 - FIRST) * (slope - mean)
            power += (1.0 - SECOND) * (slope * slope - power)
            if array.ndim > 1:
                array *= 1.0 - self._rate * self._decay
            array -= (self._rate / fix) * mean / (np.sqrt(power / fix_power) + TINY)


def descend(
    net: Net, design: Floats, quality: Floats, held: NDArray[np.bool_], how: Descent, rng: np.random.Generator
) -> tuple[Parameters, float]:
    """Trains on the rows that are not `held`: the weights that err least on the held ones, and their loss there."""
    rows = np.flatnonzero(~held & np.isfinite(quality).any(axis=1))
    kept, judged = design[held], quality[held]
    weights = net.start(design.shape[1], _usual(quality[rows]), rng)
    average = _copied(weights)
    best, least, since = _copied(weights), cross_entropy(net.logits(weights, kept)[0], judged)[0], 0
    adam = Adam(weights, how.rate, how.decay)
    size = max(min(how.batch, len(rows) // LEAST_BATCHES), 1)
    pace = size / max(len(rows), 1)  # the average reaches back about an epoch
    steps = 0
    for _ in range(how.epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order) - size + 1, size):
            batch = order[start : start + size]
            adam.step(net.loss(weights, *_disturbed(design[batch], quality[batch], how, rng), how.balance)[1])
            steps += 1
            for name, array in weights.items():
                average[name] += max(pace, 1.0 / steps) * (array - average[name])
        loss = cross_entropy(net.logits(average, kept)[0], judged)[0]
        if loss < least - LEAST_GAIN:
            best, least, since = _copied(average), loss, 0
        elif (since := since + 1) >= how.patience:
            break
    return best, least


def _usual(quality: Floats) -> Floats:
    """Logits of the experts' means, each with one prompt's worth of the mean of all."""
    seen = np.isfinite(quality)
    total, count = np.where(seen, quality, 0.0).sum(axis=0), seen.sum(axis=0)
    mean = (total + (total.sum() + 0.5) / (count.sum() + 1)) / (count + 1)
    kept = np.clip(mean, MARGIN, 1.0 - MARGIN)
    return np.asarray(np.log(kept / (1.0 - kept)), dtype=np.float32)


def _copied(weights: Parameters) -> Parameters:
    return {name: array.copy() for name, array in weights.items()}


def _disturbed(design: Floats, quality: Floats, how: Descent, rng: np.random.Generator) -> tuple[Floats, Floats]:
    if how.noise:
        design = design + how.noise * rng.standard_normal(design.shape, dtype=np.float32)
    if how.dropout:
        quality = np.where(rng.random(quality.shape[1]) < how.dropout, np.nan, quality)
    return design, quality
