"""Outcome tables: what is read of them, and what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcome_tables import rows, write_csv, write_parquet

from router.errors import DataError
from training.data import TRAIN, VAL, Table, read_tables
from training.source import BATCH_ROWS


def read(tmp_path: Path, content: list[dict[str, Any]], name: str = "t.csv") -> Table:
    return read_tables([write_csv(tmp_path / name, content)])


def cell(table: Table, prompt: str, model: str, matrix: str = "quality") -> float:
    row = table.prompts.index(prompt)
    return float(getattr(table.outcomes, matrix)[row, table.outcomes.experts.index(model)])


def row(prompt: str = "p", model: str = "m", score: Any = 1, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "model": model, "score": score, **more}


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_table_is_read_alike_from_csv_and_parquet(tmp_path: Path, write: Any) -> None:
    suffix = "csv" if write is write_csv else "parquet"
    table = read_tables([write(tmp_path / f"t.{suffix}", rows(20))])
    outcomes = table.outcomes
    assert (len(outcomes), outcomes.experts) == (20, ("cheap", "maths", "large"))
    assert np.isfinite(outcomes.quality).all()
    assert outcomes.cost_usd[3].tolist() == pytest.approx([0.001, 0.002, 0.02])
    assert outcomes.output_tokens[0].tolist() == [20, 20, 40]
    assert outcomes.queries.domains is not None
    assert outcomes.queries.domains[:2] == ("sums", "plays")
    assert table.splits.count(VAL) == 5


def test_prompt_model_and_score_are_enough(tmp_path: Path) -> None:
    table = read(tmp_path, [row("two plus two", "a", 1), row("two plus two", "b", 0)])
    assert table.outcomes.queries.input_tokens.tolist() == [3.0]
    assert np.isnan(table.outcomes.cost_usd).all()
    assert table.outcomes.queries.domains is None


def test_a_model_that_was_not_asked_is_unobserved(tmp_path: Path) -> None:
    table = read(tmp_path, [row("p", "a"), row("q", "b")])
    assert np.isnan(cell(table, "p", "b"))
    assert cell(table, "q", "b") == 1.0


def test_an_empty_score_is_unobserved(tmp_path: Path) -> None:
    table = read(tmp_path, [row("p", "a", ""), row("q", "a", 1), row("p", "b", 0)])
    assert np.isnan(cell(table, "p", "a"))


def test_scores_of_a_model_asked_twice_are_averaged_and_noted(tmp_path: Path) -> None:
    table = read(tmp_path, [row(score=1), row(score=0.5), row(model="n")])
    assert cell(table, "p", "m") == 0.75
    assert table.notes == ("1 rows repeat a model on a prompt: their scores were averaged",)


def test_several_files_are_one_table(tmp_path: Path) -> None:
    one = write_csv(tmp_path / "one.csv", [row("p", "a"), row("q", "a", 0)])
    two = write_csv(tmp_path / "two.csv", [row("q", "b"), row("r", "b")])
    table = read_tables([one, two])
    assert table.prompts == ("p", "q", "r")
    assert (cell(table, "q", "a"), cell(table, "q", "b")) == (0.0, 1.0)


def test_a_prompt_held_out_in_one_file_is_held_out_in_all(tmp_path: Path) -> None:
    one = write_csv(tmp_path / "one.csv", [row("p", "a", split="train"), row("q", "a", split="train")])
    two = write_csv(tmp_path / "two.csv", [row("p", "b", split="val"), row("r", "b", split="train")])
    for paths in ([one, two], [two, one]):
        table = read_tables(paths)
        assert set(table.split(TRAIN).prompts) == {"q", "r"}
        assert "1 prompts are in several splits" in table.notes[0]


def test_without_a_split_prompts_are_cut_by_their_hash(tmp_path: Path) -> None:
    content = [row(f"prompt {i}", model) for i in range(600) for model in "ab"]
    table = read(tmp_path, content)
    held_out = set(table.split(VAL).prompts)
    assert 0.1 < len(held_out) / 600 < 0.2
    assert held_out == set(read(tmp_path, content[::-1], "u.csv").split(VAL).prompts)


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    table = read(tmp_path, rows(20))
    with pytest.raises(DataError, match="'test'; there are: all, train, val"):
        table.split("test")
    assert len(table.split("all").outcomes) == 20


def test_the_digest_tells_contents_and_splits_apart(tmp_path: Path) -> None:
    table = read(tmp_path, rows(20))
    digests = {table.digest, table.split(TRAIN).digest, read(tmp_path, rows(20, seed=1), "u.csv").digest}
    assert len(digests) == 3
    assert read(tmp_path, rows(20), "v.csv").digest == table.digest


def test_costs_are_derived_from_tokens_and_prices_where_they_are_not_given(tmp_path: Path) -> None:
    priced = row(input_tokens=1000, output_tokens=100, price_in_per_1m=2.0, price_out_per_1m=10.0)
    table = read(tmp_path, [priced, priced | {"model": "n"}])
    assert cell(table, "p", "m", "cost_usd") == pytest.approx(0.003)


def test_a_lower_bound_of_a_cost_counts_as_unknown_and_so_does_the_length(tmp_path: Path) -> None:
    hidden = row(cost_usd=0.1, output_tokens=5, cost_kind="lower_bound_hidden_reasoning")
    table = read(tmp_path, [hidden, hidden | {"model": "n", "cost_kind": "given"}])
    assert np.isnan(cell(table, "p", "m", "cost_usd"))
    assert np.isnan(cell(table, "p", "m", "output_tokens"))
    assert cell(table, "p", "n", "cost_usd") == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"prompt": "p", "score": 1}], "'model' is missing; there are: prompt, score"),
        ([row(), row(score=1.5)], "row 2, column 'score': 1.5 is not a score in"),
        ([row(), row(score=-0.5)], "row 2, column 'score'"),
        ([row(), row(), row(model="")], "row 3: the column 'model' is empty"),
        ([row(prompt="")], "row 1: the column 'prompt' is empty"),
        ([row(score="good")], "good"),
        ([row(cost_usd=-1)], "row 1, column 'cost_usd': -1 is not an amount"),
        ([row(score=""), row(model="n")], "model 'm': every score is empty"),
    ],
)
def test_a_wrong_table_names_file_row_and_column(
    tmp_path: Path, content: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, "wrong.csv")
    assert message in str(caught.value)
    if "every score" not in message:
        assert "wrong.csv" in str(caught.value)


def test_rows_are_counted_through_all_batches(tmp_path: Path) -> None:
    content = [row(f"p{i % 50}", f"m{i % 3}") for i in range(BATCH_ROWS + 10)]
    content[BATCH_ROWS + 4]["score"] = 7
    with pytest.raises(DataError, match=f"row {BATCH_ROWS + 5}, column 'score': 7"):
        read_tables([write_parquet(tmp_path / "long.parquet", content)])


def test_a_column_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", [row(score="good")])
    with pytest.raises(DataError, match="'score' must hold numbers, found"):
        read_tables([path])


def test_whole_numbers_and_booleans_are_scores(tmp_path: Path) -> None:
    table = read_tables([write_parquet(tmp_path / "t.parquet", [row(score=True), row(model="n", score=False)])])
    assert table.outcomes.quality.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("name", "content"), [("t.parquet", b"PAR1 no"), ("t.csv", b""), ("t.json", b"{}")])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_tables([tmp_path / name])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_tables([tmp_path / "nowhere.csv"])


def test_a_table_without_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,model,score\n")
    with pytest.raises(DataError, match="no row"):
        read_tables([tmp_path / "t.csv"])
