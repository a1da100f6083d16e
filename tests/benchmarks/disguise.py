"""What disguising prompts in training does to a policy over vectors: half of them mistyped, or without their names
and numbers (S2MoE's noisy inputs, R2R's hidden entities).

The share of the way from the static mix to the oracle on `val`, and `flips`: the held-out prompts whose expert is
another once a letter in ten is mistyped, or names and numbers are hidden, at half the best single expert's cost. A
figure is the mean over seeds, and so are its bounds.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from neural import RULES, hidden
from report import Figure

from router.augmentation import with_typos
from router.config import EncoderSettings
from router.embedding import Encoder
from router.types import Outcomes
from training.data import Table
from training.embedding import VectorCache
from training.evaluate import evaluate
from training.fit import build
from training.studies.rewording import Rule
from training.studies.robustness import flips

DISGUISED = 0.5  # share of the prompts


def mistyped(text: str, rng: np.random.Generator) -> str:
    return with_typos(text, random.Random(int(rng.integers(2**31))))


TRAINED: Mapping[str, Rule | None] = {
    "as they are": None,
    "typos in training": mistyped,
    "masking in training": hidden,
}


def measure(dataset: str, table: Table, *, policy: str, seeds: list[int]) -> Iterator[Figure]:
    train, held_out = table.split("train").outcomes, table.split("val").outcomes
    encoder = Encoder(EncoderSettings())
    encoder.load()
    try:
        vectors = VectorCache(encoder)
        for name, rule in TRAINED.items():
            shares, turned = [], dict[str, list[list[float]]]()
            for seed in seeds:
                told = train if rule is None else _disguised(train, rule, vectors, seed)
                fitted = build(policy, {}, seed).fit(told)
                share = evaluate(fitted, held_out, np.random.default_rng(seed), dataset=dataset).share
                shares.append([share.value, share.low, share.high])
                for flip in flips(fitted, held_out, vectors.embed, seed, RULES):
                    found = flip.flipped
                    turned.setdefault(flip.rule, []).append([found.value, found.low, found.high])
            called = f"{dataset}: {policy}, {name}"
            yield Figure(f"{called}, share, mean cost", *map(float, np.mean(shares, axis=0)))
            for said, found in turned.items():
                yield Figure(f"{called}, flips, {said}", *map(float, np.mean(found, axis=0)))
    finally:
        encoder.close()


def _disguised(outcomes: Outcomes, rule: Rule, vectors: VectorCache, seed: int) -> Outcomes:
    queries, rng = outcomes.queries, np.random.default_rng(seed)
    assert queries.prompts is not None
    chosen = rng.random(len(outcomes)) < DISGUISED
    prompts = tuple(
        rule(prompt, rng) if disguise else prompt for prompt, disguise in zip(queries.prompts, chosen, strict=True)
    )
    return replace(outcomes, queries=replace(queries, prompts=prompts, embeddings=vectors.embed(prompts)))
