"""Recorded outcomes of one model, looked up by prompt: what a simulated expert replays.

Prompts are kept as 16-byte digests, so a table of ten thousand takes about 300 kB, and no prompt stays in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ConfigError
from router.types import Floats

COLUMNS = ("prompt", "model", "score", "input_tokens", "output_tokens")
DIGEST_BYTES = 16


def prompt_digest(text: str) -> bytes:
    """16 bytes that stand for a prompt; a lone surrogate is no error."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recorded answer. Token counts are None where the table has none."""

    score: float
    input_tokens: int | None
    output_tokens: int | None


class Replay:
    """The outcomes of one model. A prompt recorded several times has the means of its rows."""

    def __init__(self, digests: NDArray[np.bytes_], values: Floats) -> None:
        """`digests` [n], `values` [n, 3]: score, input and output tokens, NaN where unknown."""
        self._digests, inverse = np.unique(digests, return_inverse=True)
        sums = np.zeros((len(self._digests), values.shape[1]))
        seen = np.zeros_like(sums)
        np.add.at(sums, inverse, np.nan_to_num(values, nan=0.0))
        np.add.at(seen, inverse, np.isfinite(values))
        with np.errstate(invalid="ignore"):
            self._values = (sums / seen).astype(np.float32)

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, text: str) -> Outcome | None:
        """What the model made of this very prompt; None where the table does not have it."""
        # NumPy's byte strings drop trailing zeros, on both sides alike
        digest = prompt_digest(text).rstrip(b"\0")
        row = int(np.searchsorted(self._digests, digest))
        if row == len(self._digests) or self._digests[row] != digest:
            return None
        score, input_tokens, output_tokens = (float(value) for value in self._values[row])
        return Outcome(score, _count(input_tokens), _count(output_tokens))

    @classmethod
    def load(cls, table: Path, model: str) -> "Replay":
        """Reads the rows of `model` from a Parquet table of outcomes.

        The table passes by in batches; only this model's rows stay. Raises `ConfigError` naming the file and
        the column, or the models that there are.
        """
        try:
            import pyarrow as pa
        except ImportError:
            raise ConfigError(f"replaying {table} needs pyarrow: pip install 'pointsman[train]'") from None
        digests: list[bytes] = []
        values: list[Floats] = []
        models: set[str] = set()
        try:
            for batch in _batches(table):
                models.update(batch["model"].unique().to_pylist())
                mine = batch.filter(_equals(batch["model"], model))
                digests += [prompt_digest(prompt) for prompt in mine["prompt"].to_pylist()]
                values.append(np.stack([_floats(mine[column]) for column in COLUMNS[2:]], axis=1))
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"cannot read the outcomes table {table}: {error}") from error
        pa.default_memory_pool().release_unused()
        if model not in models:
            choices = ", ".join(sorted(str(name) for name in models)) or "none at all"
            raise ConfigError(f"{table} has no outcomes of the model {model!r}; it has: {choices}")
        return cls._of(table, model, digests, np.concatenate(values))

    @classmethod
    def _of(cls, table: Path, model: str, digests: list[bytes], values: Floats) -> "Replay":
        scored = np.isfinite(values[:, 0])
        if not scored.any():
            raise ConfigError(f"{table}: the model {model!r} has no score in any row")
        score = values[scored, 0]
        if score.min() < 0 or score.max() > 1:
            wrong = score.min() if score.min() < 0 else score.max()
            raise ConfigError(f"{table}: `score` of {model!r} must be in [0, 1], found {wrong:g}")
        return cls(np.array(digests, dtype=f"S{DIGEST_BYTES}")[scored], values[scored])


def _batches(table: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # as dictionaries, each distinct prompt is decoded once and not once per model
    with pq.ParquetFile(table, read_dictionary=["prompt", "model"]) as file:
        missing = [column for column in COLUMNS if column not in file.schema_arrow.names]
        if missing:
            raise ConfigError(
                f"{table} is no table of outcomes: it has no column {', '.join(missing)}; "
                f"expected {', '.join(COLUMNS)}, found {', '.join(file.schema_arrow.names)}"
            )
        if "dictionary<values=" not in str(file.schema_arrow.field("prompt").type):
            raise ConfigError(f"{table}: the column prompt must be text")
        yield from file.iter_batches(batch_size=8192, columns=list(COLUMNS), use_threads=False)


def _equals(column: Any, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(pc.dictionary_decode(column), value)


def _floats(column: Any) -> Floats:
    return np.asarray(column.cast("float64").to_numpy(zero_copy_only=False))


def _count(value: float) -> int | None:
    return None if np.isnan(value) else max(round(value), 0)
