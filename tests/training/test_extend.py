"""`pointsman train --extend`: a new expert for an artifact that is there, from some labelled prompts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from outcome_tables import FakeEncoder, rows, write_csv

from policies import load_policy
from router.artifact import EncoderStamp, load, save
from router.errors import ArtifactError, ConfigError, DataError
from training.commands import train
from training.data import Table, read_tables
from training.evaluate_command import evaluate
from training.extend import extended, onboarded
from training.fit import build, fit
from training.studies.base import Setup
from training.studies.expert import without_each_expert

Run = Callable[..., Result]
KNOWN = ("cheap", "maths", "large")


@pytest.fixture(autouse=True)
def in_tests(encoder: FakeEncoder, few_resamples: None) -> FakeEncoder:
    return encoder


def scores(name: str, prompts: int = 60, start: int = 0, seed: int = 3) -> list[dict[str, Any]]:
    """What a new model made of prompts like those of `rows`: good at plays, bad at sums."""
    rng = np.random.default_rng(seed)
    of_maths = [row for row in rows(start + prompts) if row["model"] == "maths"][start:]
    return [
        {
            **row,
            "model": name,
            "score": float(rng.random() < (0.2 if row["domain"] == "sums" else 0.95)),
            "output_tokens": 80,
            "split": "train",
        }
        for row in of_maths
    ]


def embedded(table: Table) -> Table:
    return table.embedded(FakeEncoder().encode_batch(table.prompts))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact as `train` makes it, once for all tests here."""
    folder = tmp_path_factory.mktemp("fitted")
    table = embedded(read_tables([write_csv(folder / "outcomes.csv", rows(200))]).split("train"))
    stamp = EncoderStamp(name="all-MiniLM-L6-v2", revision="1", dimension=16)
    save(fit(build("cluster", {}, 0), table, stamp, 0, assure=True), folder / "made")
    return folder / "made"


@pytest.fixture
def made(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "made"))


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "new.csv", scores("poet"))


def test_the_new_expert_is_known_and_the_others_are_estimated_as_before(
    run: Run, made: Path, new: Path, tmp_path: Path
) -> None:
    result = run(train, "--extend", made, "--data", new, "--out", tmp_path / "more")
    assert "'poet' comes in by 60 prompts, 0 with scores of known models" in result.stderr
    before, _ = load_policy(made)
    after, artifact = load_policy(tmp_path / "more")
    assert artifact.experts == (*KNOWN, "poet")
    assert after.experts_ == artifact.experts
    queries = embedded(read_tables([new])).outcomes.queries
    old, now = before.predict(queries), after.predict(queries)
    assert np.array_equal(now.quality[:, :3], old.quality)
    assert np.array_equal(now.std[:, :3], old.std)
    plays = np.array(queries.domains) == "plays"
    assert now.quality[plays, 3].mean() > 0.75
    assert now.quality[~plays, 3].mean() < 0.45
    assert artifact.output_tokens[3] == pytest.approx(80, rel=0.15)
    assert artifact.metrics["newcomers"] == {"poet": 60}


def test_an_artifact_may_be_extended_again_and_in_its_own_place(
    run: Run, made: Path, new: Path, tmp_path: Path
) -> None:
    run(train, "--extend", made, "--data", new, "--out", made)
    two = write_csv(tmp_path / "two.csv", [*scores("sage", 40), *scores("bard", 50, start=20, seed=4)])
    run(train, "--extend", made, "--data", two, "--out", made)
    policy, artifact = load_policy(made)
    assert artifact.experts == (*KNOWN, "poet", "sage", "bard")
    assert artifact.metrics["newcomers"] == {"poet": 60, "sage": 40, "bard": 50}
    estimate = policy.predict(artifact.reference)
    assert estimate.quality.shape == (len(artifact.reference), 6)
    assert (estimate.quality >= 0).all() and (estimate.quality <= 1).all()


def test_the_trial_has_the_new_expert_unobserved(run: Run, made: Path, new: Path, tmp_path: Path) -> None:
    run(train, "--extend", made, "--data", new, "--out", tmp_path / "more")
    before, after = load(made).trial, load(tmp_path / "more").trial
    assert before is not None and after is not None
    assert np.array_equal(after.quality[:, :3], before.quality)
    assert after.quality.shape == after.output_tokens.shape == after.observed.shape == (len(before.quality), 4)
    assert np.isnan(after.observed[:, 3]).all()


def test_known_models_in_the_table_are_no_newcomers_but_help(run: Run, made: Path, tmp_path: Path) -> None:
    both = write_csv(tmp_path / "both.csv", [*scores("poet"), *rows(200)])
    result = run(train, "--extend", made, "--data", both, "--out", tmp_path / "more", "--json", tmp_path / "card")
    assert "60 with scores of known models" in result.stderr
    assert "50 prompts are held out" in result.stderr
    card = json.loads((tmp_path / "card").read_text())
    assert card["experts"] == [*KNOWN, "poet"]
    # on the held-out prompts the newcomer was not asked: what is judged there is the rest of the pool
    assert card["val"]["both"]["experts"] == 3


def test_an_extended_artifact_is_judged_like_any(run: Run, made: Path, new: Path, tmp_path: Path) -> None:
    run(train, "--extend", made, "--data", new, "--out", tmp_path / "more")
    judged = [{**row, "split": "val"} for row in [*scores("poet", 80), *rows(80)]]
    data = write_csv(tmp_path / "judged.csv", judged)
    run(evaluate, "--artifact", tmp_path / "more", "--data", data, "--json", tmp_path / "out.json")
    (report,) = json.loads((tmp_path / "out.json").read_text())["reports"]
    assert sorted(report["experts"]) == sorted([*KNOWN, "poet"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (scores("maths"), "no new model: the artifact knows maths already"),
        (scores("poet", 9), "'poet' has scores on 9 prompts, at least 10"),
        ([{**row, "score": 1.0} for row in scores("poet")], "'poet': all 60 scores are 1"),
    ],
)
def test_too_little_to_go_by_is_an_error_that_names_the_model(
    run: Run, made: Path, tmp_path: Path, content: list[dict[str, Any]], message: str
) -> None:
    data = write_csv(tmp_path / "bad.csv", content)
    with pytest.raises(DataError, match=message):
        run(train, "--extend", made, "--data", data, "--out", tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("option", [["--policy", "linear"], ["--set", "clusters=3"], ["--plain"]])
def test_options_of_a_new_policy_are_refused(
    run: Run, made: Path, new: Path, tmp_path: Path, option: list[str]
) -> None:
    with pytest.raises(ConfigError, match=option[0]):
        run(train, "--extend", made, "--data", new, "--out", tmp_path / "more", *option)


def test_another_encoder_is_refused(run: Run, made: Path, new: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    encoder.revision = "2"
    with pytest.raises(ArtifactError, match=r"revision 1.*revision 2"):
        run(train, "--extend", made, "--data", new, "--out", tmp_path / "more")


def test_few_prompts_and_a_name_like_a_known_one_are_remarked_on(run: Run, made: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "new.csv", scores("provider/Large", 20))
    result = run(train, "--extend", made, "--data", data, "--out", tmp_path / "more")
    told = " ".join(result.stderr.split())
    assert "beside 'large'; the same model must have the same name" in told
    assert "known roughly" in told


@pytest.mark.parametrize("kind", ["static", "linear"])
def test_every_policy_can_be_extended(kind: str, new: Path, tmp_path: Path) -> None:
    stamp = EncoderStamp(name="fake", revision="1", dimension=16)
    policy = build(kind, {}, 0)
    table = read_tables([write_csv(tmp_path / "t.csv", rows(80))])
    table = embedded(table) if policy.reads_query else table
    artifact = fit(policy, table, stamp, 0)
    more = read_tables([new])
    more = embedded(more) if policy.reads_query else more
    save(extended(artifact, policy, more, 0).artifact, tmp_path / "more")
    restored, found = load_policy(tmp_path / "more")
    quality = restored.predict(found.reference).quality
    assert quality.shape == (len(found.reference), 4)
    assert abs(quality[:, 3].mean() - np.nanmean(more.outcomes.quality)) < 0.1


@pytest.mark.parametrize("assure", [False, True])
def test_a_study_takes_each_left_out_expert_back_from_a_hundred_prompts(assure: bool, tmp_path: Path) -> None:
    table = embedded(read_tables([write_csv(tmp_path / "t.csv", rows(600))]))
    train_rows, held_out = (table.split(name).outcomes for name in ("train", "val"))
    setup = Setup(lambda: build("domain", {}, 0), train_rows, held_out, assure=assure)
    study = without_each_expert(setup, onboard=onboarded)
    assert study.gain.value > 0.03
    for absent in study.experts:
        assert absent.onboarded is not None
        assert absent.onboarded.value > 0.7 * study.gain.value
