"""RouterBench's wide tables: one row per prompt, one column per model with its score.

Beside a model's column stand `MODEL|total_cost` and `MODEL|model_response`; `sample_id`, `eval_name` and
`oracle_model_to_route_to` belong to the row. `prompt` is the text of a Python list of messages. Published as
pickles (`routerbench_0shot.pkl`, `routerbench_5shot.pkl`); their CSV and Parquet forms are the same. Costs are the
source's, at prices of early 2024. Sources: github.com/withmartian/routerbench, `convertors/common.py` and
`convertors/martian_evals_convertor.py`; Hu et al., RouterBench (2024).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from training.importers.base import Importer, Row, estimated_tokens, has, listed
from training.records import Record

COST, RESPONSE = "|total_cost", "|model_response"


class RouterBench(Importer):
    summary: ClassVar[str] = "RouterBench's wide tables (CSV, Parquet, or a trusted pickle)"
    needed: ClassVar[tuple[str, ...]] = ("prompt",)

    def recognises(self, head: Sequence[Record]) -> bool:
        return has(head, "prompt") and any(name.endswith((COST, RESPONSE)) for name in head[0].fields)

    def read(self, record: Record) -> Iterator[Row]:
        prompt = "\n".join(listed(record.needed("prompt")))
        models = dict.fromkeys(
            name.removesuffix(end) for name in record.fields for end in (COST, RESPONSE) if name.endswith(end)
        )
        if not models:
            raise record.error(f"MODEL{COST}", "is missing for every model: this is no RouterBench table")
        for model in models:
            if model not in record.fields:
                raise record.error(model, f"the score is missing, though there is {model + COST!r} or its response")
            yield Row(
                record,
                prompt,
                model,
                record.number(model),
                model,
                query_id=record.text("sample_id"),
                domain=record.text("eval_name"),
                output_tokens=self._length(record, model),
                cost_usd=record.amount(model + COST),
                cost_kind="given",
            )

    def _length(self, record: Record, model: str) -> float:
        response = record.text(model + RESPONSE)
        return estimated_tokens(None if response is None else "\n".join(listed(response)))
