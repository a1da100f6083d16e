"""What class weights do to MoDEM's table, with the encoder frozen: a linear head over the vectors tells the domain.

The weights are those of `bert`: the rarer a domain, the heavier its prompts, by 5 at most. As there, prompts that
were held out say how sharp the head should be. Shares are of the way from the static mix to the oracle on `val`;
`with - without` is over the same resamples of queries. Run by quality.py (`--parts weights`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import Figure

from router.effects import estimated, learn
from router.features import SHARPNESS
from router.fine_tuning import LARGEST_WEIGHT
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.data import Table
from training.evaluate import evaluated, interval

HELD_OUT = 0.15
PSEUDO_COUNT = 10.0
INVERSE_PENALTY = 10.0


class FrozenHead(Policy):
    """A yardstick, not to be served: it keeps scikit-learn's model."""

    def __init__(self, *, weighted: bool, rng: int) -> None:
        self.weighted = weighted
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        from sklearn.linear_model import LogisticRegression

        assert outcomes.queries.domains is not None
        self.names_, labels = np.unique(np.array(outcomes.queries.domains), return_inverse=True)
        vectors = outcomes.queries.embeddings
        held = np.random.default_rng(self.rng).random(len(labels)) < HELD_OUT
        self.head_ = LogisticRegression(C=INVERSE_PENALTY, max_iter=500)
        self.head_.fit(vectors[~held], labels[~held], sample_weight=self._weights(labels)[labels][~held])
        fits = [self._likelihood(vectors[held], labels[held], factor) for factor in SHARPNESS]
        self.sharpness_ = SHARPNESS[int(np.argmax(fits))]
        found = learn([np.eye(len(self.names_), dtype=np.float32)[labels]], outcomes.quality, PSEUDO_COUNT)
        self.table_, self.evidence_ = found.mean + found.effects[0], found.count + np.float32(PSEUDO_COUNT)

    def _weights(self, labels: NDArray[np.intp]) -> Floats:
        count = np.bincount(labels)
        if not self.weighted:
            return np.ones(len(count))
        return np.clip(len(labels) / (len(count) * count), 1 / LARGEST_WEIGHT, LARGEST_WEIGHT)

    def _likelihood(self, vectors: Floats, labels: NDArray[np.intp], factor: float) -> float:
        share = self.shares(vectors, factor)[np.arange(len(labels)), labels]
        return float(np.log(share + 1e-9).mean())

    def shares(self, vectors: Floats, factor: float) -> Floats:
        """Of the domains, [n, C]."""
        share = np.zeros((len(vectors), len(self.names_)))
        share[:, self.head_.classes_] = self.head_.predict_proba(vectors) ** factor
        return np.asarray(share / share.sum(axis=1, keepdims=True))

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        share = self.shares(queries.embeddings, self.sharpness_)
        return estimated(share @ self.table_, share @ self.evidence_)

    def state(self) -> dict[str, NDArray[Any]]:
        return {"table": self.table_}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        raise AssertionError("a yardstick is not restored")


def measure(dataset: str, table: Table, seed: int) -> Iterator[Figure]:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    domains = train.queries.domains
    if domains is None or len(set(domains)) < 2:
        return
    count = np.unique(np.array(domains), return_counts=True)[1]
    yield Figure(
        f"{dataset}: the largest domain's prompts over the smallest's, of {len(count)}", count.max() / count.min()
    )
    found = {}
    for weighted in (False, True):
        policy = FrozenHead(weighted=weighted, rng=seed).fit(train)
        judgement, found[weighted] = evaluated(policy, held_out, np.random.default_rng(seed), dataset=dataset)
        name = f"{dataset}: frozen domain head, {'with' if weighted else 'without'} class weights"
        said = policy.names_[policy.shares(held_out.queries.embeddings, 1.0).argmax(axis=1)]
        right, truth = said == np.array(held_out.queries.domains), np.array(held_out.queries.domains)
        yield Figure(f"{name}, domains told", float(right.mean()))
        yield Figure(
            f"{name}, domains told, mean of domains", float(np.mean([right[truth == d].mean() for d in set(truth)]))
        )
        share = judgement.share
        yield Figure(f"{name}, share, mean cost", share.value, share.low, share.high)
        yield Figure(f"{name}, Brier", judgement.brier)
    change = interval(found[True]["share"] - found[False]["share"])
    yield Figure(f"{dataset}: frozen domain head, share, with - without", change.value, change.low, change.high)
