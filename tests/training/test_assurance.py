"""What follows a policy is learned from prompts that it was not fitted to, and is saved and loaded with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies import load_policy
from router.artifact import EncoderStamp, save
from router.policy import Policy
from router.stepped import Stepped
from router.steps.calibration import Calibration
from router.steps.familiarity import Familiarity
from router.types import Outcomes, Queries
from training import assurance
from training.crossfit import crossfit, domain_groups, random_folds
from training.data import Table, rows_of
from training.fit import build, fit

STAMP = EncoderStamp(name="test", revision="1", dimension=16)


def outcomes(rows: int = 400, seed: int = 0) -> Outcomes:
    """Eight domains; which of two experts is better depends on the domain."""
    rng = np.random.default_rng(seed)
    domain = np.arange(rows) % 8
    vectors = np.eye(16)[domain] + 0.1 * rng.normal(size=(rows, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    first = np.where(domain % 2, 0.9, 0.3)
    quality = (rng.random((rows, 2)) < np.stack([first, 1.1 - first], axis=1)).astype(float)
    queries = Queries(
        embeddings=vectors,
        input_tokens=np.full(rows, 40.0, np.float32),
        prompts=tuple(f"prompt {i} of {d}" for i, d in enumerate(domain)),
        domains=tuple(f"domain {d}" for d in domain),
    )
    tokens = np.full((rows, 2), 50.0)
    return Outcomes(
        queries=queries, experts=("a", "b"), quality=quality, cost_usd=tokens * 1e-6, output_tokens=tokens
    )


def table_of(given: Outcomes) -> Table:
    blank = dict.fromkeys(Table.__dataclass_fields__, ())
    return Table(**{**blank, "outcomes": given, "splits": ("train",) * len(given), "digest": "digest"})


def build_cluster() -> Policy:
    return build("cluster", {"clusters": 16}, 0)


def test_no_prompt_is_judged_by_a_policy_that_was_fitted_to_it() -> None:
    """A policy that knows by heart what it was fitted to is no better than chance on what it was not."""
    given = outcomes(200)
    noise = replace(given, quality=np.random.default_rng(5).integers(2, size=(200, 2)).astype(float))
    rng = np.random.default_rng(0)
    found = crossfit(
        lambda: build("knn", {"neighbours": 1, "pseudo_count": 0.01}, 0), noise, random_folds(200, 4, rng), rng
    )
    assert found is not None
    right = (found.estimate.quality > 0.5) == (noise.quality > 0.5)
    assert right.mean() < 0.65


def test_no_prompt_of_the_trial_taught_the_steps_that_it_is_tried_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt's outcome turned over: its own line of the trial stays as it was, and others' do not."""
    given = outcomes()
    turned = replace(given, quality=given.quality.copy())
    turned.quality[0] = 1.0 - turned.quality[0]
    plain = assurance.crossfit  # the fits stay the same, so that what changes comes by way of the steps
    monkeypatch.setattr(assurance, "crossfit", lambda fit, _, *how: plain(fit, given, *how))
    policy = build_cluster().fit(given)
    before, after = (assurance.assured(policy, each, 0, lambda: None).trial for each in (given, turned))
    assert before is not None and after is not None
    assert np.array_equal(before.quality[0], after.quality[0])
    assert not np.array_equal(before.quality, after.quality)


def test_domains_are_left_out_whole() -> None:
    given = outcomes(160)
    groups = domain_groups(given, 4, np.random.default_rng(0))
    assert set(groups) == {0, 1, 2, 3}
    assert given.queries.domains is not None
    for domain in set(given.queries.domains):
        assert len({groups[i] for i, name in enumerate(given.queries.domains) if name == domain}) == 1


def test_an_artifact_carries_what_follows_the_policy_and_its_trial(tmp_path: Path) -> None:
    given = outcomes()
    artifact = fit(build_cluster(), table_of(given), STAMP, 0, assure=True)
    save(artifact, tmp_path / "made")
    policy, loaded = load_policy(tmp_path / "made")
    assert isinstance(policy, Stepped)
    assert [type(step) for step in policy.steps] == [Familiarity, Calibration]
    assert loaded.trial is not None and loaded.trial.observed.shape == (400, 2)
    fresh = outcomes(40, seed=1).queries
    before = artifact.restore(build_cluster()).predict(fresh)
    after = policy.predict(fresh)
    assert np.allclose(after.quality, before.quality, atol=1e-3)
    assert after.familiarity is not None and after.familiarity.shape == (40,)


def test_a_trial_keeps_what_nobody_saw_unseen(tmp_path: Path) -> None:
    given = outcomes()
    quality = given.quality.copy()
    quality[::3, 1] = np.nan
    artifact = fit(build_cluster(), table_of(replace(given, quality=quality)), STAMP, 0, assure=True)
    save(artifact, tmp_path / "made")
    _, loaded = load_policy(tmp_path / "made")
    assert loaded.trial is not None
    assert np.isnan(loaded.trial.observed[::3, 1]).all() and np.isfinite(loaded.trial.observed[:, 0]).all()


def test_a_query_of_no_known_domain_is_answered_by_the_means() -> None:
    given = outcomes(1_200)
    artifact = fit(build_cluster(), table_of(given), STAMP, 0, assure=True)
    policy = artifact.restore(build_cluster())
    strange = np.zeros((1, 16), np.float32)
    strange[0, 12] = 1.0
    far = policy.predict(replace(rows_of(given, np.array([0])).queries, embeddings=strange))
    near = policy.predict(rows_of(given, np.arange(40)).queries)
    assert far.familiarity is not None and near.familiarity is not None
    assert far.familiarity[0] < np.quantile(near.familiarity, 0.2)
    assert np.abs(far.quality[0] - given.quality.mean(axis=0)).max() < 0.15


@pytest.mark.parametrize("rows", [20, 99])
def test_too_few_prompts_leave_the_policy_as_it_is(rows: int) -> None:
    artifact = fit(build_cluster(), table_of(outcomes(rows)), STAMP, 0, assure=True)
    assert artifact.steps == () and artifact.trial is None


def test_a_policy_that_never_reads_the_query_is_calibrated_only() -> None:
    artifact = fit(build("static", {}, 0), table_of(outcomes()), None, 0, assure=True)
    assert [step.kind for step in artifact.steps] == ["calibration"]
