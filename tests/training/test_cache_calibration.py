"""Calibrating the semantic cache: a threshold is proven on labelled pairs, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from router.errors import DataError
from router.semantic import read_calibration
from training.cache_calibration import (
    COSINES,
    Pair,
    calibrated,
    guarded,
    hits_needed,
    most_wrong,
    once,
    read_pairs,
    steps,
)
from training.calibrate_cache_command import calibrate_cache

pytest.importorskip("scipy")


class Known:
    name, revision = "some-encoder", "1"


def test_the_bound_is_clopper_and_pearsons() -> None:
    assert most_wrong(0, 149, 0.95) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert most_wrong(5, 100, 0.95) == pytest.approx(0.1023, abs=1e-4)
    assert most_wrong(0, 0, 0.95) == most_wrong(7, 7, 0.95) == 1.0


def test_the_lowest_proven_cosine_is_the_threshold() -> None:
    rng = np.random.default_rng(0)
    cosine = rng.uniform(0.6, 1.0, 4000)
    same = rng.random(4000) < np.where(cosine >= 0.8, 0.998, 0.5)
    found = calibrated(steps(cosine, same), 0.02, 4000, Known)
    assert 0.78 <= found.threshold <= 0.82 and found.wrong_most <= 0.02
    assert (found.encoder, found.pairs) == ("some-encoder", 4000)


def test_too_few_pairs_prove_nothing() -> None:
    enough = hits_needed(0.02)
    every = np.ones(enough)
    assert calibrated(steps(every, every == 1), 0.02, enough, Known).threshold == COSINES[0]
    with pytest.raises(DataError, match=f"prove no threshold.*it takes {enough} hits"):
        calibrated(steps(every[1:], every[1:] == 1), 0.02, enough - 1, Known)


def test_the_proof_holds_as_often_as_it_says() -> None:
    """Where three in a hundred are wrong at any cosine, few tables prove two in a hundred."""
    rng, proven = np.random.default_rng(1), 0
    for _ in range(200):
        found = steps(rng.uniform(0.7, 1.0, 1000), rng.random(1000) >= 0.03)
        proven += any(step.most <= 0.02 for step in found)
    assert proven <= 10


def test_a_text_counts_once_and_equal_texts_never() -> None:
    pairs = [Pair("a", "b", True), Pair("b", "c", True), Pair("d", "d", True), Pair("e", "f", False)]
    assert once(pairs) == [pairs[0], pairs[3]]
    assert guarded([Pair("Add 2", "Add 3", False), Pair("Add 2", "Please add 2", True)]).tolist() == [False, True]


def written(path: Path, pairs: int, *, good: bool = True) -> Path:
    lines = []
    for i in range(pairs):
        name = "".join(chr(97 + int(digit)) for digit in str(i))
        lines.append(f"How do I clean a {name} pan?,I want to clean a {name} pan. How?,{int(good or i % 2)}")
    path.write_text("a,b,same\n" + "\n".join(lines) + "\n")
    return path


def test_the_command_writes_what_the_gateway_reads(tmp_path: Path) -> None:
    table, out = written(tmp_path / "pairs.csv", 320), tmp_path / "cache.json"
    done = CliRunner().invoke(
        calibrate_cache, ["--pairs", str(table), "--out", str(out), "--json", "-"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    found = read_calibration(out)
    assert found.wrong == 0 and found.wrong_most <= 0.02 and found.pairs == 320
    assert json.loads(done.stdout)["threshold"] == found.threshold


def test_the_command_refuses_what_proves_nothing(tmp_path: Path) -> None:
    table, out = written(tmp_path / "pairs.csv", 320, good=False), tmp_path / "cache.json"
    done = CliRunner().invoke(calibrate_cache, ["--pairs", str(table), "--out", str(out)])
    assert isinstance(done.exception, DataError) and "prove no threshold" in str(done.exception)
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    table, out = written(tmp_path / "pairs.csv", 3), tmp_path / "none" / "cache.json"
    done = CliRunner().invoke(calibrate_cache, ["--pairs", str(table), "--out", str(out)])
    assert isinstance(done.exception, DataError) and "no folder" in str(done.exception)


@pytest.mark.parametrize("rows", ["x,y,2", "x,y,", "x,,1", "x,y,maybe"])
def test_wrong_rows_are_named(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"a,b,same\n{rows}\n")
    with pytest.raises(DataError, match="row 1"):
        read_pairs([path])
