"""Outcome tables: Parquet or CSV, one row for what one model made of one prompt.

Columns: `prompt`, `model`, `score` in [0, 1] are needed. Read where present: `split`, `domain`, `input_tokens`,
`output_tokens`, `cost_usd` (else `price_in_per_1m` and `price_out_per_1m` times the tokens) and `cost_kind`;
and the prompt's context: `tools` and `images` (whether there are any), `turn` of the conversation, `tenant`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.types import Context, Floats, Outcomes, Queries
from training.memory import check_fits
from training.source import ASIDE, Batch, batches, file_digest

#: Where a table does not say which rows are held out: this share of the prompts, chosen by their hash.
HELD_OUT = 0.15
TRAIN, VAL, ALL = "train", "val", "all"
CELL_BYTES = 48  # of a prompt and model: three numbers, and the sums and counts that they are made of
TRUE = frozenset({"true", "True", "TRUE", "1", "1.0", "yes"})
CHARS_PER_TOKEN = 4.0  # where the table does not count them


@dataclass(frozen=True)
class Table:
    """Outcomes with one row per distinct prompt; the vectors are [n, 0] until `embedded`.

    `digest` covers the files and the split. `notes` are the decisions that reading took, one line each.
    """

    outcomes: Outcomes
    splits: tuple[str, ...]
    digest: str
    notes: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        assert self.outcomes.queries.prompts is not None
        return self.outcomes.queries.prompts

    def split(self, name: str) -> "Table":
        """The rows of one split; `all` are all. Raises `DataError` listing the splits there are."""
        if name == ALL:
            return self
        rows = np.flatnonzero(np.array(self.splits) == name)
        if not len(rows):
            raise DataError(f"no row is in the split {name!r}; there are: {', '.join(sorted({*self.splits, ALL}))}")
        return self.part(rows, name)

    def part(self, rows: NDArray[np.intp], name: str) -> "Table":
        """Some of the rows, in the order given; `name` tells this part from others in the digest."""
        return replace(
            self,
            outcomes=rows_of(self.outcomes, rows),
            splits=tuple(self.splits[row] for row in rows),
            digest=hashlib.sha256(f"{self.digest} {name}".encode()).hexdigest(),
        )

    def embedded(self, vectors: Floats) -> "Table":
        queries = replace(self.outcomes.queries, embeddings=vectors)
        return replace(self, outcomes=replace(self.outcomes, queries=queries))


def rows_of(outcomes: Outcomes, rows: NDArray[np.intp]) -> Outcomes:
    """The outcomes of some queries, in the order given."""
    queries = outcomes.queries
    kept = Queries(
        embeddings=queries.embeddings[rows],
        input_tokens=queries.input_tokens[rows],
        prompts=None if queries.prompts is None else tuple(queries.prompts[row] for row in rows),
        domains=None if queries.domains is None else tuple(queries.domains[row] for row in rows),
        features=None if queries.features is None else queries.features[rows],
        contexts=None if queries.contexts is None else tuple(queries.contexts[row] for row in rows),
    )
    return _matrices(replace(outcomes, queries=kept), lambda matrix: matrix[rows])


def experts_of(outcomes: Outcomes, columns: Sequence[int]) -> Outcomes:
    """The outcomes of some experts, in the order given."""
    kept = list(columns)
    named = replace(outcomes, experts=tuple(outcomes.experts[k] for k in kept))
    return _matrices(named, lambda matrix: matrix[:, kept])


def _matrices(outcomes: Outcomes, part: Callable[[Floats], Floats]) -> Outcomes:
    return replace(
        outcomes,
        quality=part(outcomes.quality),
        cost_usd=part(outcomes.cost_usd),
        output_tokens=part(outcomes.output_tokens),
        latency_s=None if outcomes.latency_s is None else part(outcomes.latency_s),
        propensity=None if outcomes.propensity is None else part(outcomes.propensity),
    )


def read_tables(paths: Sequence[Path]) -> Table:
    """The union of the tables: one row per distinct prompt, one expert per distinct `model`.

    A model seen twice on one prompt gets the mean. A prompt that is in `train` in one place and held out in
    another is held out. Scores may be empty (unobserved). The cost and length of a model that hides its reasoning
    tokens (`cost_kind` begins with `lower_bound`) count as unknown. Raises `DataError` naming file, row and column.
    """
    rows = _Rows()
    digest = hashlib.sha256()
    for path in paths:
        digest.update(file_digest(path))
        for batch in batches(path):
            rows.add(batch)
    return rows.table(digest.hexdigest())


@dataclass
class _Rows:
    """What was read so far: the cells, and the distinct prompts and models that they point to."""

    prompts: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    asides: list[tuple[str | None, ...]] = field(default_factory=list)  # in the order of `ASIDE`
    cells: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = field(default_factory=list)
    numbers: dict[str, list[Floats]] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)

    def add(self, batch: Batch) -> None:
        size = len(batch)
        query = np.empty(size, dtype=np.intp)
        columns = (batch.texts["prompt"], *(batch.optional(name) for name in ("split", "domain", *ASIDE)))
        for i, (prompt, split, domain, *aside) in enumerate(zip(*columns, strict=True)):
            query[i] = self._query(str(prompt), split, domain, tuple(aside))
        models = batch.texts["model"]
        model = np.array([self.models.setdefault(str(name), len(self.models)) for name in models], dtype=np.intp)
        self.cells.append((query, model))
        hidden = [str(kind).startswith("lower_bound") for kind in batch.optional("cost_kind")]
        for name, values in (
            ("score", batch.numbers["score"]),
            ("cost_usd", np.where(hidden, np.nan, cost_of(batch.numbers))),
            ("output_tokens", np.where(hidden, np.nan, batch.numbers["output_tokens"])),
            *((name, batch.numbers[name]) for name in ("input_tokens", "turn")),
        ):
            self.numbers.setdefault(name, []).append(values)

    def _query(self, prompt: str, split: str | None, domain: str | None, aside: tuple[str | None, ...]) -> int:
        row = self.prompts.setdefault(prompt, len(self.prompts))
        split = split or hashed_split(prompt)
        if row == len(self.splits):
            self.splits.append(split)
            self.domains.append(domain or "")
            self.asides.append(aside)
        elif self.splits[row] != split:
            self.moved.add(row)
            if self.splits[row] == TRAIN:
                self.splits[row] = split
        return row

    def table(self, digest: str) -> Table:
        if not self.models:
            raise DataError("the tables hold no row")
        shape = (len(self.prompts), len(self.models))
        need = CELL_BYTES * shape[0] * shape[1]
        check_fits(need, shape[0], f"prompts, each with {shape[1]:,} models' scores, costs and lengths,")
        query, model = (np.concatenate(parts) for parts in zip(*self.cells, strict=True))
        cell = query * shape[1] + model
        numbers = {name: np.concatenate(parts) for name, parts in self.numbers.items()}
        quality, cost, length = (
            means_by(cell, numbers[name], shape[0] * shape[1]).reshape(shape)
            for name in ("score", "cost_usd", "output_tokens")
        )
        unseen = ~np.isfinite(quality).any(axis=0)
        names = tuple(self.models)
        if unseen.any():
            raise DataError(f"model {names[int(unseen.argmax())]!r}: every score is empty")
        counted = means_by(query, numbers["input_tokens"], shape[0])
        guessed = np.array([len(prompt) / CHARS_PER_TOKEN for prompt in self.prompts])
        queries = Queries(
            embeddings=np.zeros((shape[0], 0), dtype=np.float32),
            input_tokens=np.where(np.isfinite(counted), counted, guessed).astype(np.float32),
            prompts=tuple(self.prompts),
            domains=tuple(self.domains) if any(self.domains) else None,
            contexts=self._contexts(means_by(query, numbers["turn"], shape[0])),
        )
        outcomes = Outcomes(queries=queries, experts=names, quality=quality, cost_usd=cost, output_tokens=length)
        return Table(outcomes=outcomes, splits=tuple(self.splits), digest=digest, notes=self._notes(cell))

    def _contexts(self, turn: Floats) -> tuple[Context, ...] | None:
        """Each prompt's, as its first row gives it; None where the tables tell of none."""
        if not any(map(any, self.asides)) and not np.isfinite(turn).any():
            return None
        turns = np.maximum(np.nan_to_num(turn, nan=1.0), 1.0).round().astype(int).tolist()
        return tuple(
            Context(tools=tools in TRUE, images=images in TRUE, turn=turns[i], tenant=tenant or "")
            for i, (tools, images, tenant) in enumerate(self.asides)
        )

    def _notes(self, cell: NDArray[np.intp]) -> tuple[str, ...]:
        notes = []
        if repeats := len(cell) - len(np.unique(cell)):
            notes.append(f"{repeats:,} rows repeat a model on a prompt: their scores were averaged")
        if self.moved:
            notes.append(f"{len(self.moved):,} prompts are in several splits: held out of training")
        return tuple(notes)


def cost_of(numbers: dict[str, Floats]) -> Floats:
    """Per row: as given, else derived from tokens and prices, else NaN."""
    spent = numbers["input_tokens"] * numbers["price_in_per_1m"]
    spent = spent + numbers["output_tokens"] * numbers["price_out_per_1m"]
    return np.asarray(np.where(np.isfinite(numbers["cost_usd"]), numbers["cost_usd"], spent / 1e6))


def means_by(index: NDArray[np.intp], values: Floats, size: int) -> Floats:
    """Mean of the finite values that share an index; NaN where there is none."""
    finite = np.isfinite(values)
    count = np.bincount(index[finite], minlength=size)
    total = np.bincount(index[finite], weights=values[finite], minlength=size)
    return np.asarray(np.divide(total, count, out=np.full(size, np.nan), where=count > 0))


def hashed_split(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    return VAL if int.from_bytes(digest[:4]) < HELD_OUT * 2**32 else TRAIN
