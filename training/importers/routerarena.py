"""RouterArena's files: a router's predictions (a JSON array) and the cached results of one model (JSON lines).

Predictions: `global index`, `prompt`, `prediction` (the model), `generated_result` (`success`, `token_usage` with
`input_tokens` and `output_tokens`), `cost` in USD, `accuracy`; cost and accuracy are null until they were
evaluated. Entries marked `for_optimality` are the models that the router did not choose: outcomes like the others.
Cached results: `global_index`, `question`, `llm_selected`, `token_usage`, `success`, `evaluation_result` (`score`,
`inference_cost`). The data set's name is the part of the index before its number. Source:
github.com/RouteWorks/RouterArena, `router_inference/generate_prediction_file.py`,
`router_inference/check_config_prediction_files.py`, `llm_evaluation/run.py` and `cached_results/`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from training.importers.base import Importer, Row, Skipped, first_of, has
from training.records import Record

INDEX = ("global index", "global_index")


class RouterArena(Importer):
    summary: ClassVar[str] = "RouterArena's predictions (JSON) and cached results (JSON lines)"

    def recognises(self, head: Sequence[Record]) -> bool:
        return any(has(head, name) for name in INDEX) and (has(head, "prediction") or has(head, "llm_selected"))

    def read(self, record: Record) -> Iterator[Row | Skipped]:
        cached = "llm_selected" in record.fields
        result = record if cached else record.inside("generated_result")
        scored = record.inside("evaluation_result") if cached else record
        score, cost = ("score", "inference_cost") if cached else ("accuracy", "cost")
        if math.isnan(scored.number(score)) and not result.fields.get("success", True):
            yield Skipped("calls that failed")
            return
        prompt = next((name for name in ("question", "prompt", "prompt_formatted") if record.text(name)), "prompt")
        usage = result.inside("token_usage")
        index = first_of(record, *INDEX)
        yield Row(
            record,
            record.needed(prompt),
            record.needed("llm_selected" if cached else "prediction"),
            scored.number(score),
            scored.within + score,
            query_id=index,
            domain=index.rpartition("_")[0] or None if index else None,
            input_tokens=usage.amount("input_tokens"),
            output_tokens=usage.amount("output_tokens"),
            cost_usd=scored.amount(cost),
            cost_kind="given",
        )
