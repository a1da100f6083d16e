"""`pointsman train` and `evaluate --studies` killed at work: the finished fits are used, the result is the same."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from outcome_tables import rows, write_csv

from policies import policy_class
from router.types import Outcomes, Queries
from training.kept_fits import KEPT_S, KeptFits

#: Runs a command with the stand-in encoder; kills itself, and nothing else, at fit number `argv[2]` (0: never).
COMMAND = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import outcome_tables, router.embedding
from router.policy import Policy
from training.commands import train
from training.evaluate_command import evaluate

class Encoder(outcome_tables.FakeEncoder):
    def __init__(self, settings): super().__init__(); self.name = settings.model
    def load(self): pass
    def close(self): pass

router.embedding.Encoder = Encoder
fit, fits = Policy.fit, []
def counted(self, outcomes):
    fits.append(self.kind)
    if len(fits) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(self, outcomes)

Policy.fit = counted
{"train": train, "evaluate": evaluate}[sys.argv[3]].main(sys.argv[4:], standalone_mode=False)
print("fits", len(fits), file=sys.stderr)
"""


def _run(cache: Path, kill_at: int, *args: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", COMMAND, Path(__file__).parent, kill_at, *args]
    env = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, timeout=300, check=False, text=True, env=env
    )


def _fits(cache: Path) -> int:
    return len(list((cache / "pointsman" / "fits").glob("*.fit")))


@pytest.mark.parametrize("kind", ["cluster", "linear"])
def test_a_killed_training_goes_on_and_ends_with_the_same_artifact(tmp_path: Path, kind: str) -> None:
    data = write_csv(tmp_path / "outcomes.csv", rows(160))
    args = ["train", "--data", data, "--policy", kind, "--out"]
    whole = _run(tmp_path / "one", 0, *args, tmp_path / "whole")
    total = int(whole.stderr.rsplit("fits ", 1)[1])
    assert "going on" not in whole.stderr
    assert _fits(tmp_path / "one") == 0, "kept after a success"
    killed = _run(tmp_path / "two", 4, *args, tmp_path / "resumed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert _fits(tmp_path / "two") == 3
    assert not (tmp_path / "resumed").exists()
    again = _run(tmp_path / "two", 0, *args, tmp_path / "resumed")
    assert "going on from a run that was cut off" in again.stderr
    assert int(again.stderr.rsplit("fits ", 1)[1]) == total - 3
    for name in ("policy.json", "state.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert _fits(tmp_path / "two") == 0


def test_killed_studies_go_on_and_find_the_same(tmp_path: Path) -> None:
    data, cache = write_csv(tmp_path / "outcomes.csv", rows(160)), tmp_path / "cache"
    assert _run(cache, 0, "train", "--data", data, "--plain", "--out", tmp_path / "made").returncode == 0
    args = ["evaluate", "--data", data, "--artifact", tmp_path / "made", "--studies", "expert", "--json"]
    whole = _run(cache, 0, *args, tmp_path / "whole.json")
    total = int(whole.stderr.rsplit("fits ", 1)[1])
    assert _run(cache, 3, *args, tmp_path / "resumed.json").returncode == -signal.SIGKILL
    again = _run(cache, 0, *args, tmp_path / "resumed.json")
    assert "2 fits were there already" in again.stderr
    assert int(again.stderr.rsplit("fits ", 1)[1]) == total - 2
    one, other = (json.loads((tmp_path / f"{name}.json").read_text())["studies"] for name in ("whole", "resumed"))
    assert one[0]["expert"] == other[0]["expert"]


def _outcomes(seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    queries = Queries(rng.normal(size=(40, 4)).astype(np.float32), np.ones(40))
    return Outcomes(queries, ("a", "b"), rng.random((40, 2)), np.ones((40, 2)), np.ones((40, 2)))


def test_a_damaged_fit_is_made_again_and_other_rows_are_another_fit(tmp_path: Path) -> None:
    build = policy_class("linear")
    expected = KeptFits(tmp_path)(build(), _outcomes()).predict(_outcomes().queries).quality
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fits = KeptFits(tmp_path)
    assert np.array_equal(fits(build(), _outcomes()).predict(_outcomes().queries).quality, expected)
    assert fits.found == 0
    assert path.read_bytes() == whole
    fits(build(), _outcomes(seed=1))
    assert len(list(tmp_path.iterdir())) == 2
    fits.forget()
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_long_ago_is_removed(tmp_path: Path) -> None:
    import os
    import time

    KeptFits(tmp_path)(policy_class("linear")(), _outcomes())
    (path,) = tmp_path.iterdir()
    os.utime(path, (time.time() - KEPT_S - 60,) * 2)
    KeptFits(tmp_path)
    assert not path.exists()
