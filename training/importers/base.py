"""The contract of an importer: it knows one format, and turns each of its records into outcomes or judgments."""

import ast
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from router.errors import DataError
from training.data import CHARS_PER_TOKEN
from training.records import Record

#: What a caller's thumb is worth.
THUMBS = {
    **dict.fromkeys(("up", "thumbs_up", "thumb_up", "thumbsup", "like", "good", "positive", "yes", "+1"), 1.0),
    **dict.fromkeys(("down", "thumbs_down", "thumb_down", "thumbsdown", "dislike", "bad", "negative", "no"), 0.0),
}
MODEL_A, MODEL_B, TIE = "model_a", "model_b", "tie"


@dataclass(slots=True)
class Row:
    """What one model made of one prompt. NaN and None where the source does not say.

    `score` is the source's own number; `score_column` is where it stood, so that a score out of range can be named.
    A log that keeps no prompt gives its `embedding` instead.
    """

    record: Record
    prompt: str | None
    model: str
    score: float
    score_column: str
    query_id: str | None = None
    domain: str | None = None
    input_tokens: float = math.nan
    output_tokens: float = math.nan
    cost_usd: float = math.nan
    latency_s: float = math.nan
    propensity: float = math.nan
    ttft_s: float = math.nan
    embedding: Sequence[float] | None = None
    split: str | None = None
    cost_kind: str | None = None


@dataclass(slots=True)
class Judgment:
    """Which of two models' answers to a prompt was preferred: `model_a`, `model_b` or `tie`."""

    record: Record
    prompt: str
    model_a: str
    model_b: str
    winner: str
    query_id: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is no outcome, and why: a plural noun, counted in the summary."""

    reason: str


class Importer(ABC):
    """One format. `needed` are the columns without which a record cannot be read."""

    #: What the help says of the format.
    summary: ClassVar[str]
    needed: ClassVar[tuple[str, ...]] = ()
    #: Gives `Judgment`s, not `Row`s.
    judges: ClassVar[bool] = False
    #: A `query_id` names one call: a second row of it is the same row again.
    unique_ids: ClassVar[bool] = False
    #: Keeps vectors and times to the first token: the columns `embedding` and `ttft_s`.
    vectors: ClassVar[bool] = False
    #: Its ratings are records of their own, in whichever file: `look_ahead` finds them.
    later_ratings: ClassVar[bool] = False

    def look_ahead(self, records: Iterable[Record], ratings: dict[str, tuple[float, float]]) -> None:
        """Before any is read, for a format with `later_ratings`: adds (when, score) by id, the last of each."""

    @property
    def name(self) -> str:
        """The format's name is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def recognises(self, head: Sequence[Record]) -> bool:
        """Whether a file that begins with these records is of this format, and of no other."""

    @abstractmethod
    def read(self, record: Record) -> Iterable[Row | Judgment | Skipped]:
        """The outcomes in one record. Raises `DataError` naming row and column."""

    def check(self, head: Sequence[Record]) -> None:
        """Raises `DataError` where the file lacks a column that this format needs."""
        first = head[0]
        missing = [column for column in self.needed if not any(column in record.fields for record in head)]
        if missing:
            raise DataError(
                f"{first.path}: the column {missing[0]!r} of the format {self.name} is missing; "
                f"there are: {', '.join(first.fields)}"
            )


def has(head: Sequence[Record], *columns: str) -> bool:
    """Whether each of the columns is in some of the records."""
    return all(any(column in record.fields for record in head) for column in columns)


def first_of(record: Record, *columns: str) -> str | None:
    """The text of the first of the columns that is not empty."""
    return next((text for column in columns if (text := record.text(column)) is not None), None)


def first_amount(record: Record, *columns: str) -> float:
    """The amount in the first of the columns that is not empty, else NaN."""
    amounts = (record.amount(column) for column in columns)
    return next((amount for amount in amounts if not math.isnan(amount)), math.nan)


def rating(record: Record, columns: Sequence[str] = ("score", "feedback", "rating")) -> tuple[float, str]:
    """How a caller rated an answer, and in which column: a number, a truth, a thumb, or an object with one."""
    for column in columns:
        value: Any = record.fields.get(column)
        if isinstance(value, Mapping):
            return rating(record.inside(column), ("score", "value", "rating", "thumb"))
        if isinstance(value, str) and (thumb := value.strip().lower()) in THUMBS:
            return THUMBS[thumb], record.within + column
        if not math.isnan(score := record.number(column)):
            return score, record.within + column
    return math.nan, record.within + columns[0]


def estimated_tokens(text: str | None) -> float:
    """Tokens of a text that nobody counted, from its characters."""
    return math.nan if text is None else float(max(1, round(len(text) / CHARS_PER_TOKEN)))


def listed(text: str) -> list[str]:
    """The texts of a list that was written as text, JSON's or Python's; else the text itself."""
    bare = text.strip()
    if not (bare.startswith("[") and bare.endswith("]")):
        return [text]
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(bare)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            return value
    return [text]
