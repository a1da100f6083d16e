"""Studies that retrain, on a small world in which it is known what each domain and expert is worth."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.linear import Linear
from policies.stack import Stack
from policies.static import Static
from router.errors import ConfigError, DataError
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.studies import cost
from training.studies.ablation import ablated, variants_of
from training.studies.base import Setup
from training.studies.cost import serving_cost, training_cost
from training.studies.domain import without_each_domain
from training.studies.expert import without_each_expert
from training.studies.robustness import flips


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("interval", "resamples", "reliability", "studies.domain"):
        monkeypatch.setattr(f"training.{module}.RESAMPLES", 120)


EXPERTS = ("cheap", "maths", "large")
#: domain -> (its place among the vectors, each expert's chance there)
DOMAINS = {"sums": (0, (0.5, 0.95, 0.8)), "plays": (1, (0.5, 0.3, 0.9)), "codes": (2, (0.4, 0.9, 0.7))}


def world(rows: int = 240, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    labels = [list(DOMAINS)[place] for place in rng.integers(3, size=rows)]
    vectors = rng.normal(scale=0.2, size=(rows, 4))
    vectors[np.arange(rows), [DOMAINS[label][0] for label in labels]] += 1
    chance = np.array([DOMAINS[label][1] for label in labels])
    return Outcomes(
        queries=Queries(
            embeddings=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
            input_tokens=np.full(rows, 20.0),
            prompts=tuple(f"Tell me about {label}, please: number {row}." for row, label in enumerate(labels)),
            domains=tuple(labels),
        ),
        experts=EXPERTS,
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost_usd=np.tile([0.001, 0.004, 0.02], (rows, 1)),
        output_tokens=np.full(chance.shape, 50.0),
    )


class Nearest(Policy):
    """The means of the training prompts on the same side of the vectors: fast, and knows what it was shown."""

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def _fit(self, outcomes: Outcomes) -> None:
        side = outcomes.queries.embeddings.argmax(axis=1)
        everywhere = np.nanmean(outcomes.quality, axis=0)
        self.mean_ = np.stack(
            [outcomes.quality[side == s].mean(axis=0) if (side == s).any() else everywhere for s in range(4)]
        )
        self.mean_ = self.weight * self.mean_ + (1 - self.weight) * everywhere

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        quality = self.mean_[queries.embeddings.argmax(axis=1)]
        return quality, np.full(quality.shape, 0.1)

    def state(self) -> dict[str, Floats]:
        return {"mean": self.mean_}

    def restore(self, state: object) -> None:
        raise NotImplementedError


def setup(build: object = Nearest) -> Setup:
    return Setup(build=build, train=world(), held_out=world(180, seed=1))  # type: ignore[arg-type]


def test_a_domain_left_out_is_judged_against_the_best_model_of_the_others() -> None:
    seen: list[str] = []
    study = without_each_domain(setup(), seen.append)
    assert sorted(seen) == sorted(DOMAINS)
    found = {unseen.domain: unseen for unseen in study.domains}
    assert sum(unseen.queries for unseen in study.domains) == 180
    # without plays, `maths` is the best model of the training data, which plays punish
    assert found["plays"].best == "maths"
    assert found["plays"].best_quality < 0.5
    assert found["sums"].best == "large"
    for unseen in (*study.domains, study):
        assert unseen.above_best.low <= unseen.above_best.value <= unseen.above_best.high
    means = [unseen.above_best.value * unseen.queries for unseen in study.domains]
    assert study.above_best.value == pytest.approx(sum(means) / 180)


def test_a_policy_of_means_is_the_best_single_model_on_an_unseen_domain() -> None:
    study = without_each_domain(setup(Static))
    assert (study.above_best.value, study.above_best.high) == (0.0, 0.0)
    assert all(unseen.policy == unseen.best_quality for unseen in study.domains)
    assert study.above_mix.value == pytest.approx(0.0, abs=1e-9)


def test_small_domains_are_skipped_with_the_reason() -> None:
    given = setup(Static)
    held = given.held_out
    labels = ("rare",) * 3 + tuple(held.queries.domains or ())[3:]
    held = replace(held, queries=replace(held.queries, domains=labels))
    study = without_each_domain(replace(given, held_out=held))
    assert study.skipped == {"rare": "3 held-out queries, 10 are needed"}


def test_without_domains_none_can_be_left_out() -> None:
    given = setup()
    bare = replace(given.held_out, queries=replace(given.held_out.queries, domains=None))
    with pytest.raises(DataError, match="column `domain`"):
        without_each_domain(replace(given, held_out=bare))
    one = replace(given.train, queries=replace(given.train.queries, domains=("sums",) * 240))
    with pytest.raises(DataError, match=r"two domains in training.*held out are: .*plays \(\d+\)"):
        without_each_domain(replace(given, train=one))


def test_an_expert_left_out_leaves_less_to_gain() -> None:
    study = without_each_expert(setup())
    assert [absent.expert for absent in study.experts] == list(EXPERTS)
    gains = {absent.expert: absent.gain.value for absent in study.experts}
    assert gains["maths"] < study.gain.value
    assert all(absent.onboarded is None for absent in study.experts)


def test_an_expert_may_come_back_through_onboarding() -> None:
    def refit(policy: Policy, train: Outcomes, expert: str) -> Policy:
        assert expert not in policy.experts_
        return Nearest().fit(train)

    study = without_each_expert(setup(), onboard=refit)
    assert all(absent.onboarded == study.gain for absent in study.experts)


def test_of_two_experts_none_can_be_left_out() -> None:
    given = setup(Static)
    given.train.cost_usd[:, 2] = given.held_out.cost_usd[:, 2] = np.nan
    with pytest.raises(DataError, match=r"needs three.*cheap, maths"):
        without_each_expert(given)


def test_a_prompt_whose_vector_moves_flips_and_one_whose_does_not_stays() -> None:
    given = setup()
    policy = Nearest().fit(given.train)
    vectors = dict(zip(given.held_out.queries.prompts or (), given.held_out.queries.embeddings, strict=True))

    def embed(prompts: Sequence[str]) -> Floats:
        return np.stack([vectors.get(prompt, np.eye(4, dtype=np.float32)[0]) for prompt in prompts])

    rules = {"as it was": lambda text, rng: text, "all to sums": lambda text, rng: text + "!"}
    same, moved = flips(policy, given.held_out, embed, rules=rules)
    assert (same.changed, same.flipped.value, same.quality.value, same.cost_usd.value) == (0, 0, 0, 0)
    assert moved.changed == 1.0
    labels = np.array(given.held_out.queries.domains)
    assert 0 < moved.flipped.value <= (labels != "sums").mean()
    assert moved.flipped.low < moved.flipped.value < moved.flipped.high
    assert moved.quality.value < 0


def test_a_policy_that_reads_no_query_never_flips_and_nothing_is_embedded() -> None:
    given = setup()

    def embed(prompts: Sequence[str]) -> Floats:
        raise AssertionError("not needed")

    found = flips(Static().fit(given.train), given.held_out, embed)
    assert {flip.flipped.value for flip in found} == {0.0}
    assert len(found) == 8


def test_without_prompts_nothing_can_be_reworded() -> None:
    given = setup()
    bare = replace(given.held_out, queries=replace(given.held_out.queries, prompts=None))
    with pytest.raises(DataError, match="needs the prompts"):
        flips(Static().fit(given.train), bare, lambda prompts: np.zeros((len(prompts), 4)))


def test_a_setting_that_harms_shows_as_what_it_loses() -> None:
    given = setup()
    study = ablated(given, variants_of(Nearest(), {"weight": 0.0}))
    (variant,) = study.variants
    assert variant.variant == "weight = 0.0"
    assert variant.lost.value == pytest.approx(study.gain.value - variant.gain.value)
    assert variant.lost.low > 0
    assert variant.p < 0.05


def test_each_member_of_a_stack_is_left_out_in_turn() -> None:
    members = [{"kind": "static"}, {"kind": "linear", "vector": 0.5}]
    variants = variants_of(Stack(members=members, rng=3), {"rng": 5})
    assert list(variants) == ["without member 1: static", "without member 2: linear (vector 0.5)", "rng = 5"]
    built = variants["without member 1: static"]()
    assert (built.params["members"], built.params["rng"]) == (members[1:], 3)
    assert variants["rng = 5"]().params == {"members": members, "rng": 5}


def test_a_policy_made_of_a_stack_is_taken_apart_as_that_stack() -> None:
    outer = Static()
    outer.stack_ = Stack(members=[{"kind": "static"}, {"kind": "linear"}])  # type: ignore[attr-defined]
    assert isinstance(variants_of(outer)["without member 2: linear"](), Stack)


def test_a_policy_without_members_needs_settings() -> None:
    with pytest.raises(ConfigError, match=r"linear has no members.*parameters: .*vector"):
        variants_of(Linear())


def test_costs_are_those_of_the_policy_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy, spent = training_cost(setup())
    assert spent.prompts == 240
    assert spent.seconds > 0
    served = serving_cost(policy, world(5).queries)
    assert 0 < served.median_ms <= served.p99_ms
    assert served.size_mb == pytest.approx(policy.state()["mean"].nbytes / 1e6)
    monkeypatch.setattr(cost, "MEMORY", tmp_path / "nowhere")
    assert training_cost(setup())[1].peak_mb is None


def test_memory_that_training_takes_is_seen() -> None:
    class Hungry(Nearest):
        def _fit(self, outcomes: Outcomes) -> None:
            block = np.ones(8_000_000)  # 64 MB
            for _ in range(5):
                block += np.sqrt(block)
            super()._fit(outcomes)

    peak = training_cost(setup(Hungry))[1].peak_mb
    if not cost.MEMORY.exists():
        pytest.skip("this system does not tell")
    assert peak is not None
    assert peak > 30
