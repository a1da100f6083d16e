"""How close two questions must be so that few hits of the semantic cache are wrong: proven on labelled pairs.

A pair is a question and the kept one closest to it, with a label: does the same answer serve both? Nothing else can
say that: outcome tables hold scores, not answers, and two prompts of one score need not share one. At each of a few
cosines that are fixed beforehand the hits are counted, and the wrong among them; the exact bound of Clopper and
Pearson (1934), one-sided and at the level over the number of cosines (Bonferroni), says how large the share of
wrong ones may be. The lowest cosine at which that is within the share asked for is the threshold.

The proof is of pairs like these: a table of easy pairs proves nothing about hard ones. A text that comes twice
would count twice, so only the first pair of each is taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router.errors import DataError
from router.sameness import order, reordered, short, signature
from router.semantic import Calibration, Encodes
from router.types import Floats
from training.records import RecordFile

LEVEL = 0.95
#: From the lowest; fixed, so that looking at them all is paid for once.
COSINES = tuple(round(0.70 + 0.02 * step, 2) for step in range(15))


@dataclass(frozen=True, slots=True)
class Pair:
    a: str
    b: str
    same: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at one cosine; `most` bounds the share of the hits that are wrong."""

    cosine: float
    hits: int
    wrong: int
    most: float


def read_pairs(paths: Iterable[Path]) -> list[Pair]:
    """Columns `a`, `b` and `same` (1 or 0, true or false). Raises `DataError`."""
    pairs = []
    for path in paths:
        for record in RecordFile(path).records():
            same = record.number("same")
            if same not in (0.0, 1.0):
                raise record.error("same", "expected 1 or 0")
            pairs.append(Pair(record.needed("a"), record.needed("b"), same == 1.0))
    return pairs


def once(pairs: Iterable[Pair]) -> list[Pair]:
    """Without those of which a text was in an earlier one, and those of equal texts: that is no question."""
    seen: set[str] = set()
    kept = []
    for pair in pairs:
        if pair.a != pair.b and pair.a not in seen and pair.b not in seen:
            kept.append(pair)
            seen |= {pair.a, pair.b}
    return kept


def guarded(pairs: Sequence[Pair]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """[n] whether the cache compares the two at all."""
    return np.array([_compared(pair.a, pair.b) for pair in pairs], dtype=bool)


def _compared(a: str, b: str) -> bool:
    return short(a) and short(b) and signature(a) == signature(b) and not reordered(order(a), order(b))


def steps(cosine: Floats, same: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> list[Step]:
    """Of pairs that are compared, both [n]: what happens at each of `COSINES`."""
    found = []
    for least in COSINES:
        hit = cosine >= least
        hits, wrong = int(hit.sum()), int((hit & ~same).sum())
        found.append(Step(least, hits, wrong, most_wrong(wrong, hits, 1.0 - (1.0 - LEVEL) / len(COSINES))))
    return found


def most_wrong(wrong: int, hits: int, level: float) -> float:
    """The upper bound, at `level`, on the share of which `wrong` of `hits` were drawn."""
    from scipy.stats import beta

    return 1.0 if wrong == hits else float(beta.ppf(level, wrong + 1, hits - wrong))


def calibrated(found: Sequence[Step], wrong_share: float, pairs: int, encoder: Encodes) -> Calibration:
    """Raises `DataError` where no cosine is proven to keep the share."""
    for step in found:
        if step.most <= wrong_share:
            return Calibration(
                threshold=step.cosine,
                wrong_share=wrong_share,
                wrong_most=step.most,
                wrong=step.wrong,
                hits=step.hits,
                pairs=pairs,
                encoder=encoder.name,
                revision=encoder.revision,
            )
    best = min(found, key=lambda step: step.most)
    needed = hits_needed(wrong_share)
    raise DataError(
        f"these pairs prove no threshold at which at most {wrong_share:g} of the hits are wrong: the best, "
        f"a cosine of {best.cosine:g}, has {best.wrong} wrong of {best.hits} hits, so at most {best.most:.4f}. "
        f"Without a single wrong one it takes {needed} hits; give more pairs, or allow a larger share"
    )


def hits_needed(wrong_share: float) -> int:
    """Hits without a wrong one that prove the share."""
    return int(np.ceil(np.log((1.0 - LEVEL) / len(COSINES)) / np.log1p(-wrong_share)))
