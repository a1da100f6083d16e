"""LLMRouter's routing data: JSON lines, one for what one model made of one query.

`query`, `model_name` and `performance` in [0, 1]; `task_name` is the domain; `input_tokens`, `output_tokens`,
`response_time` in seconds, `task_id`, `embedding_id`. Costs are not in it (prices are, in its `default_llm.json`).
Source: github.com/ulab-uiuc/LLMRouter, `llmrouter/data/README.md`.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from training.importers.base import Importer, Row, first_of, has
from training.records import Record


class LLMRouter(Importer):
    summary: ClassVar[str] = "LLMRouter's routing data (JSON lines)"
    needed: ClassVar[tuple[str, ...]] = ("query", "model_name", "performance")

    def recognises(self, head: Sequence[Record]) -> bool:
        return has(head, *self.needed)

    def read(self, record: Record) -> Iterator[Row]:
        yield Row(
            record,
            record.needed("query"),
            record.needed("model_name"),
            record.number("performance"),
            "performance",
            query_id=first_of(record, "task_id", "embedding_id"),
            domain=record.text("task_name"),
            input_tokens=record.amount("input_tokens"),
            output_tokens=record.amount("output_tokens"),
            latency_s=record.amount("response_time"),
        )
