"""Small tables of outcomes for tests: written as CSV or Parquet, with two kinds of prompts and three models."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("prompt", "model", "score", "cost_usd", "input_tokens", "output_tokens", "domain", "split")
#: model -> (chance on sums, chance on plays, cost)
MODELS = {"cheap": (0.5, 0.4, 0.001), "maths": (0.9, 0.4, 0.002), "large": (0.8, 0.9, 0.02)}


def rows(prompts: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Every model on every prompt; the last quarter of the prompts is held out."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(prompts):
        sums = i % 2 == 0
        prompt = f"What is {i} plus {2 * i + 1}?" if sums else f"In act {i}, who speaks to the king of Denmark?"
        for model, (on_sums, on_plays, cost) in MODELS.items():
            found.append(
                {
                    "prompt": prompt,
                    "model": model,
                    "score": float(rng.random() < (on_sums if sums else on_plays)),
                    "cost_usd": cost,
                    "input_tokens": 10,
                    "output_tokens": 40 if model == "large" else 20,
                    "domain": "sums" if sums else "plays",
                    "split": "train" if i < 0.75 * prompts else "val",
                }
            )
    return found


def write_csv(path: Path, content: Iterable[Mapping[str, Any]]) -> Path:
    content = list(content)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(content[0]))
        writer.writeheader()
        writer.writerows(content)
    return path


def write_parquet(path: Path, content: Iterable[Mapping[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in content]), path)
    return path


class FakeEncoder:
    """Vectors by a prompt's words alone; counts what it was asked."""

    name = "fake"
    dimension = 16
    revision = "1"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_batch(self, texts: Any, progress: Any = None) -> Any:
        self.encoded.extend(texts)
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for i, text in enumerate(texts):
            for word in text.split():
                vectors[i, hash_of(word) % self.dimension] += 1.0
        if progress is not None:
            progress(len(texts))
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def hash_of(word: str) -> int:
    return sum(ord(letter) * 31**i for i, letter in enumerate(word)) % 1_000_003
