"""`pointsman evaluate` with a page and studies, from the command line to the files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from outcome_tables import FakeEncoder, rows, write_csv

from router.config import EncoderSettings
from router.errors import ConfigError, DataError
from training.commands import train
from training.evaluate_command import evaluate


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few resamples, small pictures, and an encoder by the prompt's words alone."""
    fake = FakeEncoder()
    fake.load = fake.close = lambda: None  # type: ignore[attr-defined]

    def encoder(settings: EncoderSettings) -> FakeEncoder:
        fake.name = settings.model
        return fake

    monkeypatch.setattr("router.embedding.Encoder", encoder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("training.page.theme.DPI", 40)
    for module in ("interval", "resamples", "reliability", "studies.domain"):
        monkeypatch.setattr(f"training.{module}.RESAMPLES", 60)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "outcomes.csv", rows(160))


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Callable[..., Result]:
    """Evaluates the artifact of a policy, trained before."""

    def run(*args: object, policy: Sequence[str] = ("static",)) -> Result:
        made = tmp_path / "made"
        if not made.exists():
            chosen = ["--policy", policy[0], *policy[1:], "--plain"]
            invoke(train, "--data", data, "--out", made, *chosen)
        return invoke(evaluate, "--artifact", made, "--data", data, *args)

    return run


def invoke(command: object, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)  # type: ignore[arg-type]


def test_a_page_is_written_with_its_charts_beside_it(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--report", tmp_path / "page.html")
    assert "wrote" in result.stderr
    html = (tmp_path / "page.html").read_text()
    assert "The policy static does not provably beat the static mix on outcomes." in html
    assert "What the policy itself costs" in html
    assert (tmp_path / "page_files" / "1-outcomes-cost-quality.png").exists()


def test_studies_go_into_the_json(run: Callable[..., Result], tmp_path: Path) -> None:
    linear = ("linear", "--set", "counts=0.0")
    args = ["--studies", "all", "--ablate", "vector=0.0", "--json", tmp_path / "out.json"]
    result = run(*args, policy=linear)
    assert "outcomes, domain 2/2" in result.stderr
    (studies,) = json.loads((tmp_path / "out.json").read_text())["studies"]
    assert {domain["domain"] for domain in studies["domain"]["domains"]} == {"sums", "plays"}
    assert [absent["expert"] for absent in studies["expert"]["experts"]] == ["cheap", "maths", "large"]
    assert len(studies["robustness"]) == 8
    assert [variant["variant"] for variant in studies["ablation"]["variants"]] == ["vector = 0.0"]
    assert studies["training"]["prompts"] == 120
    assert studies["serving"]["median_ms"] > 0
    assert studies["missing"] == {}


def test_a_study_that_cannot_be_done_says_why_and_leaves_the_others_alone(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    bare = [{key: value for key, value in row.items() if key != "domain"} for row in rows(160)]
    write_csv(tmp_path / "outcomes.csv", bare)
    result = run("--studies", "domain,ablation,cost", "--json", tmp_path / "out.json")
    assert "domain not studied: leaving domains out needs a column `domain`" in result.stderr
    assert "ablation not studied: the policy static has no members" in result.stderr
    (studies,) = json.loads((tmp_path / "out.json").read_text())["studies"]
    assert studies["training"]["seconds"] > 0


def test_without_studies_or_a_page_none_are_made(run: Callable[..., Result], tmp_path: Path) -> None:
    run("--json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["studies"] == []


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--studies", "domain,oracle"], ConfigError, "'oracle'; there are: domain, expert, robustness, ablation"),
        (["--studies", "cost", "--split", "all"], ConfigError, "leaves nothing to judge on"),
        (["--report", "page.pdf"], DataError, r"page\.pdf: expected a name that ends in \.html"),
        (["--report", "nowhere/page.html"], DataError, "there is no folder nowhere"),
        (["--ablate", "vector"], ConfigError, "expected NAME=VALUE"),
        (["--ablate", "depth=3"], ConfigError, "the policy static has no parameter 'depth'"),
    ],
)
def test_a_mistake_is_said_before_the_work(
    run: Callable[..., Result], args: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(*args)


def test_a_table_without_costs_is_named(run: Callable[..., Result], tmp_path: Path) -> None:
    run()
    free = ("cost_usd", "input_tokens", "output_tokens")
    write_csv(tmp_path / "free.csv", [{k: v for k, v in row.items() if k not in free} for row in rows(80)])
    with pytest.raises(DataError, match="free: a cost-quality curve needs two experts seen, with costs"):
        run("--data", tmp_path / "free.csv")


def test_tables_of_the_same_name_are_told_apart(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_csv(tmp_path / "other" / "outcomes.csv", rows(80, seed=1))
    run("--data", other, "--json", tmp_path / "out.json")
    reports = json.loads((tmp_path / "out.json").read_text())["reports"]
    assert [report["queries"] for report in reports] == [40, 20]
    assert reports[1]["dataset"] == str(other)
