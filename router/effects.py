"""What is expected of experts in each cluster beyond what they do everywhere: shrunk, and told from difficulty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.types import Floats

DIFFICULTY_PRIOR = 5.0  # observations' worth of belief that a cluster is no harder than the coarser one around it
ROUNDS = 8  # in which difficulties and experts are told apart
LEAST_VARIANCE = 0.05  # of one answer, where the estimate is close to 0 or 1
HELD_OUT = 0.2  # of the training prompts, to choose what was not given


@dataclass(frozen=True)
class Effects:
    """`mean` [K] of the experts; per level the `effects` [C, K] on top; the finest level's `count` [C, K]."""

    mean: Floats
    effects: Sequence[Floats]
    count: Floats


def learn(shares: Sequence[Floats], quality: Floats, pseudo_count: float) -> Effects:
    """From each prompt's share in the clusters of each level [n, C] and the qualities [n, K], NaN where unseen.

    An effect is the cluster's difficulty, common to the experts, and the expert's own deviation, shrunk.
    """
    # single precision throughout: one double among them would copy every share matrix
    seen = np.isfinite(quality).astype(np.float32)
    filled: Floats = np.where(np.isfinite(quality), quality, 0.0).astype(np.float32)
    centre = filled.sum() / seen.sum()
    mean: Floats = np.full(quality.shape[1], centre, dtype=np.float32)
    for _ in range(ROUNDS * 4):
        hardness, _ = _difficulty(shares[0], filled - seen * mean, seen)
        mean = ((filled - seen * hardness).sum(axis=0) + pseudo_count * centre) / (seen.sum(axis=0) + pseudo_count)
    left: Floats = filled - seen * mean
    effects: list[Floats] = []
    for share in shares:
        count = share.T @ seen
        own: Floats = np.zeros_like(count)
        for _ in range(ROUNDS):
            hardness, common = _difficulty(share, left - seen * (share @ own), seen)
            own = share.T @ (left - seen * hardness) / (count + pseudo_count)
        effects.append(own + common)
        left = left - seen * (share @ effects[-1])
    return Effects(mean=mean, effects=effects, count=count)


def _difficulty(share: Floats, left: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """What the experts have in common, on each prompt [n, 1] and in each cluster [C, 1].

    `left` [n, K] is what is left to explain, zero where unseen. Where several experts were seen on a prompt, it is
    theirs alone: so experts that were seen on different prompts compare on the same ground, even where two tables
    hold like prompts and one of them the harder ones. A prompt with one answer is taken for its clusters' like.
    """
    observed, total = seen.sum(axis=1, keepdims=True), left.sum(axis=1, keepdims=True)
    own = total / np.maximum(observed, 1)
    common = (share.T @ own) / (share.T @ np.minimum(observed, 1) + DIFFICULTY_PRIOR)
    return np.where(observed > 1, own, share @ common), common


def estimated(quality: Floats, evidence: Floats) -> tuple[Floats, Floats]:
    """Quality kept in [0, 1], and its standard deviation where it rests on `evidence` observations; all [n, K]."""
    quality = np.minimum(np.maximum(quality, 0.0), 1.0)
    variance = np.maximum(quality * (1.0 - quality), LEAST_VARIANCE)
    return quality, np.sqrt(variance / (evidence + 1.0))


def held_out(quality: Floats, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """The prompts [n] on which to judge what was learned from the others; None where there are too few for that."""
    held = rng.random(len(quality)) < HELD_OUT
    seen = np.isfinite(quality)
    return held if seen[held].any() and seen[~held].any(axis=0).all() else None


def ranking_error(predicted: Floats, quality: Floats) -> float:
    """Mean squared error over the observed cells, each row's common part taken out where several were observed.

    What all experts share on a prompt is no help in choosing one.
    """
    seen = np.isfinite(quality)
    error = np.where(seen, predicted - quality, 0.0)
    several = seen.sum(axis=1, keepdims=True)
    common = np.where(several > 1, error.sum(axis=1, keepdims=True) / np.maximum(several, 1), 0.0)
    return float((np.where(seen, error - common, 0.0) ** 2).sum() / seen.sum())
