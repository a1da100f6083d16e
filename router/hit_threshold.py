"""How alike two prompts must be for one's answer to be given to the other: a threshold with a promise.

It is found on pairs of prompts of the same source as the traffic: the similarity of the two, and whether a hit
would be *wrong*: whether the first one's answer, given to the second, is worse than what the second would have been
answered, as the judge or the people who labelled the pairs saw it. A table of outcomes alone does not say that.

Promised, with the stated confidence over the draw of the pairs: of the hits at the threshold, over pairs like
these, at most `most_wrong` are wrong. Every threshold of a fixed grid is tested with the exact binomial bound
(Clopper and Pearson, 1934) at its share of the chance of being wrong (Bonferroni), so that the smallest one that
passes may be taken. Nothing is promised of a single hit, nor of prompts unlike the pairs'.
"""

import math

import numpy as np
from numpy.typing import NDArray

from router.types import Floats

#: Cosines that are tested.
THRESHOLDS = tuple(round(0.5 + 0.02 * step, 2) for step in range(25))


def calibrated_threshold(
    similarity: Floats, wrong: NDArray[np.bool_], most_wrong: float, confidence: float = 0.9
) -> float | None:
    """The smallest of `THRESHOLDS` that is proven; None where none is. Both arrays are [n], one entry a pair.

    `most_wrong` and `confidence` are in (0, 1). Raises `ValueError` for others, and for arrays that do not match.
    """
    if similarity.shape != wrong.shape or similarity.ndim != 1:
        raise ValueError(f"similarity and wrong: expected [n] and [n], got {similarity.shape} and {wrong.shape}")
    for name, share in (("most_wrong", most_wrong), ("confidence", confidence)):
        if not 0.0 < share < 1.0:
            raise ValueError(f"{name}: expected a share between 0 and 1, got {share!r}")
    level = (1.0 - confidence) / len(THRESHOLDS)
    for threshold in THRESHOLDS:
        hits = similarity >= threshold
        if surely_below(int(wrong[hits].sum()), int(hits.sum()), most_wrong, level):
            return threshold
    return None


def surely_below(wrong: int, hits: int, most_wrong: float, level: float) -> bool:
    """Whether the upper Clopper-Pearson bound at `level` on the share of wrong hits is at most `most_wrong`.

    That is whether so few wrong ones have a chance of at most `level` where the share is `most_wrong`.
    """
    if wrong >= most_wrong * hits:
        return False
    logs = [
        math.lgamma(hits + 1)
        - math.lgamma(k + 1)
        - math.lgamma(hits - k + 1)
        + k * math.log(most_wrong)
        + (hits - k) * math.log1p(-most_wrong)
        for k in range(wrong + 1)
    ]
    return math.fsum(map(math.exp, logs)) <= level
