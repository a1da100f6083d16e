"""`pointsman compare` killed at work: what was finished is kept, and no process stays behind."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from outcome_tables import rows, write_csv

from training.compare_command import compare

pytestmark = pytest.mark.usefixtures("encoder")

#: Runs the command with the stand-in encoder and kills itself, and nothing else, when the first result is kept.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import outcome_tables, router.embedding, training.comparison
from training.compare_command import compare
from training.run_folder import RunFolder

class Encoder(outcome_tables.FakeEncoder):
    def __init__(self, settings): super().__init__(); self.name = settings.model
    def load(self): pass
    def close(self): pass

router.embedding.Encoder = Encoder
training.comparison.code_version = lambda: "this"
put = RunFolder.put
def last(self, about, result):
    put(self, about, result)
    os.kill(os.getpid(), signal.SIGKILL)

RunFolder.put = last
compare.main(sys.argv[2:])
"""


def test_a_killed_run_goes_on_where_it_stopped_and_leaves_no_process(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.comparison.code_version", lambda: "this")
    data = write_csv(tmp_path / "outcomes.csv", rows(60))
    args = ["--data", data, "--policies", "static", "--out", tmp_path / "kept"]
    command = [sys.executable, "-c", KILLED, Path(__file__).parent, *args, "--jobs", "2"]
    # the workers hold the pipes too: this returns when the last of them is gone
    killed = subprocess.run([str(part) for part in command], capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.json")}
    assert len(kept) == 1
    result = run(compare, *args, "--jobs", 1)
    assert "1 of 2 results were there already" in result.stderr
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.json")}
    assert len(after) == 2
    assert kept.items() <= after.items()
