"""A table of one's own, one row for what one model made of one prompt: CSV, JSON lines or Parquet.

`prompt`, `model` and `score` are needed; `query_id`, `domain`, `input_tokens`, `output_tokens`, `cost_usd`,
`cost_kind`, `latency_s`, `propensity` and `split` are taken where they are there. Other names: rename the columns.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from training.importers.base import Importer, Row, has
from training.records import Record


class Table(Importer):
    summary: ClassVar[str] = "a table of your own: prompt, model, score, and what else it has"
    needed: ClassVar[tuple[str, ...]] = ("prompt", "model", "score")

    def recognises(self, head: Sequence[Record]) -> bool:
        return has(head, *self.needed)

    def read(self, record: Record) -> Iterator[Row]:
        cost = record.amount("cost_usd")
        yield Row(
            record,
            record.needed("prompt"),
            record.needed("model"),
            record.number("score"),
            "score",
            query_id=record.text("query_id"),
            domain=record.text("domain"),
            input_tokens=record.amount("input_tokens"),
            output_tokens=record.amount("output_tokens"),
            cost_usd=cost,
            latency_s=record.amount("latency_s"),
            propensity=record.amount("propensity"),
            split=record.text("split"),
            cost_kind=record.text("cost_kind") or "given",
        )
