"""EmbedLLM's correctness tables: one row per question and model, `label` 1 where the answer was right.

`prompt`, `prompt_id`, `model_name`, `model_id`, `label`, `category`, `category_id`. A table without names gets
`model-ID`. A question may stand under several task variants, so the same prompt may repeat. Sources: the data card
of RZ412/EmbedLLM (`train.csv`, `val.csv`, `test.csv`); github.com/richardzhuang0412/EmbedLLM, `algorithm/knn.py`
and `algorithm/mf.py`; Zhuang et al., EmbedLLM (2025).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from training.importers.base import Importer, Row, first_of, has
from training.records import Record


class EmbedLLM(Importer):
    summary: ClassVar[str] = "EmbedLLM's correctness tables (CSV, Parquet)"
    needed: ClassVar[tuple[str, ...]] = ("prompt", "label")

    def recognises(self, head: Sequence[Record]) -> bool:
        return has(head, "prompt", "label") and (has(head, "model_name") or has(head, "model_id"))

    def read(self, record: Record) -> Iterator[Row]:
        yield Row(
            record,
            record.needed("prompt"),
            record.text("model_name") or f"model-{record.needed('model_id')}",
            record.number("label"),
            "label",
            query_id=record.text("prompt_id"),
            domain=first_of(record, "category", "category_id"),
        )
