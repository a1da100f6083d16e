"""What holds for every policy there is: the contract of `router.policy`, on full tables and on traffic logs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bert import write_bert

from policies import kinds, load_policy, policy_class
from router.artifact import EncoderStamp, save
from router.errors import ArtifactError, DataError
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.data import Table, rows_of
from training.fit import build, fit

TOPICS = ("sum the numbers 12 and 30", "who wrote the play", "def add(a, b): return a", "translate to French")
EXPERTS = ("large", "maths", "small")
#: Of a committee: few members, and nothing to choose.
SETTLED: dict[str, object] = {"members": 2, "noise": 1.0, "features": True}
SMALL: dict[str, dict[str, object]] = {
    "forest": {"trees": 8, "length_trees": 4},
    "distilled": {"teacher": {"kind": "cluster", "clusters": 4, "pseudo_count": 3.0}},
    "preference": {"strength": 0.03},
    "boosted": {"trees": 12, "rate": 0.2},
    "mlp": {"hidden": 16, **SETTLED},
    "factorization": {"latent": 2, **SETTLED},
    "attention": SETTLED,
    "cosine": SETTLED,
    "prototype": SETTLED,
}
#: Kinds that are trained with torch: without it they are left to `make test-torch`.
TORCH = {"bert"}


def outcomes(rows: int = 240, *, seed: int = 0, prompts: bool = True, domains: bool = True) -> Outcomes:
    """Four kinds of prompts; `maths` is good at the first only, `large` at all, `small` at little."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(TOPICS), size=rows)
    vectors = np.eye(16)[kind] + 0.1 * rng.normal(size=(rows, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    chance = np.stack([np.full(rows, 0.85), np.where(kind == 0, 0.95, 0.2), np.full(rows, 0.4)], axis=1)
    quality = (rng.random((rows, 3)) < chance).astype(float)
    tokens = rng.gamma(4.0, 50.0, size=(rows, 3))
    queries = Queries(
        embeddings=vectors,
        input_tokens=np.full(rows, 40.0, dtype=np.float32),
        prompts=tuple(f"{TOPICS[k]} {'x ' * int(rng.integers(9))}{i}" for i, k in enumerate(kind))
        if prompts
        else None,
        domains=tuple(f"domain {k}" for k in kind) if domains else None,
    )
    cost = tokens * np.array([10.0, 1.0, 0.2]) / 1e6
    return Outcomes(queries=queries, experts=EXPERTS, quality=quality, cost_usd=cost, output_tokens=tokens)


def logged(table: Outcomes, seed: int = 0) -> Outcomes:
    """The same as a traffic log: one expert seen per query."""
    seen = np.random.default_rng(seed).integers(3, size=len(table))[:, None] == np.arange(3)
    return replace(
        table,
        quality=np.where(seen, table.quality, np.nan),
        cost_usd=np.where(seen, table.cost_usd, np.nan),
        output_tokens=np.where(seen, table.output_tokens, np.nan),
    )


def table_of(outcomes: Outcomes) -> Table:
    blank = dict.fromkeys(Table.__dataclass_fields__, ())
    return Table(**{**blank, "outcomes": outcomes, "splits": ("train",) * len(outcomes), "digest": "digest"})


def unread(table: Outcomes) -> Outcomes:
    """What a policy that never reads the query is given: no vectors."""
    return replace(table, queries=replace(table.queries, embeddings=np.zeros((len(table), 0), dtype=np.float32)))


def trained(kind: str, table: Outcomes, seed: int = 0) -> Policy:
    return build(kind, SMALL.get(kind, {}), seed).fit(table)


@pytest.fixture(scope="module", params=kinds())
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    kind = str(request.param)
    if kind in TORCH:
        pytest.importorskip("torch")
    if kind == "bert" and kind not in SMALL:
        folder = write_bert(tmp_path_factory.mktemp("tiny"))
        SMALL[kind] = {"encoder": str(folder), "epochs": 1, "window": 32}
    return kind


@pytest.fixture(scope="module")
def policy(kind: str) -> Policy:
    return trained(kind, outcomes())


def check(policy: Policy, queries: Queries) -> Floats:
    estimate = policy.predict(queries)
    shape = (len(queries), len(EXPERTS))
    assert estimate.quality.shape == estimate.std.shape == estimate.output_tokens.shape == shape
    for values in (estimate.quality, estimate.std, estimate.output_tokens):
        assert np.isfinite(values).all()
    assert (estimate.quality >= 0).all() and (estimate.quality <= 1).all()
    assert (estimate.std > 0).all() and (estimate.output_tokens > 0).all()
    return estimate.quality


def test_estimates_are_finite_and_in_range(policy: Policy) -> None:
    check(policy, outcomes(50, seed=1).queries)


def test_one_query_is_estimated_as_in_a_batch(policy: Policy) -> None:
    held_out = outcomes(20, seed=1)
    together = policy.predict(held_out.queries)
    alone = policy.predict(rows_of(held_out, np.array([7])).queries)
    assert np.allclose(alone.quality[0], together.quality[7], atol=1e-5)
    assert np.allclose(alone.output_tokens[0], together.output_tokens[7], rtol=1e-4)


def test_words_that_were_read_while_the_vectors_came_change_nothing(policy: Policy) -> None:
    queries = outcomes(20, seed=1).queries
    ahead = policy.worded(replace(queries, embeddings=np.zeros_like(queries.embeddings)))
    found = policy.predict(replace(ahead, embeddings=queries.embeddings))
    assert np.array_equal(found.quality, policy.predict(queries).quality)


def test_the_same_seed_gives_the_same_policy(kind: str, policy: Policy) -> None:
    queries = outcomes(50, seed=1).queries
    assert np.array_equal(trained(kind, outcomes()).predict(queries).quality, policy.predict(queries).quality)


def test_a_saved_policy_predicts_what_it_did(kind: str, tmp_path: Path) -> None:
    table = outcomes()
    fresh = build(kind, SMALL.get(kind, {}), 0)

    stamp = EncoderStamp(name="test", revision="1", dimension=16)
    given = table if fresh.reads_query else unread(table)
    artifact = fit(fresh, table_of(given), stamp if fresh.reads_query else None, 0)
    save(artifact, tmp_path / "artifact")
    restored, _ = load_policy(tmp_path / "artifact")
    queries = outcomes(50, seed=1).queries
    before, after = fresh.predict(queries), restored.predict(queries)
    assert np.allclose(after.quality, before.quality, atol=2e-4)
    assert np.allclose(after.std, before.std, atol=2e-3)
    assert np.allclose(after.output_tokens, before.output_tokens, rtol=2e-3)


def test_the_reference_of_an_artifact_is_estimated_without_its_prompts(kind: str, tmp_path: Path) -> None:
    table = outcomes()
    fresh = build(kind, SMALL.get(kind, {}), 0)
    artifact = fit(fresh, table_of(table), None, 0)
    assert artifact.reference.prompts is None
    reference = fresh.predict(artifact.reference).quality
    assert np.allclose(reference, fresh.predict(table.queries).quality, atol=0.02)


def test_a_missing_array_is_an_artifact_error(policy: Policy, kind: str) -> None:
    for missing in policy.state():
        other = build(kind, policy.params, 0)
        other.experts_, other.output_tokens_ = policy.experts_, policy.output_tokens_
        with pytest.raises(ArtifactError):
            other.restore({name: array for name, array in policy.state().items() if name != missing})


def test_a_traffic_log_with_one_expert_per_query_trains(kind: str) -> None:
    check(trained(kind, logged(outcomes())), outcomes(50, seed=1).queries)


def test_a_table_without_prompts_and_domains_trains_all_but_those_that_read_the_text(kind: str) -> None:
    if policy_class(kind).reads_text:
        with pytest.raises(DataError, match="prompts"):
            trained(kind, outcomes(prompts=False, domains=False))
        return
    check(trained(kind, outcomes(prompts=False, domains=False)), outcomes(50, seed=1).queries)


@pytest.mark.parametrize("queries", [1, 3])
def test_a_handful_of_queries_trains(kind: str, queries: int) -> None:
    check(trained(kind, outcomes(queries)), outcomes(5, seed=1).queries)


def test_answers_of_which_no_length_is_known_train(kind: str) -> None:
    table = outcomes()
    check(trained(kind, replace(table, output_tokens=np.full(table.quality.shape, np.nan))), table.queries)


def test_an_expert_without_an_outcome_is_refused(kind: str) -> None:
    table = outcomes(20)
    quality = table.quality.copy()
    quality[:, 1] = np.nan
    with pytest.raises(DataError, match="maths"):
        trained(kind, replace(table, quality=quality))


def test_experts_that_all_answer_alike_are_no_trouble(kind: str) -> None:
    table = outcomes(60)
    check(trained(kind, replace(table, quality=np.ones(table.quality.shape))), table.queries)


@pytest.mark.parametrize(
    "learned",
    [
        "knn",
        "linear",
        "domain",
        "cluster",
        "forest",
        "stack",
        "best",
        "distilled",
        "preference",
        "mixture",
        "pilot",
        "mixer",
        "graph",
        "boosted",
        "mlp",
        "factorization",
        "attention",
        "cosine",
        "prototype",
    ],
)
def test_a_learned_policy_finds_the_expert_for_each_kind_of_prompt(learned: str) -> None:
    if learned not in kinds():
        pytest.skip("not there yet")
    table = outcomes(600, seed=2)
    held_out = outcomes(200, seed=3)
    quality = trained(learned, table).predict(held_out.queries).quality
    maths = np.array(held_out.queries.domains) == "domain 0"
    assert (quality[maths, 1] > quality[maths, 2]).mean() > 0.95
    assert (quality[~maths, 1] < quality[~maths, 2]).mean() > 0.95
