"""From a table to an artifact."""

from pathlib import Path

import numpy as np
import pytest
from outcome_tables import FakeEncoder, rows, write_csv

from router.artifact import EncoderStamp
from router.errors import ConfigError, DataError
from training.data import Table, read_tables
from training.fit import REFERENCE_QUERIES, build, fit

STAMP = EncoderStamp(name="fake", revision="1", dimension=16)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    read = read_tables([write_csv(tmp_path / "t.csv", rows(80))])
    return read.embedded(FakeEncoder().encode_batch(read.prompts))


def test_the_artifact_says_what_it_was_made_from(table: Table) -> None:
    artifact = fit(build("cluster", {"clusters": 4}, 3), table, STAMP, 3)
    assert (artifact.kind, artifact.experts, artifact.encoder) == ("cluster", table.outcomes.experts, STAMP)
    assert artifact.params["clusters"] == 4
    assert artifact.params["rng"] == 3
    assert artifact.data_digest == table.digest
    assert artifact.metrics == {"train_prompts": 80, "train_scores": 240}


def test_expected_lengths_are_learned_per_expert(table: Table) -> None:
    artifact = fit(build("static", {}, 0), table, None, 0)
    assert artifact.output_tokens.tolist() == pytest.approx([20, 20, 40], rel=0.1)


def test_the_reference_is_a_sample_of_vectors_without_prompts(table: Table) -> None:
    reference = fit(build("cluster", {}, 0), table, STAMP, 0).reference
    assert reference.prompts is None
    assert reference.domains is None
    assert reference.embeddings.shape == (80, 16)
    assert REFERENCE_QUERIES >= 80


def test_a_policy_that_reads_no_query_names_no_encoder(table: Table) -> None:
    assert fit(build("static", {}, 0), table, STAMP, 0).encoder is None


def test_one_model_is_nothing_to_choose_between(tmp_path: Path) -> None:
    only = [row for row in rows(10) if row["model"] == "maths"]
    table = read_tables([write_csv(tmp_path / "t.csv", only)])
    with pytest.raises(DataError, match="one model only, 'maths'"):
        fit(build("static", {}, 0), table, None, 0)


def test_an_unknown_policy_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'oracle'; there are: .*cluster.*static.*uniform"):
        build("oracle", {}, 0)


def test_an_unknown_parameter_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no parameter 'depth'; it has: clusters, pseudo_count"):
        build("cluster", {"depth": 3}, 0)


def test_a_parameter_of_the_wrong_type_is_named_with_its_value() -> None:
    with pytest.raises(ConfigError, match=r"parameter clusters: .*got 'many'"):
        build("cluster", {"clusters": "many"}, 0)


def test_the_same_seed_gives_the_same_artifact(table: Table) -> None:
    one, two = (fit(build("cluster", {}, 5), table, STAMP, 5) for _ in range(2))
    for name, array in one.state.items():
        assert np.array_equal(array, two.state[name])
    assert np.array_equal(one.reference.embeddings, two.reference.embeddings)
