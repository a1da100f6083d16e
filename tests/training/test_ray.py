"""The same work on a local Ray cluster of two workers; `make test-ray` runs it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from outcome_tables import rows, write_csv

from router.config import EncoderSettings
from router.embedding import Encoder
from router.errors import ConfigError, DataError
from training.compare_command import compare
from training.embedding import VectorCache
from training.jobs import Jobs, Shared, opened
from training.tune_command import tune

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers have the real encoder, and this module; the vectors of these tests go nowhere else."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr("training.embedding.user_cache", lambda: tmp_path / "cache")


@pytest.fixture
def ray_jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(2, "local", tmp_path) as jobs:
        yield jobs


def summed(item: tuple[Shared, int]) -> float:
    return float(item[0].get()["table"][item[1]].sum())


def refused(item: int) -> int:
    raise DataError(f"{item} is wrong")


def commanded(command: Any, *args: object) -> dict[str, Any]:
    result = CliRunner().invoke(command, [str(arg) for arg in (*args, "--json", "-")], catch_exceptions=False)
    return dict(json.loads(result.stdout))


def test_two_workers_read_what_is_shared(ray_jobs: Jobs) -> None:
    assert ray_jobs.workers == 2
    shared = ray_jobs.share({"table": np.arange(12.0).reshape(4, 3)})
    results = {item[1]: result for item, result in ray_jobs.run(summed, [(shared, row) for row in range(4)])}
    assert results == {0: 3.0, 1: 12.0, 2: 21.0, 3: 30.0}


def test_a_local_cluster_is_its_own_whatever_else_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with opened(2, "local", tmp_path) as jobs:
        assert jobs.workers == 2


def test_a_mistake_on_a_worker_is_raised_here(ray_jobs: Jobs) -> None:
    with pytest.raises(DataError, match="3 is wrong"):
        list(ray_jobs.run(refused, [3]))


@pytest.mark.parametrize(
    ("address", "problem"),
    [("ray://127.0.0.1:1", "nobody answers there"), ("127.0.0.1:6379", "expected local or ray://HOST:PORT")],
)
def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, address: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"--cluster {address}: {problem}"), opened(2, address, tmp_path):
        pass


def test_vectors_made_on_the_cluster_are_those_made_here(
    ray_jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.embedding.SHARD_PROMPTS", 5)
    prompts = [f"What is {i} plus {i}?" for i in range(12)]
    encoder = Encoder(EncoderSettings())
    encoder.load()
    try:
        there = VectorCache(encoder, tmp_path / "there").embed(prompts, jobs=ray_jobs)
        here = VectorCache(encoder, tmp_path / "here").embed(prompts)
    finally:
        encoder.close()
    assert len(list((tmp_path / "there").rglob("*.npz"))) == 3
    assert np.allclose((there * here).sum(axis=1), 1.0, atol=1e-2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "outcomes.csv", rows(120))


def gains(comparison: dict[str, Any]) -> dict[str, float]:
    return {found["policy"]: found["gain"]["value"] for found in comparison["standings"]}


def test_a_comparison_on_the_cluster_ranks_as_one_here(data: Path, tmp_path: Path) -> None:
    args = ["--data", data, "--policies", "static,cluster"]
    there = commanded(compare, *args, "--cluster", "local", "--jobs", 2, "--out", tmp_path / "there")
    here = commanded(compare, *args, "--jobs", 1, "--out", tmp_path / "here")
    assert gains(there["comparisons"][0]) == pytest.approx(gains(here["comparisons"][0]), abs=1e-6)


def test_a_search_on_the_cluster_tells_every_trial(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    args = ["--data", data, "--cluster", "local", "--jobs", 2, "--trials", 3, "--set", "map=kmeans"]
    content = commanded(tune, *args, "--out", tmp_path / "kept")
    assert [trial["number"] for trial in content["trials"]] == [0, 1, 2]
    assert all(trial["gain"] is not None for trial in content["trials"])
