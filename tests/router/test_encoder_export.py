"""Exports are made once, checked by digest, and whole whoever else is writing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bert import write_bert

from router.config import EncoderSettings
from router.encoder_export import Export, exported
from router.encoder_folder import EncoderFolder, open_folder
from router.errors import EncoderError


@pytest.fixture
def tiny(tmp_path) -> EncoderFolder:
    return open_folder(str(write_bert(tmp_path / "tiny")))


def export_of(folder: EncoderFolder, cache: Path) -> Export:
    return exported(folder, EncoderSettings(model=str(folder.path), cache_dir=cache))


def test_an_export_is_made_once_and_found_again(tiny, tmp_path):
    first = export_of(tiny, tmp_path / "cache")
    written = (first.path / "export.json").stat().st_mtime_ns
    assert export_of(tiny, tmp_path / "cache") == first
    assert (first.path / "export.json").stat().st_mtime_ns == written
    assert first.agreement >= 0.98
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.path.name]


@pytest.mark.parametrize("name", ["encoder.bin", "encoder.xml", "export.json"])
def test_a_damaged_export_is_made_again(tiny, tmp_path, name):
    first = export_of(tiny, tmp_path / "cache")
    whole = (first.path / name).read_bytes()
    (first.path / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    again = export_of(tiny, tmp_path / "cache")
    assert (again.path, again.dimension) == (first.path, first.dimension)
    assert export_of(tiny, tmp_path / "cache") == again
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_changed_weights_get_an_export_of_their_own(tiny, tmp_path):
    other = open_folder(str(write_bert(tmp_path / "other", seed=1)))
    assert other.revision != tiny.revision
    assert export_of(tiny, tmp_path / "cache").path != export_of(other, tmp_path / "cache").path


def test_two_processes_that_export_at_once_leave_one_whole_export(tiny, tmp_path):
    place = tmp_path / "cache" / "both"
    command = [sys.executable, "-m", "router.encoder_export", str(tiny.path), str(place)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert [path.name for path in place.parent.iterdir()] == ["both"]
    assert set(json.loads((place / "export.json").read_text())["sha256"]) == {"encoder.xml", "encoder.bin"}


def test_a_cache_that_cannot_be_written_names_the_key_to_set(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EncoderError, match=r"encoder\.cache_dir"):
        export_of(tiny, tmp_path / "file" / "cache")


def test_an_error_of_the_exporting_process_reaches_the_caller(tiny, tmp_path):
    tiny.weights.write_bytes(b"not at all")
    with pytest.raises(EncoderError, match=r"cannot read .*model\.safetensors"):
        export_of(tiny, tmp_path / "cache")
