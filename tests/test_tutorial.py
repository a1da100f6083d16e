"""The tutorial does what it says, from a CSV to answers of a served policy."""

import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.py"


@pytest.mark.slow
def test_the_tutorial_goes_from_a_csv_to_a_served_policy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TUTORIAL, tmp_path], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for kind in ("sums", "code", "translation", "trivia"):
        assert f"{kind}: answered by " in done.stdout
    assert "trivia: answered by solver" not in done.stdout  # dearer there and no better: what the policy learned
    assert (tmp_path / "report.html").stat().st_size > 10_000
