"""What users feed it that is wrong, or too much: an error that names it and what to do, and nothing lost."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from outcome_tables import FakeEncoder, rows, write_csv, write_parquet

from policies import load_policy
from router.errors import ConfigError, DataError
from training.commands import train
from training.compare_command import compare
from training.data import TRAIN, VAL, read_tables
from training.evaluate import evaluate
from training.evaluate_command import evaluate as evaluate_command
from training.fit import build
from training.import_command import import_
from training.source import ROW_BYTES

pytestmark = pytest.mark.usefixtures("encoder", "few_resamples")


@pytest.mark.parametrize(
    ("encoding", "advice"),
    [
        ("latin-1", "row 1 or later: the text is not UTF-8. If it is latin-1 or cp1252"),
        ("utf-16", "--encoding utf-16 "),
        ("utf-16-le", "--encoding utf-16-le "),
    ],
)
def test_a_csv_in_another_encoding_is_named_with_what_to_do_and_that_works(
    run: Callable[..., Result], tmp_path: Path, encoding: str, advice: str
) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("prompt,model,score\nÜber Käse?,a,1\nÜber Käse?,b,0\n", encoding=encoding)
    with pytest.raises(DataError, match=r"theirs\.csv.*not UTF-8.*pointsman import .*--encoding") as caught:
        read_tables([path])
    assert advice in str(caught.value)
    run(import_, path, "--encoding", encoding, "--out", tmp_path / "ours.parquet")
    assert read_tables([tmp_path / "ours.parquet"]).prompts == ("Über Käse?",)


def test_a_mark_of_utf_8_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt,model,score\nKäse?,a,1\nKäse?,b,0\n", encoding="utf-8-sig")
    assert read_tables([path]).prompts == ("Käse?",)


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_more_rows_than_fit_into_memory_are_refused_with_how_many_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    monkeypatch.setattr("training.source.CSV_BLOCK", 4_096)
    monkeypatch.setattr("training.memory.usable_bytes", lambda: 20_000.0)
    name = "big.csv" if write is write_csv else "big.parquet"
    path = write(tmp_path / name, rows(400))
    most = 20_000 // ROW_BYTES
    with pytest.raises(DataError, match=rf"[0-9,]+ rows of .*{name}.* need 0.1 MB of memory.*at most {most} fit"):
        read_tables([path])


def test_a_table_of_prompts_and_models_that_cannot_fit_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = [{"prompt": f"p{i}", "model": f"m{i}", "score": 1} for i in range(300)]
    path = write_parquet(tmp_path / "wide.parquet", content)
    monkeypatch.setattr("training.memory.usable_bytes", lambda: 1e6)
    with pytest.raises(DataError, match=r"300 prompts, each with 300 models' scores.* need 4.3 MB .*most 69 fit"):
        read_tables([path])


def test_vectors_that_cannot_fit_are_refused_before_any_is_made(
    run: Callable[..., Result], tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_csv(tmp_path / "t.csv", rows(80))
    monkeypatch.setattr("training.embedding.check_fits", refuse)
    with pytest.raises(DataError, match="60 vectors of 16 numbers"):
        run(train, "--data", data, "--out", tmp_path / "made")
    assert encoder.encoded == []


def refuse(need: float, count: int, what: str) -> None:
    raise DataError(f"{count} {what}")


def test_one_model_only_is_refused_by_every_command_that_trains(run: Callable[..., Result], tmp_path: Path) -> None:
    data = write_csv(tmp_path / "one.csv", [row for row in rows(80) if row["model"] == "maths"])
    with pytest.raises(DataError, match="one model only, 'maths'"):
        run(train, "--data", data, "--out", tmp_path / "made")
    with pytest.raises(DataError, match=r"cluster on one: .*one model only, 'maths'"):
        run(compare, "--data", data, "--policies", "cluster", "--jobs", 1, "--out", tmp_path / "kept")


def test_a_single_query_trains_and_says_why_it_is_not_judged(run: Callable[..., Result], tmp_path: Path) -> None:
    content = [row | {"split": "train"} for row in rows(1)]
    data = write_csv(tmp_path / "single.csv", content)
    run(train, "--data", data, "--out", tmp_path / "made")
    policy, _ = load_policy(tmp_path / "made")
    assert policy.experts_ == ("cheap", "maths", "large")
    with pytest.raises(DataError, match="here are 3 experts and 1 queries"):
        run(evaluate_command, "--data", data, "--artifact", tmp_path / "made", "--split", "all")


def test_a_model_without_a_row_to_learn_from_is_named(run: Callable[..., Result], tmp_path: Path) -> None:
    content = [row for row in rows(80) if (row["model"], row["split"]) != ("maths", TRAIN)]
    data = write_csv(tmp_path / "t.csv", content)
    with pytest.raises(DataError, match="expert 'maths' has no observed quality in the rows to learn from"):
        run(train, "--data", data, "--out", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_model_without_a_held_out_row_is_left_out_of_the_judgement(tmp_path: Path) -> None:
    content = [row for row in rows(80) if (row["model"], row["split"]) != ("maths", VAL)]
    table = read_tables([write_csv(tmp_path / "t.csv", content)])
    policy = build("static", {}, 0).fit(table.split(TRAIN).outcomes)
    report = evaluate(policy, table.split(VAL).outcomes, np.random.default_rng(0), dataset="t")
    assert report.left_out == {"maths": "not observed on any of these queries"}
    assert report.experts == ("cheap", "large")


#: Saves an artifact, then fills the disk up: no file may grow beyond the size given.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from router.artifact import load, pack, save
from router.errors import ArtifactError, DataError
from router.types import Outcomes, Queries
from policies import policy_class
from training.command_line import write_json
from training.run_folder import RunFolder

folder, experts = Path(sys.argv[1]), tuple(f"expert {k}" for k in range(60))
queries = Queries(np.zeros((2, 0), np.float32), np.ones(2, np.float32))
quality = np.linspace(0, 1, 120).reshape(2, 60)
policy = policy_class("static")().fit(Outcomes(queries, experts, quality, quality, quality))
artifact = pack(policy, queries, encoder=None, data_digest="", metrics={})
version = save(artifact, folder / "made")
kept = RunFolder.opened(folder / "kept")
kept.put({"seed": 0}, "small")
write_json(folder / "out.json", {"a": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
for fill in (
    lambda: save(artifact, folder / "made"),
    lambda: kept.put({"seed": 1}, "large" * 1_000),
    lambda: write_json(folder / "out.json", {"a": "large" * 1_000}),
):
    try:
        fill()
    except (ArtifactError, DataError) as error:
        print(error)
assert load(folder / "made").version == version
assert kept.get({"seed": 0}) == "small"
assert (folder / "out.json").read_text().strip() == '{\\n "a": 1\\n}'
print(*sorted(path.name for path in folder.rglob("*") if path.is_file()))
"""


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    artifact, result, file, names = done.stdout.splitlines()
    assert "cannot write the artifact" in artifact and "File too large" in artifact
    assert "cannot write" in result and "what was finished before is kept" in result
    assert "out.json: File too large" in file
    assert names.endswith("out.json policy.json state.safetensors")
    assert names.count(".json") == 3  # the one result, and nothing half


@pytest.mark.parametrize("value", ["good", "0,5"])
def test_a_score_that_is_no_number_is_named_by_row_and_column(tmp_path: Path, value: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f'prompt,model,score\none,a,1\ntwo,a,"{value}"\n')
    with pytest.raises(DataError, match=rf"theirs\.csv, row 2, column 'score': '{value}' is not a number"):
        read_tables([path])


def test_two_tables_of_one_name_are_refused_where_each_is_judged(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    paths = [write_csv(tmp_path / "some.csv", rows(60)), write_csv(tmp_path / "other" / "some.csv", rows(60))]
    with pytest.raises(ConfigError, match=r"has the same name, 'some'"):
        run(train, "--data", paths[0], "--data", paths[1], "--policy", "static", "--out", tmp_path / "made")


def test_what_is_read_is_not_written_over(run: Callable[..., Result], tmp_path: Path) -> None:
    data = write_csv(tmp_path / "some.csv", rows(60))
    before, made = data.read_bytes(), tmp_path / "made"
    run(train, "--data", data, "--policy", "static", "--out", made)
    for command, *args in (
        (train, "--policy", "static", "--out", made, "--json", data),
        (evaluate_command, "--artifact", made, "--json", data),
        (compare, "--policies", "static", "--json", data),
        (
            evaluate_command,
            "--artifact",
            made,
            "--predictions",
            tmp_path / "x.parquet",
            "--json",
            tmp_path / "x.parquet",
        ),
    ):
        with pytest.raises(ConfigError, match="would be written over"):
            run(command, "--data", data, *args)
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        run(evaluate_command, "--data", data, "--artifact", made, "--predictions", tmp_path / "rows.csv")
    assert data.read_bytes() == before


def test_a_device_and_a_link_stay_what_they_are(run: Callable[..., Result], tmp_path: Path) -> None:
    data, link, target = write_csv(tmp_path / "some.csv", rows(60)), tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    run(train, "--data", data, "--policy", "static", "--out", tmp_path / "made", "--json", link)
    assert link.is_symlink() and target.read_text().startswith("{")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    run(train, "--data", data, "--policy", "static", "--out", tmp_path / "made", "--json", fifo)
    assert os.read(reader, 1) == b"{" and fifo.is_fifo()
    os.close(reader)


def test_studies_that_nobody_would_see_are_not_made(run: Callable[..., Result], tmp_path: Path) -> None:
    data = write_csv(tmp_path / "some.csv", rows(60))
    run(train, "--data", data, "--policy", "static", "--out", tmp_path / "made")
    with pytest.raises(ConfigError, match=r"--report FILE\.html or --json FILE"):
        run(evaluate_command, "--data", data, "--artifact", tmp_path / "made", "--studies", "cost")


def test_too_few_prompts_and_none_held_out_are_said(run: Callable[..., Result], tmp_path: Path) -> None:
    data = write_csv(tmp_path / "some.csv", [row | {"split": "train"} for row in rows(60)])
    result = run(train, "--data", data, "--policy", "static", "--out", tmp_path / "made")
    assert "no evidence for floors: that takes 100 prompts" in result.stderr
    assert "not judged: there are no rows of the split 'val'" in result.stderr
