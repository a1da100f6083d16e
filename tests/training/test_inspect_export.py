"""What `pointsman inspect` says of artifacts and tables, and what `pointsman export` writes for other code."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from router.artifact import EncoderStamp, load, save
from router.errors import ArtifactError, ConfigError, DataError
from training.data import Table, read_tables
from training.export_command import export
from training.fit import build, fit
from training.inspect_command import inspect

pytest.importorskip("pyarrow")
EXPERTS = ("small", "middle", "large")
DIMENSION = 8


@pytest.fixture
def world(tmp_path: Path) -> Table:
    """Outcomes of three experts, the later the better and the longer, with random vectors."""
    rng = np.random.default_rng(0)
    rows = [
        f"prompt {i},{name},{int(rng.random() < chance)},{tokens}"
        for i in range(200)
        for name, chance, tokens in zip(EXPERTS, (0.3, 0.5, 0.8), (10, 100, 1_000), strict=True)
    ]
    path = tmp_path / "world.csv"
    path.write_text("prompt,model,score,output_tokens\n" + "\n".join(rows) + "\n")
    vectors = rng.normal(size=(200, DIMENSION)).astype(np.float32)
    return read_tables([path]).embedded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture
def artifact(world: Table, tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    stamp = EncoderStamp(name="tiny", revision="r1", dimension=DIMENSION)
    save(fit(build("cluster", {"clusters": 4}, 0), world, stamp, 0), folder)
    return folder


@pytest.fixture
def constant(world: Table, tmp_path: Path) -> Path:
    folder = tmp_path / "constant"
    unread = world.embedded(np.zeros((200, 0), dtype=np.float32))
    save(fit(build("static", {}, 0), unread, None, 0), folder)
    return folder


def run(command: Any, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None, result.exception
    return result


def card_of(*arguments: object) -> dict[str, Any]:
    card = json.loads(run(inspect, *arguments, "--json", "-").stdout)
    assert isinstance(card, dict)
    return card


def failed(command: Any, *arguments: object) -> BaseException | None:
    return CliRunner().invoke(command, [str(argument) for argument in arguments]).exception


def test_an_artifacts_card_lists_its_experts_the_best_first(artifact: Path) -> None:
    card = card_of(artifact)
    assert [expert["name"] for expert in card["experts"]] == ["large", "middle", "small"]
    best = card["experts"][0]
    assert best["quality"] == pytest.approx(0.8, abs=0.1)
    assert best["output_tokens"] > 500
    assert (card["kind"], card["version"]) == ("cluster", load(artifact).version)
    assert card["encoder"]["name"] == "tiny"
    assert card["metrics"]["train_prompts"] == 200
    assert sum(card["files"].values()) == sum(path.stat().st_size for path in artifact.iterdir())


@pytest.mark.parametrize("which", ["artifact", "constant"])
def test_an_artifact_is_shown_on_a_screen(which: str, request: pytest.FixtureRequest) -> None:
    shown = run(inspect, request.getfixturevalue(which)).stdout
    assert all(name in shown for name in EXPERTS)
    assert "reference queries" in shown


def test_a_damaged_artifact_is_an_error_that_names_the_file(artifact: Path) -> None:
    content = bytearray((artifact / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (artifact / "state.safetensors").write_bytes(content)
    error = failed(inspect, artifact)
    assert isinstance(error, ArtifactError)
    assert "state.safetensors is damaged" in str(error)


def table(path: Path, prompts: int, models: tuple[str, ...] = ("small", "large"), extra: str = "") -> Path:
    """A CSV of models that are right on some prompts each, not the same ones."""
    rows = []
    for i in range(prompts):
        domain = "law" if i % 4 else "maths"
        for k, model in enumerate(models, 1):
            right = min(1, (i * (k + 1) + i // 7) % 3)
            rows.append(f"prompt {i},{model},{right},{domain},0.00{k},{10 * k}")
    path.write_text("prompt,model,score,domain,cost_usd,output_tokens\n" + "\n".join(rows) + "\n" + extra)
    return path


def test_a_tables_card_counts_what_is_in_it(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", 100, extra="prompt 1,small,,law,,\nprompt 1,large,1,law,0.002,20\n")
    card = card_of(path)
    assert (card["rows"], card["prompts"], card["repeats"], card["missing_scores"]) == (202, 100, 2, 1)
    assert card["coverage"] == 1.0
    assert card["scores"] == [0.0, 1.0]
    assert card["domains"] == {"law": 75, "maths": 25}
    assert sum(card["splits"].values()) == 100
    models = {model["name"]: model for model in card["models"]}
    assert (models["small"]["rows"], models["small"]["scored"]) == (101, 100)
    assert models["large"]["cost_usd"] == pytest.approx(0.002)


def test_headroom_is_what_a_perfect_choice_wins_over_the_best_model(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [("a", 1, 0), ("b", 0, 1), ("c", 1, 1), ("d", 1, 0)]
    path.write_text("prompt,model,score\n" + "".join(f"{p},x,{x}\n{p},y,{y}\n" for p, x, y in rows))
    headroom = card_of(path)["headroom"]
    assert (headroom["best"], headroom["best_score"], headroom["oracle_score"]) == ("x", 0.75, 1.0)


@pytest.mark.parametrize(("prompts", "answer"), [(60, "not enough"), (200, "thin"), (500, "enough")])
def test_the_verdict_follows_the_prompts_that_there_are(tmp_path: Path, prompts: int, answer: str) -> None:
    assert card_of(table(tmp_path / "t.csv", prompts))["verdict"]["answer"] == answer


def test_one_model_alone_is_not_enough_whatever_its_prompts(tmp_path: Path) -> None:
    verdict = card_of(table(tmp_path / "t.csv", 2_000, models=("only",)))["verdict"]
    assert verdict["answer"] == "not enough"
    assert "nothing to choose from" in verdict["reasons"][0]


def test_a_model_without_any_score_is_not_enough(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", 500, extra="prompt 1,silent,,law,,\n")
    verdict = card_of(path)["verdict"]
    assert verdict["answer"] == "not enough"
    assert "silent" in verdict["reasons"][0]


def test_models_that_saw_different_prompts_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,model,score\n" + "".join(f"prompt {i},{'xy'[i % 2]},1\n" for i in range(900)))
    card = card_of(path)
    assert card["headroom"] is None
    assert any("scored on the same 80%" in reason for reason in card["verdict"]["reasons"])


def test_a_table_is_shown_on_a_screen_with_its_verdict(tmp_path: Path) -> None:
    shown = run(inspect, table(tmp_path / "t.csv", 500)).stdout
    assert "enough to train a policy on" in shown
    assert "held-out prompts" in shown
    assert len(shown.splitlines()) < 40


def test_judgments_have_a_card_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,model_a,model_b,winner\nWhy?,x,y,model_a\nHow?,y,z,tie\n")
    card = card_of(path)
    assert (card["rows"], card["models"], card["winners"]) == (
        2,
        {"y": 2, "x": 1, "z": 1},
        {"model_a": 1, "tie": 1},
    )
    assert "battles" in run(inspect, path).stdout


def test_a_table_that_is_not_imported_yet_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("prompt_id,model_name,label,prompt\n1,small,1,Why?\n")
    error = failed(inspect, path)
    assert isinstance(error, DataError)
    assert "but embedllm: turn it into one with `pointsman import`" in str(error)


def test_a_wrong_score_is_named_with_its_row(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", 3, extra="prompt 1,small,7,law,,\n")
    assert "row 7, column 'score'" in str(failed(inspect, path))


def test_the_exported_arrays_hold_the_policys_answers(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "export" / "policy.npz"
    run(export, artifact, "--out", out)
    stored = load(artifact)
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["reference.quality"].shape == (len(stored.reference), 3)
        assert arrays["reference.quality"].mean(axis=0).argmax() == EXPERTS.index("large")
        np.testing.assert_array_equal(arrays["reference.embeddings"], stored.reference.embeddings)
        for name, array in stored.state.items():
            np.testing.assert_array_equal(arrays[f"policy.{name}"], array)


def test_the_exported_card_says_what_each_array_is(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.npz"
    files = json.loads(run(export, artifact, "--out", out, "--json", "-").stdout)["files"]
    card = json.loads(out.with_suffix(".json").read_text())
    with np.load(out, allow_pickle=False) as arrays:
        assert {name: list(arrays[name].shape) for name in arrays.files} == {
            name: about["shape"] for name, about in card["arrays"].items()
        }
    assert card["experts"] == list(EXPERTS)
    assert card["encoder"] == {"name": "tiny", "revision": "r1", "dimension": DIMENSION}
    assert card["arrays_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert set(files) == {str(out), str(out.with_suffix(".json"))}


def test_the_exported_csv_has_a_column_per_expert(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.csv"
    run(export, artifact, "--out", out, "--format", "csv")
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["table", "row", *EXPERTS]
    (mean,) = [row for row in rows if row["table"] == "mean_quality"]
    assert float(mean["large"]) > float(mean["middle"]) > float(mean["small"])
    per_expert = {name: a for name, a in load(artifact).state.items() if a.shape[-1:] == (3,) and a.ndim == 2}
    assert per_expert
    for name, array in per_expert.items():
        table = [[float(row[expert]) for expert in EXPERTS] for row in rows if row["table"] == name]
        np.testing.assert_allclose(table, array, rtol=1e-4)


def test_a_policy_that_reads_no_query_is_exported_too(constant: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.npz"
    run(export, constant, "--out", out)
    assert json.loads(out.with_suffix(".json").read_text())["encoder"] is None


@pytest.mark.parametrize("name", ["policy.json", "policy.csv", "policy"])
def test_a_name_says_what_is_in_the_file(artifact: Path, tmp_path: Path, name: str) -> None:
    error = failed(export, artifact, "--out", tmp_path / name)
    assert isinstance(error, ConfigError)
    assert "expected a name that ends in .npz" in str(error)


def test_a_folder_that_cannot_be_written_is_named(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = failed(export, artifact, "--out", tmp_path / "file" / "policy.npz")
    assert isinstance(error, DataError)
    assert "cannot write" in str(error)
