"""The BERT classifier on the tables: its heads, and what disguising prompts in training does to it.

One fit a row, by its own seed: fine-tuning takes minutes on a CPU. `flips` are the held-out prompts whose expert is
another once a letter in ten is mistyped, or names and numbers are hidden, at half the best single expert's cost.
Needs torch (`make bench-neural`).
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from report import Figure

from router.augmentation import with_masks
from router.types import Floats
from training.data import Table
from training.evaluate import evaluate
from training.fit import build
from training.studies.rewording import Rule, typos
from training.studies.robustness import flips

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "quality head": {},
    "domain head (MoDEM)": {"head": "domain"},
    "composition": {"head": "composition"},
    "quality head, typos in training": {"typos": 0.5},
    "quality head, masking in training": {"masking": 0.5},
    "quality head, without class weights": {"class_weights": False},
}


def hidden(text: str, rng: np.random.Generator) -> str:
    return with_masks(text, random.Random(int(rng.integers(2**31))))


RULES: Mapping[str, Rule] = {"typos": typos(0.1), "names and numbers hidden": hidden}


def measure(dataset: str, table: Table, seed: int) -> Iterator[Figure]:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    for name, params in VARIANTS.items():
        policy = build("bert", dict(params), seed)
        began = time.perf_counter()
        policy.fit(train)
        took = time.perf_counter() - began
        judgement = evaluate(policy, held_out, np.random.default_rng(seed), dataset=dataset)
        called = f"{dataset}: bert, {name}"
        share = judgement.share
        yield Figure(f"{called}, share, mean cost", share.value, share.low, share.high)
        yield Figure(f"{called}, ECE", judgement.ece_equal_mass)
        yield Figure(f"{called}, training", took, unit="s")
        for flip in flips(policy, held_out, _unread, seed, RULES):
            yield Figure(f"{called}, flips, {flip.rule}", flip.flipped.value, flip.flipped.low, flip.flipped.high)


def _unread(prompts: Sequence[str]) -> Floats:
    raise AssertionError("bert embeds prompts by itself")
