"""RouteLLM's response tables: `prompt`, then one column per model that says whether its answer was right.

`MODEL_response` may stand beside them (GSM8K). The domain is in the file's name (`mmlu_anatomy.csv`). Sources:
github.com/lm-sys/RouteLLM, `routellm/evals/benchmarks.py`, `evals/mmlu/generate_responses.py` and
`evals/gsm8k/generate_responses.py`. Its battles are another format: `arena`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from router.errors import DataError
from training.importers.base import Importer, Row, estimated_tokens, has
from training.records import Record

RESPONSE = "_response"
#: What pandas calls an index that was written without a name.
INDEX = frozenset({"", "index", "Unnamed: 0"})


class RouteLLM(Importer):
    summary: ClassVar[str] = "RouteLLM's response tables: prompt, and whether each model was right"
    needed: ClassVar[tuple[str, ...]] = ("prompt",)

    def recognises(self, head: Sequence[Record]) -> bool:
        if not has(head, "prompt"):
            return False
        models = _models(head[0])
        return len(models) > 1 and all(_is_truth(record, model) for record in head for model in models)

    def read(self, record: Record) -> Iterator[Row]:
        prompt = record.needed("prompt")
        models = _models(record)
        if not models:
            raise record.error("prompt", "stands alone: expected a column per model beside it")
        domain = record.path.name.split(".")[0].removeprefix("mmlu_").removesuffix("_responses")
        for model in models:
            yield Row(
                record,
                prompt,
                model,
                record.number(model),
                model,
                domain=domain,
                input_tokens=estimated_tokens(prompt),
                output_tokens=estimated_tokens(record.text(model + RESPONSE)),
            )


def _models(record: Record) -> list[str]:
    names = [name for name in record.fields if name not in INDEX and name != "prompt"]
    answers = {name + RESPONSE for name in names}
    return [name for name in names if name not in answers]


def _is_truth(record: Record, column: str) -> bool:
    if isinstance(record.fields.get(column), dict | list):
        return False
    try:
        value = record.number(column)
    except DataError:
        return False
    return math.isnan(value) or value in (0.0, 1.0)
