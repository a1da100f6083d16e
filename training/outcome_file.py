"""Writes outcomes, or judgments, to one Parquet file: checked, split by prompt, and there whole or not at all."""

import hashlib
import math
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from training.data import hashed_split
from training.importers.base import Importer, Judgment, Row
from training.records import Record

BATCH_ROWS = 32_768
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
Duplicates = Literal["keep", "drop", "error"]
DUPLICATES: tuple[Duplicates, ...] = ("keep", "drop", "error")

OUTCOME_COLUMNS = {
    **dict.fromkeys(("dataset", "query_id", "prompt", "domain", "model"), "string"),
    "score": "double",
    **dict.fromkeys(("input_tokens", "output_tokens"), "int64"),
    "cost_usd": "double",
    "source": "string",
    "latency_s": "double",
    **dict.fromkeys(("cost_kind", "split"), "string"),
    "propensity": "double",
}
VECTOR_COLUMNS = {"ttft_s": "double", "embedding": "list"}
PAIR_COLUMNS = dict.fromkeys(
    ("dataset", "query_id", "prompt", "model_a", "model_b", "winner", "domain", "source", "split"), "string"
)


@dataclass(frozen=True)
class Rules:
    """How outcomes are taken. `dataset`: what they are called; None: as their format.

    `scale` are the source's least and greatest score; scores beyond them are refused.
    `prices` are USD per million tokens in and out, and whether the model hides reasoning tokens, by model.
    """

    dataset: str | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    duplicates: Duplicates = "keep"
    keep_split: bool = False
    prices: Mapping[str, tuple[float, float, bool]] = field(default_factory=dict)


@dataclass
class Counts:
    """What went into a file."""

    rows: int = 0
    prompts: int = 0
    models: Counter[str] = field(default_factory=Counter)
    scored: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)  # of scores
    costs: int = 0
    domains: set[str] = field(default_factory=set)
    splits: Counter[str] = field(default_factory=Counter)
    repeats: int = 0  # rows of a model on a prompt that was there already
    same_ids: int = 0  # rows of a call that was there already, left out
    vectors_only: int = 0


class Seen:
    """Which of many 64-bit keys came before, in eight bytes each: sorted runs, merged as they grow alike."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def fresh(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """For each key whether it is seen for the first time, and remembers it."""
        unique, first = np.unique(keys, return_index=True)
        known = np.zeros(len(unique), dtype=bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            known |= run[place] == unique
        mask = np.zeros(len(keys), dtype=bool)
        mask[first[~known]] = True
        if not known.all():
            self._runs.append(unique[~known])
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            newer = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], newer]))
        return mask


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of `path` at the end; after any failure nothing of it is left.

    Raises `DataError` where `path` is no plain file: a device's place is not taken.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise DataError(f"cannot write {path}: it is there already, and no plain file")
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class OutcomeFile:
    """An open Parquet file. Use `opened`, which closes it."""

    def __init__(self, writer: Any, schema: Any, rules: Rules) -> None:
        self.counts = Counts()
        self._writer = writer
        self._schema = schema
        self._rules = rules
        self._dimension: int | None = None
        self._rows: list[dict[str, Any]] = []
        self._places: list[Record] = []
        self._calls: list[tuple[str, str] | None] = []
        self._prompts, self._cells, self._ids = Seen(), Seen(), Seen()

    def add(self, row: Row | Judgment, form: Importer) -> None:
        """Takes what `form` read. Raises `DataError` naming file, row and column for a score out of range."""
        # a row without a prompt is known by its vector
        key = row.prompt if row.prompt is not None else _vector_key(row)
        fields: dict[str, Any] = {
            "dataset": self._rules.dataset or form.name,
            "query_id": _storable(row.query_id or f"{_digest(key):016x}"),
            "prompt": row.prompt if row.prompt is None else _storable(row.prompt),
            "domain": _storable(row.domain or ""),
            "source": row.record.path.name,
            "split": hashed_split(key),
        }
        fields |= self._judgment(row) if isinstance(row, Judgment) else self._outcome(row)
        self._rows.append(fields)
        self._places.append(row.record)
        self._calls.append((str(row.query_id), _models(fields)) if form.unique_ids and row.query_id else None)
        if len(self._rows) == BATCH_ROWS:
            self.flush()

    def _outcome(self, row: Row) -> dict[str, Any]:
        if row.embedding is not None:
            self._dimension = self._dimension or len(row.embedding)
            if len(row.embedding) != self._dimension:
                raise row.record.error("embedding", f"{len(row.embedding)} numbers, others have {self._dimension}")
        cost, kind = self._cost(row)
        fields = {
            "model": _storable(row.model),
            "score": _known(self._score(row)),
            "input_tokens": _whole(row.input_tokens),
            "output_tokens": _whole(row.output_tokens),
            "cost_usd": _known(cost),
            "latency_s": _known(row.latency_s),
            "cost_kind": kind,
            "propensity": _known(row.propensity),
            "ttft_s": _known(row.ttft_s),
            "embedding": row.embedding,
        }
        if self._rules.keep_split and row.split:
            fields["split"] = row.split
        return fields

    def _judgment(self, row: Judgment) -> dict[str, Any]:
        return {"model_a": _storable(row.model_a), "model_b": _storable(row.model_b), "winner": row.winner}

    def _score(self, row: Row) -> float:
        low, high = self._rules.scale
        if math.isnan(row.score):
            return row.score
        if not low <= row.score <= high:
            column = row.score_column
            advice = "" if self._rules.scale != (0.0, 1.0) else "; --scale MIN,MAX rescales"
            raise DataError(
                f"{row.record.path}, row {row.record.row}, column {column!r}: the score {row.score:g} is not in "
                f"[{low:g}, {high:g}]{advice}"
            )
        return (row.score - low) / (high - low)

    def _cost(self, row: Row) -> tuple[float, str]:
        if not math.isnan(row.cost_usd):
            return row.cost_usd, row.cost_kind or "given"
        if row.model not in self._rules.prices:
            return float("nan"), ""
        price_in, price_out, hides = self._rules.prices[row.model]
        cost = (row.input_tokens * price_in + row.output_tokens * price_out) / 1e6
        return cost, "" if math.isnan(cost) else "lower_bound" if hides else "derived"

    def flush(self) -> None:
        """Writes what is waiting."""
        import pyarrow

        if not self._rows:
            return
        kept = [row for row, keep in zip(self._rows, self._first(), strict=True) if keep]
        self._count(kept)
        if kept:
            self._writer.write_table(pyarrow.Table.from_pylist(kept, schema=self._schema))
        self._rows, self._places, self._calls = [], [], []

    def _first(self) -> NDArray[np.bool_]:
        """Which of the waiting rows are written."""
        keep = np.ones(len(self._rows), dtype=bool)
        named = [i for i, call in enumerate(self._calls) if call is not None]
        if named:
            keep[named] = self._ids.fresh(_digests(self._calls[i] for i in named))
            self.counts.same_ids += int((~keep).sum())
        rows = np.flatnonzero(keep)
        cells = _digests((_prompt_key(self._rows[i]), _models(self._rows[i])) for i in rows)
        fresh = self._cells.fresh(cells)
        if not fresh.all() and self._rules.duplicates == "error":
            place = self._places[rows[int(fresh.argmin())]]
            raise DataError(f"{place.path}, row {place.row}: repeats a model on a prompt")
        self.counts.repeats += int((~fresh).sum())
        if self._rules.duplicates == "drop":
            keep[rows[~fresh]] = False
        return keep

    def _count(self, rows: list[dict[str, Any]]) -> None:
        counts = self.counts
        counts.rows += len(rows)
        self._prompts.fresh(_digests(_prompt_key(row) for row in rows))
        counts.prompts = len(self._prompts)
        counts.domains.update(row["domain"] for row in rows if row["domain"])
        counts.splits.update(row["split"] for row in rows)
        for row in rows:
            if "winner" in row:
                counts.models.update((row["model_a"], row["model_b"]))
                continue
            counts.models[row["model"]] += 1
            counts.costs += row["cost_usd"] is not None
            counts.vectors_only += row["prompt"] is None
            if row["score"] is not None:
                counts.scored[row["model"]] += 1
                counts.total[row["model"]] += row["score"]


@contextmanager
def opened(path: Path, rules: Rules, judges: bool, vectors: bool) -> Iterator[OutcomeFile]:
    """A file of judgments, or of outcomes with or without vectors. `DataError` where it cannot be written."""
    import pyarrow
    import pyarrow.parquet

    columns = PAIR_COLUMNS if judges else OUTCOME_COLUMNS | (VECTOR_COLUMNS if vectors else {})
    types = {"string": pyarrow.string(), "double": pyarrow.float64(), "int64": pyarrow.int64()}
    types["list"] = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
                file = OutcomeFile(writer, schema, rules)
                yield file
                file.flush()
            if not file.counts.rows:
                raise DataError("there is no outcome to write")
    except (OSError, pyarrow.ArrowException) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise DataError(f"cannot write {path}: {why}; nothing of it was left behind") from error


def _storable(text: str) -> str:
    """Half of an emoji, cut off by a length limit, is nothing that a file could hold as text."""
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else round(value)


def _vector_key(row: Row) -> str:
    return np.asarray(row.embedding, dtype=np.float32).tobytes().hex()


def _prompt_key(row: Mapping[str, Any]) -> str:
    return str(row["prompt"] if row["prompt"] is not None else row["embedding"])


def _models(row: Mapping[str, Any]) -> str:
    return str(row["model"]) if "model" in row else f"{row['model_a']}\0{row['model_b']}"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _digests(keys: Iterable[Any]) -> NDArray[np.uint64]:
    """64 bits of each key, a text or several."""
    texts = (key if isinstance(key, str) else "\0".join(key or ()) for key in keys)
    return np.fromiter((_digest(text) for text in texts), dtype=np.uint64)
