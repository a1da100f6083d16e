"""Directions in the space of experts along which their qualities can be predicted, most predictable first.

Predicting multivariate responses in multiple linear regression (Breiman and Friedman, 1997: "curds and whey"):
experts answer alike, so a sum over experts is less noisy than any one of them. In directions in which the noise is
white, each can be shrunk by itself.
"""

from dataclasses import dataclass

import numpy as np

from router.types import Floats

LEAST_SEEN = 0.5  # of the cells; in sparser tables the experts' noise cannot be compared


@dataclass(frozen=True)
class Directions:
    """`there` [K, K] takes experts' qualities (as columns) to directions, `back` [K, K] returns them."""

    there: Floats
    back: Floats


def directions(honest: Floats, quality: Floats) -> Directions:
    """From predictions [n, K] made without the row itself and the qualities [n, K], NaN where unobserved."""
    experts = quality.shape[1]
    seen = np.isfinite(quality)
    if seen.mean() < LEAST_SEEN or len(quality) < 2 * experts or experts < 2:
        return Directions(np.eye(experts), np.eye(experts))
    truth = np.where(seen, quality, honest)
    noise = np.cov((truth - honest).T)
    noise = noise + 1e-3 * np.trace(noise) / experts * np.eye(experts) + 1e-9 * np.eye(experts)
    size, axes = np.linalg.eigh(noise)
    whiten, colour = (axes / np.sqrt(size)) @ axes.T, (axes * np.sqrt(size)) @ axes.T
    guess, wanted = ((values - values.mean(axis=0)) @ whiten for values in (honest, truth))
    shared = guess.T @ wanted / len(truth)
    order, turn = np.linalg.eigh((shared + shared.T) / 2)
    turn = turn[:, np.argsort(-order)]
    return Directions(there=whiten @ turn, back=turn.T @ colour)


def slope(guess: Floats, truth: Floats) -> float:
    """How far to trust an honest guess: the slope of the truth on it, less its standard error, within 0..1."""
    power = float(guess @ guess) + 1e-12
    value = float(guess @ truth) / power
    error = float(np.sqrt(((truth - value * guess) ** 2).mean() / power))
    return float(np.clip(value - error, 0.0, 1.0))
