"""How far a router may economise and still keep a quality floor: certified on a trial, not hoped for.

A preference is a price of quality, and the rule that serves takes the expert of the highest utility under it. A
floor bids to economise less: under a share of that price. The rule is replayed on a `Trial`: the share goes up from
0, where the highest estimate is always taken, for as long as each step can be proven to keep the floor; the last
that did is used. That is Learn then Test with fixed-sequence testing (Angelopoulos, Bates, Candès, Jordan and Lei,
2021), of a bound on a mean loss as in Conformal Risk Control (Angelopoulos, Bates, Fisch, Lei and Schuster, 2022).

What is promised of a certified share: with the stated confidence over the draw of the trial's prompts, the mean
quality of the rule's choices over queries like these is at least `floor` times that of the best single expert,
whichever of the experts that is: a share passes only if it passes against every one of them, so nobody has to know
which is best (an intersection-union test: Berger, 1982).

What is not promised: anything of a single query; of queries unlike the trial's; of several floors, preferences or
sets of experts at once; of answers by a later expert after the first failed. The trial's estimates come from fits
that had not seen its prompts, and the policy that serves from one fit to all of them: it is taken to be no worse.
Prompts on which an expert is unobserved are left out, as if that had nothing to do with the prompt.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.objective import cheapest_first, utility
from router.types import Floats

STEPS = 40
#: Shares of a preference's price of quality in the order in which they are tested; closer to each other near 0.
SHARES = tuple(round((step / STEPS) ** 2, 6) for step in range(STEPS + 1))
LEAST_PROMPTS = 100
BLOCK = 32  # prompts between two changes of the bets
AT_ONCE = 8  # shares tested together
BOLDEST = 0.75  # of what a bet may be without risking everything
KEPT_BACK = 0.5  # of the chance of being wrong


@dataclass(frozen=True, slots=True)
class Replay:
    """A trial seen with one pool's experts and prices; all [m, K], nothing unobserved.

    The rows must be in an order that has nothing to do with them: bets are made on one after the other.
    """

    quality: Floats  # foretold
    cost_usd: Floats  # foretold
    observed: Floats


def certified_share(
    replay: Replay, price_of_quality: float, floor: float, confidence: float, *, explore: float = 0.0
) -> float | None:
    """The largest of `SHARES` that is proven to keep `floor`, in (0, 1]; None where not even the share 0 is.

    `explore` is the share of decisions that are drawn at random. Half of the chance of being wrong is kept back for
    whoever counts: the mean of a new sample as large as the trial varies as the trial's does, and would miss an
    expectation that is only just kept more often than `confidence` says. Measured in tests/benchmarks, not proven.
    """
    level = (1.0 - confidence) * (1.0 - KEPT_BACK)
    observed = replay.observed.astype(np.float32)
    qualities = served_quality(replay, price_of_quality, explore)
    proven = None
    for start in range(0, len(SHARES), AT_ONCE):
        served = qualities[:, start : start + AT_ONCE]
        gain = served[:, :, None] - np.float32(floor) * observed[:, None, :]
        kept = np.all(surely_positive(gain, floor, level), axis=1)
        for column, holds in enumerate(kept):
            if not holds:
                return proven
            proven = SHARES[start + column]
    return proven


def served_quality(replay: Replay, price_of_quality: float, explore: float = 0.0) -> Floats:
    """Observed quality [m, T] of what `router.objective.choose` would serve at each of the T `SHARES`."""
    order = cheapest_first(replay.cost_usd)
    quality, cost, observed = (
        np.take_along_axis(each, order, axis=1) for each in (replay.quality, replay.cost_usd, replay.observed)
    )
    rows = np.arange(len(order))
    served = np.empty((len(order), len(SHARES)), dtype=np.float32)
    for column, share in enumerate(SHARES):
        served[:, column] = observed[rows, utility(quality, cost, share * price_of_quality).argmax(axis=1)]
    drawn = replay.observed.mean(axis=1, keepdims=True)
    return np.asarray(served + np.float32(explore) * (drawn - served), dtype=np.float32)


def surely_positive(gain: Floats, worst: float, level: float) -> NDArray[np.bool_]:
    """Which columns [...] of `gain` [m, ...] have an expectation that is proven not to be below 0.

    Wrong with a probability of at most `level`, for any distribution on [-`worst`, 1] and any m: rows are drawn one
    by one from it. A gambler stakes capital of 1 on the next gains, which is a losing game where the expectation is
    below 0: capital that ever reaches 1 / `level` is the proof that it is not (Ville, 1939). The bets are the
    predictable plug-in ones of Waudby-Smith and Ramdas (2024) for m draws, with the spread taken around 0, since it
    is near 0 that proof is hard.
    """
    needed = math.log(1.0 / level)
    capital = np.zeros(gain.shape[1:])
    most = np.zeros(gain.shape[1:])
    squares = np.full(gain.shape[1:], 0.25)  # as if one gain had been seen, of the widest spread
    for start in range(0, len(gain), BLOCK):
        part = gain[start : start + BLOCK]
        spread = squares / (start + 1)
        bet = np.minimum(np.sqrt(2.0 * needed / (spread * len(gain))), BOLDEST / worst)
        capital += np.log(np.multiply.reduce(1.0 + bet.astype(gain.dtype) * part, axis=0))
        np.maximum(most, capital, out=most)
        squares += np.einsum("i...,i...->...", part, part)
    return np.asarray(most >= needed)
