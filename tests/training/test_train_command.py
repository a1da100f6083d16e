"""`pointsman train` and `pointsman evaluate`, from the command line to the files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from outcome_tables import FakeEncoder, rows, write_csv, write_parquet

from policies import kinds, load_policy
from router.errors import ArtifactError, ConfigError, DataError
from training.commands import train
from training.evaluate_command import evaluate

pytestmark = pytest.mark.usefixtures("encoder")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "outcomes.csv", rows(160))


def test_training_writes_an_artifact_that_routes(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    result = run(train, "--data", data, "--out", tmp_path / "made")
    assert result.exit_code == 0
    assert "wrote" in result.stderr
    policy, artifact = load_policy(tmp_path / "made")
    assert artifact.experts == ("cheap", "maths", "large")
    assert artifact.encoder is not None
    assert artifact.encoder.name == "all-MiniLM-L6-v2"
    assert policy.predict(artifact.reference).quality.shape == (120, 3)


def test_the_artifact_carries_what_it_reaches_on_held_out_prompts(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    card = json.loads(run(train, "--data", data, "--out", tmp_path / "made", "--json", "-").stdout)
    assert card["train_prompts"] == 120
    assert card["val"]["outcomes"]["queries"] == 40
    assert load_policy(tmp_path / "made")[1].metrics["val"] == card["val"]


def test_training_says_whether_the_policy_beats_the_static_mix(run: Callable[..., Result], tmp_path: Path) -> None:
    data = write_csv(tmp_path / "many.csv", rows(800))
    card = tmp_path / "card.json"
    found, said = {}, {}
    for kind in ("cluster", "static"):
        result = run(train, "--data", data, "--policy", kind, "--out", tmp_path / kind, "--json", card)
        found[kind] = json.loads(card.read_text())["beats_static_mix"]
        said[kind] = " ".join(result.stderr.split())
    assert found == {"cluster": {"many": True}, "static": {"many": False}}
    assert "many: area above the static mix +" in said["cluster"]
    assert "the policy beats the static mix" in said["cluster"]
    assert "does NOT provably beat the static mix" in said["static"]


@pytest.mark.parametrize("place", ["-", "out.json"])
def test_json_goes_to_a_file_or_alone_to_standard_output(
    run: Callable[..., Result], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run(train, "--data", data, "--policy", "static", "--out", "made")
    result = run(evaluate, "--data", data, "--artifact", "made", "--json", place)
    content = json.loads(result.stdout if place == "-" else Path(place).read_text())
    assert content["reports"][0]["dataset"] == "outcomes"
    assert "static mix" in (result.stderr if place == "-" else result.stdout)


def test_parameters_are_set_by_name(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    run(train, "--data", data, "--out", tmp_path / "made", "--set", "clusters=5", "--set", "pseudo_count=2.5")
    policy, _ = load_policy(tmp_path / "made")
    assert policy.params["clusters"] == 5
    assert policy.params["pseudo_count"] == 2.5


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--set", "clusters"], ConfigError, "expected NAME=VALUE"),
        (["--set", "depth=3"], ConfigError, "no parameter 'depth'"),
        (["--policy", "oracle"], ConfigError, "'oracle'; there are"),
        (["--split", "test"], DataError, "'test'; there are: all, train, val"),
        (["--data", "nowhere.csv"], DataError, "nowhere.csv"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(
    run: Callable[..., Result], data: Path, tmp_path: Path, args: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(train, "--data", data, "--out", tmp_path / "made", *args)
    assert not (tmp_path / "made").exists()


def test_a_policy_that_reads_no_query_embeds_nothing(
    run: Callable[..., Result], data: Path, tmp_path: Path, encoder: FakeEncoder
) -> None:
    run(train, "--data", data, "--out", tmp_path / "made", "--policy", "static")
    run(evaluate, "--data", data, "--artifact", tmp_path / "made")
    assert encoder.encoded == []


def test_nothing_is_embedded_twice(
    run: Callable[..., Result], data: Path, tmp_path: Path, encoder: FakeEncoder
) -> None:
    run(train, "--data", data, "--out", tmp_path / "made")
    run(evaluate, "--data", data, "--artifact", tmp_path / "made")
    assert len(encoder.encoded) == len(set(encoder.encoded)) == 160


def test_evaluation_prints_the_bounds_and_writes_every_figure(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    run(train, "--data", data, "--out", tmp_path / "made")
    result = run(evaluate, "--data", data, "--artifact", tmp_path / "made", "--json", tmp_path / "out.json")
    for shown in ("cheapest", "random", "best single", "static mix", "policy", "oracle", "Brier"):
        assert shown in result.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    (report,) = content["reports"]
    assert report["dataset"] == "outcomes"
    assert report["queries"] == 40
    assert report["gain"]["low"] <= report["gain"]["value"] <= report["gain"]["high"]


def test_predictions_are_enough_to_recompute_the_calibration(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet

    run(train, "--data", data, "--out", tmp_path / "made")
    args = ["--json", tmp_path / "out.json", "--predictions", tmp_path / "rows.parquet"]
    run(evaluate, "--data", data, "--artifact", tmp_path / "made", *args)
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert len(table["prompt"]) == 40 * 3 and set(table["expert"]) == {"cheap", "maths", "large"}
    assert all(
        cost > 0 and std > 0 for cost, std in zip(table["expected_cost_usd"], table["quality_std"], strict=True)
    )
    brier = sum((q - s) ** 2 for q, s in zip(table["quality"], table["score"], strict=True)) / len(table["score"])
    (report,) = json.loads((tmp_path / "out.json").read_text())["reports"]
    assert abs(brier - report["brier"]) < 1e-6


def test_each_table_is_judged_by_itself(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    other = write_parquet(tmp_path / "other.parquet", rows(80, seed=1))
    run(train, "--data", data, "--data", other, "--out", tmp_path / "made")
    args = ["--data", data, "--data", other, "--artifact", tmp_path / "made", "--json", tmp_path / "out.json"]
    run(evaluate, *args)
    reports = json.loads((tmp_path / "out.json").read_text())["reports"]
    assert [(report["dataset"], report["queries"]) for report in reports] == [("outcomes", 40), ("other", 20)]


def test_a_table_without_costs_trains_and_says_that_it_was_not_judged(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    bare = [{key: row[key] for key in ("prompt", "model", "score", "split")} for row in rows(80)]
    data = write_csv(tmp_path / "bare.csv", bare)
    result = run(train, "--data", data, "--out", tmp_path / "made")
    assert "not judged on bare" in result.stderr
    assert load_policy(tmp_path / "made")[1].metrics["val"] == {}


def test_an_artifact_of_another_encoder_is_refused(
    run: Callable[..., Result], data: Path, tmp_path: Path, encoder: FakeEncoder
) -> None:
    run(train, "--data", data, "--out", tmp_path / "made")
    encoder.revision = "2"
    with pytest.raises(ArtifactError, match=r"revision 1.*revision 2"):
        run(evaluate, "--data", data, "--artifact", tmp_path / "made")


def test_an_error_is_json_too_on_standard_output(data: Path, tmp_path: Path) -> None:
    args = ["--data", str(data), "--policy", "nonesuch", "--out", str(tmp_path / "made"), "--json", "-"]
    result = CliRunner().invoke(train, args)
    assert isinstance(result.exception, ConfigError)
    assert json.loads(result.stdout) == {"error": {"type": "ConfigError", "message": str(result.exception)}}


def test_a_table_separated_by_semicolons_gets_a_hint(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "semi.csv").write_text("prompt;model;score\nhello;a;1\n")
    with pytest.raises(DataError, match="commas do not separate"):
        run(train, "--data", tmp_path / "semi.csv", "--policy", "static", "--out", tmp_path / "made")


def test_the_help_lists_the_policies(run: Callable[..., Result]) -> None:
    said = run(train, "--help").stdout
    assert all(kind in said for kind in kinds())
