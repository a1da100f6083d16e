"""What `pointsman inspect` shows of an artifact or a table, and whether a table is enough to train on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from training.data import TRAIN

#: Scored training prompts per model. Below the first, noise chooses; from the second, policies that shrink towards
#: means win; the third is where those with many parameters begin to.
LEAST, ENOUGH, PLENTY = 100, 300, 1_000
#: Models that were scored on this share of the prompts are compared with each other and the oracle.
COVERED = 0.8

Answer = Literal["enough", "thin", "not enough"]


@dataclass(frozen=True)
class Expert:
    """What an artifact knows of one expert: means over its reference queries."""

    name: str
    quality: float
    std: float
    output_tokens: float


@dataclass(frozen=True)
class ArtifactCard:
    folder: str
    kind: str
    version: str
    params: Mapping[str, Any]
    encoder: Mapping[str, Any] | None
    experts: list[Expert]  # the best first
    reference_queries: int
    metrics: Mapping[str, Any]
    data_digest: str
    files: dict[str, int]  # bytes


@dataclass(frozen=True)
class Model:
    """One model of a table. Means are None where nothing was observed."""

    name: str
    rows: int
    scored: int
    train_scored: int  # distinct prompts
    score: float | None
    cost_usd: float | None
    output_tokens: float | None


@dataclass(frozen=True)
class Headroom:
    """What choosing per prompt could win, on the prompts that all the compared models were scored on."""

    prompts: int
    models: int
    best: str
    best_score: float
    oracle_score: float


@dataclass(frozen=True)
class Verdict:
    answer: Answer
    reasons: list[str]


@dataclass(frozen=True)
class TableCard:
    """`coverage`: the share of prompts x models with a score. Domains and splits count prompts."""

    path: str
    bytes: int
    rows: int
    prompts: int
    models: list[Model]  # the best first
    coverage: float
    scores: tuple[float, float] | None
    missing_scores: int
    repeats: int
    costs: int
    domains: dict[str, int]
    splits: dict[str, int]
    straddling: int  # prompts in several splits
    headroom: Headroom | None
    verdict: Verdict


@dataclass(frozen=True)
class PairsCard:
    """A table of judgments. `models` counts battles."""

    path: str
    bytes: int
    rows: int
    prompts: int
    models: dict[str, int]
    winners: dict[str, int]
    splits: dict[str, int]


def judge(models: list[Model], splits: Mapping[str, int], headroom: Headroom | None) -> Verdict:
    """Whether a table is enough to train a policy on, and why."""
    unscored = [model.name for model in models if not model.scored]
    least = min(models, key=lambda model: model.train_scored)
    answer: Answer = "enough" if least.train_scored >= ENOUGH else "thin"
    reasons = [
        f"{least.train_scored:,} scored training prompts of {least.name!r}, the model with the fewest: "
        + _size(least.train_scored)
    ]
    if least.train_scored < LEAST:
        answer = "not enough"
    if len(models) < 2:
        answer, reasons = "not enough", ["one model only: there is nothing to choose from"]
    elif unscored:
        answer, reasons = "not enough", [f"no score at all for {', '.join(unscored)}: training refuses them"]
    held_out = sum(prompts for split, prompts in splits.items() if split != TRAIN)
    if held_out:
        half = 0.98 / np.sqrt(held_out)  # of a 95 % interval, at its widest
        reasons.append(f"{held_out:,} held-out prompts: a mean score is known to within about {half:.3f}")
    else:
        reasons.append("no prompt is held out: a policy could not be judged")
    if headroom is None and len(models) > 1:
        reasons.append(
            f"no two models were scored on the same {COVERED:.0%} of the prompts: `evaluate` cannot compare them"
        )
    elif headroom is not None:
        won = headroom.oracle_score - headroom.best_score
        reasons.append(
            f"choosing perfectly would win {won:.3f} over always {headroom.best!r} ({headroom.best_score:.3f}); "
            "a policy reaches a part of that"
        )
    if not any(model.cost_usd is not None for model in models):
        reasons.append("no costs: a policy can be trained, but not judged by what it saves")
    return Verdict(answer, reasons)


def _size(prompts: int) -> str:
    if prompts < LEAST:
        return f"under {LEAST}, noise would choose"
    if prompts < ENOUGH:
        return f"under {ENOUGH}, only policies that shrink towards means are safe"
    if prompts < PLENTY:
        return f"enough for clusters and linear policies, {PLENTY:,} for those with many parameters"
    return "enough for every policy"
