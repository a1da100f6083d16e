"""The cluster policy and the baselines it is held against."""

from typing import Literal

import numpy as np
import pytest

from policies import kinds, policy_class
from policies.cluster import Cluster
from policies.static import Static
from policies.uniform import Uniform
from router.errors import ConfigError
from router.objective import Terms, choose
from router.types import Floats, Outcomes, Queries, Wishes

TOPICS = 6


def world(rows: int, seed: int = 0, experts: int = 4) -> tuple[Outcomes, Floats]:
    """Each expert is good at one topic and fair at the others; returns outcomes and true chances [n, K]."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(TOPICS, size=rows)
    centres = np.random.default_rng(99).normal(size=(TOPICS, 24))
    vectors = centres[topic] + 0.4 * rng.normal(size=(rows, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    chance = np.where(topic[:, None] % experts == np.arange(experts), 0.9, 0.4)
    outcomes = Outcomes(
        queries=Queries(embeddings=vectors, input_tokens=np.full(rows, 30.0)),
        experts=tuple("abcdefgh"[:experts]),
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost_usd=np.full(chance.shape, 0.001),
        output_tokens=np.full(chance.shape, 50.0),
    )
    return outcomes, chance


def reached(quality: Floats, chance: Floats) -> float:
    return float(chance[np.arange(len(chance)), quality.argmax(axis=1)].mean())


def test_each_prompt_goes_to_the_expert_for_its_topic() -> None:
    trained, _ = world(1500)
    held_out, chance = world(500, seed=1)
    clustered = reached(Cluster().fit(trained).predict(held_out.queries).quality, chance)
    static = reached(Static().fit(trained).predict(held_out.queries).quality, chance)
    assert clustered > 0.88
    assert static == pytest.approx(0.57, abs=0.08)


def test_it_learns_from_one_answer_per_prompt() -> None:
    trained, _ = world(3000)
    seen = np.random.default_rng(7).integers(4, size=3000)[:, None] == np.arange(4)
    trained.quality[~seen] = np.nan
    held_out, chance = world(500, seed=1)
    assert reached(Cluster().fit(trained).predict(held_out.queries).quality, chance) > 0.85


def test_estimates_are_calibrated() -> None:
    trained, _ = world(2000)
    held_out, chance = world(500, seed=1)
    assert np.abs(Cluster().fit(trained).predict(held_out.queries).quality - chance).mean() < 0.06


def test_an_expert_seen_on_hard_prompts_only_is_not_thought_worse_for_it() -> None:
    """`b` is better than `a` by 0.1 everywhere, but was asked the harder prompts, which look like the others."""
    rng = np.random.default_rng(0)
    rows = 4000
    hard = rng.random(rows) < 0.5
    chance = np.where(hard[:, None], 0.3, 0.7) + np.array([0.0, 0.1, 0.05])
    quality = (rng.random(chance.shape) < chance).astype(float)
    quality[hard, 0] = np.nan
    quality[~hard, 1] = np.nan
    vectors = rng.normal(size=(rows, 8)).astype(np.float32)
    blank = np.full(quality.shape, np.nan)
    outcomes = Outcomes(Queries(vectors, np.ones(rows)), ("a", "b", "c"), quality, blank, blank)
    means = Cluster(clusters=1, pseudo_count=3).fit(outcomes).predict(outcomes.queries).quality[0]
    assert np.nanmean(quality, axis=0)[0] > np.nanmean(quality, axis=0)[1]
    assert means[1] > means[0]


def test_where_an_expert_was_seldom_seen_it_is_less_certain() -> None:
    trained, _ = world(1500)
    trained.quality[5:, 1] = np.nan
    std = Cluster(clusters=16, pseudo_count=10).fit(trained).predict(trained.queries).std
    assert (std[:, 1] > 1.5 * std[:, 0]).all()


def test_a_learned_map_sees_what_k_means_cannot() -> None:
    """Three components of the vector are loud and mean nothing; what decides is in a quiet one."""
    rng = np.random.default_rng(0)

    def drawn(rows: int) -> tuple[Outcomes, Floats]:
        vectors = (rng.normal(size=(rows, 4)) * [1.0, 1.0, 1.0, 0.5]).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        chance = np.where(vectors[:, 3:] > 0, [[0.9, 0.3]], [[0.3, 0.9]])
        quality = (rng.random(chance.shape) < chance).astype(float)
        blank = np.full(chance.shape, np.nan)
        return Outcomes(Queries(vectors, np.ones(rows)), ("a", "b"), quality, blank, blank), chance

    (trained, _), (held_out, chance) = drawn(3000), drawn(1000)
    clusters = Cluster(clusters=16, pseudo_count=10.0), Cluster(clusters=16, pseudo_count=10.0, map="learned")
    plain, learned = (reached(policy.fit(trained).predict(held_out.queries).quality, chance) for policy in clusters)
    assert learned > plain + 0.1


@pytest.mark.parametrize("how", ["kmeans", "learned"])
def test_a_map_is_restored_as_it_was(how: Literal["kmeans", "learned"]) -> None:
    trained, _ = world(600)
    policy = Cluster(map=how).fit(trained)
    other = Cluster(map=how)
    other.experts_, other.output_tokens_ = policy.experts_, policy.output_tokens_
    other.restore({name: array.astype(np.float32) for name, array in policy.state().items()})
    assert np.array_equal(other.predict(trained.queries).quality, policy.predict(trained.queries).quality)
    assert ("offsets" in policy.state()) == (how == "learned")


def test_more_clusters_than_prompts_is_no_error() -> None:
    trained, _ = world(5)
    assert len(Cluster(clusters=64, pseudo_count=1.0).fit(trained).centroids_) <= 7


@pytest.mark.parametrize(
    "wrong",
    [{"clusters": 0}, {"pseudo_count": -1.0}, {"nearest": 0}, {"temperature": float("nan")}, {"map": "drawn"}],
)
def test_a_parameter_out_of_range_is_named(wrong: dict[str, object]) -> None:
    trained, _ = world(50)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Cluster(**wrong).fit(trained)  # type: ignore[arg-type]


def test_uniform_thinks_all_alike_and_always_draws() -> None:
    trained, _ = world(100)
    policy = Uniform().fit(trained)
    assert np.ptp(policy.predict(trained.queries).quality) == 0.0
    assert policy.explore == 1.0


@pytest.mark.parametrize("kind", [kind for kind in kinds() if not policy_class(kind).reads_text])
def test_propensities_of_a_choice_by_any_policy_sum_to_one(kind: str) -> None:
    trained, _ = world(80)
    policy = policy_class(kind)().fit(trained)
    estimate = policy.predict(trained.queries)
    terms = Terms(estimate.quality[0], np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4))
    choice = choose(terms, {3: "resting"}, Wishes(), 0.01, explore=policy.explore, draw=0.4)
    assert choice.propensity.sum() == pytest.approx(1.0)
    assert choice.propensity[3] == 0.0


@pytest.mark.parametrize("kind", kinds())
def test_a_policys_parameters_are_stored_as_given(kind: str) -> None:
    cls = policy_class(kind)
    defaults = cls().params
    assert cls(**defaults).params == defaults
