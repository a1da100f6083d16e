"""The command `pointsman import`: what it writes, and what it leaves behind when it cannot."""

import errno
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from router.errors import ConfigError, DataError, PointsmanError
from training.import_command import import_
from training.outcome_file import Seen

parquet = pytest.importorskip("pyarrow.parquet")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(import_, [str(argument) for argument in arguments])


def failed(*arguments: object) -> PointsmanError:
    """The error that a run ended with."""
    result = run(*arguments)
    assert isinstance(result.exception, PointsmanError), result.output
    return result.exception


def rows(path: Path) -> list[dict[str, Any]]:
    return list(parquet.read_table(path).to_pylist())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    path.write_text(
        "prompt,model,score,cost_usd\nWhy?,small,0.5,0.1\nWhy?,large,1,0.2\nHow?,small,0,0.1\nHow?,large,1,\n"
    )
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "imported" / "table.parquet"


def test_the_summary_counts_what_was_imported(table: Path, out: Path) -> None:
    result = run(table, "--out", out, "--json", "-")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["prompts"], summary["kind"]) == (4, 2, "outcomes")
    assert summary["models"]["small"] == {"rows": 2, "scored": 2, "mean": 0.25}
    assert summary["formats"] == {str(table): "table"}
    assert sum(summary["splits"].values()) == 4
    assert summary["costs"] == 3


def test_the_table_has_the_documented_columns(table: Path, out: Path) -> None:
    run(table, "--out", out)
    assert parquet.read_schema(out).names == [
        *("dataset", "query_id", "prompt", "domain", "model", "score", "input_tokens", "output_tokens", "cost_usd"),
        *("source", "latency_s", "cost_kind", "split", "propensity"),
    ]
    assert rows(out)[0]["source"] == "own.csv"


def test_without_json_one_line_says_what_was_written(table: Path, out: Path) -> None:
    result = run(table, "--out", out)
    assert "4 outcomes (table), 2 prompts, 2 models" in " ".join(result.stderr.split())


def test_scores_are_rescaled_from_the_scale_that_is_given(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score\na,m,-5\nb,m,0\nc,m,5\n")
    run(path, "--out", out, "--scale", "-5,5")
    assert [row["score"] for row in rows(out)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("scale", "advice"), [((), "--scale MIN,MAX rescales"), (("--scale", "0,5"), r"\[0, 5\]$")]
)
def test_a_score_out_of_range_names_row_and_column(
    tmp_path: Path, out: Path, scale: tuple[str, ...], advice: str
) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score\na,m,1\nb,m,7\n")
    error = failed(path, "--out", out, *scale)
    with pytest.raises(DataError, match=rf"own\.csv, row 2, column 'score': the score 7 is not in .*{advice}"):
        raise error
    assert not out.exists()


@pytest.mark.parametrize("value", ["inf", "-inf", "1.0000001"])
def test_no_score_beyond_the_range_slips_through(tmp_path: Path, out: Path, value: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"prompt,model,score\na,m,{value}\n")
    assert "is not in [0, 1]" in str(failed(path, "--out", out))


@pytest.mark.parametrize("scale", ["1", "1,0", "a,b", "0,inf", "1,1"])
def test_a_scale_that_is_none_is_refused(table: Path, out: Path, scale: str) -> None:
    assert isinstance(failed(table, "--out", out, "--scale", scale), ConfigError)


def test_an_empty_prompt_names_row_and_column(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score\na,m,1\n ,m,1\n")
    assert str(failed(path, "--out", out)) == f"{path}, row 2, column 'prompt': is empty"


def test_a_column_to_rename_that_is_missing_is_named(table: Path, out: Path) -> None:
    assert "no column 'question' to rename" in str(failed(table, "--out", out, "--rename", "question=prompt"))


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    path = tmp_path / "twice.csv"
    path.write_text("prompt,model,score\nWhy?,small,1\nWhy?,small,0\nWhy?,large,1\n")
    return path


def test_repeats_are_kept_and_counted(doubled: Path, out: Path) -> None:
    summary = json.loads(run(doubled, "--out", out, "--json", "-").stdout)
    assert (summary["rows"], summary["repeats"]) == (3, 1)
    assert any("1 rows repeat a model on a prompt" in warning for warning in summary["warnings"])


def test_repeats_are_dropped_on_demand_but_for_the_first(doubled: Path, out: Path) -> None:
    run(doubled, "--out", out, "--duplicates", "drop")
    assert [(row["model"], row["score"]) for row in rows(out)] == [("small", 1.0), ("large", 1.0)]


def test_repeats_are_an_error_on_demand(doubled: Path, out: Path) -> None:
    assert (
        str(failed(doubled, "--out", out, "--duplicates", "error"))
        == f"{doubled}, row 2: repeats a model on a prompt"
    )


def test_the_tables_own_split_is_kept_on_demand_only(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score,split\n" + "".join(f"prompt {i},m,1,test\n" for i in range(40)))
    run(path, "--out", out)
    assert {row["split"] for row in rows(out)} == {"train", "val"}
    run(path, "--out", out, "--keep-split")
    assert {row["split"] for row in rows(out)} == {"test"}


def test_one_model_alone_is_a_warning(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score\na,only,1\n")
    assert "only one model, 'only': there is nothing to choose from" in " ".join(
        run(path, "--out", out).stderr.split()
    )


def test_costs_are_derived_from_prices_where_the_tokens_are_known(tmp_path: Path, out: Path) -> None:
    path, prices = tmp_path / "own.csv", tmp_path / "prices.csv"
    path.write_text(
        "prompt,model,score,input_tokens,output_tokens,cost_usd\n"
        "a,small,1,1000,100,\na,small,1,1000,,\na,thinker,1,1000,100,\na,small,1,1000,100,9\na,free,1,1000,100,\n"
    )
    prices.write_text(
        "model,price_in_per_1m,price_out_per_1m,hidden_reasoning_tokens\nsmall,1,10,False\nthinker,1,10,True\nfree,,,\n"
    )
    run(path, "--out", out, "--prices", prices)
    assert [(row["cost_usd"], row["cost_kind"]) for row in rows(out)] == [
        (0.002, "derived"),
        (None, ""),
        (0.002, "lower_bound"),
        (9.0, "given"),
        (None, ""),
    ]


def test_several_files_become_one_table(table: Path, tmp_path: Path, out: Path) -> None:
    other = tmp_path / "mmlu_law.csv"
    other.write_text("prompt,small,large\nWho?,True,False\n")
    summary = json.loads(run(table, other, "--out", out, "--json", "-", "--dataset", "mine").stdout)
    assert (summary["rows"], set(summary["formats"].values())) == (6, {"table", "routellm"})
    assert {row["dataset"] for row in rows(out)} == {"mine"}


def test_half_an_emoji_does_not_stop_the_import(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(r'{"prompt": "cut here \ud83d", "model": "m", "score": 1}')
    run(path, "--out", out)
    assert [row["prompt"] for row in rows(out)] == ["cut here \ufffd"]


def test_a_file_is_not_written_over_what_it_is_read_from(table: Path) -> None:
    before = table.read_bytes()
    assert "would be written over" in str(failed(table, "--out", table))
    assert table.read_bytes() == before


def test_a_log_of_failed_calls_alone_writes_nothing(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"decision_id": "d", "expert": "e", "prompt": "p", "ok": false}\n')
    assert "there is no outcome to write" in str(failed(path, "--out", out))
    assert list(out.parent.iterdir()) == []


def test_a_failure_leaves_the_table_that_was_there(table: Path, tmp_path: Path, out: Path) -> None:
    run(table, "--out", out)
    before = out.read_bytes()
    table.write_text(table.read_text() + "Who?,small,2,\n")
    failed(table, "--out", out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow past 64 kB: writes fail for real, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, out: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score\n" + "".join(f"{rng.bytes(40).hex()},m,1\n" for _ in range(4_000)))
    with small_disk():
        error = failed(path, "--out", out)
    assert str(error) == f"cannot write {out}: File too large; nothing of it was left behind"
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_is_named_and_the_old_table_stays(
    table: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(table, "--out", out)
    before = out.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    assert str(failed(table, "--out", out)) == (
        f"cannot write {out}: No space left on device; nothing of it was left behind"
    )
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupted_import_leaves_nothing_behind(
    table: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", interrupted)
    assert run(table, "--out", out).exit_code != 0
    assert list(out.parent.iterdir()) == []


def test_keys_are_fresh_once_whatever_the_batches() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 500, size=4_000).astype(np.uint64)
    seen = Seen()
    fresh = [seen.fresh(keys[start : start + 37]) for start in range(0, len(keys), 37)]
    _, first = np.unique(keys, return_index=True)
    assert np.flatnonzero(np.concatenate(fresh)).tolist() == sorted(first.tolist())
    assert len(seen) == len(first)
