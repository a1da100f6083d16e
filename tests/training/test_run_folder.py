"""Results on disk: found by what they depend on, made again where they were damaged."""

from pathlib import Path

import pytest

from router.errors import DataError
from training.run_folder import RunFolder

ABOUT = {"kind": "cluster", "params": {"sizes": (4, 8)}, "seed": 1}


def test_a_result_is_found_by_what_it_depends_on(tmp_path: Path) -> None:
    kept = RunFolder.opened(tmp_path / "new" / "folder")
    kept.put(ABOUT, {"gain": 0.25})
    assert kept.get(ABOUT) == {"gain": 0.25}
    assert kept.get({**ABOUT, "seed": 2}) is None


def test_a_result_with_any_bit_flipped_counts_as_absent(tmp_path: Path) -> None:
    kept = RunFolder.opened(tmp_path)
    kept.put(ABOUT, {"gain": 0.25})
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        assert kept.get(ABOUT) in (None, {"gain": 0.25})
        if damaged[place : place + 1].isdigit():
            assert kept.get(ABOUT) is None
    path.write_bytes(whole[:-10])
    assert kept.get(ABOUT) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot keep results in .*file"):
        RunFolder.opened(tmp_path / "file")
