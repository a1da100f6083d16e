"""`pointsman compare`: many policies on the same rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from outcome_tables import FakeEncoder, rows, write_csv

from router.errors import ConfigError, DataError
from training.compare_command import compare

pytestmark = pytest.mark.usefixtures("encoder", "few_resamples")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "outcomes.csv", rows(160))


@pytest.fixture
def compared(run: Callable[..., Result], data: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    """What the command wrote as JSON, and what it said meanwhile."""

    def compared(*args: object) -> tuple[dict[str, Any], str]:
        fixed = ["--data", data, "--out", tmp_path / "kept", "--jobs", 1, "--json", tmp_path / "out.json"]
        result = run(compare, *fixed, *args)
        return json.loads((tmp_path / "out.json").read_text()), result.stderr

    return compared


def test_policies_are_ranked_by_what_they_gain(compared: Callable[..., Any]) -> None:
    content, _ = compared("--policies", "uniform,cluster,static")
    (comparison,) = content["comparisons"]
    names = [standing["policy"] for standing in comparison["standings"]]
    gains = [standing["gain"]["value"] for standing in comparison["standings"]]
    assert (sorted(names), names[0]) == (["cluster", "static", "uniform"], "cluster")
    assert gains == sorted(gains, reverse=True)
    assert [standing["policy"] for standing in comparison["yardsticks"]] == ["true domain label"]
    assert comparison["oracle"]["value"] > gains[0]


def test_differences_are_paired_over_the_same_resamples(compared: Callable[..., Any]) -> None:
    content, _ = compared("--policies", "cluster,static", "--seeds", "0-1")
    (comparison,) = content["comparisons"]
    first, second = comparison["standings"]
    assert first["behind"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    apart = comparison["differences"][second["policy"]][first["policy"]]
    assert apart == second["behind"]
    assert apart["value"] == pytest.approx(second["gain"]["value"] - first["gain"]["value"])
    assert apart["low"] <= apart["value"] <= apart["high"]
    assert (first["seeds"], second["seeds"]) == ([0, 1], [0])  # a policy that draws nothing is trained once


def test_several_tables_are_judged_by_themselves_and_on_average(
    compared: Callable[..., Any], tmp_path: Path
) -> None:
    other = write_csv(tmp_path / "other.csv", rows(80, seed=1))
    content, _ = compared("--data", other, "--policies", "static,cluster")
    assert [c["dataset"] for c in content["comparisons"]] == ["outcomes", "other", "mean of 2 tables"]
    one, two, mean = (
        next(s["gain"]["value"] for s in c["standings"] if s["policy"] == "cluster") for c in content["comparisons"]
    )
    assert mean == pytest.approx((one + two) / 2)


def test_parameters_are_set_for_one_kind(compared: Callable[..., Any]) -> None:
    content, _ = compared("--policies", "cluster,static", "--set", "cluster.clusters=2")
    assert "cluster clusters=2" in {s["policy"] for s in content["comparisons"][0]["standings"]}


def test_a_table_for_people_goes_to_standard_output(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    result = run(compare, "--data", data, "--policies", "static", "--jobs", 1, "--out", tmp_path / "kept")
    for shown in ("outcomes", "static mix", "true domain label", "oracle", "best single: large", "flatters"):
        assert shown in result.stdout
    assert "comparing 1/2" in result.stderr


def test_json_alone_may_go_to_standard_output(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    args = ["--policies", "static", "--jobs", 1, "--out", tmp_path / "kept", "--json", "-"]
    result = run(compare, "--data", data, *args)
    assert json.loads(result.stdout)["comparisons"]
    assert "static mix" in result.stderr


def test_what_was_finished_is_not_made_again(compared: Callable[..., Any], tmp_path: Path) -> None:
    before, _ = compared("--policies", "cluster")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    after, said = compared("--policies", "cluster")
    assert "2 of 2 results were there already" in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == written
    assert after == before


def test_other_data_seeds_and_parameters_are_other_results(
    compared: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    compared("--policies", "cluster")
    for args in (["--seeds", "1"], ["--set", "cluster.nearest=2"]):
        _, said = compared("--policies", "cluster", *args)
        assert "2 of 2" not in said
    write_csv(data, rows(160, seed=5))
    assert "were there already" not in compared("--policies", "cluster")[1]


def test_a_damaged_result_is_made_again(compared: Callable[..., Any], tmp_path: Path) -> None:
    before, _ = compared("--policies", "static")
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    after, said = compared("--policies", "static")
    assert "were there already" not in said
    assert after["comparisons"][0]["standings"][0]["gain"] == before["comparisons"][0]["standings"][0]["gain"]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--policies", "oracle"], ConfigError, "'oracle'; there are"),
        (["--policies", "cluster", "--set", "clusters=3"], ConfigError, "--set clusters: expected KIND.NAME=VALUE"),
        (["--policies", "cluster", "--set", "cluster.depth=3"], ConfigError, "no parameter 'depth'"),
        (["--seeds", "one"], ConfigError, "--seeds 'one': expected numbers"),
        (["--data", "elsewhere/outcomes.csv"], ConfigError, "has the same name, 'outcomes'"),
        (["--json", "nowhere/out.json"], DataError, "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(
    run: Callable[..., Result], data: Path, tmp_path: Path, args: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(compare, "--data", data, "--out", tmp_path / "kept", *args)
    assert not list(tmp_path.glob("kept/*.json"))


def test_a_policy_that_cannot_be_trained_is_left_out_or_an_error_if_it_was_named(
    run: Callable[..., Result], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.fit

    def build(kind: str, params: object, seed: int) -> object:
        if kind == "cluster":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return built(kind, params, seed)  # type: ignore[arg-type]

    built = training.fit.build
    monkeypatch.setattr("training.fit.build", build)
    monkeypatch.setattr("training.comparison.build", build)
    monkeypatch.setattr("policies.kinds", lambda: ["cluster", "static"])
    fixed = ["--data", data, "--out", tmp_path / "kept", "--jobs", 1]
    result = run(compare, *fixed)
    assert "left out: cluster on outcomes: it needs torch, which is not installed" in result.stderr
    with pytest.raises(DataError, match="cluster on outcomes: it needs torch"):
        run(compare, *fixed, "--policies", "cluster,static")


def test_the_encoder_is_asked_once_for_each_prompt(compared: Callable[..., Any], encoder: FakeEncoder) -> None:
    compared("--policies", "cluster", "--seeds", "0-2")
    assert len(encoder.encoded) == 160


def test_a_table_on_which_nothing_can_be_judged_is_left_out_of_the_mean(
    compared: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.kinds", lambda: ["static"])
    other = write_csv(tmp_path / "other.csv", [row for row in rows(80) if row["model"] == "cheap"])
    content, said = compared("--data", other)
    assert [comparison["dataset"] for comparison in content["comparisons"]] == ["outcomes"]
    assert "left out: static on other: the tables hold one model only, 'cheap'" in " ".join(said.split())


def test_a_comparison_is_a_page_too(
    compared: Callable[..., Any], run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "side-by-side.html"
    content, said = compared("--policies", "cluster,static", "--report", page)
    html = page.read_text()
    assert "2 policies compared" in html
    for standing in content["comparisons"][0]["standings"]:
        assert f"<td>{standing['policy']}</td>" in html.replace('<td class="first">', "<td>")
        assert f"{standing['brier']:.3f}" in html
    assert not any(mark in html for mark in ("http://", "https://", "src="))
    assert [chart.suffix for chart in (tmp_path / "side-by-side_files").iterdir()] == [".png"]
    assert str(page) in said
    with pytest.raises(DataError, match=r"ends in \.html"):
        run(compare, "--data", data, "--out", tmp_path / "kept", "--report", tmp_path / "page.pdf")
