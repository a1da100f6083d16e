"""Why `best` is off where it is: its calibration error on `val` beside what chance makes of a perfect one.

- Perfect: answers drawn with just the foretold probabilities, experts as alike on one query as they are on prompts
  that were held out in training (a Gaussian copula). Only where nearly all scores are right or wrong.
- Held-out train: the same error over the prompts of the policy's trial, where neither it nor its steps had them.
- Level: what came minus what was foretold, over all experts; and the error once that one number is taken out, in
  log-odds. It is read off `val`, so no policy could have it.
- Easier: how far the experts' mean in `val` is above that in `train`, by domain, and how often a split at random
  would be as far off, either way.

The error's interval is bootstrapped over queries, the perfect one's is that of its draws, the level's is normal.
Run by quality.py (`--parts calibration`).
"""

from collections.abc import Iterator

import numpy as np
from learning import NORMAL_95
from report import Figure
from scipy.stats import norm

from router.steps.calibration import Calibration
from router.types import Estimate, Floats, Queries, Trial
from training.assurance import assured
from training.data import Table
from training.fit import build
from training.reliability import calibration, reliability

DRAWS = 1_000
SPLITS = 4_000
LEAST_VARIANCE = 0.01
NEARLY_ALL = 0.99


def measure(dataset: str, table: Table, *, policy: str, seed: int) -> Iterator[Figure]:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    rng = np.random.default_rng(seed)
    found = assured(build(policy, {}, seed).fit(train), train, seed, lambda: None)
    assert found.trial is not None
    estimate, observed = found.policy.predict(held_out.queries), held_out.quality
    error = reliability(estimate.quality, observed, rng).ece_equal_mass
    name = f"{dataset}: {policy}, seed {seed}"
    yield Figure(f"{name}, ECE", error.value, error.low, error.high)
    yield Figure(f"{name}, ECE, held-out train", calibration(found.trial.quality, found.trial.observed)[1])
    if np.isin(observed[np.isfinite(observed)], (0.0, 1.0)).mean() >= NEARLY_ALL:
        perfect = _perfect(estimate.quality, observed, found.trial, rng)
        low, high = np.quantile(perfect, [0.025, 0.975])
        yield Figure(f"{name}, ECE if perfect", float(perfect.mean()), float(low), float(high))
        yield Figure(f"{name}, perfect ones that err as much", float((perfect >= error.value).mean()))
    gap = np.nanmean(observed - estimate.quality, axis=1)
    wide = NORMAL_95 * float(gap.std()) / len(gap) ** 0.5
    yield Figure(f"{name}, level", float(gap.mean()), float(gap.mean()) - wide, float(gap.mean()) + wide)
    yield Figure(
        f"{name}, ECE, level taken out", calibration(_levelled(held_out.queries, estimate, observed), observed)[1]
    )
    yield from _harder(dataset, table, rng)


def _perfect(foretold: Floats, observed: Floats, trial: Trial, rng: np.random.Generator) -> Floats:
    """Errors [DRAWS] of answers that come as foretold."""
    spread = np.sqrt(np.maximum(trial.quality * (1.0 - trial.quality), LEAST_VARIANCE))
    alike = np.ma.corrcoef(np.ma.masked_invalid((trial.observed - trial.quality) / spread), rowvar=False)
    values, vectors = np.linalg.eigh(np.sin(np.pi / 2 * alike.filled(0.0)))
    mixing = vectors * np.sqrt(np.maximum(values, 0.0))
    mixing /= np.sqrt((mixing**2).sum(axis=1, keepdims=True))
    errors = np.empty(DRAWS)
    for draw in range(DRAWS):
        right = norm.cdf(rng.standard_normal(foretold.shape) @ mixing.T) < foretold
        errors[draw] = calibration(foretold, np.where(np.isfinite(observed), right, np.nan))[1]
    return errors


def _levelled(queries: Queries, estimate: Estimate, observed: Floats) -> Floats:
    """The estimates moved by one offset in log-odds, so that their mean is what came."""
    seen, low, high = np.isfinite(observed), -3.0, 3.0
    one, moved = np.ones(1, np.float32), estimate.quality
    for _ in range(30):
        offset = (low + high) / 2
        moved = Calibration(one, np.array([offset])).apply(queries, estimate).quality
        low, high = (offset, high) if moved[seen].mean() < observed[seen].mean() else (low, offset)
    return moved


def _harder(dataset: str, table: Table, rng: np.random.Generator) -> Iterator[Figure]:
    parts = [table.split(name).outcomes for name in ("train", "val")]
    mean = np.concatenate([np.nanmean(part.quality, axis=1) for part in parts])
    known, domains = len(parts[0]), [part.queries.domains for part in parts]
    if domains[0] is None or domains[1] is None:
        return
    labels = np.array([*domains[0], *domains[1]])
    for domain in np.unique(labels):
        own = mean[labels == domain]
        train = int((labels[:known] == domain).sum())
        if not 0 < train < len(own):
            continue
        apart = float(own[train:].mean() - own[:train].mean())
        drawn = np.array([own[train:].mean() - own[:train].mean() for own in _shuffled(own, rng)])
        chance = float((np.abs(drawn) >= abs(apart)).mean())
        yield Figure(f"{dataset}: {domain}, val easier than train by (p = {chance:.3f})", apart)


def _shuffled(values: Floats, rng: np.random.Generator) -> Iterator[Floats]:
    for _ in range(SPLITS):
        yield rng.permutation(values)
