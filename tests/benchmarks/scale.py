"""What reading and training cost on a million outcomes of 384 dimensions, against 24 GiB on two cores.

Two shapes: `table`, where 100,000 prompts were each given to ten models, and `log`, where a million prompts were
each given to one of ten, as in a traffic log. Prompts are drawn words and their vectors drawn too, around as many
centres as there are topics: the encoder's own time is in `encoder.py`. Each figure is a process of its own: its
peak memory is that of reading, training and everything between.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from report import Figure, judged, report

from router.types import Floats
from training.data import TRAIN, read_tables
from training.embedding import VectorCache
from training.fit import build, fit

OUTCOMES, MODELS, TOPICS, DIMENSION = 1_000_000, 10, 50, 384
SHAPES = ("table", "log")
BATCH = 20_000
VECTORS = "vectors from disk"
GOAL_GIB = "<= 24"
CHILD_S = 3_600
VOCABULARY, WORDS = 5_000, (8, 60)


def write(path: Path, outcomes: int, shape: str) -> None:
    """A Parquet file of that many outcomes, written in batches."""
    import pyarrow
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    vocabulary = [f"{'aeiou'[i % 5]}{i:x}{'stern'[i % 5]}" for i in range(VOCABULARY)]
    good = rng.uniform(0.2, 0.9, size=(TOPICS, MODELS))
    each = MODELS if shape == "table" else 1
    writer = None
    for start in range(0, outcomes // each, BATCH):
        count = min(BATCH, outcomes // each - start)
        lengths = rng.integers(*WORDS, size=count)
        drawn = np.split(rng.zipf(1.3, size=lengths.sum()) % VOCABULARY, np.cumsum(lengths)[:-1])
        prompts = [f"{start + i} " + " ".join(vocabulary[w] for w in words) for i, words in enumerate(drawn)]
        topic = (start + np.arange(count)) % TOPICS
        query = np.repeat(np.arange(count), each)
        model = np.tile(np.arange(MODELS), count) if each > 1 else rng.integers(MODELS, size=count)
        tokens = rng.gamma(4.0, 60.0, size=len(query))
        part = pyarrow.table(
            {
                "prompt": [prompts[q] for q in query],
                "model": [f"model-{m}" for m in model],
                "score": (rng.random(len(query)) < good[topic[query], model]).astype(float),
                "cost_usd": tokens * (model + 1) / 1e7,
                "output_tokens": tokens,
                "domain": [f"topic {t}" for t in topic[query]],
                "split": ["train"] * len(query),
            }
        )
        writer = writer or pyarrow.parquet.ParquetWriter(path, part.schema, compression="zstd")
        writer.write_table(part)
    assert writer is not None
    writer.close()


def vectors(prompts: int) -> Floats:
    """Unit vectors around the topics' centres, [n, d] float32, drawn in batches."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(TOPICS, DIMENSION)).astype(np.float32)
    made = np.empty((prompts, DIMENSION), dtype=np.float32)
    for start in range(0, prompts, BATCH):
        part = made[start : start + BATCH]
        part[:] = rng.standard_normal(size=part.shape, dtype=np.float32)
        part += centres[(start + np.arange(len(part))) % TOPICS]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def measure(path: Path, kind: str | None) -> dict[str, float]:
    """Reads the file and, if asked, fits a policy: seconds of each, and the peak of resident memory in GiB."""
    began, used = time.perf_counter(), time.process_time()
    table = read_tables([path])
    found = {"read_s": time.perf_counter() - began, "cpu_s": time.process_time() - used}
    if kind is not None:
        table = table.split(TRAIN)
        table = table.embedded(vectors(len(table.outcomes)))
        began, used = time.perf_counter(), time.process_time()
        fit(build(kind, {}, 0), table, None, 0)
        found["fit_s"], found["cpu_s"] = time.perf_counter() - began, time.process_time() - used
    found["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


class Drawn:
    """Stands in for the encoder, so that only keeping and finding vectors takes time."""

    name, revision, dimension = "drawn", "1", DIMENSION

    def encode_batch(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Floats:
        return np.random.default_rng(len(texts)).random((len(texts), DIMENSION), dtype=np.float32)


def keep(path: Path) -> dict[str, float]:
    """Seconds in which all prompts' vectors are found again on disk, and the peak of resident memory in GiB."""
    prompts = read_tables([path]).prompts
    cache = VectorCache(Drawn(), path.parent / "vectors")
    if not any((path.parent / "vectors").rglob("*.npz")):
        cache.embed(prompts)
    began, used = time.perf_counter(), time.process_time()
    cache.embed(prompts)
    found = {"fit_s": time.perf_counter() - began, "cpu_s": time.process_time() - used}
    return {**found, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def figures(folder: Path, outcomes: int, shapes: list[str], kinds: list[str]) -> Iterator[Figure]:
    for shape in shapes:
        path = folder / f"{shape}.parquet"
        write(path, outcomes, shape)
        for kind in (None, VECTORS, *kinds):
            name = f"{shape} of {outcomes:,}: {kind or 'reading'}"
            found, problem = _child(path, kind)
            seconds = found.get("read_s" if kind is None else "fit_s")
            yield Figure(f"{name}, time{problem}", seconds, unit="s")
            yield Figure(f"{name}, processor time", found.get("cpu_s"), unit="s")
            yield judged(Figure(f"{name}, peak memory", found.get("gib"), unit="GiB", goal=GOAL_GIB))
        path.unlink()
        shutil.rmtree(folder / "vectors", ignore_errors=True)


def _child(path: Path, kind: str | None) -> tuple[dict[str, float], str]:
    """The measurements of a process of its own, or why there are none."""
    command = [sys.executable, __file__, "--child", str(path), *([kind] if kind else [])]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_S, env=env, check=False)
    except subprocess.TimeoutExpired:
        return {}, f" (not done after {CHILD_S} s)"
    if done.returncode:
        return {}, f" ({done.stderr.strip().splitlines()[-1] if done.stderr else f'ended by {-done.returncode}'})"
    return json.loads(done.stdout), ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=OUTCOMES)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--policies", nargs="+", default=["static", "cluster", "linear"])
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, *kind = options.child
        found_there = keep(Path(path)) if kind == [VECTORS] else measure(Path(path), kind[0] if kind else None)
        print(json.dumps(found_there))
        return
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="pointsman-scale-") as folder:
        for figure in figures(Path(folder), options.outcomes, options.shapes, options.policies):
            print(f"{figure.name}: {figure.value} {figure.unit}", file=sys.stderr, flush=True)
            found.append(figure)
    report("scale", found)


if __name__ == "__main__":
    main()
