"""What the semantic cache hits and how many of its hits are wrong, with its guard and without.

`make bench-cache` prints a table and writes `build/bench/cache.json`. The threshold is calibrated on questions of
one half of the intents, as `pointsman calibrate-cache` would, and measured on the other half's, over many splits.
Where `../shared/data` is, each of its prompts, beside the closest other one of its table, is a pair that is taken
for wrong: they are exercises, and no two of them ask the same.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from questions import INTENTS, Labelled, pairs
from report import Figure, judged, report
from tables import DATA

from router.config import EncoderSettings
from router.embedding import Encoder
from router.errors import DataError
from training.cache_calibration import Pair, calibrated, guarded, steps
from training.data import read_tables
from training.embedding import VectorCache

EACH = 80  # pairs of each kind an intent
WRONG_SHARES = (0.02, 0.05)
SPLITS = 20
TABLES = ("llmrouter", "mmlu_pro", "zeroeval", "reasoning_gym")
AT_ONCE = 1024


def cosines(encoder: Encoder, given: list[Labelled]) -> np.ndarray:
    vectors = encoder.encode_batch([text for pair in given for text in (pair.a, pair.b)])
    return np.einsum("nd,nd->n", vectors[::2], vectors[1::2])


def templated(encoder: Encoder) -> Iterator[Figure]:
    rng = random.Random(11)
    by_intent = [pairs(rng, (intent,), EACH) for intent in INTENTS]
    every = [pair for mine in by_intent for pair in mine]
    where = np.repeat(np.arange(len(INTENTS)), [len(mine) for mine in by_intent])
    cosine, same = cosines(encoder, every), np.array([pair.same for pair in every])
    guards = {"guarded": compared(every), "no guard": np.ones(len(every), dtype=bool)}
    yield Figure("pairs, paraphrases", int(same.sum()))
    yield Figure("pairs that only sound the same", int((~same).sum()))
    halves = [np.isin(where, rng.sample(range(len(INTENTS)), len(INTENTS) // 2)) for _ in range(SPLITS)]
    for share in WRONG_SHARES:
        for how, let in guards.items():
            yield from over_halves(f"at most {share:g} wrong, {how}", share, cosine, same, let, halves, encoder)
    for kind in sorted({pair.kind for pair in every}):
        mine = np.array([pair.kind == kind for pair in every])
        for how, let in guards.items():
            yield Figure(f"{kind}, {how}: at a cosine of .9 or more", share_of(let & (cosine >= 0.9), mine))


def over_halves(
    name: str,
    share: float,
    cosine: np.ndarray,
    same: np.ndarray,
    let: np.ndarray,
    halves: list[np.ndarray],
    encoder: Encoder,
) -> Iterator[Figure]:
    """Calibrated on each half of the intents, tested on the other; the interval is over the splits."""
    rates, wrongs, thresholds = [], [], []
    for half in halves:
        kept, tested = let & half, let & ~half
        with suppress(DataError):
            least = calibrated(steps(cosine[kept], same[kept]), share, int(half.sum()), encoder).threshold
            hit = tested & (cosine >= least)
            thresholds.append(least)
            rates.append(share_of(hit, ~half & same))
            wrongs.append(share_of(~same, hit))
    yield Figure(f"{name}: splits with a proven threshold", len(rates), unit=f"of {len(halves)}")
    if rates:
        yield over(f"{name}: threshold", thresholds)
        yield over(f"{name}: paraphrases that hit", rates)
        yield judged(replace(over(f"{name}: wrong of the hits", wrongs), goal=f"<= {share:g}"))
        more = sum(wrong > share for wrong in wrongs)
        yield Figure(f"{name}: splits with more wrong", more, unit=f"of {len(rates)}")


def over(name: str, values: list[float]) -> Figure:
    low, high = np.quantile(values, [0.05, 0.95])
    return Figure(name, float(np.mean(values)), float(low), float(high))


def exercises(encoder: Encoder, name: str) -> Iterator[Figure]:
    prompts = sorted(set(read_tables([DATA / f"{name}.parquet"]).prompts))
    vectors = VectorCache(encoder).embed(prompts)
    closest, cosine = np.empty(len(prompts), int), np.empty(len(prompts))
    for start in range(0, len(prompts), AT_ONCE):
        near = vectors[start : start + AT_ONCE] @ vectors.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -1.0
        closest[start : start + AT_ONCE] = near.argmax(axis=1)
        cosine[start : start + AT_ONCE] = near.max(axis=1)
    given = [Labelled(prompt, prompts[other], False, name) for prompt, other in zip(prompts, closest, strict=True)]
    every, let = np.ones(len(given), dtype=bool), compared(given)
    for least in (0.9, 0.96):
        yield Figure(
            f"{name}: the closest other prompt hits at {least:g}, no guard", share_of(cosine >= least, every)
        )
        yield Figure(
            f"{name}: the closest other prompt hits at {least:g}, guarded", share_of(let & (cosine >= least), every)
        )


def compared(given: list[Labelled]) -> np.ndarray:
    return guarded([Pair(pair.a, pair.b, pair.same) for pair in given])


def share_of(some: np.ndarray, of: np.ndarray) -> float:
    return float((some & of).sum() / max(of.sum(), 1))


def main() -> None:
    encoder = Encoder(EncoderSettings())
    encoder.load()
    try:
        figures = list(templated(encoder))
        for name in TABLES:
            if (DATA / f"{name}.parquet").exists():
                figures += exercises(encoder, name)
            else:
                print(f"no {DATA / name}.parquet", file=sys.stderr)
    finally:
        encoder.close()
    report("cache", figures)


if __name__ == "__main__":
    main()
