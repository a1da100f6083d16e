"""What the policies that are trained by descent share: shrinkage, honesty, doubt, and traffic logs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.attention import Attention
from policies.cosine import Cosine
from policies.factorization import Factorization
from policies.mlp import Mlp
from policies.prototype import Prototype
from router.committee import Committee
from router.descent import sigmoid
from router.errors import DataError
from router.types import Floats, Outcomes, Queries

KINDS = [Attention, Cosine, Factorization, Mlp, Prototype]
SETTLED = {"members": 3, "noise": 1.0, "features": False}
WIDTH = 8


def outcomes(chance: Floats, vectors: Floats, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    quality = (rng.random(chance.shape) < chance).astype(float)
    rows = len(vectors)
    return Outcomes(
        queries=Queries(embeddings=vectors, input_tokens=np.full(rows, 40.0)),
        experts=tuple(f"expert {k}" for k in range(chance.shape[1])),
        quality=quality,
        cost_usd=np.ones(chance.shape),
        output_tokens=np.full(chance.shape, 100.0),
    )


def vectors(rows: int, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(rows, WIDTH))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_can_be_foretold_a_small_table_gives_each_expert_its_mean(kind: type[Committee]) -> None:
    chance = np.tile([0.8, 0.5, 0.3], (200, 1))
    policy = kind(**SETTLED).fit(outcomes(chance, vectors(200)))
    quality = policy.predict(Queries(embeddings=vectors(300, seed=1), input_tokens=np.ones(300))).quality
    constant = policy.mean_
    assert np.sqrt(((quality - constant) ** 2).mean()) < 0.03
    assert ((quality - chance[0]) ** 2).mean() < ((constant - chance[0]) ** 2).mean() + 0.001


def test_what_is_said_of_a_training_prompt_does_not_know_its_outcome() -> None:
    table = outcomes(np.full((150, 2), 0.5), vectors(150))
    policy = Mlp(**{**SETTLED, "noise": 0.0}).fit(table)
    held = policy.honest_ - policy.honest_.mean(axis=0)
    assert abs((held * (table.quality - 0.5)).mean()) < 0.01


def test_doubt_falls_with_the_prompts_seen() -> None:
    def std(rows: int) -> float:
        given = vectors(rows)
        table = outcomes(sigmoid(4.0 * given[:, :1] * np.array([1.0, -1.0])), given)
        policy = Factorization(latent=1, **SETTLED).fit(table)
        return float(policy.predict(Queries(embeddings=vectors(100, 1), input_tokens=np.ones(100))).std.mean())

    assert std(1600) < 0.7 * std(100)


def test_a_log_that_gives_the_hard_prompts_to_the_strong_expert_does_not_make_it_look_weak() -> None:
    given = vectors(1500)
    chance = sigmoid(-8.0 * given[:, :1] + np.array([0.8, 0.0]))
    table = outcomes(chance, given)
    strong = np.random.default_rng(1).random(len(given)) < np.where(given[:, 0] > 0, 0.7, 0.3)
    log = replace(table, quality=np.where(np.stack([strong, ~strong], axis=1), table.quality, np.nan))
    assert np.nanmean(log.quality, axis=0).argmax() == 1
    policy = Factorization(latent=1, **{**SETTLED, "noise": 0.0}).fit(log)
    quality = policy.predict(table.queries).quality
    assert (quality[:, 0] > quality[:, 1]).mean() > 0.95
    assert np.abs(quality.mean(axis=0) - chance.mean(axis=0)).max() < 0.06


class Loud(Mlp):
    """Chooses between a noise that drowns everything and none."""

    def alternatives(self) -> dict[str, Sequence[Any]]:
        return {"features": (False,), "noise": (30.0, 0.0)}


def test_a_setting_that_is_not_given_is_chosen_by_held_out_prompts() -> None:
    given = vectors(200)
    table = outcomes(sigmoid(8.0 * given[:, :1] * np.array([1.0, -1.0])), given)
    chosen = Loud(hidden=8, members=3).fit(table)
    quiet = Mlp(hidden=8, **{**SETTLED, "noise": 0.0}).fit(table)
    assert np.array_equal(chosen.predict(table.queries).quality, quiet.predict(table.queries).quality)


def test_there_are_no_more_abilities_than_experts_can_differ_in() -> None:
    policy = Factorization()
    policy.experts_ = ("one", "two", "three", "four")
    assert policy.alternatives()["latent"] == (3, 2)


def test_without_features_the_words_do_not_count() -> None:
    given = vectors(120)
    table = outcomes(sigmoid(4.0 * given[:, :2]), given)
    words = tuple(f"sum {i} and {i}" if i % 2 else f"who wrote play {i}" for i in range(120))
    table = replace(table, queries=replace(table.queries, prompts=words))
    policy = Mlp(hidden=8, **SETTLED).fit(table)
    others = replace(table.queries, prompts=words[::-1])
    assert np.array_equal(policy.predict(table.queries).quality, policy.predict(others).quality)


@pytest.mark.parametrize(
    "policy",
    [
        Mlp(members=1),
        Mlp(expert_dropout=1.0),
        Mlp(noise=-1.0),
        Mlp(hidden=0),
        Cosine(dimension=1),
        Attention(dimension=0),
        Factorization(latent=0),
        Prototype(prototypes=0),
        Prototype(contrast=-1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(policy: Committee) -> None:
    with pytest.raises(DataError):
        policy.fit(outcomes(np.full((20, 2), 0.5), vectors(20)))
