"""Graphs exported once: built, checked, kept with a digest, and found again.

Knows nothing of requests. The export runs in a child process, so that neither its memory nor torch stays in
a serving one. `python -m router.encoder_export` exports the default encoder ahead of the first start.
"""

import hashlib
import json
import logging
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.config import EncoderSettings
from router.encoder_check import sample_prompts
from router.encoder_folder import EncoderFolder, file_digest, open_folder
from router.encoder_graph import build
from router.encoder_precision import Precision, choose
from router.encoder_runtime import load_openvino
from router.encoder_tokens import Tokens, batches
from router.errors import EncoderError

FORMAT = 2  # counted up when the graph or the choice of precision changes: old exports are then not found
PROMPTS = 1000
SEED = 20_240_807
FILES = ("encoder.xml", "encoder.bin")
FAILED = 3  # the child's exit status for an EncoderError; its message is on stderr

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Export:
    """A graph on disk and how it is run. `agreement`: neighbours shared with float32 on made-up prompts."""

    path: Path
    precision: Precision
    agreement: float
    milliseconds: float
    dimension: int

    @property
    def graph(self) -> Path:
        return self.path / FILES[0]

    @property
    def weights(self) -> Path:
        return self.path / FILES[1]


def cache_root(settings: EncoderSettings) -> Path:
    """Where exports are kept: `encoder.cache_dir`, else the platform's cache folder of this user."""
    if settings.cache_dir is not None:
        return settings.cache_dir
    try:
        home = Path.home()
    except RuntimeError as error:
        raise EncoderError("this user has no home folder for exported encoders; set encoder.cache_dir") from error
    places = {"Darwin": home / "Library" / "Caches", "Windows": home / "AppData" / "Local"}
    set_place = os.environ.get("XDG_CACHE_HOME")
    base = Path(set_place) if set_place else places.get(platform.system(), home / ".cache")
    return base / "pointsman" / "encoders"


def exported(folder: EncoderFolder, settings: EncoderSettings) -> Export:
    """The export of this model for this CPU: the one kept, or a new one where there is none or it is damaged."""
    place = cache_root(settings) / f"{folder.revision}-{_machine()}"
    found = _read(place)
    if found is not None:
        return found
    log.info("encoder %s: exporting and checking it for this CPU, once", folder.name)
    _export_in_child(folder, place)
    found = _read(place)
    if found is None:
        raise EncoderError(f"the export of encoder {folder.name!r} to {place} did not last; is the disk full?")
    log.info("encoder %s: %s, neighbours %.1f %%", folder.name, found.precision, 100 * found.agreement)
    return found


def _machine() -> str:
    """What the choice of precision depends on, shortened: a cache may be shared by unlike machines."""
    openvino = load_openvino()

    core = openvino.Core()
    facts = [FORMAT, openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME")]
    facts.append(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def _read(place: Path) -> Export | None:
    """The export at a place; None if there is none or one bit of it is wrong."""
    try:
        facts = json.loads((place / "export.json").read_text(encoding="utf-8"))
        digests = {name: file_digest(place / name) for name in FILES}
        if digests != facts.pop("sha256"):
            log.warning("the exported encoder at %s is damaged: exporting it again", place)
            return None
        return Export(path=place, **facts)
    except (OSError, EncoderError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s cannot be read: exporting the encoder again", place / "export.json")
        return None


def _export_in_child(folder: EncoderFolder, place: Path) -> None:
    command = [sys.executable, "-m", "router.encoder_export", str(folder.path), str(place)]
    # the child must find what this process found, however its path was made
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == FAILED:
        raise EncoderError(done.stderr.strip().rpartition("\n")[2])
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise EncoderError(f"the export of encoder {folder.name!r} failed: {last}")


def export(folder: EncoderFolder, place: Path) -> None:
    """Builds, checks and writes an export. Whole or not at all, whoever else writes there at the same time."""
    openvino = load_openvino()

    core = openvino.Core()
    tokens = Tokens(folder)
    rows = [tokens.ids(text) for text in sample_prompts(random.Random(SEED), PROMPTS)]
    chosen = choose(core, lambda: build(folder), lambda compiled: _embed(compiled, rows, folder))
    dimension = int(chosen.model.output(0).get_partial_shape()[1].get_length())
    facts: dict[str, Any] = {
        "precision": chosen.precision,
        "agreement": chosen.agreement,
        "milliseconds": round(chosen.milliseconds, 3),
        "dimension": dimension,
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-", ignore_cleanup_errors=True) as made:
            fresh = Path(made) / place.name
            fresh.mkdir()
            openvino.save_model(chosen.model, fresh / FILES[0], compress_to_fp16=False)
            facts["sha256"] = {name: file_digest(fresh / name) for name in FILES}
            (fresh / "export.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            _put(fresh, place)
    except OSError as error:
        raise EncoderError(
            f"cannot write the exported encoder to {place}: {error}; set encoder.cache_dir"
        ) from error


def _put(fresh: Path, place: Path) -> None:
    """Moves a new export into place; one that is there already stays if it is whole."""
    for _ in range(3):
        try:
            fresh.rename(place)
        except OSError:
            if not place.exists():
                raise
            if _read(place) is not None:
                return
            # aside first, then away: a process that has it mapped keeps its pages
            aside = Path(tempfile.mkdtemp(dir=place.parent, prefix=".old-"))
            place.rename(aside / place.name)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            return
    raise OSError(f"{place} keeps coming back damaged")


def _embed(compiled: Any, rows: list[list[int]], folder: EncoderFolder) -> Any:
    request = compiled.create_infer_request()
    vectors = None
    for batch in batches(rows, folder.window):
        ids, mask = batch.arrays(rows, folder.pad_id)
        request.infer({0: ids, 1: mask}, share_inputs=True)
        output = request.get_output_tensor(0).data
        vectors = np.zeros((len(rows), output.shape[1]), np.float32) if vectors is None else vectors
        vectors[list(batch.rows)] = output
    return vectors


def main() -> int:
    """`[FOLDER PLACE]`: exports a folder to a place; without arguments the default encoder, to its cache."""
    try:
        if len(sys.argv) == 3:
            export(open_folder(sys.argv[1]), Path(sys.argv[2]))
        else:
            settings = EncoderSettings()
            found = exported(open_folder(settings.model), settings)
            print(json.dumps(asdict(found), default=str))
    except EncoderError as error:
        print(error, file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
