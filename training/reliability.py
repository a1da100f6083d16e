"""How far predicted qualities can be taken at their word: Brier score, calibration error and its curve."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.types import Floats
from training.interval import RESAMPLES, Interval, interval, resampled
from training.metrics import brier, ece, equal_mass, equal_width

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers of which about the same was expected: the mean that was, and the mean that came of them."""

    predicted: float
    observed: Interval
    answers: int


@dataclass(frozen=True)
class Reliability:
    """Over all observed answers. `ece` has bins of equal width, `ece_equal_mass` those of `bins`, equally full.

    A resample is less calibrated than its sample, by chance alone; the errors' intervals are moved down by that.
    """

    brier: Interval
    ece: Interval
    ece_equal_mass: Interval
    bins: tuple[Bin, ...]


def reliability(predicted: Floats, observed: Floats, rng: np.random.Generator) -> Reliability:
    """For `predicted` and `observed` [n, K], NaN where unobserved; resamples are of the n queries."""
    seen = np.isfinite(observed)
    guess, truth = predicted[seen], observed[seen]
    mass, width = equal_mass(guess, BINS), equal_width(guess, BINS)
    cells = _ByQuery(np.nonzero(seen)[0], len(observed))
    gaps = {"mass": cells.sums(guess - truth, mass), "width": cells.sums(guess - truth, width)}
    errors, answers, reached = cells.sums((guess - truth) ** 2), cells.sums(np.ones(len(guess))), []
    truths, counts = cells.sums(truth, mass), cells.sums(np.ones(len(truth)), mass)
    found: dict[str, list[Floats]] = {"brier": [], "mass": [], "width": []}
    for weights in resampled(len(observed), RESAMPLES, rng):
        total = (weights @ answers)[:, 0]
        found["brier"].append((weights @ errors)[:, 0] / total)
        for name, gap in gaps.items():
            found[name].append(np.abs(weights @ gap).sum(axis=1) / total)
        with np.errstate(invalid="ignore"):
            reached.append((weights @ truths) / (weights @ counts))
    bars = np.concatenate(reached)
    used = np.unique(mass)
    return Reliability(
        brier=interval(np.concatenate(found["brier"])),
        ece=_centred(np.concatenate(found["width"])),
        ece_equal_mass=_centred(np.concatenate(found["mass"])),
        bins=tuple(
            Bin(float(guess[mass == b].mean()), interval(bars[:, b]), int((mass == b).sum())) for b in used.tolist()
        ),
    )


def calibration(predicted: Floats, observed: Floats) -> tuple[float, float]:
    """Brier score and expected calibration error (15 bins of equal mass) over the observed cells."""
    seen = np.isfinite(observed)
    guess, truth = predicted[seen], observed[seen]
    return brier(guess, truth), ece(guess, truth, equal_mass(guess, BINS))


@dataclass(frozen=True)
class _ByQuery:
    """Which query, of n, each observed answer belongs to."""

    query: NDArray[np.intp]
    n: int

    def sums(self, values: Floats, bins: NDArray[np.intp] | None = None) -> Floats:
        """The values summed per query and bin, [n, B]."""
        place = self.query * BINS + (0 if bins is None else bins)
        table = np.bincount(place, weights=values, minlength=self.n * BINS).reshape(self.n, BINS)
        return np.asarray(table[:, :1] if bins is None else table, dtype=np.float64)


def _centred(values: Floats) -> Interval:
    """The interval moved by the resamples' bias, and not below zero."""
    found = interval(values)
    bias = float(values[1:].mean()) - found.value
    return Interval(found.value, max(found.low - bias, 0.0), max(found.high - bias, 0.0))
