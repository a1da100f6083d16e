"""`pointsman tune`: a search that can be repeated and taken up again, and does not flatter its winner."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from outcome_tables import rows, write_csv

from router.cli import missing_module
from router.errors import ConfigError, DataError
from training.run_folder import RunFolder
from training.tune_command import tune
from training.tuning import JOURNAL

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("encoder", "few_resamples")
SPACE = ("--space", "nearest=[1,2,4,8]", "--space", 'temperature={"low":0.01,"high":1.0,"log":true}')
FIXED = ("--set", "clusters=8", "--set", "pseudo_count=5", "--set", "map=kmeans")

#: Runs a search in this process with the stand-in encoder, and kills itself in the fifth trial.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import outcome_tables, router.embedding, training.tuning
from training.tune_command import tune

class Encoder(outcome_tables.FakeEncoder):
    def __init__(self, settings): super().__init__(); self.name = settings.model
    def load(self): pass
    def close(self): pass

router.embedding.Encoder = Encoder
training.tuning.code_version = lambda: "this"
attempt = training.tuning.attempt
def last(item):
    if item.number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(item)

training.tuning.attempt = last
tune.main(sys.argv[2:])
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "outcomes.csv", rows(120))


@pytest.fixture
def tuned(run: Callable[..., Result], data: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Result]]:
    def tuned(*args: object, out: str = "kept") -> tuple[dict[str, Any], Result]:
        fixed = [
            "--data",
            data,
            "--jobs",
            1,
            "--trials",
            6,
            "--json",
            tmp_path / "out.json",
            "--out",
            tmp_path / out,
        ]
        result = run(tune, *fixed, *FIXED, *SPACE, *args)
        return json.loads((tmp_path / "out.json").read_text()), result

    return tuned


def test_the_winner_stands_beside_the_defaults_on_rows_that_neither_saw(tuned: Callable[..., Any]) -> None:
    content, result = tuned()
    gains = [trial["gain"] for trial in content["trials"]]
    assert len(gains) == 6
    best = max(gains)
    assert content["winner"]["gain"] == max(best, content["default_gain"])
    (comparison,) = content["comparisons"]
    assert comparison["queries"] == 30
    assert len(comparison["standings"]) == (2 if best > content["default_gain"] else 1)
    assert content["held_out"]
    assert "gain by cross-validation in 3 folds of train" in result.stdout
    assert "pointsman train --policy cluster --set clusters=8" in result.stdout
    assert "flatters" not in result.stdout


def test_choosing_by_val_says_that_it_is_no_longer_held_out(tuned: Callable[..., Any]) -> None:
    content, result = tuned("--on", "val")
    assert (content["held_out"], content["chosen_by"]) == (False, "val")
    assert "val chose the winner: these rows are no longer held out" in result.stdout


def test_the_same_seed_searches_the_same_and_another_does_not(tuned: Callable[..., Any]) -> None:
    one, two = (tuned("--trials", 2, out=name)[0]["trials"] for name in ("one", "two"))
    assert one == two
    assert tuned("--trials", 2, "--seed", 1)[0]["trials"] != one


def test_a_search_taken_up_again_ends_as_if_it_had_not_been_killed(
    tuned: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tuning.code_version", lambda: "this")
    whole, _ = tuned(out="whole")
    args = ["--data", data, "--jobs", 1, "--trials", 6, "--out", tmp_path / "kept", *FIXED, *SPACE]
    command = [sys.executable, "-c", KILLED, Path(__file__).parent, *args]
    killed = subprocess.run([str(part) for part in command], capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    content, result = tuned()
    assert "4 of 6 trials were there already" in result.stderr
    assert "tuning 1/2: trial 4" in result.stderr
    assert content["trials"] == whole["trials"]


def test_more_trials_go_on_from_those_there_are(tuned: Callable[..., Any]) -> None:
    few, _ = tuned("--trials", 1)
    more, _ = tuned("--trials", 3)
    assert more["trials"][:1] == few["trials"]
    assert len(more["trials"]) == 3


def test_several_trials_at_a_time_are_all_told(tuned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.jobs.Here.workers", 2)  # asks for the next before the first is told
    content, _ = tuned("--trials", 3)
    assert [trial["number"] for trial in content["trials"]] == [0, 1, 2]
    assert all(trial["gain"] is not None for trial in content["trials"])


def test_a_trial_that_fails_is_told_and_the_search_goes_on(tuned: Callable[..., Any]) -> None:
    content, result = tuned("--space", "temperature=[-1.0,0.1]")
    failed = [trial for trial in content["trials"] if trial["gain"] is None]
    assert failed and len(failed) < len(content["trials"])
    assert "parameter temperature: expected at least 0.001, got -1.0" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--policy", "static"], ConfigError, "static has no parameters"),
        (["--policy", "oracle"], ConfigError, "'oracle'; there are"),
        (["--space", "depth=[1]"], ConfigError, "no parameter 'depth' to search"),
        (["--space", "nearest"], ConfigError, "--space 'nearest': expected NAME=VALUE"),
        (["--set", "nearest=0", "--trials", "1"], DataError, "with its defaults: .* expected at least 1, got 0"),
    ],
)
def test_a_mistake_is_named(
    run: Callable[..., Result], data: Path, tmp_path: Path, args: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tune, "--data", data, "--jobs", 1, "--out", tmp_path / "kept", *args)


def test_a_damaged_storage_is_named_with_what_to_do(tuned: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / JOURNAL).write_bytes(b"no journal\n" * 10)
    with pytest.raises(DataError, match=r"cannot use .*tune\.jsonl, which is damaged .*remove it"):
        tuned()


def test_a_line_that_a_killed_run_had_begun_is_taken_away(tuned: Callable[..., Any], tmp_path: Path) -> None:
    before, _ = tuned("--trials", 2)
    journal = tmp_path / "kept" / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: whole.index(b"\n") // 2])
    (tmp_path / "kept" / f"{JOURNAL}.lock").symlink_to(journal)
    after, _ = tuned("--trials", 3)
    assert after["trials"][:2] == before["trials"]


def test_two_searches_in_one_folder_at_a_time_are_refused(tuned: Callable[..., Any], tmp_path: Path) -> None:
    with (
        RunFolder.opened(tmp_path / "kept").locked(),
        pytest.raises(DataError, match=r"another run is at work in .*kept: choose another --out"),
    ):
        tuned()


def test_a_missing_optuna_is_named_with_the_extra(
    run: Callable[..., Result], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        run(tune, "--data", data)
    assert missing_module(caught.value) == "this needs optuna: pip install 'pointsman[tune]'"
